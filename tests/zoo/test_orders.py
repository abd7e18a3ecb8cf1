"""Observed orders of splitting, symplectic and Runge-Kutta methods on their own flows.

The reference is diffrax's Dopri8 far below every error here. Steps chosen by looking: from there on
the observed order stays put until rounding.
"""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import flows, solvers
from odeopt.objective import Objective

from ..solvers.cases import loss, start

pytestmark = pytest.mark.usefixtures("x64")
gradient = jax.grad(loss)


def solve(field, z, t0, t1):
    controller = diffrax.PIDController(rtol=1e-13, atol=1e-14)
    term = diffrax.ODETerm(lambda t, z, args: field(z))
    solution = diffrax.diffeqsolve(
        term, diffrax.Dopri8(), t0, t1, 0.01, z, stepsize_controller=controller, max_steps=100_000
    )
    return jax.tree.map(lambda leaf: leaf[0], solution.ys)


def run(opt, x, state, n):
    """The end of `n` steps, read out."""

    @jax.jit
    def steps(x, state):
        def step(_, carry):
            x, state = carry
            updates, state = opt.update(gradient(x), state, x, value_fn=loss)
            return optax.apply_updates(x, updates), state

        return jax.lax.fori_loop(0, n, step, (x, state))

    x, state = steps(x, state)
    return np.asarray(odeopt.step_params(state, x))


def observed(end, exact, n):
    coarse, fine = (np.linalg.norm(end(steps) - exact) for steps in (n, 2 * n))
    assert fine > 1e-12
    return np.log2(coarse / fine)


# the heavy ball, in its own time: h = k^2, mu = exp(-gamma k)

FRICTION, TIME = 1.0, 2.0
SPEED = 2.0  # relativistic: delta v^2 in units of the velocity


@functools.cache
def ball(relativistic=False):
    def field(z):
        x, v = z
        slow = jnp.sqrt(1 + SPEED * jnp.sum(v**2)) if relativistic else 1.0
        return v / slow, -FRICTION * v - gradient(x)

    return np.asarray(solve(field, (start(), jnp.zeros(3)), 0.0, TIME)[0])


RK4 = solvers.RK4()
MOMENTUM = {
    "heavy_ball": (odeopt.heavy_ball, 1, 256),
    "nesterov": (odeopt.nesterov, 1, 128),
    "chained_momentum": (lambda h, mu: odeopt.chained_momentum(h, mu, RK4), 1, 256),
    "conformal_leapfrog": (odeopt.conformal_leapfrog, 2, 64),
    "suzuki_yoshida": (odeopt.suzuki_yoshida, 4, 64),
    "rk_momentum": (lambda h, mu: odeopt.rk_momentum(h, mu, RK4), 4, 64),
    "rk_momentum_heun": (lambda h, mu: odeopt.rk_momentum(h, mu, solvers.Heun()), 2, 128),
}


def ball_end(make):
    def end(n):
        k = TIME / n
        opt = make(k**2, flows.momentum_of(k**2, FRICTION))
        return run(opt, start(), opt.init(start()), n)

    return end


@pytest.mark.parametrize("name", MOMENTUM)
def test_order_on_the_heavy_ball(name):
    make, order, n = MOMENTUM[name]
    assert abs(observed(ball_end(make), ball(), n) - order) < 0.1


@pytest.mark.parametrize(("leapfrog", "order"), [(False, 1), (True, 2)])
def test_order_on_the_relativistic_flow(leapfrog, order):
    make = lambda h, mu: odeopt.relativistic(h, mu, SPEED / h, leapfrog=leapfrog)
    assert abs(observed(ball_end(make), ball(relativistic=True), 256) - order) < 0.1


@pytest.mark.slow
def test_the_end_of_the_leapfrog_is_not_where_it_rests():
    """The measurement can fail: without the read-out the same run is of order 1."""

    def end(n):
        k = TIME / n
        opt = odeopt.conformal_leapfrog(k**2, flows.momentum_of(k**2, FRICTION))
        x, state = start(), opt.init(start())
        for _ in range(n):
            updates, state = opt.update(gradient(x), state, x)
            x = x + updates
        return np.asarray(x)

    assert abs(observed(end, ball(), 64) - 1) < 0.1


# Adam's flow, bias correction included, with time constants that do not depend on the step size

TAU = 0.3, 0.8
EPS = 0.3  # not tiny: the flow is smooth, and its gradients do not change sign on the way
WARM, END = 0.5, 1.5


