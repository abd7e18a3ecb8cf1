"""Tableaus that are a recursion: one register in place of the slopes of all stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import drift, solvers


@pytest.mark.parametrize("name", ["Heun", "Midpoint", "Ralston", "SSPRK3", "LowStorage4"])
def test_one_register_is_the_tableau(name, x64):
    solver = getattr(solvers, name)()
    pairs = solver.coefficients.recursion
    again = solvers.Tableau.from_recursion(*zip(*pairs, strict=True))
    np.testing.assert_allclose(again.matrix, solver.coefficients.matrix, atol=1e-15)
    loss = lambda x: jnp.sum(jnp.cosh(x) + 0.1 * x[0] * x)
    x = jnp.array([1.0, -0.5, 2.0])
    ends = []
    for scan in (True, False):
        method = solvers.ExplicitRungeKutta(solver.coefficients, scan=scan)
        opt = odeopt.ode_optimizer(odeopt.flows.GradientFlow(), method, 0.3)
        updates, state = opt.update(jax.grad(loss)(x), opt.init(x), x, value_fn=loss)
        assert state.gradients == solver.gradients_per_step
        ends.append(updates)
    np.testing.assert_allclose(*ends, rtol=1e-14)


def test_one_register_estimates_the_error_too(x64):
    loss = lambda x: jnp.sum(jnp.cosh(x))
    x = jnp.array([1.0, -0.5])
    method = lambda scan: solvers.ExplicitRungeKutta(
        solvers.Heun().coefficients, error=True, scan=scan
    )
    states = []
    for scan in (True, False):
        rule = odeopt.stepsize.embedded_error(rtol=1e-3, atol=1e-6)
        opt = odeopt.ode_optimizer(odeopt.flows.GradientFlow(), method(scan), rule)
        states.append(opt.update(jax.grad(loss)(x), opt.init(x), x, value_fn=loss)[1])
    np.testing.assert_allclose(*(jax.tree.leaves(s.rule)[0] for s in states), rtol=1e-12)


def test_other_tableaus_are_no_recursion():
    for name in ("Bosh3", "RK4", "Dopri5", "Tsit5"):
        assert getattr(solvers, name)().coefficients.recursion is None


def test_low_storage_meets_the_conditions_of_order_4():
    tableau = solvers.LowStorage4().coefficients
    a, b = tableau.matrix, np.asarray(tableau.b)
    c = a.sum(axis=1)
    conditions = {
        1: b.sum(),
        1 / 2: b @ c,
        1 / 3: b @ c**2,
        1 / 6: b @ a @ c,
        1 / 4: b @ c**3,
        1 / 8: (b * c) @ a @ c,
        1 / 12: b @ a @ c**2,
        1 / 24: b @ a @ a @ c,
    }
    np.testing.assert_allclose(list(conditions.values()), list(conditions), rtol=0, atol=5e-16)
    assert tableau.order == 4
    assert tableau.stability_limit == pytest.approx(4.359, abs=1e-3)
    assert np.all((c >= 0) & (c < 1))


def test_its_leading_error_is_smaller_than_that_of_rk4():
    def leading(solver):
        table = drift.modified_equation(solver, 5)
        return np.linalg.norm([float(b) / t.sigma() for t, b in table.items() if t.nodes() == 5])

    assert leading(solvers.LowStorage4()) / leading(solvers.RK4()) == pytest.approx(0.69, abs=0.01)
