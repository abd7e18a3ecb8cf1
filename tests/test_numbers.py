"""Every number that something public takes: what cannot be meant is refused, by its name."""

import inspect
import math
import re

import jax.numpy as jnp
import pytest

import odeopt
from odeopt import diagnostics, drift, flows, ordering, solvers, stepsize

MODULES = (odeopt, flows, solvers, stepsize, ordering, drift, diagnostics)


def loss(x):
    return jnp.sum(jnp.cosh(x))


GIVEN = {  # for what has no default
    "learning_rate": 0.01,
    "decay": 0.9,
    "momentum": 0.9,
    "friction": 0.5,
    "time_constant": 1.0,
    "steps": 8,
    "batches": 4,
    "order": 2,
    "h": 0.1,
    "base": flows.AdamFlow(),
    "flow": flows.GradientFlow(),
    "method": solvers.as_method(solvers.Euler()),
    "solver": solvers.Euler(),
    "step_or_solver": solvers.Euler(),
    "optimizer": odeopt.euler(0.1),
    "opt": odeopt.euler(0.1),
    "loss": loss,
    "value_fn": loss,
    "params": jnp.ones(3),
    "tableau": solvers.RK4.tableau,
    "rtol": 1e-3,
    "atol": 1e-3,
    "strength": 1.0,
    "directions": 1,
    "losses": (lambda x, y: x * y, lambda x, y: -x * y),
    "terms": "published",
    "field": lambda x: -x,
    "eigenvalues": jnp.ones(3),
    "model": None,
    "inputs": jnp.ones((5, 3)),
    "embeddings": jnp.ones((4, 3)),
    "labels": jnp.array([0, 1, 1, 0]),
    "classes": 2,
    "loss_fn": loss,
    "predict_fn": lambda x, inputs: inputs @ x,
}
MORE = {  # what some need beside, or instead
    "odeopt.ordering.backward": {"window": 4, "example": {"value_fn": loss}},
    "odeopt.drift.corrected_game": {"flow": flows.GameFlow()},
    "odeopt.drift.gradient_penalty": {
        "value_fn": lambda x, batch: jnp.sum(batch @ x),
        "batch": jnp.ones((4, 3)),
    },
    "odeopt.diagnostics.gauss_newton_spectrum": {"inputs": jnp.ones((5, 3))},
    "odeopt.diagnostics.geometric_complexity": {"model": lambda x, inputs: inputs * x},
}
NUMBERS = {"int", "float", "Number", "Scalar"}
OTHERS = {
    *("scan_kind", "root_find_max_steps"),  # diffrax's own, of its own classes
    *("generator", "discriminator"),  # names of players
    "step",  # a map from a point to the next, or a number of any sign that random bits depend on
}
MAY_BE_INFINITE = {"limit", "longest", "cap", "clip", "transition"}  # which is none
MAY_BE_NEGATIVE = {"minimum", "seed", "friction", "strength"}
WRONG = [math.nan, math.inf, -math.inf, -1.0, -2, 1.5, True, "0.1", [0.1], None]


def public():
    """`name -> (what is called, its numbers)`, but for classes that only functions make."""
    found = {}
    for module in MODULES:
        for name in dir(module):
            made = getattr(module, name)
            if name.startswith("_") or not (inspect.isfunction(made) or inspect.isclass(made)):
                continue
            numbers = [p for p in named(made) if is_number(p) and p.name not in OTHERS]
            internal = inspect.isclass(made) and not needed(made) <= GIVEN.keys()
            if numbers and not internal and not inspect.isabstract(made):
                found[f"{module.__name__}.{name}"] = made, numbers
    return found


def named(made):
    parameters = inspect.signature(made).parameters.values()
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def needed(made):
    return {p.name for p in named(made) if p.default is p.empty}


def is_number(parameter):
    """By its default or the words of its annotation, but for collections of numbers."""
    words = set(re.findall(r"\w+", str(parameter.annotation)))
    return (words & NUMBERS or type(parameter.default) in (int, float)) and not words & {
        "dict",
        "Mapping",
        "tuple",
        "Sequence",
    }


PUBLIC = public()


def made_with(made, given):
    """`made` of arguments by name, those that go by position in their place."""
    signature = inspect.signature(made).parameters.values()
    first = [p.name for p in signature if p.kind == p.POSITIONAL_ONLY]
    rest = {name: value for name, value in given.items() if name not in first}
    return made(*(given[name] for name in first), **rest)


def may_be(parameter, wrong):
    """Whether what is wrong elsewhere means something here."""
    words = str(parameter.annotation)
    if wrong is None:
        return parameter.default is None or "None" in words or "Any" in words
    if isinstance(wrong, str | list | bool) or math.isnan(wrong):
        return False
    if wrong == 1.5:
        return "int" not in words or "float" in words
    if math.isinf(wrong):
        return wrong > 0 and parameter.name in MAY_BE_INFINITE
    return parameter.name in MAY_BE_NEGATIVE


def silent(made, numbers, more):
    """What is wrong and not refused, or not by the name of the argument."""
    given = {key: GIVEN[key] for key in needed(made)} | more
    made_with(made, given)
    found = []
    for parameter in numbers:
        for wrong in WRONG:
            if may_be(parameter, wrong):
                continue
            try:
                made_with(made, given | {parameter.name: wrong})
            except (ValueError, TypeError) as error:
                if not re.search(rf"\b{parameter.name}( is |=)", str(error)):
                    found.append(f"{parameter.name}={wrong!r}: {str(error)[:60]}")
            else:
                found.append(f"{parameter.name}={wrong!r}")
    return found


@pytest.mark.cheap
@pytest.mark.untyped
@pytest.mark.parametrize("name", PUBLIC)
def test_a_number_that_cannot_be_meant_is_refused_by_its_name(name):
    found = silent(*PUBLIC[name], MORE.get(name, {}))
    assert not found, "\n".join(found)


def test_the_law_sees_what_is_taken_and_what_goes_by_another_name():
    def careless(learning_rate, gain: float = 1.0, shrink: float = 0.5):
        if not shrink > 0:
            raise ValueError(f"factor is {shrink}.")

    found = silent(careless, named(careless)[1:], {})
    assert {"gain=nan", "gain=True", "shrink=inf", "shrink=-1.0: factor is -1.0."} <= {*found}
