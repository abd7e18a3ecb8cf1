"""Primal averaging contains momentum and the schedule-free form, and loses nothing to rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import drift, flows, solvers

from ..solvers.cases import loss, start

gradient = jax.grad(loss)


def averaged(h, **kwargs):
    return odeopt.ode_optimizer(
        flows.AveragedFlow(flows.GradientFlow(), **kwargs), solvers.Lie(), h
    )


def iterate(opt, x, n, grad=gradient):
    state, path = opt.init(x), []
    for _ in range(n):
        updates, state = opt.update(grad(x), state, x)
        x = optax.apply_updates(x, updates)
        path.append((x, odeopt.step_params(state, x)))
    return path


@pytest.mark.usefixtures("x64")
def test_the_definition():
    """Against the same averages written as they are defined."""
    h, beta, power, decay = 0.1, 0.7, 2.0, 0.3
    opt = averaged(h, beta=beta, power=power, weight_decay=decay)
    z = a = y = start()
    for n, (looked, average) in enumerate(iterate(opt, start(), 20)):
        z = z - h * (gradient(y) + decay * y)
        a = a + min(1.0, (power + 1) / (n + 1 + power)) * (z - a)
        y = (1 - beta) * z + beta * a
        np.testing.assert_allclose(looked, y, rtol=1e-12)
        np.testing.assert_allclose(average, a, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("solver", [solvers.Euler(), solvers.RK4(), solvers.RKC()])
def test_a_solver_of_the_field_reads_out_the_average_from_the_first_step_on(solver):
    beta = 0.5
    flow = flows.AveragedFlow(flows.GradientFlow(), beta=beta, power=0.0)
    opt, x = odeopt.ode_optimizer(flow, solver, 0.1), start()
    state = opt.init(x)
    for _ in range(3):
        updates, state = opt.update(gradient(x), state, x, value_fn=loss)
        x = optax.apply_updates(x, updates)
        average = x + (1 - beta) * state.aux.lag
        np.testing.assert_allclose(odeopt.step_params(state, x), average, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [0.05, 0.01, 0.0])
def test_the_lag_brakes_with_the_step(size):
    """A step of less than half the size before takes that much of the lag; one of size 0 none."""
    opt = averaged(lambda n: jnp.where(n < 9, 0.1, size), beta=1.0, power=3.0)
    _, before = iterate(opt, start(), 9)[-1]
    x, state = start(), opt.init(start())
    for _ in range(10):
        lag = state.aux.lag
        updates, state = opt.update(gradient(x), state, x)
        x = optax.apply_updates(x, updates)
    kept = 1.0 if size == 0 else min(1.0, 2 * size / 0.1)
    weight = 0.0 if size == 0 else 4 / 13
    np.testing.assert_allclose(x, before - weight * kept * (lag + size * gradient(before)))


@pytest.mark.usefixtures("x64")
def test_beta_1_is_momentum():
    """a_{n+1} - a_n = -c_n h g_n + (c_n / c_{n-1} - c_n)(a_n - a_{n-1}): friction that falls."""
    h, power = 0.1, 3.0
    weight = lambda n: min(1.0, (power + 1) / (n + 1 + power))
    path = [start()] + [a for _, a in iterate(averaged(h, beta=1.0, power=power), start(), 20)]
    for n in range(1, 20):
        before, here, after = path[n - 1 : n + 2]
        momentum = weight(n) / weight(n - 1) - weight(n)
        expected = here - weight(n) * h * gradient(here) + momentum * (here - before)
        np.testing.assert_allclose(after, expected, rtol=1e-11)
    assert momentum == pytest.approx(1 - (power + 2) / 19, abs=0.06)  # about 1 - r/n


@pytest.mark.usefixtures("x64")
def test_equal_weights_are_the_schedule_free_form():
    """optax's, without warm-up; it weighs the first iterate by zero as ours does."""
    h, beta = 0.1, 0.9
    theirs = optax.contrib.schedule_free(optax.sgd(h), h, b1=beta, weight_lr_power=0.0)
    state, y = theirs.init(start()), start()
    for looked, average in iterate(averaged(h, beta=beta, power=0.0), start(), 20):
        updates, state = theirs.update(gradient(y), state, y)
        y = y + updates
        np.testing.assert_allclose(looked, y, rtol=1e-10)
        read = optax.contrib.schedule_free_eval_params(state, y)
        np.testing.assert_allclose(average, read, rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_lie_follows_the_field():
    """The splitting and a Runge-Kutta method on the field come together with order 1."""
    flow = lambda: flows.AveragedFlow(flows.GradientFlow(), beta=0.8, power=1.0)
    warm = 0.5

    def end(n, solver):
        h = 1.0 / n
        opt = odeopt.ode_optimizer(flow(), solver, h)
        x, state = start(), opt.init(start())
        aux = state.aux._replace(lag=jnp.array([0.1, -0.2, 0.05]), age=jnp.asarray(warm / h))
        carry = x, state._replace(aux=aux)

        def step(_, carry):
            x, state = carry
            updates, state = opt.update(gradient(x), state, x, value_fn=loss)
            return x + updates, state

        return np.asarray(jax.jit(lambda c: jax.lax.fori_loop(0, n, step, c)[0])(carry))

    exact = end(2048, solvers.RK4())
    errors = [np.linalg.norm(end(n, solvers.Lie()) - exact) for n in (64, 128)]
    assert abs(np.log2(errors[0] / errors[1]) - 1) < 0.1


@pytest.mark.parametrize("noise", [0.0, 30.0])
def test_predictability_tells_full_batches_from_noise(noise):
    opt = odeopt.log_time_adam()
    x = jax.random.normal(jax.random.key(0), (40,))
    curvature = jnp.logspace(-2, 0, 40)

    def step(carry, key):
        x, state = carry
        grads = curvature * x + noise * jax.random.normal(key, x.shape)
        updates, state = opt.update(grads, state, x)
        return (x + updates, state), None

    keys = jax.random.split(jax.random.key(1), 60)  # before rounding is all that is left
    (_, state), _ = jax.jit(lambda: jax.lax.scan(step, (x, opt.init(x)), keys))()
    s = float(state.aux.predictability)
    assert 0 <= s <= 1
    assert (s < 0.15) if noise else (s > 0.5)


def test_averages_of_small_moves_survive_in_float32():
    """Weights near 1000 that move by 1e-6 a step: an average kept as a point would stand still."""
    x = jnp.full(3, 1000.0)
    opt = averaged(1e-6, beta=0.9, power=0.0)
    state, moved = opt.init(x), 0.0
    for _ in range(100):
        updates, state = opt.update(jnp.ones(3), state, x)  # never applied: x stays where it is
        moved = moved + updates
    lag = state.aux.lag  # a - z, of z = -100e-6 and its mean
    np.testing.assert_allclose(lag, 1e-6 * (100 - 101 / 2), rtol=1e-3)
    np.testing.assert_allclose(moved, -1e-4 + 0.9 * lag, rtol=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda clock: odeopt.heavy_ball(1e-3, clock),
        lambda clock: odeopt.adam(1e-3, b1=clock, b2=clock),
        lambda clock: odeopt.log_time_adam(),
    ],
    ids=["heavy_ball", "adam", "log_time_adam"],
)
def test_moments_on_a_clock_go_on_learning_in_bfloat16(make):
    """After 5,000 steps a step keeps 99.8 % of a moment, and 0.2 % of a bfloat16 is nothing."""
    opt = make(flows.LogTime(10.0))
    x = jnp.ones(4, jnp.bfloat16)
    state = opt.init(x)
    state = state._replace(aux=jax.tree.map(jnp.asarray, state.aux))
    aux = jax.tree.map(jnp.ones_like, state.aux)
    old = lambda a: jnp.full_like(a, 5000.0) if a.shape == () else a
    state = state._replace(aux=jax.tree.map(old, aux), steps=jnp.int32(5000))
    if hasattr(state.aux, "predictability"):
        state = state._replace(aux=state.aux._replace(predictability=jnp.zeros([])))
    updates, after = opt.update(jnp.full(4, 3.0, jnp.bfloat16), state, x)
    assert updates.dtype == jnp.bfloat16
    for before, now in zip(jax.tree.leaves(state.aux), jax.tree.leaves(after.aux), strict=True):
        assert now.dtype == before.dtype
        if now.shape == x.shape and now.dtype != jnp.bfloat16:  # all but the remembered gradient
            assert not np.any(now == before)


