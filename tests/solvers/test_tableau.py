"""What follows from the coefficients alone: consistency, order, stability."""

import math

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import odeopt
from odeopt.solvers import Tableau

from .cases import CLASSES, ORDERS, PAIRS, STAGES, follow

KUTTA_38 = Tableau(
    a=[[1 / 3], [-1 / 3, 1], [1, -1, 1]], b=[1 / 8, 3 / 8, 3 / 8, 1 / 8]
)  # Kutta 1901
HEUN3 = Tableau(a=[[1 / 3], [0, 2 / 3]], b=[1 / 4, 0, 3 / 4])
# Merson 1957: five stages, order 4, the classical example that a fifth stage is not a fifth order
MERSON = Tableau(
    a=[[1 / 3], [1 / 6, 1 / 6], [1 / 8, 0, 3 / 8], [1 / 2, 0, -3 / 2, 2]],
    b=[1 / 6, 0, 0, 2 / 3, 1 / 6],
)
# Butcher 1964: six stages, order 5
BUTCHER5 = Tableau(
    a=[
        [1 / 4],
        [1 / 8, 1 / 8],
        [0, -1 / 2, 1],
        [3 / 16, 0, 0, 9 / 16],
        [-3 / 7, 2 / 7, 12 / 7, -12 / 7, 8 / 7],
    ],
    b=[7 / 90, 0, 32 / 90, 12 / 90, 32 / 90, 7 / 90],
)
DOPRI8 = Tableau.from_diffrax(diffrax.Dopri8.tableau)

NAMED = {name: cls().method.tableau for name, cls in CLASSES.items()}
# name: (tableau, order in the literature)
ALL = {name: (NAMED[name], ORDERS[name]) for name in NAMED} | {
    "kutta-3/8": (KUTTA_38, 4),
    "heun3": (HEUN3, 3),
    "merson": (MERSON, 4),
    "butcher5": (BUTCHER5, 5),
    "dopri8": (DOPRI8, 8),
}
by_tableau = pytest.mark.parametrize("name", ALL)


# order


@by_tableau
def test_the_order_conditions_give_the_order_of_the_literature(name):
    tableau, order = ALL[name]
    assert tableau.order == order


@pytest.mark.parametrize("name", CLASSES)
def test_named_classes_state_what_their_tableau_says(name):
    solver = CLASSES[name]()
    assert solver.method.order == ORDERS[name] == solver.order(diffrax.ODETerm(lambda t, y, _: y))
    assert solver.gradients_per_step == solver.method.gradients_per_step == STAGES[name]
    assert solver.stability_limit == solver.method.stability_limit
    np.testing.assert_array_equal(
        solver.stability_polynomial, solver.method.tableau.stability_polynomial
    )


def test_one_moved_weight_is_seen_by_the_order_conditions():
    b = np.array(KUTTA_38.b)
    for move in np.eye(4) - np.roll(np.eye(4), 1, axis=1):
        assert Tableau(KUTTA_38.a, b + 1e-6 * move).order < 4


# stability


@by_tableau
def test_one_step_on_the_linear_test_equation_is_the_stability_polynomial(name, x64):
    tableau, _ = ALL[name]
    z = jnp.array([-3.0, -1.0, -0.3, 0.5, -0.2 + 1.5j, 2j])
    step = odeopt.runge_kutta(1.0, tableau)
    end, _ = follow(step, lambda x: z * x, jnp.ones_like(z), 1)
    expected = np.polynomial.Polynomial(tableau.stability_polynomial)(np.asarray(z))
    # s additions of terms of size |z|^s <= 3^13 / 13! stay far below 1e-11 in float64, but Dopri8's
    # coefficients are up to 50 and cancel
    np.testing.assert_allclose(end, expected, rtol=1e-11, atol=1e-11)


