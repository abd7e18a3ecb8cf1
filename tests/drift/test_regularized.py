"""Gradient penalties: of a flow, and estimated from mini-batches."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import drift, flows, solvers
from odeopt.sums import multiple

from ..solvers.cases import gradient_field, loss, start
from ..table import gradient, mixed_loss, mixed_params
from .models import distance, last, observed, solve


def run(opt, n, x, state):
    def step(_, carry):
        x, state = carry
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        return x + updates, state

    return jax.lax.fori_loop(0, n, step, (x, state))


@pytest.mark.parametrize(("factor", "order"), [(-0.25, 2), (-0.5, 1), (0.25, 1)])
def test_a_penalty_of_minus_a_quarter_step_takes_eulers_drift_away(x64, factor, order):
    flow = drift.regularized(flows.GradientFlow(), lambda h: factor * h)

    @jax.jit
    def end(n):
        opt = odeopt.ode_optimizer(flow, solvers.Euler(), 1 / n)
        return run(opt, n, start(), opt.init(start()))[0]

    exact = last(
        jax.jit(solve, static_argnums=0)(lambda y, h: gradient_field(y), start(), 1.0, 0.0)
    )
    assert observed(lambda n: distance(end(n), exact), [256, 512]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(("factor", "order"), [(-0.25, 2), (0.0, 1)])
def test_the_factor_of_the_heavy_ball(x64, factor, order):
    """Past the transient it follows the gradient flow at the rate h / (1 - b), with order 2."""
    b = 0.5
    flow = drift.regularized(flows.HeavyBallFlow(b), lambda h: factor * h * (1 + b) / (1 - b) ** 2)

    @jax.jit
    def error(n):
        opt = odeopt.ode_optimizer(flow, solvers.Lie(), (1 - b) / n)
        settled, state = run(opt, n // 4, start(), opt.init(start()))  # b^64, at least
        end, _ = run(opt, n // 2, settled, state)
        return distance(end, last(solve(lambda y, h: gradient_field(y), settled, 0.5, 0.0)))

    assert observed(error, [512, 1024]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("flow", "solver"),
    [
        (flows.GradientFlow(), solvers.Heun()),
        (flows.HeavyBallFlow(0.9), solvers.Strang()),
        (flows.AdamFlow(0.9, 0.99), solvers.Lie()),
    ],
    ids=["Heun", "leapfrog", "Adam"],
)
def test_the_regularized_flow_of_a_loss_is_the_flow_of_the_regularized_loss(x64, flow, solver):
    strength = 0.05
    params = {"u": jnp.array([0.5, -1.0, 0.3]), "z": jnp.array([1.0 + 0.5j, -0.3j])}

    def plain(x):
        square = jnp.abs(x["z"]) ** 2
        return jnp.sum(jnp.cosh(x["u"])) + jnp.sum(square) * x["u"][0] ** 2 + jnp.sum(square**2)

    def penalized(x):
        return plain(x) + strength * optax.tree.norm(jax.grad(plain)(x), squared=True)

    def two_steps(flow, value_fn):
        opt = odeopt.ode_optimizer(flow, solver, 0.1)

        def step(carry, _):
            x, state = carry
            updates, state = opt.update(gradient(value_fn, x), state, x, value_fn=value_fn)
            return (optax.apply_updates(x, updates), state), None

        return jax.jit(lambda x: jax.lax.scan(step, (x, opt.init(x)), length=2))(params)[0][0]

    ours, theirs = two_steps(drift.regularized(flow, strength), plain), two_steps(flow, penalized)
    assert distance(ours, theirs) < 1e-13
    assert distance(ours, two_steps(flow, plain)) > 1e-3


@pytest.mark.slow
def test_every_leaf_keeps_its_dtype_and_products_are_counted():
    params = mixed_params()
    flow = drift.regularized(flows.GradientFlow(), 0.1)
    opt = odeopt.ode_optimizer(flow, solvers.Heun(), 0.1)
    updates, state = jax.jit(lambda g, x: opt.update(g, opt.init(x), x, value_fn=mixed_loss))(
        gradient(mixed_loss, params), params
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    assert int(state.gradients) == 2 * 3
    chex.assert_trees_all_equal(odeopt.step_params(state, params), params)  # no read-out

    averaged = flows.AveragedFlow(flows.GradientFlow(), beta=0.9, power=0.0)
    opt = odeopt.ode_optimizer(drift.regularized(averaged, 0.1), solvers.Lie(), 0.1)
    end = odeopt.step_params(opt.init(params), params)  # a read-out: the average
    chex.assert_trees_all_close(end, params)


def test_a_penalty_on_a_penalty_is_counted_in_one_pass_too(monkeypatch):
    """2 products in the first gradient, of which the second is of a gradient with a product."""
    flow = drift.regularized(drift.regularized(flows.HeavyBallFlow(0.9), 0.1), 0.1)
    opt = odeopt.ode_optimizer(flow, solvers.Lie(), 0.01)
    loss, x = lambda x: jnp.sum(jnp.cosh(x)), jnp.array([1.0, -0.5])

    def gradients():
        return int(opt.update(x, opt.init(x), x, value_fn=loss)[1].gradients)

    assert gradients() == 9
    monkeypatch.setattr(flows.HeavyBallFlow, "fused", flows.AbstractFlow.fused)
    assert gradients() == 9


def test_products_with_a_penalized_gradient(x64):
    """For a flow that takes Hessian products itself: those of the penalized loss."""

    class Newtonian(flows.GradientFlow):
        def increment(self, z, objective, h):
            product = objective.product(z[0])
            return multiple(h, product(product(objective.here(z[0])))), z[1]

    def penalized(x):
        return loss(x) + 0.05 * jnp.sum(jax.grad(loss)(x) ** 2)

    def update(flow, value_fn):
        opt = odeopt.ode_optimizer(flow, solvers.Euler(), 0.1)
        return opt.update(
            jax.grad(value_fn)(start()), opt.init(start()), start(), value_fn=value_fn
        )

    ours, state = update(drift.regularized(Newtonian(), 0.05), loss)
    theirs, _ = update(Newtonian(), penalized)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    assert int(state.gradients) == 1 + 2 + 6 + 6


def test_stability_limits_of_euler_with_a_penalty():
    limit = lambda factor: solvers.stability_limit(
        drift.regularized(flows.GradientFlow(), lambda h: factor * h),
        solvers.as_method(solvers.Euler()),
    )
    assert limit(-0.25) == pytest.approx(2, abs=1e-4)
    assert limit(0.25) == pytest.approx(np.sqrt(5) - 1, abs=1e-4)
    flow = drift.regularized(flows.GradientFlow(), 0.1)
    with pytest.raises(ValueError, match="a scale of its own"):
        solvers.stability_limit(flow, solvers.as_method(solvers.Euler()))


@pytest.mark.untyped
def test_what_a_regularized_flow_needs_is_asked_for():
    flow = drift.regularized(flows.GradientFlow(), 0.1)
    opt = odeopt.ode_optimizer(flow, solvers.Euler(), 0.1)
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="needs the parameters"):
        opt.update(x, opt.init(x))
    with pytest.raises(ValueError, match="value_fn=loss"):
        opt.update(x, opt.init(x), x)
    methods = {"init": lambda self, params: (), "increment": flows.GradientFlow.increment}
    whole = type("Whole", (flows.AbstractFlow,), methods)()
    with pytest.raises(ValueError, match="names none"):
        odeopt.ode_optimizer(drift.regularized(whole, 0.1), solvers.Lie(), 0.1)
    with pytest.raises(TypeError, match="GradientFlow"):
        drift.regularized(solvers.Euler(), 0.1)


SAMPLES = np.array([[1.0, 0.3], [0.2, -1.1], [-0.7, 0.9]])


def sample_loss(x, samples):
    return jnp.mean(jnp.cosh(samples @ x))


@pytest.mark.parametrize("size", [1, 2])  # samples of a half
def test_the_penalty_is_unbiased_over_all_pairs_of_half_batches(x64, size):
    """The exact mean over all batches, drawn with replacement, against that of squared norms."""
    x = jnp.array([0.4, -0.8])
    of_samples = jax.vmap(lambda s: jax.grad(sample_loss)(x, s[None]))(SAMPLES)

    def mean_square(drawn):  # over all batches of so many samples
        rows = np.array(list(itertools.product(range(len(SAMPLES)), repeat=drawn)))
        return np.mean(np.sum(np.asarray(of_samples)[rows].mean(axis=1) ** 2, axis=-1))

    batches = SAMPLES[np.array(list(itertools.product(range(3), repeat=2 * size)))]

    def estimate(batch_size):
        one = lambda b: drift.gradient_penalty(sample_loss, x, batch_size=batch_size, samples=b)
        return float(jnp.mean(jax.vmap(one)(batches)))

    everything = float(jnp.sum(of_samples.mean(axis=0) ** 2))
    assert estimate(None) == pytest.approx(everything, rel=1e-12)
    for drawn in [1, 2, 3, 4]:
        assert estimate(drawn) == pytest.approx(mean_square(drawn), rel=1e-12)
    # the square of the batch's own gradient is biased by the variance of the mean
    bias = float(jnp.sum(of_samples.var(axis=0))) / (2 * size)
    assert mean_square(2 * size) - everything == pytest.approx(bias, rel=1e-12)
    assert bias > 0.1 * everything


def test_the_penalty_of_its_own_size_is_the_squared_gradient_of_the_batch(x64):
    x, batch = jnp.array([0.4, -0.8]), np.vstack([SAMPLES, SAMPLES[:1] + 0.2])
    penalty = drift.gradient_penalty(sample_loss, x, batch_size=4, samples=batch)
    g = jax.grad(sample_loss)(x, batch)
    assert float(penalty) == pytest.approx(float(g @ g), rel=1e-13)
    with pytest.raises(ValueError, match="same even number"):
        drift.gradient_penalty(sample_loss, x, samples=SAMPLES)
    with pytest.raises(ValueError, match="batch_size is 0"):
        drift.gradient_penalty(sample_loss, x, batch_size=0, samples=batch)
