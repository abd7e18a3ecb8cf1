"""The `odeopt` command line: cyclopts builds one command for each study from its settings."""

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
    """Write index.html for the reports in the subfolders of a folder.

    Args:
        folder: The folder; by default the current one.
    """
    print(write_index(folder))


def main() -> None:
    """Run the command line."""
    engine.main(app)
