"""Stability limits of methods on flows with momentum."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import flows, solvers
from odeopt.solvers import as_method, stability_limit
from odeopt.zoo.registry import REGISTRY

CLOSED = {
    "euler": (flows.GradientFlow(), as_method(solvers.Euler()), 2.0),
    "rk4": (flows.GradientFlow(), as_method(solvers.RK4()), 2.785294),
    "heavy_ball": (flows.HeavyBallFlow(0.9), solvers.Lie(), 2 * 1.9),
    "heavy_ball_0": (flows.HeavyBallFlow(0.0), solvers.Lie(), 2.0),
    "nesterov": (flows.NesterovFlow(0.9), solvers.Lie(), 2 * 1.9 / 2.8),
    "leapfrog": (flows.HeavyBallFlow(0.9), solvers.Strang(), 4.0),
    "relativistic": (flows.RelativisticFlow(0.9, delta=3.0), solvers.Lie(), 2 * 1.9),
    # momentum does not widen what RK4 allows, while it does for Euler's method
    "chained_rk4": (flows.HeavyBallFlow(0.9), solvers.Chained(as_method(solvers.RK4())), 2.785294),
    "chained_euler": (flows.HeavyBallFlow(0.9), solvers.Chained(as_method(solvers.Euler())), 3.8),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name):
    flow, method, limit = CLOSED[name]
    assert stability_limit(flow, method) == pytest.approx(limit, rel=1e-6)


@pytest.mark.parametrize("solver", ["Euler", "Heun", "RK4", "Tsit5"])
def test_joint_runge_kutta_has_the_limit_of_its_polynomial(solver):
    """R(z) at the eigenvalues of [[0, -1], [h lambda, ln mu]], found independently."""
    solver, mu = getattr(solvers, solver)(), 0.5
    polynomial = solver.stability_polynomial
    products = np.linspace(0.001, 12, 200_001)
    matrices = np.zeros((len(products), 2, 2))
    matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1] = -1, products, np.log(mu)
    factors = np.polynomial.polynomial.polyval(np.linalg.eigvals(matrices), polynomial)
    first = products[np.argmax(np.abs(factors).max(axis=1) > 1 + 1e-9)]
    limit = stability_limit(flows.HeavyBallFlow(mu), as_method(solver))
    assert limit == pytest.approx(first, rel=1e-3)


ROWS = {
    "heavy_ball": lambda h: odeopt.heavy_ball(h, 0.9),
    "nesterov": lambda h: odeopt.nesterov(h, 0.9),
    "leapfrog": lambda h: odeopt.conformal_leapfrog(h, 0.9),
    "suzuki_yoshida": lambda h: odeopt.suzuki_yoshida(h, 0.9),
    "chained_rk4": lambda h: odeopt.chained_momentum(h, 0.9, solvers.RK4()),
    "chained_euler": lambda h: odeopt.chained_momentum(h, 0.9, solvers.Euler()),
    "joint_rk4": lambda h: odeopt.rk_momentum(h, 0.9, solvers.RK4()),
}
LIMITS = {
    "suzuki_yoshida": (flows.HeavyBallFlow(0.9), solvers.Strang(solvers.SUZUKI_YOSHIDA)),
    "joint_rk4": (flows.HeavyBallFlow(0.9), as_method(solvers.RK4())),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ROWS)
def test_runs_diverge_where_the_limit_says(name):
    limit = stability_limit(*LIMITS[name]) if name in LIMITS else CLOSED[name][2]
    loss = lambda x: 0.5 * jnp.sum(x**2)

    @jax.jit
    def size(h):
        opt = ROWS[name](h)
        x = jnp.array([1.0, -2.0])

        def step(_, carry):
            x, state = carry
            updates, state = opt.update(x, state, x, value_fn=loss)
            return optax.apply_updates(x, updates), state

        return jnp.max(jnp.abs(jax.lax.fori_loop(0, 4000, step, (x, opt.init(x)))[0]))

    assert size(limit * 0.99) < 1.0
    assert size(limit * 1.01) > 1e3


class AdamsBashforth(solvers.AbstractMethod):
    """Two steps back: x + h (3 f - f of the step before) / 2, its first step Euler's."""

    order = 2
    gradients_per_step = 1

    def init(self, flow, z):
        return jax.tree.map(jnp.zeros_like, z[0]), jnp.zeros([], bool)

    def step(self, flow, objective, z, h, memory):
        (before, begun), (now, aux) = memory, flow.increment(z, objective, h)
        update = jax.tree.map(lambda k, old: jnp.where(begun, 1.5 * k - 0.5 * old, k), now, before)
        return solvers.Step(update, aux, (now, jnp.ones([], bool)), gradients=0)


def test_a_method_that_remembers_is_stepped_with_its_memory():
    """Without it this would be Euler's method, whose limit is 2."""
    limit = stability_limit(flows.GradientFlow(), AdamsBashforth())
    assert limit == pytest.approx(1.0, rel=1e-6)
    opt = odeopt.ode_optimizer(flows.GradientFlow(), AdamsBashforth(), 0.1)
    assert opt.stability_limit == pytest.approx(1.0, rel=1e-6)


MOMENTUM = [name for name, entry in REGISTRY.items() if entry.family == "momentum" and entry.limit]


@pytest.mark.parametrize("name", MOMENTUM)
def test_every_method_with_momentum_has_the_limit_that_it_states(name):
    assert REGISTRY[name].build(0.1).stability_limit == pytest.approx(
        REGISTRY[name].limit, rel=1e-3
    )


def test_a_flow_that_normalizes_has_none():
    with pytest.raises(ValueError, match="divides by the size of the gradient"):
        stability_limit(flows.AdamFlow(), solvers.Lie())


@pytest.mark.slow
def test_an_implicit_method_has_none():
    with pytest.raises(ValueError, match="no stability limit"):
        stability_limit(flows.HeavyBallFlow(0.9), as_method(diffrax.Kvaerno3()))
