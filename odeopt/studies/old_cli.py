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
def equivalence(
    out: Annotated[Path | None, _folder("equivalence-report")] = None,
    resume: Annotated[bool, RESUME] = False,
) -> None:
    """Is a learning rate a step size, and where does that stop?

    Measures flow time, stability limits and orders of solvers, momentum and Adam, and writes
    tables, plots and report.html with a verdict on every claim. Takes about two minutes.
    """
    console = Console()
    from .equivalence import figures, page, run  # noqa: PLC0415
    from .folder import default_path  # noqa: PLC0415

    with _mistakes_told():
        folder = out or default_path(resume, "equivalence-report")
        result = run(out=folder, resume=resume, console=console)
    result.show(console)
    path = page.write(result, folder, figures.draw(result.records, folder))
    console.print(f"{result.seconds:.0f} s; report: {path}", soft_wrap=True)


@app.command()
def drift(
    problems: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Networks, separated by commas: digits-mse, digits-ce.",
            show_default="both",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Initial points of the networks.", show_default="3; 5 with --full"),
    ] = None,
    out: Annotated[Path | None, _folder("drift-report")] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick",
            help="A smaller rate, longer runs and more seeds (about ten minutes on "
            "two cores), or a first answer in two minutes.",
        ),
    ] = False,
    resume: Annotated[bool, RESUME] = False,
) -> None:
    """What is the drift of gradient descent, and what does it do to a network?

    Compares iterates with flows and modified flows, and trends of gradient norm and sharpness with
    the rate, with the drift's counter-term and without, and writes tables, plots and report.html.
    """
    console = Console()
    from .drift import figures, page, run  # noqa: PLC0415
    from .folder import default_path  # noqa: PLC0415

    with _mistakes_told():
        folder = out or default_path(resume, "drift-report")
        result = run(
            problems=_split(problems, str, "--problems"),
            seeds=seeds,
            out=folder,
            full=full,
            resume=resume,
            console=console,
        )
    result.show(console)
    path = page.write(result, folder, figures.draw(result.records, folder))
    console.print(f"{result.seconds:.0f} s; report: {path}", soft_wrap=True)


@app.command()
def order(
    problems: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="Problems, separated by commas: regression, softmax, network.",
            show_default="all",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Runs of each method on the convex problems.", show_default="40; 200 with --full"
        ),
    ] = None,
    out: Annotated[Path | None, _folder("order-report")] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick",
            help="Five times the seeds, or a first answer in three to four minutes.",
        ),
    ] = False,
    resume: Annotated[bool, RESUME] = False,
) -> None:
    """In which order should mini-batches act?

    Compares forward, backward, palindromic and reshuffled order and averages: whether iterates come
    to rest, their loss, their cost in gradients; and writes tables, plots and report.html.
    """
    console = Console()
    from .folder import default_path  # noqa: PLC0415
    from .order import figures, page, run  # noqa: PLC0415

    with _mistakes_told():
        folder = out or default_path(resume, "order-report")
        result = run(
            problems=_split(problems, str, "--problems"),
            seeds=seeds,
            out=folder,
            full=full,
            resume=resume,
            console=console,
        )
    result.show(console)
    path = page.write(result, folder, figures.draw(result.records, folder))
    console.print(f"{result.seconds:.0f} s; report: {path}", soft_wrap=True)


@app.command()
def games(
    methods: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAMES",
            help="How the mixture's GAN is trained, separated by commas: simultaneous, "
            "alternating, interaction, joint, rk4, rk4-penalty, adam; in Adam's metric "
            "alternating-rms, interaction-rms, rk4-rms.",
            show_default="all but joint and interaction-rms; all with --full",
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Fresh seeds of the mixture; one more tunes the rates.",
            show_default="5; 10 with --full",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            help="Rounds of gradients of each run, one for each player a round.",
            show_default="9600; 48000 with --full",
        ),
    ] = None,
    out: Annotated[Path | None, _folder("games-report")] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full/--quick",
            help="Longer runs and more seeds (about an hour on two cores), or a first answer in "
            "about five minutes.",
        ),
    ] = False,
    max_minutes: Annotated[float | None, MAX_MINUTES] = None,
    resume: Annotated[bool, RESUME] = False,
) -> None:
    """What does integration error do to a game of two players?

    Follows three games of two numbers by methods for games, trains a GAN of a mixture of 16
    Gaussians by them at equal gradients, and writes tables, plots and report.html.
    """
    console = Console()
    from .folder import default_path  # noqa: PLC0415
    from .games import figures, page, run  # noqa: PLC0415

    with _mistakes_told():
        folder = out or default_path(resume, "games-report")
        result = run(
            methods=_split(methods, str, "--methods"),
            seeds=seeds,
            rounds=rounds,
            out=folder,
            full=full,
            max_minutes=max_minutes,
            resume=resume,
            console=console,
        )
    result.show(console)
    path = page.write(result, folder, figures.draw(result.records, folder))
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
