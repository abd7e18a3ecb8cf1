"""Every public name is documented, and the library never imports its studies."""

import inspect
import pathlib
import re

import pytest

import odeopt

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
    for parameter in parameters:
        assert f"{parameter}:" in optimizer.__doc__


# who may import what, from the bottom: `objective <- flows <- solvers <- diagnostics <- ...`
LAYERS = [
    "kernels",
    "precision",
    "sums",
    "objective",
    "lanczos",
    "flows",
    "split",
    "turns",
    "curvature",
    "solvers",
    "diagnostics",
    "drift",
    "suggest",
    "stepsize",
    "state",
    "staged",
    "optimizer",
    "ordering",
    "zoo",
]


@pytest.mark.parametrize("layer", LAYERS)
def test_dependencies_point_one_way(layer):
    place = SOURCE / layer
    files = sorted(place.glob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    above = {*LAYERS[LAYERS.index(layer) + 1 :], "studies", "cli"}
    for file in files:
        up = ".." if place.is_dir() else "."
        imported = set(
            re.findall(rf"^\s*from {re.escape(up)}(\w+)", file.read_text(), re.MULTILINE)
        )
        assert not imported & above, file
