"""The command line of a study, made of its settings. Uses cyclopts and rich."""

import contextlib
import dataclasses
import inspect
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from . import page, terminal
from .store import default_path
from .study import Results, Study


def number(_: Any, tokens: Sequence[Any]) -> float:
    """A number as it is written: a whole one is an int, and no other is rounded to one."""
    (token,) = tokens
    with contextlib.suppress(ValueError):  # a float has fewer digits
        return int(token.value)
    try:
        value = float(token.value)
    except ValueError:
        raise ValueError(f'"{token.value}" is no number.') from None
    return int(value) if value.is_integer() else value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What every study can be asked for.

    Attributes:
        out: Folder for the results. [default: NAME-report, or the same with the next free number;
            with --resume the last one]
        full: Everything, for longer; or a quick first answer, the default.
        resume: Go on with a stopped or killed study.
        max_minutes: Start no new runs after this time; --resume makes the rest.
        devices: Devices of this machine that runs are dealt out to.
        share: I/N: make the I-th of N shares, beside other processes with the same --out; when all
            are done, --resume makes the report.
    """

    out: Annotated[Path | None, Parameter(show_default=False)] = None
    full: Annotated[bool, Parameter(negative="--quick", show_default=False)] = False
    resume: Annotated[bool, Parameter(negative="", show_default=False)] = False
    max_minutes: Annotated[float | None, Parameter(show_default=False)] = None
    devices: Annotated[int, Parameter(converter=number)] = 1
    share: Annotated[str | None, Parameter(show_default=False)] = None


def command(study: Study) -> Callable[..., None]:
    """A function for a cyclopts app: one option a setting, and `Options`."""
    settings = _options(study)

    several = [f.name for f in dataclasses.fields(study.settings) if isinstance(f.default, tuple)]
    first = "problems" if "problems" in several else several[0]

    def call(*alone: str, given: Any = None, options: Options | None = None) -> None:
        if alone:
            option = f"--{first.removesuffix('s')}"
            raise ValueError(f"{alone[0]} stands alone: write {option} {alone[0]}.")
        options = options or Options()
        run(study, options, dataclasses.asdict(given) if given else {})

    flat = Parameter(name="*")
    call.__annotations__ = {
        "alone": Annotated[str, Parameter(show=False)],
        "given": Annotated[settings | None, flat],
        "options": Annotated[Options | None, flat],
    }
    call.__doc__ = f"{study.question}\n\n{study.summary}"
    return call


def run(study: Study, options: Options, settings: dict[str, Any]) -> Results:
    """Make the study, write its report, print its answer; of a share, only make it."""
    # Progress goes to standard error, so that the answer can be piped.
    quiet = Console(stderr=True)
    if options.share is not None and options.out is None:
        raise ValueError("--share needs --out, the folder that the shares have in common.")
    share = _share(options.share)
    folder = options.out or default_path(options.resume, f"{study.name}-report")
    with interruptible(
        f"What is done is kept in {folder}: the same command with --resume and "
        f"--out {folder} goes on."
    ):
        asked = dataclasses.asdict(options) | {"out": folder, "share": share}
        results = study.run(**asked, **settings, console=quiet)
        if share is not None:
            quiet.print(Text(f"{results.seconds:.0f} s; share {options.share} of {folder}"))
            return results
        path = page.write(results, folder)
        console = Console()
        terminal.show(results, console)
        console.print(Text(f"{results.seconds:.0f} s; report: {path}"), soft_wrap=True)
        return results


def _options(study: Study) -> type:
    """A dataclass like the study's settings, all of them optional."""
    kinds = get_type_hints(study.settings, include_extras=True)
    fields = []
    for field in dataclasses.fields(study.settings):
        kind, name = kinds[field.name], field.name.replace("_", "-")
        default = _spoken(field.default)
        full = _spoken(study.full.get(field.name, field.default))
        shown = default if full == default else f"{default}; with --full {full}"
        say = bool(shown) and (lambda _, shown=shown: shown)
        about: dict[str, Any] = {"show_default": say, "negative": ""}
        if get_origin(kind) is tuple:
            kind, about["converter"] = tuple[str, ...], _words
            about["name"] = (f"--{name}", f"--{name.removesuffix('s')}")
        elif kind is int:
            about["converter"] = number
        fields.append((field.name, Annotated[kind | None, Parameter(**about)], None))
    made = dataclasses.make_dataclass("Settings", fields, frozen=True, kw_only=True)
    made.__module__ = __name__  # Python 3.11 says "types", where cyclopts finds no annotation
    made.__doc__ = _joined(study.settings)
    return made


def _joined(kind: type) -> str:
    """The docstring, with the words of an attribute in one line: cyclopts keeps line breaks."""
    return re.sub(r"\n {8}", " ", inspect.getdoc(kind) or "")


Options.__doc__ = _joined(Options)


def _spoken(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) if len(value) < 9 else f"{len(value)} of them"
    return "" if value is None else f"{value}"


def _words(_: Any, tokens: Sequence[Any]) -> tuple[str, ...]:
    found = [word.strip() for token in tokens for word in token.value.split(",")]
    return tuple(word for word in found if word)


def _share(words: str | None) -> tuple[int, int] | None:
    if words is None:
        return None
    try:
        index, count = map(int, words.split("/"))
    except ValueError:
        raise ValueError(f"--share: {words} is not of the form 1/4.") from None
    return index, count


@contextlib.contextmanager
def interruptible(words: str) -> Iterator[None]:
    """Ctrl-C ends the process with one line and exit code 130, in compiled code too.

    Python handles a signal when the main thread next runs Python, maybe minutes later. What is on
    disk is whole at any time, so a thread that is told of the signal at once can end the process.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield  # another program handles the signals
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def listen() -> None:
        if receiver.recv(1) == bytes([signal.SIGINT]):
            console = Console(stderr=True)
            console.show_cursor(True)
            with contextlib.suppress(OSError):
                console.print(Text(f"\nInterrupted. {words}"), soft_wrap=True)
            os._exit(130)

    signal.signal(signal.SIGINT, lambda *_: None)
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=listen, daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sender.close()


@contextlib.contextmanager
def mistakes_told() -> Iterator[None]:
    """What a study refuses is one line on standard error, and exit code 2; a closed pipe ends."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:  # before or after the work
        Console(stderr=True).print("Interrupted.")
        sys.exit(130)
    except ValueError as error:
        line = " ".join(str(error).split())
        Console(stderr=True).print(Text.assemble(("Error: ", "bold red"), line), soft_wrap=True)
        sys.exit(2)


def main(app: cyclopts.App, words: Sequence[str] | None = None) -> None:
    """Do what a command line says; a mistake is one line on standard error and exit code 2."""
    with mistakes_told():
        try:
            app(words, exit_on_error=False, print_error=False)
        except cyclopts.CycloptsError as error:
            raise ValueError(str(error)) from error
