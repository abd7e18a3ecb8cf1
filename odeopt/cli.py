"""The `odeopt` command line: a command a study, made of its settings. Uses cyclopts."""

from pathlib import Path

import cyclopts

from . import __version__
from .studies import benchmark, drift, equivalence, games, order, reproduce, stability, stiff
from .studies.engine import command as engine
from .studies.engine.page import write_index

STUDIES = (stability, equivalence, benchmark, stiff, drift, order, games)

app = cyclopts.App(
    name="odeopt",
    help="Optimizers built as ODE solvers: studies that answer questions about them.",
    version=__version__,
    help_format="plaintext",
    result_action="return_value",
)
for study in (module.STUDY for module in STUDIES):
    app.command(engine.command(study), name=study.name)
app.command(reproduce.command, name="reproduce")
app.register_install_completion_command()


@app.command
def index(folder: Path = Path()) -> None:
    """Write index.html over the reports in the folders of a folder.

    Args:
        folder: The folder; by default the current one.
    """
    print(write_index(folder))


def main() -> None:
    """Do what the command line says."""
    engine.main(app)
