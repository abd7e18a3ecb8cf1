"""Every public name is documented."""

import ast
import inspect
import operator
from pathlib import Path
from typing import get_type_hints

import pytest

import odeopt
from odeopt.zoo.options import Options

pytestmark = pytest.mark.cheap

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
    for name in dir(module)
    if not name.startswith("_") and not inspect.ismodule(getattr(module, name))
]
SHARED = {*get_type_hints(Options)}  # documented once, for all


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


@pytest.mark.parametrize("package", [odeopt, odeopt.flows, odeopt.solvers])
def test_what_is_imported_later_is_what_a_type_checker_sees(package):
    body = ast.parse(Path(package.__file__).read_text()).body
    (block,) = (node for node in body if isinstance(node, ast.If))
    seen = {f"{node.module or name.name}.{name.name}" for node in block.body for name in node.names}
    listed = ast.literal_eval(body[-1].value.args[1])
    assert seen == {f"{module}.{n}" for module, names in listed.items() for n in names or (module,)}
    for names in listed.values():
        for name in names:
            assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'rk5'"):
        operator.attrgetter("rk5")(package)
