"""Gain ratio: the loss never rises, from any first step."""

import chex
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt.stepsize import gain_ratio

from ..table import gradient, mixed_loss, mixed_params

MAKERS = {"euler": odeopt.euler, "heun": odeopt.heun, "rk4": odeopt.rk4}
methods = pytest.mark.parametrize("name", MAKERS)


def descend(opt, start, loss, steps, *, give_value=True):
    def step(carry, _):
        x, state = carry
        value, grads = jax.value_and_grad(loss)(x)
        given = {"value": value} if give_value else {}
        updates, after = opt.update(grads, state, x, value_fn=loss, **given)
        accepted = after.rejected == state.rejected
        return (optax.apply_updates(x, updates), after), (value, accepted, after.rule)

    run = jax.jit(lambda x: jax.lax.scan(step, (x, opt.init(x)), length=steps))
    return run(start)


def network(params):
    """Cross-entropy of a small tanh network on three rings: flat far out, not convex."""
    x, labels = DATA
    logits = jnp.tanh(x @ params["in"] + params["bias"]) @ params["out"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _data():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    angle = rng.uniform(0, 2 * np.pi, 60)
    return jnp.asarray((labels + 1) * np.stack([np.cos(angle), np.sin(angle)]), float).T, labels


DATA = _data()


def network_params():
    rng = np.random.default_rng(1)
    return {
        "in": jnp.asarray(rng.normal(size=(2, 16)), jnp.float32),
        "bias": jnp.asarray(rng.normal(size=16), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(16, 3)) / 4, jnp.float32),
    }


@methods
def test_a_network_trains_from_any_first_step_over_twelve_decades(name):
    def train(first):
        opt = MAKERS[name](GainRatio(first, 1e-6, 1e12))
        return descend(opt, network_params(), network, 400)

    GainRatio = type(gain_ratio())
    firsts = jnp.array(10.0 ** np.arange(-6, 7))
    (_, state), (values, accepted, _) = jax.vmap(train)(firsts)
    before, after = values[:, :-1], values[:, 1:]
    assert jnp.all(after <= before)  # in single precision 1e-12 is nothing
    assert jnp.all(jnp.where(accepted[:, :-1], True, after == before))
    assert jnp.all(values[:, -1] < 0.5 * values[:, 0])
    # the first step is forgotten: a hundredfold spread of sizes would show here
    assert jnp.max(values[:, -1]) < 1.5 * jnp.min(values[:, -1])
    assert jnp.all(state.rejected < 250)


@methods
@pytest.mark.parametrize("give_value", [True, False])
def test_every_evaluation_is_counted(name, give_value):
    stages = {"euler": 1, "heun": 2, "rk4": 4}[name]
    loss = lambda x: jnp.sum(jnp.cosh(x))
    (_, state), _ = descend(
        MAKERS[name](gain_ratio(first=0.1)), jnp.ones(2), loss, 5, give_value=give_value
    )
    # a Hessian product counts 2, the loss at the trial point 1, that at the start 1
    assert int(state.gradients) == 5 * (stages + 3 + (not give_value))


def test_the_size_of_the_next_step_follows_the_ratio(x64):
    """Losses whose actual decrease is a known multiple of the predicted one."""
    for factor, expected in [(1.0, 3.0), (0.8, 3.0), (0.5, 1.0), (0.2, 0.5), (-0.1, 0.25)]:

        def loss(x, factor=factor):
            # gradient 1 and curvature 0 at 0; an Euler step of size 1 arrives at -1
            return x + (factor - 1) * x**3

        opt = odeopt.euler(gain_ratio())
        x = jnp.float64(0.0)
        updates, state = opt.update(jax.grad(loss)(x), opt.init(x), x, value_fn=loss)
        # E(-1) = -1 - (factor - 1) = -factor: the actual decrease, of a predicted 1
        assert float(state.rule) == expected
        assert float(updates) == (-1.0 if factor > 0 else 0.0)


