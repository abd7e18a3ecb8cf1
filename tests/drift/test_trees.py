"""Tree coefficients: the published table, exactly, and what the numbers must satisfy."""

from fractions import Fraction

import diffrax
import kauri
import numpy as np
import optax
import pytest

import odeopt
from odeopt import drift
from odeopt.solvers import Tableau

from .cases import METHODS

# Hairer, Lubich and Wanner, Geometric Numerical Integration, IX.9, and its inverse: sigma, gamma,
# Euler modified and modifying, implicit Euler modified, midpoint modified and modifying, implicit
# midpoint modified
TABLE = {
    "12": (1, 2, "-1/2", "1/2", "1/2", "0", "0", "0"),
    "122": (2, 3, "1/6", "1/3", "1/6", "-1/12", "1/12", "-1/12"),
    "123": (1, 6, "1/3", "1/6", "1/3", "-1/6", "1/6", "1/12"),
    "1222": (6, 4, "0", "1/4", "0", "0", "0", "0"),
    "1223": (1, 8, "-1/12", "1/8", "1/12", "0", "0", "0"),
    "1233": (2, 12, "-1/6", "1/12", "1/6", "1/8", "-1/8", "0"),
    "1234": (1, 24, "-1/4", "1/24", "1/4", "1/8", "-1/8", "0"),
}
COLUMNS = [
    (drift.modified_equation, "euler", 2),
    (drift.modifying_integrator, "euler", 3),
    (drift.modified_equation, "implicit euler", 4),
    (drift.modified_equation, "midpoint", 5),
    (drift.modifying_integrator, "midpoint", 6),
    (drift.modified_equation, "implicit midpoint", 7),
]


@pytest.mark.parametrize(("function", "name", "column"), COLUMNS)
def test_the_published_coefficients_are_exact(function, name, column):
    found = function(METHODS[name], 4)
    assert all(type(value) is Fraction for value in found.values())
    expected = {"1": Fraction(1)} | {key: Fraction(row[column]) for key, row in TABLE.items()}
    assert {drift.levels(tree): value for tree, value in found.items()} == expected


def test_trees_have_the_published_symmetry_and_density():
    for key, (sigma, gamma, *_) in TABLE.items():
        assert (drift.tree(key).sigma(), drift.tree(key).factorial()) == (sigma, gamma)


@pytest.mark.parametrize("function", [drift.modified_equation, drift.modifying_integrator])
@pytest.mark.parametrize(
    ("solver", "order"),
    [
        (odeopt.solvers.Heun(), 2),
        (odeopt.solvers.SSPRK3(), 3),
        (odeopt.solvers.RK4(), 4),
        (diffrax.Dopri5(), 5),
        (diffrax.Tsit5(), 5),  # no fractions of small denominator
        (diffrax.Kvaerno3(), 3),  # implicit, and irrational
    ],
)
def test_there_is_drift_from_one_above_the_order_on(function, solver, order):
    table = function(solver, order + 1)
    sizes = {t.nodes() for t, value in table.items() if value != 0}
    assert sizes == {1, order + 1}
    exact = not isinstance(solver, diffrax.Tsit5 | diffrax.Kvaerno3)
    assert all(type(value) is (Fraction if exact else float) for value in table.values())
    assert table[drift.tree("1")] == 1