@by_tableau
def test_stability_polynomial_is_the_exponential_up_to_the_order(name):
    tableau, order = ALL[name]
    polynomial = tableau.stability_polynomial
    taylor = [1 / math.factorial(k) for k in range(order + 2)]
    np.testing.assert_allclose(polynomial[: order + 1], taylor[: order + 1], rtol=0, atol=1e-13)
    beyond = polynomial[order + 1] if len(polynomial) > order + 1 else 0.0
    if tableau.stages < 13:  # Dopri8's is near, but it is not the exponential's either
        assert abs(beyond - taylor[-1]) > 1e-6


def damping(tableau, x):
    return abs(np.polynomial.Polynomial(tableau.stability_polynomial)(-np.asarray(x)))


LIMITS = {"euler": 2, "heun": 2, "midpoint": 2, "ralston": 2} | {
    "bosh3": 2.5127,
    "ssprk3": 2.5127,
    "heun3": 2.5127,
    "rk4": 2.7853,
    "kutta-3/8": 2.7853,
}


@pytest.mark.parametrize("name", LIMITS)
def test_stability_limits_of_the_literature(name):
    # four decimals are printed
    assert ALL[name][0].stability_limit == pytest.approx(LIMITS[name], abs=5e-5)


@pytest.mark.slow
def test_the_limit_of_composed_euler_steps_is_the_sum_of_theirs():
    for stages in range(1, 61):
        steps = Tableau.from_recursion([0.0] + [1.0] * (stages - 1), [1 / stages] * stages)
        assert steps.stability_limit == pytest.approx(2 * stages, rel=1e-10)


def test_the_limit_of_rk4_is_exact():
    assert ALL["rk4"][0].stability_limit == pytest.approx(2.785293563405282, rel=1e-12)


@pytest.mark.parametrize("stages", [2, 7, 30, 60])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_the_limit_of_a_chebyshev_method_is_past_the_points_where_it_touches_1(
    stages, order, damping
):
    method = odeopt.solvers.RungeKuttaChebyshev(stages, order, damping)
    limit = Tableau(*method.butcher()).stability_limit
    assert limit == pytest.approx(method.stability_limit, rel=1e-10)


@by_tableau
def test_the_limit_separates_stable_from_unstable(name):
    tableau, _ = ALL[name]
    limit = tableau.stability_limit
    below = np.linspace(0, limit * (1 - 1e-9), 10_001)
    # |R| touches 1 at t = 0 and may round to just above it there
    assert np.all(damping(tableau, below) <= 1 + 1e-12)
    assert damping(tableau, limit * (1 + 1e-6)) > 1


@pytest.mark.parametrize("name", CLASSES)
def test_the_optimizer_blows_up_just_above_the_limit_and_not_below(name, x64):
    limit = CLASSES[name]().stability_limit
    for h, grows in ((0.99 * limit, False), (1.01 * limit, True)):
        end, _ = follow(getattr(odeopt, name)(h), jnp.negative, jnp.ones(1), 1000)
        assert (abs(end[0]) > 1) == grows


coefficient = st.floats(-2, 2).filter(lambda x: x == 0 or abs(x) > 1e-3)


@st.composite
def tableaus(draw):
    stages = draw(st.integers(1, 5))
    a = [[draw(coefficient) for _ in range(i)] for i in range(1, stages)]
    b = [draw(coefficient) for _ in range(stages - 1)]
    return Tableau(a, [*b, 1 - sum(b)])


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(tableaus())
def test_the_limit_of_random_tableaus_brackets_a_scan(tableau):
    """R'(0) = 1, so |R(-t)| <= 1 just right of 0, and a scan finds the first crossing above it."""
    limit = tableau.stability_limit
    slack = 1e-7  # a double root, where |R| touches 1, is only good to the root of the rounding
    assert limit > 0
    assert np.all(damping(tableau, np.linspace(0, limit, 4001)[1:-1]) <= 1 + slack)
    above = limit + np.geomspace(1e-6, 1, 200) * max(limit, 1)
    assert np.any(damping(tableau, above) > 1)
    assert damping(tableau, limit) == pytest.approx(1, abs=1e-5)


# conversions


