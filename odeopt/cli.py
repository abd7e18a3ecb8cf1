"""The `odeopt` command line: a command a study, made of its settings. Uses cyclopts."""

from pathlib import Path
from typing import Annotated

import cyclopts

from . import __version__
from .studies import stability, stiff, untuned
from .studies.engine import command as engine
from .studies.engine.page import write_index

DECLARED = (stability.STUDY, untuned.STUDY, stiff.STUDY)
OLD = ("equivalence", "drift", "order", "games")
"""Commands that are not made of a declaration yet."""

app = cyclopts.App(
    name="odeopt",
    help="Optimizers built as ODE solvers: studies that answer questions about them.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
)
for study in DECLARED:
    app.command(engine.command(study), name=study.name)


@app.command
def index(folder: Path = Path()) -> None:
    """Write index.html over the reports in the folders of a folder.

    Args:
        folder: The folder; by default the current one.
    """
    print(write_index(folder))


def _old(name: str) -> None:
    def call(*words: Annotated[str, cyclopts.Parameter(allow_leading_hyphen=True)]) -> None:
        from .studies.old_cli import app as commands  # noqa: PLC0415

        commands([name, *words], standalone_mode=True)

    call.__doc__ = f"The study `{name}`: `odeopt {name} --help` says more."
    app.command(call, name=name, help_flags=[])


for old in OLD:
    _old(old)


def main() -> None:
    """Do what the command line says."""
    engine.main(app)