def test_the_same_method_in_any_form_has_the_same_coefficients():
    third = 1 / 3
    forms = [
        Tableau(a=[[third], [0, 1 - third]], b=[0.25, 0, 0.75]),  # 1 - 1/3 rounds to another float
        ([[0, 0, 0], [third, 0, 0], [0, 2 * third, 0]], [0.25, 0, 0.75]),
        ([[0, 0, 0], [Fraction(1, 3), 0, 0], [0, Fraction(2, 3), 0]], [Fraction(1, 4), 0, 0.75]),
    ]
    tables = [drift.modified_equation(form, 5) for form in forms]
    assert tables[0] == tables[1] == tables[2]
    implicit = drift.modified_equation(diffrax.ImplicitEuler(), 4)
    assert implicit == drift.modified_equation(([[1.0]], [1.0]), 4)
    for own, pair in (
        (odeopt.solvers.ImplicitEuler(), METHODS["implicit euler"]),
        (odeopt.solvers.ImplicitMidpoint(), METHODS["implicit midpoint"]),
        (odeopt.solvers.Implicit("trapezoidal"), ([[0, 0], [0.5, 0.5]], [0.5, 0.5])),
    ):
        assert drift.modified_equation(own, 4) == drift.modified_equation(pair, 4)
    assert drift.modified_equation(odeopt.solvers.RK4().method, 5) == drift.modified_equation(
        odeopt.solvers.RK4(), 5
    )


def test_floats_are_what_the_fractions_round_to():
    """An irrational tableau next to a rational one: only the arithmetic differs."""
    exact = drift.modified_equation(([[0, 0], [Fraction(2, 3), 0]], [0.25, 0.75]), 5)
    shift = 1e-14 * 2**0.5
    near = drift.modified_equation(([[0, 0], [2 / 3 + shift, 0]], [0.25, 0.75]), 5)
    assert all(type(value) is float for value in near.values())
    for tree, value in exact.items():
        assert near[tree] == pytest.approx(float(value), abs=1e-12)


def test_a_level_sequence_names_a_tree():
    for tree in kauri.trees_up_to_order(6):
        if tree.nodes() > 0:
            assert drift.tree(drift.levels(tree)) == tree
            assert drift.tree([level + 1 for level in tree.level_sequence()]) == tree
    for bad in ("", "2", "11", "13", "1231"):
        with pytest.raises(ValueError, match="sequence"):
            drift.tree(bad)


@pytest.mark.untyped
def test_a_tree_and_its_level_sequence_are_told_apart():
    for bad in ("abc", "1-2", 12, None):
        with pytest.raises(ValueError, match="no level sequence"):
            drift.tree(bad)
    for call in (
        drift.levels,
        lambda key: drift.elementary_differentials(lambda y: -y, 1.0, [key]),
        lambda key: drift.b_series({key: 0.5}, lambda y: -y),
    ):
        with pytest.raises(TypeError, match=r"'12' is no rooted tree.*drift\.tree"):
            call("12")


@pytest.mark.untyped
def test_a_tableau_may_hold_numpys_numbers():
    a, b = [[0, 0], [1, 0]], [0.5, 0.5]
    expected = drift.modified_equation((a, b), 3)
    for pair in ((np.array(a), np.array(b)), (np.float32(a), np.float32(b)), (a, tuple(b))):
        assert drift.modified_equation(pair, 3) == expected


@pytest.mark.parametrize("order", [-1, 0, 7, pytest.param(2.0, marks=pytest.mark.untyped), True])
def test_an_order_that_is_not_there_is_refused(order):
    for function in (drift.modified_equation, drift.modifying_integrator):
        with pytest.raises(ValueError, match="from 1 to 6"):
            function(odeopt.solvers.Euler(), order)


@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        (odeopt.solvers.Lie(), ValueError, "no Runge-Kutta method"),
        (odeopt.solvers.Euler, TypeError, r"pass an instance, `Euler\(\)`"),
        (optax.sgd(0.1), TypeError, "already is a flow with a solver"),
        (([[0.5]], [0.9]), ValueError, "sums to 0.9"),
        (([[0.5, 0]], [1]), ValueError, "square"),
        (([["1/2"]], [1]), TypeError, "numbers or fractions"),
        (([0.5], [1]), ValueError, r"square.*shapes \[\(1,\), \(1,\)\]"),
        (([[0], [1, 0]], [0, 1]), ValueError, "square"),
        (([[0.5]], [1], [0.5]), ValueError, r"pair \(A, b\)"),
    ],
)
@pytest.mark.untyped
def test_what_is_no_runge_kutta_method_is_refused(solver, error, message):
    with pytest.raises(error, match=message):
        drift.modified_equation(solver, 2)
