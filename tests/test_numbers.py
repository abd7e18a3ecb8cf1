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
}
MORE = {  # what some need beside, or instead
    "odeopt.ordering.backward": {"window": 4, "example": {"value_fn": loss}},
    "odeopt.drift.corrected_game": {"flow": flows.GameFlow()},
    "odeopt.drift.gradient_penalty": {
        "value_fn": lambda x, batch: jnp.sum(batch @ x),
        "batch": jnp.ones((4, 3)),
    },
    "odeopt.diagnostics.geometric_complexity": {"model": lambda x, inputs: inputs * x},
}
NUMBERS = {"int", "float", "Number", "Scalar"}
OTHERS = {
    *("scan_kind", "root_find_max_steps"),  # diffrax's own, of its own classes
    *("generator", "discriminator"),  # names of players
}
MAY_BE_INFINITE = {"limit", "longest", "cap", "clip"}  # which is none
MAY_BE_NEGATIVE = {"minimum", "seed", "friction", "strength"}
WRONG = [math.nan, math.inf, -math.inf, -1.0, -2, 1.5, True, "0.1", [0.1], None]


def public():
    """`name -> (what is called, its arguments without a default, its numbers)`."""
    found = {}
    for module in MODULES:
        for name in dir(module):
            made = getattr(module, name)
            if name.startswith("_") or not (inspect.isfunction(made) or inspect.isclass(made)):
                continue
            parameters = inspect.signature(made).parameters.values()
            named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
            needed = {p.name for p in named if p.default is p.empty}
            numbers = [p for p in named if is_number(p) and p.name not in OTHERS]
            if numbers and needed <= GIVEN.keys() and not inspect.isabstract(made):
                found[f"{module.__name__}.{name}"] = made, needed, numbers
    return found


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


@pytest.mark.cheap
@pytest.mark.untyped
@pytest.mark.parametrize("name", PUBLIC)
def test_a_number_that_cannot_be_meant_is_refused_by_its_name(name):
    made, needed, numbers = PUBLIC[name]
    given = {key: GIVEN[key] for key in needed} | MORE.get(name, {})
    made_with(made, given)
    silent = []
    for parameter in numbers:
        for wrong in WRONG:
            if may_be(parameter, wrong):
                continue
            try:
                made_with(made, given | {parameter.name: wrong})
            except (ValueError, TypeError) as error:
                if not re.search(rf"\b{parameter.name}( is |=)", str(error)):
                    silent.append(f"{parameter.name}={wrong!r}: {str(error)[:60]}")
            else:
                silent.append(f"{parameter.name}={wrong!r}")
    assert not silent, "\n".join(silent)