def adam_flow(h, decay, **kwargs):
    b1, b2 = (flows.decay_of(h, tau) for tau in TAU)
    return flows.AdamFlow(b1, b2, EPS, weight_decay=decay, **kwargs)


def rates(flow, z, h):
    """`dz/dt`, from the increments over h."""
    increment = flow.increment(z, Objective({}, given=gradient(z[0])), h)
    return jax.tree.map(lambda k: k / h, increment)


@functools.cache
def adam_path(decay):
    """The flow at WARM, the moments included, and the parameters at END, from zero moments."""
    h = jnp.asarray(0.01)  # any: the flow does not depend on it, as the test below checks
    flow = adam_flow(0.01, decay)
    field = lambda z: rates(flow, z, h)
    begin = jnp.zeros(3), jnp.zeros(3), jnp.zeros([])
    warm = solve(field, (start(), flows.Moments(*begin)), 0.0, WARM)
    return warm, np.asarray(solve(field, warm, WARM, END)[0])


ADAM = {
    "adamw": (odeopt.adamw, 1, 256),
    "strang_adam": (odeopt.strang_adam, 2, 64),
    "rk_adam": (lambda h, b1, b2, eps, **kw: odeopt.rk_adam(h, RK4, b1, b2, eps, **kw), 4, 128),
}


def adam_end(make, decay, warm):
    def end(n):
        h = (END - WARM if warm else END) / n
        b1, b2 = (flows.decay_of(h, tau) for tau in TAU)
        opt = make(h, b1, b2, EPS, weight_decay=decay)
        x, state = start(), opt.init(start())
        if warm:
            x, moments = adam_path(decay)[0]
            aux = moments._replace(age=jnp.asarray(WARM / h))
            state = state._replace(aux=aux)
            if make is odeopt.strang_adam:  # rests half a drift ahead
                flow = adam_flow(h, decay, exact_decay=True)
                x = x + flow.part("drift", (x, aux), Objective({}), jnp.asarray(h), 0.5)[0]
        return run(opt, x, state, n)

    return end


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", ADAM)
def test_order_on_adams_flow_after_the_transient(name, decay):
    make, order, n = ADAM[name]
    exact = adam_path(decay)[1]
    assert abs(observed(adam_end(make, decay, warm=True), exact, n) - order) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_from_the_default_start_strang_s_splitting_is_between_orders_1_and_2(decay):
    """Its first gradient is taken at the start of the first step, not in its middle."""
    exact = adam_path(decay)[1]
    end = adam_end(odeopt.strang_adam, decay, warm=False)
    assert 1.2 < observed(end, exact, 256) < 2
    adam = adam_end(odeopt.adamw, decay, warm=False)
    assert np.linalg.norm(end(256) - exact) < 0.5 * np.linalg.norm(adam(256) - exact)


@pytest.mark.slow
def test_from_zero_moments_the_bias_correction_costs_runge_kutta_one_order():
    make, _, n = ADAM["rk_adam"]
    assert abs(observed(adam_end(make, 0.0, warm=False), adam_path(0.0)[1], n) - 3) < 0.1


@pytest.mark.slow
def test_adams_flow_does_not_depend_on_the_learning_rate():
    (x, moments), _ = adam_path(0.3)

    def field(h):
        z = x, moments._replace(age=jnp.asarray(WARM / h))
        velocity, slope = rates(adam_flow(h, 0.3), z, jnp.asarray(h))
        return velocity, slope.mu, slope.nu, slope.age * h

    for one, other in zip(field(0.01), field(0.0001), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)


def test_order_on_rmsprops_flow():
    """Lie's splitting against Runge-Kutta on the whole field, with a fixed time constant."""

    def end(n, solver=None):
        h = END / n
        decay = flows.decay_of(h, TAU[1])
        if solver is None:
            opt = odeopt.rmsprop(h, decay, eps=0.1, initial_scale=0.2)
        else:
            flow = flows.RMSpropFlow(decay, eps=0.1, initial_scale=0.2)
            opt = odeopt.ode_optimizer(flow, solver, h)
        return run(opt, start(), opt.init(start()), n)

    exact = end(1024, RK4)
    assert abs(observed(end, exact, 128) - 1) < 0.1
    assert abs(observed(lambda n: end(n, RK4), exact, 64) - 4) < 0.1