@pytest.mark.parametrize("base", [flows.HeavyBallFlow(0.9), flows.KroneckerFlow()])
def test_decay_takes_no_second_gradient_whichever_part_of_the_base_looks(base):
    opt = odeopt.ode_optimizer(
        flows.AveragedFlow(base, 0.9, 0.0, weight_decay=0.1), solvers.Lie(), 0.1
    )
    params = jnp.ones((2, 2))
    updates, state = opt.update(params, opt.init(params), params)  # without a loss
    assert jnp.all(updates < 0)
    assert state.gradients == opt.gradients_per_step == 1


def test_an_average_of_a_flow_without_parts_has_none_either():
    """It would stand still: nothing but the average would move."""
    with pytest.raises(ValueError, match="AveragedFlow names none"):
        odeopt.ode_optimizer(flows.AveragedFlow(flows.GameFlow()), solvers.Lie(), 0.1)


@pytest.mark.parametrize("around", [flows.AveragedFlow, flows.UnitFlow])
@pytest.mark.parametrize("within", [lambda flow: flow, lambda flow: drift.regularized(flow, 0.1)])
def test_what_moves_the_parameters_otherwise_than_it_says_holds_no_average(around, within):
    average = within(flows.AveragedFlow(flows.GradientFlow()))
    with pytest.raises(ValueError, match="average"):
        around(average)


@pytest.mark.parametrize("kwargs", [{"beta": 1.5}, {"power": -1.0}])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match=r"between 0|at least 0"):
        flows.AveragedFlow(flows.GradientFlow(), **kwargs)
