"""Every public name is documented, and the library never imports its studies."""

import ast
import inspect
import pathlib
from typing import get_type_hints

import pytest

import odeopt
from odeopt.zoo.options import Options

MODULES = [
    odeopt,
    odeopt.diagnostics,
    odeopt.drift,
    odeopt.flows,
    odeopt.kernels,
    odeopt.ordering,
    odeopt.solvers,
    odeopt.stepsize,
]
NAMES = [
    (module.__name__, name, getattr(module, name))
    for module in MODULES
    for name in vars(module)
    if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
]
SHARED = {*get_type_hints(Options)}  # documented once, for all
SOURCE = pathlib.Path(odeopt.__file__).parent


@pytest.mark.parametrize(
    ("module", "name", "thing"),
    [row for row in NAMES if inspect.isfunction(row[2]) or inspect.isclass(row[2])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_public_names_are_documented(module, name, thing):
    assert thing.__doc__, f"{module}.{name} has no docstring"
    if inspect.isclass(thing):
        own = [m for n, m in vars(thing).items() if not n.startswith("_") and callable(m)]
        undocumented = [m.__name__ for m in own if inspect.isfunction(m) and not inspect.getdoc(m)]
        assert not undocumented, f"{module}.{name}: {undocumented}"


@pytest.mark.parametrize(
    "optimizer", [thing for m, _, thing in NAMES if m == "odeopt" and inspect.isfunction(thing)]
)
def test_every_optimizer_shows_an_example_and_documents_its_arguments(optimizer):
    parameters = inspect.signature(optimizer).parameters
    if "learning_rate" in parameters:
        assert ">>> " in optimizer.__doc__
    for parameter in set(parameters) - SHARED:
        assert f"{parameter}:" in optimizer.__doc__


def test_options_that_all_share_are_documented_once():
    for option in SHARED:
        assert f"{option}:" in Options.__doc__
        assert option in inspect.signature(odeopt.rk4).parameters


# who may import what, from the bottom: `objective <- flows <- solvers <- diagnostics <- ...`
LAYERS = [
    "arrays",
    "checks",
    "information",
    "kernels",
    "precision",
    "sums",
    "arguments",
    "objective",
    "lanczos",
    "flows",
    "split",
    "losses",
    "curvature",
    "solvers",
    "diagnostics",
    "stepsize",
    "state",
    "drift",
    "suggest",
    "staged",
    "design",
    "optimizer",
    "monitoring",
    "ordering",
    "zoo",
]


@pytest.mark.parametrize("layer", LAYERS)
def test_dependencies_point_one_way(layer):
    place = SOURCE / layer
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "studies", "cli"}
    for file in files:
        assert not imported(file, level=2 if place.is_dir() else 1) & above, file


def imported(file, level):
    """What a module imports from the package, `from .. import name` included, when it runs."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):  # what only a type checker reads is no dependency
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names}
    return found


def test_an_import_of_a_whole_layer_is_seen(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("from .. import zoo\nfrom ..state import ODEState\nfrom . import other\n")
    assert imported(file, level=2) == {"zoo", "state"}