@pytest.mark.parametrize("name", [*PAIRS, "dopri8"])
def test_round_trip_through_diffrax(name):
    cls = CLASSES.get(name, diffrax.Dopri8)
    tableau = Tableau.from_diffrax(cls.tableau)
    back = tableau.to_diffrax()
    assert Tableau.from_diffrax(back) == tableau
    for field in ("b_sol", "b_error", "c"):
        np.testing.assert_array_equal(getattr(back, field), getattr(cls.tableau, field))
    for ours, theirs in zip(back.a_lower, cls.tableau.a_lower, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_estimate_survives_the_round_trip():
    assert Tableau.from_diffrax(KUTTA_38.to_diffrax()) == KUTTA_38
    assert KUTTA_38.b_error is None


@by_tableau
def test_equal_tableaus_are_one_static_argument(name):
    tableau, _ = ALL[name]
    same = Tableau(tableau.matrix, tableau.b, tableau.c, tableau.b_error)  # square and triangular
    assert same == tableau
    assert hash(same) == hash(tableau)
    traces = []

    def traced(x, t):
        traces.append(t)
        return x

    compiled = jax.jit(traced, static_argnums=1)
    compiled(1.0, tableau)
    compiled(1.0, same)
    assert len(traces) == 1
    assert all(tableau != other for key, (other, _) in ALL.items() if key != name)


@pytest.mark.parametrize("name", PAIRS)
def test_without_error_drops_only_what_the_solution_does_not_use(name):
    pair = CLASSES[name]().coefficients
    alone = pair.without_error()
    assert alone.b_error is None
    assert alone.b == pair.b[: alone.stages]
    assert not np.any(pair.b[alone.stages :])
    assert alone.order == pair.order
    np.testing.assert_array_equal(alone.stability_polynomial, pair.stability_polynomial)
    assert alone.without_error() == alone


# what is refused

implicit = diffrax.Kvaerno3.tableau
REFUSED = {
    "row sum": (
        lambda: Tableau(a=[[0.5], [0, 0.5]], b=[0, 0, 1], c=[0, 0.5, 0.6]),
        r"the row of a for stage 3 sums to 0\.5, not to 0\.6 \(its node c\[2\]\)",
    ),
    "first node": (
        lambda: Tableau(a=[[0.5]], b=[0, 1], c=[0.1, 0.5]),
        r"the row of a for stage 1 sums to 0, not to 0\.1",
    ),
    "weights": (lambda: Tableau(a=[[0.5]], b=[0.5, 0.4]), r"b sums to 0\.9, not to 1"),
    "nan": (lambda: Tableau(a=[[0.5]], b=[0.5, math.nan]), r"b sums to nan"),
    "b_error": (
        lambda: Tableau(a=[[1]], b=[0.5, 0.5], b_error=[0.5, -0.4]),
        r"b_error sums to 0\.1, not to 0 ",
    ),
    "diagonal": (
        lambda: Tableau(a=[[0, 0], [0.5, 0.5]], b=[0.5, 0.5]),
        r"stage 2 of an explicit method has exactly 1 coefficients.*from_diffrax",
    ),
    "above the diagonal": (
        lambda: Tableau(a=[[0, 0.5], [0.5, 0]], b=[0.5, 0.5]),
        r"stage 1 of an explicit method has exactly 0 coefficients",
    ),
    "short row": (lambda: Tableau(a=[[0.5], [1]], b=[0, 0, 1]), r"exactly 2 coefficients"),
    "rows": (lambda: Tableau(a=[[0.5]], b=[0, 0, 1]), r"a needs 2 rows.*but has 1"),
    "c size": (lambda: Tableau(a=[[0.5]], b=[0, 1], c=[0.5]), r"c needs 2 entries"),
    "b_error size": (
        lambda: Tableau(a=[[0.5]], b=[0, 1], b_error=[0.0]),
        r"b_error needs 2 entries",
    ),
    "implicit": (lambda: Tableau.from_diffrax(implicit), r"implicit: use `odeopt\.from_diffrax"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    build, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        build()