def test_a_trial_point_that_is_not_finite_is_a_rejection():
    edge = lambda x: jnp.sum(x - jnp.log(x))  # nan beyond x = 0
    start = jnp.array([2.0, 0.5])
    for make in MAKERS.values():
        (end, state), (values, *_) = descend(make(gain_ratio(first=1e3)), start, edge, 300)
        chex.assert_trees_all_close(end, jnp.ones(2), atol=1e-3)
        assert int(state.rejected) > 3
        assert jnp.all(jnp.isfinite(values))


@methods
def test_at_rounding_it_neither_freezes_nor_shrinks(name):
    loss = lambda x: 1.0 + 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * x**2)
    for first in [1e-6, 1.0]:  # the step of 1e-6 changes the loss by less than its rounding
        opt = MAKERS[name](gain_ratio(first=first))
        _, (values, _, sizes) = descend(opt, jnp.array([1.0, 0.1]), loss, 500)
        assert values[-1] <= 1 + 3e-7
        assert jnp.all((sizes[50:] > 1e-2) & (sizes[50:] < 1e3))


def test_sizes_stay_within_their_bounds():
    flat = lambda x: -jnp.sum(x)  # the model is exact: always grow
    opt = odeopt.euler(gain_ratio(limit=20.0))
    _, (_, _, sizes) = descend(opt, jnp.zeros(1), flat, 8)
    np.testing.assert_array_equal(sizes[:4], [3.0, 9.0, 20.0, 20.0])
    wall = lambda x: jnp.where(x < 0, jnp.nan, x).sum()
    _, (_, _, sizes) = descend(odeopt.euler(gain_ratio(least=0.1)), jnp.zeros(1), wall, 4)
    np.testing.assert_allclose(sizes, [0.25, 0.1, 0.1, 0.1], rtol=1e-6)


def test_mixed_trees_keep_their_types():
    params = mixed_params()
    opt = odeopt.heun(gain_ratio())
    state = opt.init(params)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        grads = gradient(mixed_loss, params)
        updates, state = opt.update(grads, state, params, value_fn=mixed_loss)
        return optax.apply_updates(params, updates), state

    losses = [mixed_loss(params)]
    for _ in range(5):
        params, after = step(params, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
        losses.append(mixed_loss(params))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.5 * losses[0]


def test_what_cannot_work_is_refused():
    x = jnp.ones(2)
    with pytest.raises(ValueError, match=r"GainRatio needs the loss, Hessian products.*staged"):
        odeopt.heun(gain_ratio(), staged=True)
    with pytest.raises(ValueError, match="a flow that descends the loss, which HeavyBallFlow"):
        odeopt.heavy_ball(gain_ratio(), 0.9)
    with pytest.raises(ValueError, match=r"needs the loss.*with a stage_transform"):
        odeopt.euler(gain_ratio(), stage_transform=optax.clip(1.0))
    opt = odeopt.euler(gain_ratio())
    with pytest.raises(ValueError, match="value_fn=loss"):
        opt.update(x, opt.init(x), x)


@pytest.mark.parametrize("name", ["first", "least", "limit"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"{name} is -1.*must be positive"):
        gain_ratio(**{name: -1.0})


def test_an_implicit_step_grows_far_beyond_the_explicit_limit():
    loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 1e3]) * x**2)
    tolerance = diffrax.VeryChord(rtol=1e-4, atol=1e-4)
    opt = odeopt.from_diffrax(diffrax.Kvaerno3(root_finder=tolerance), gain_ratio(first=1e-3))
    _, (values, accepted, sizes) = descend(opt, jnp.ones(2), loss, 12)
    assert jnp.all(accepted)
    assert values[-1] < 1e-6 * values[0]
    assert sizes[-1] > 1e3 * 2 / 1e3


@pytest.mark.parametrize("make", [odeopt.implicit_midpoint, odeopt.trapezoidal])
def test_a_method_without_damping_does_not_swing_from_side_to_side(make):
    """Its stability function is -1 at infinity: the longer the step, the less it gains."""
    loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 10.0, 100.0]) * x**2)
    (x, _), _ = descend(make(gain_ratio()), jnp.ones(3), loss, 60)
    assert loss(x) < 1e-6 * loss(jnp.ones(3))
