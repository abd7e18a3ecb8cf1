"""Commands of the studies that are not yet declarations: to go when the last of them is one."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help="Optimizers built as ODE solvers: studies that answer questions about them.",
)


RESUME = typer.Option("--resume", help="Continue a stopped or killed study.")
MAX_MINUTES = typer.Option(
    help="Start no new runs after this time; --resume makes the rest.", show_default=False
)


def _folder(name: str) -> Any:
    default = f"{name}, or the same with the next free number; with --resume the last one"
    return typer.Option(help="Folder for the results.", show_default=default)


@app.callback()
def main() -> None:
    """Optimizers built as ODE solvers: studies that answer questions about them."""


@app.command()
def untuned(
    problems: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Problems, separated by commas: quadratic-kappa1e4, quadratic-kappa1e6, "
            "digits-mse, digits-ce, digits-ce-64, digits-ce-8, digits-autoencoder, diabetes-mlp, "
            "poisson, breast-cancer-32, burgers.",
            show_default="quadratic-kappa1e4,digits-ce-64,digits-ce-8,diabetes-mlp; all with "
            "--full",
        ),
    ] = None,
    rivals: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Tuned optimizers, separated by commas: sgd, momentum-.9, momentum-.99, "
            "nesterov-.99, adam, adam-.98, nadam-.95, schedule-free, prodigy.",
            show_default="nesterov-.99,adam,adam-.98,schedule-free; all with --full",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds to report; one more tunes the rates.",
            show_default="3; 5 with --full",
        ),
    ] = None,
    gradients: Annotated[
        int | None,
        typer.Option(
            help="Gradients that each run may spend.",
            show_default="500; 2000 with --full",
        ),
    ] = None,
    out: Annotated[Path | None, _folder("untuned-report")] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick",
            help="All problems and rivals, more seeds and gradients (about an hour on two "
            "cores), or a first answer in two to three minutes.",
        ),
    ] = False,
    max_minutes: Annotated[float | None, MAX_MINUTES] = None,
    resume: Annotated[bool, RESUME] = False,
) -> None:
    """Does a learning rate that needs no tuning keep up with tuned ones?

    Races log_time_adam() as it is against tuned optimizers at equal gradients, with validation
    losses beside training losses, and writes tables, plots and report.html.
    """
    console = Console()
    from .folder import default_path  # noqa: PLC0415
    from .untuned import figures, report, run  # noqa: PLC0415

    with _mistakes_told():
        folder = out or default_path(resume, "untuned-report")
        result = run(
            problems=_split(problems, str, "--problems"),
            rivals=_split(rivals, str, "--rivals"),
            seeds=seeds,
            gradients=gradients,
            out=folder,
            full=full,
            max_minutes=max_minutes,
            resume=resume,
            console=console,
        )
    result.show(console)
    path = report.write(result, folder, figures.draw(result, folder))
    console.print(f"{result.seconds:.0f} s; report: {path}", soft_wrap=True)


@app.command()
def stiff(
    problems: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Problems, separated by commas: quadratic-kappa1e6, quadratic-diabetes2, "
            "logistic, digits-mse, digits-ce, digits-mse-64, digits-ce-64, poisson, burgers, "
            "mnist-5k.",
            show_default="quadratic-kappa1e6,logistic,digits-mse,digits-ce,poisson,burgers; "
            "all with --full",
        ),
    ] = None,
    solvers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Who takes part, separated by commas. Tuned rivals: sgd, momentum, adam, lbfgs. "
            "Solvers: rkc, rkc-auto, linearly_implicit_euler, linearly_implicit_euler-cg, "
            "rosenbrock2, exponential_euler, implicit_euler.",
            show_default="sgd,momentum,adam,lbfgs,rkc,linearly_implicit_euler; all with --full",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds to report; one more tunes.",
            show_default="3; 5 with --full",
        ),
    ] = None,
    out: Annotated[Path | None, _folder("stiff-report")] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick",
            help="All problems and solvers (up to an hour on two cores), or a first answer in "
            "a few minutes.",
        ),
    ] = False,
    max_minutes: Annotated[float | None, MAX_MINUTES] = None,
    resume: Annotated[bool, RESUME] = False,
) -> None:
    """What do solvers for stiff losses gain, in gradients and in seconds?

    Races them against tuned optimizers to a fixed target, and writes tables, plots and
    report.html.
    """
    console = Console()
    from .folder import default_path  # noqa: PLC0415
    from .stiff import figures, report, run  # noqa: PLC0415

    with _mistakes_told():
        folder = out or default_path(resume, "stiff-report")
        result = run(
            problems=_split(problems, str, "--problems"),
            solvers=_split(solvers, str, "--solvers"),
            seeds=seeds,
            out=folder,
            full=full,
            max_minutes=max_minutes,
            resume=resume,
            console=console,
        )
    result.show(console)
    path = report.write(result, folder, figures.draw(result, folder))
    console.print(f"{result.seconds:.0f} s; report: {path}", soft_wrap=True)


@contextlib.contextmanager
def _mistakes_told() -> Iterator[None]:
    """What a study refuses is one line on standard error, and exit code 2."""
    try:
        yield
    except ValueError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None


def _split(values: list[str] | None, kind: Callable[[str], T], option: str) -> list[T] | None:
    if values is None:
        return None
    words = [word.strip() for value in values for word in value.split(",") if word.strip()]
    try:
        return [kind(word) for word in words] or None
    except ValueError:
        raise ValueError(f"{option}: {','.join(words)} is not a list of numbers.") from None
