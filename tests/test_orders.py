"""Observed orders of every named explicit method, as an optimizer and as a diffrax solver.

The reference is diffrax's Dopri8 at a tolerance far below every error here.
"""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt.solvers import Tableau

from .solvers.cases import CLASSES, FIELDS, ORDERS, follow, loss, make, start

pytestmark = pytest.mark.usefixtures("x64")
by_method = pytest.mark.parametrize("name", CLASSES)
by_field = pytest.mark.parametrize("field", FIELDS)

TIME = 2.0
# Steps over TIME, chosen by looking: from here on the observed order stays put until rounding.
STEPS = {1: 512, 2: 256, 3: 128, 4: 128, 5: 64}


def term(field):
    return diffrax.ODETerm(lambda t, x, args: FIELDS[field](x))


@functools.cache
def reference(field):
    controller = diffrax.PIDController(rtol=1e-13, atol=1e-14)
    solution = diffrax.diffeqsolve(
        term(field),
        diffrax.Dopri8(),
        0.0,
        TIME,
        0.01,
        start(),
        stepsize_controller=controller,
        max_steps=10_000,
    )
    return np.asarray(solution.ys[0])


def observed(end, field, order):
    """log2 of the ratio of the errors of `end(n)` at n and 2n steps."""
    n = STEPS[order]
    coarse, fine = (np.linalg.norm(end(n) - reference(field)) for n in (n, 2 * n))
    assert fine > 1e-13  # the reference is good to 1e-14: below this the ratio would be noise
    return np.log2(coarse / fine)


def check(rate, order):
    if order < 5:
        assert abs(rate - order) < 0.1
    else:
        assert rate > 4.85


def optimizer_end(make, field):
    objective = {"value_fn": loss} if field == "gradient" else {}

    @jax.jit
    def end(n):
        return follow(make(TIME / n), FIELDS[field], start(), n, **objective)[0]

    return lambda n: np.asarray(end(n))


@by_field
@by_method
def test_order_of_the_optimizer(name, field):
    order = ORDERS[name]
    check(observed(optimizer_end(functools.partial(make, name), field), field, order), order)


@by_field
@by_method
def test_order_through_diffeqsolve(name, field):
    order = ORDERS[name]
    assert CLASSES[name]().order(term(field)) == order

    @jax.jit
    def end(n):
        saved = diffrax.diffeqsolve(term(field), CLASSES[name](), 0.0, TIME, TIME / n, start())
        return saved.ys[0]

    check(observed(lambda n: np.asarray(end(n)), field, order), order)


@pytest.mark.parametrize(
    ("tableau", "order"),
    [
        (Tableau(a=[[0.5], [0, 0.5], [0, 0, 1]], b=[1 / 6, 1 / 3 + 0.01, 1 / 3, 1 / 6 - 0.01]), 1),
        (Tableau(a=[[0.5], [0, 0.5], [0, 0, 1]], b=[1 / 6, 1 / 2, 1 / 6, 1 / 6]), 2),
    ],
    ids=["rk4-weight-moved", "rk4-middle-weights-unequal"],
)
@by_field
def test_a_wrong_weight_costs_the_order(tableau, order, field):
    """The measurement can fail: still consistent, and the same nodes, but not order 4."""
    assert tableau.order == order
    end = optimizer_end(lambda h: odeopt.runge_kutta(h, tableau), field)
    rate = observed(end, field, order)
    assert abs(rate - order) < 0.1
    assert jnp.isfinite(rate)
