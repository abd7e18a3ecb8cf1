"""Every piece that something public takes: another kind of piece is refused, by its name."""

import inspect
import re

import optax
import pytest

import odeopt
from odeopt import flows, solvers, stepsize

from .test_numbers import GIVEN, MODULES, MORE, made_with, named, needed

KINDS = {
    "AbstractFlow": flows.GradientFlow(),
    "GameFlow": flows.GameFlow(),
    "AbstractMethod": solvers.Lie(),
    "LinearSolver": solvers.LinearSolver(),
    "Tableau": solvers.Tableau([], [1.0]),
    "LogTime": flows.LogTime(),
    "AbstractRule": stepsize.angle(),
    "Optimizer": odeopt.euler(0.1),
    "GradientTransformation": optax.sgd(0.1),
}
ALSO = {  # subclasses, and what stands for a piece
    "AbstractFlow": {"GameFlow"},
    "GradientTransformation": {"Optimizer"},
    "Optimizer": {"AbstractMethod", "Tableau"},
    "Tableau": {"AbstractMethod"},
}


def taking_pieces():
    """`(name, argument) -> what is called` for every argument that is one of those kinds."""
    found = {}
    for module in MODULES:
        for name, made in inspect.getmembers(module, callable):
            known = inspect.isfunction(made) or (inspect.isclass(made) and needed(made))
            if name.startswith("_") or not known or not needed(made) <= GIVEN.keys():
                continue
            for parameter in named(made):
                if allowed(parameter) and not words(parameter) & {"Any", "float"}:
                    found[f"{module.__name__}.{name}", parameter.name] = made
    return found


def words(parameter):
    return set(re.findall(r"\w+", str(parameter.annotation)))


def allowed(parameter):
    kinds = words(parameter) & KINDS.keys()
    return kinds.union(*(ALSO.get(kind, ()) for kind in kinds))


PIECES = taking_pieces()


@pytest.mark.cheap
@pytest.mark.untyped
@pytest.mark.parametrize(("name", "argument"), PIECES)
def test_another_kind_of_piece_is_refused_by_name(name, argument):
    made = PIECES[name, argument]
    given = {key: GIVEN[key] for key in needed(made)} | MORE.get(name, {})
    right = allowed(inspect.signature(made).parameters[argument])
    for piece in ("rk4", *(piece for kind, piece in KINDS.items() if kind not in right)):
        with pytest.raises((TypeError, ValueError), match=rf"{argument}|solver"):
            made_with(made, given | {argument: piece})
