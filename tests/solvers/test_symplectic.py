"""The diffrax classes of the splitting methods: order, and agreement with the optimizers."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import flows, solvers

from .cases import loss, start

pytestmark = pytest.mark.usefixtures("x64")
FRICTION, TIME = 0.8, 2.0
CASES = {
    "ConformalEuler": (solvers.ConformalEuler, 1, 256, odeopt.heavy_ball),
    "ConformalLeapfrog": (solvers.ConformalLeapfrog, 2, 64, odeopt.conformal_leapfrog),
    "SuzukiYoshida": (solvers.SuzukiYoshida, 4, 64, odeopt.suzuki_yoshida),
}
TERMS = (
    diffrax.ODETerm(lambda t, v, args: v),
    # a force that depends on time, too: each substep must know when it is
    diffrax.ODETerm(lambda t, x, args: -jax.grad(loss)(x) + args * jnp.sin(3 * t)),
)


def solve(solver, n, drive):
    y0 = start(), jnp.array([0.3, -0.1, 0.2])
    return diffrax.diffeqsolve(TERMS, solver, 0.0, TIME, TIME / n, y0, args=drive).ys


@functools.cache
def exact(drive):
    def field(t, y, args):
        x, v = y
        return v, -jax.grad(loss)(x) + drive * jnp.sin(3 * t) - FRICTION * v

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        0.0,
        TIME,
        0.01,
        (start(), jnp.array([0.3, -0.1, 0.2])),
        stepsize_controller=diffrax.PIDController(rtol=1e-13, atol=1e-14),
        max_steps=10_000,
    )
    return np.concatenate([leaf[0] for leaf in solution.ys])


@pytest.mark.slow
@pytest.mark.parametrize("drive", [0.0, 1.0])
@pytest.mark.parametrize("name", CASES)
def test_order_through_diffeqsolve(name, drive):
    solver, order, n, _ = CASES[name]
    errors = [
        np.linalg.norm(
            np.concatenate([y[0] for y in solve(solver(FRICTION), k, drive)]) - exact(drive)
        )
        for k in (n, 2 * n)
    ]
    assert abs(np.log2(errors[0] / errors[1]) - order) < 0.1
    assert solver(FRICTION).order(TERMS) == order


@pytest.mark.parametrize("name", CASES)
def test_the_steps_are_those_of_the_optimizer(name):
    solver, _, _, make = CASES[name]
    k = 0.05
    h = k**2
    opt = make(h, flows.momentum_of(h, FRICTION))
    x, state = start(), opt.init(start())
    y0 = start(), jnp.zeros(3)
    saveat = diffrax.SaveAt(steps=True)
    path = diffrax.diffeqsolve(
        TERMS, solver(FRICTION), 0.0, 5 * k, k, y0, args=0.0, saveat=saveat, max_steps=6
    ).ys[0]
    for n in range(5):
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        x = x + updates
        np.testing.assert_allclose(odeopt.step_params(state, x), path[n], rtol=1e-12)


def test_without_friction_energy_does_not_drift():
    energy = lambda y: float(loss(y[0]) + 0.5 * jnp.sum(y[1] ** 2))
    y0 = start(), jnp.array([0.3, -0.1, 0.2])
    end = diffrax.diffeqsolve(
        TERMS, solvers.ConformalLeapfrog(0.0), 0.0, 200.0, 0.05, y0, args=0.0, max_steps=None
    ).ys
    assert energy(jax.tree.map(lambda leaf: leaf[0], end)) == pytest.approx(energy(y0), rel=1e-2)
