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


@pytest.mark.slow
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


# several tries in a call


def of_outputs(loss):
    return odeopt.composite(loss, lambda x: x, samples=())


def seen(opt, x, loss):
    """The state after a call that ended where the next one begins."""
    state = opt.init(x)
    return state._replace(rule=state.rule._replace(loss=loss.astype(float)))


def steep(x):
    """Finite far out, too: a step that is not is made shorter by more."""
    return jnp.sum(jnp.array([1.0, 10.0]) * x**2 + jnp.cos(3 * x))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_where_the_model_is_nearly_exact_the_step_grows_by_its_error(factor, x64):
    loss = of_outputs(lambda x: 1 + x + (factor - 1) * x**3)  # as above
    x = jnp.float64(0.0)
    for make, solve, begin, expected in [
        (odeopt.linearly_implicit_euler, {"solve": "exact"}, seen, 10.0),
        (odeopt.linearly_implicit_euler, {"solve": "exact"}, lambda opt, x, _: opt.init(x), 3.0),
        (odeopt.linearly_implicit_euler, {"solve": "cg"}, seen, 3.0),
        (odeopt.euler, {}, seen, 3.0),
    ]:
        opt = make(gain_ratio(tries=2), **solve)
        _, after = opt.update(jax.grad(loss)(x), begin(opt, x, loss(x)), x, value_fn=loss)
        np.testing.assert_allclose(after.rule.size, expected)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [1e-3, 1.0, 1e4])
def test_rounding_is_not_taken_for_an_exact_model(offset):
    loss = of_outputs(lambda x: offset - 0.01 * jnp.sum(x))  # linear, so the model is exact
    opt, x = odeopt.linearly_implicit_euler(gain_ratio(tries=2)), jnp.zeros(1)
    _, after = opt.update(jax.grad(loss)(x), seen(opt, x, loss(x)), x, value_fn=loss)
    decrease, eps = 0.01**2, np.finfo(np.float32).eps
    known = 0.01 * decrease / (10 * eps * (offset + decrease))
    assert max(3.0, 0.3 * known) <= 1.01 * float(after.rule.size)
    assert float(after.rule.size) <= 1.01 * max(3.0, known)


@pytest.mark.slow
def test_a_quadratic_takes_a_few_steps(x64):
    loss = odeopt.composite(
        lambda out: 0.5 * jnp.sum(out**2), lambda x: jnp.geomspace(0.1, 10, 20) * x, samples=()
    )
    _, (values, accepted, _) = descend(odeopt.linearly_implicit_euler(), jnp.ones(20), loss, 6)
    assert jnp.all(accepted)
    assert values[4] < 1e-12 * values[0]


@methods
@pytest.mark.parametrize("give_value", [True, False])
def test_tries_are_the_steps_that_halving_would_make(name, give_value):
    x, first = jnp.array([1.0, -0.5]), 4.0
    value, grads = jax.value_and_grad(steep)(x)
    given = {"value": value} if give_value else {}
    opt = MAKERS[name](gain_ratio(first=first, tries=10))
    begun = seen(opt, x, value)
    updates, state = jax.jit(lambda: opt.update(grads, begun, x, value_fn=steep, **given))()
    alone, tries = None, 0
    while alone is None or not jnp.any(alone):
        one = MAKERS[name](gain_ratio(first=first / 2**tries))
        alone, after = one.update(grads, one.init(x), x, value_fn=steep, **given)
        tries += 1
    assert tries > 1
    np.testing.assert_allclose(updates, alone, rtol=1e-5)
    np.testing.assert_allclose(state.rule.size, after.rule, rtol=1e-6)
    np.testing.assert_allclose(state.rule.loss, steep(x + updates), rtol=1e-6)
    assert float(state.time) == first / 2 ** (tries - 1)
    assert (int(state.steps), int(state.rejected)) == (1, 0)
    stages = {"euler": 1, "heun": 2, "rk4": 4}[name]
    # further stages, the model's product and the loss at the trial point for each, one start
    assert int(state.gradients) == 1 + (not give_value) + tries * (stages - 1 + 3)


def test_tries_end_and_the_call_is_rejected_once():
    x = jnp.array([1.0, -0.5])
    opt = odeopt.euler(gain_ratio(first=1e6, tries=3))
    updates, state = opt.update(jax.grad(steep)(x), seen(opt, x, steep(x)), x, value_fn=steep)
    np.testing.assert_array_equal(updates, jnp.zeros(2))
    assert (int(state.steps), int(state.rejected)) == (1, 1)
    assert float(state.rule.size) == 1e6 / 8
    assert int(state.gradients) == 2 + 3 * 3


def test_where_the_batch_is_another_a_step_is_rejected_as_with_one_try():
    x = jnp.array([1.0, -0.5])
    found = []
    for tries in (1, 9):
        opt = odeopt.euler(gain_ratio(first=1e3, tries=tries))
        state = opt.init(x) if tries == 1 else seen(opt, x, 1.1 * steep(x))
        updates, after = opt.update(jax.grad(steep)(x), state, x, value_fn=steep)
        size = after.rule if tries == 1 else after.rule.size
        found.append((updates, size, after.gradients, after.rejected))
    chex.assert_trees_all_equal(*found)


def test_the_loss_of_the_last_call_is_that_of_the_next_though_programs_round_otherwise():
    x = jnp.array([1.0, -0.5])
    opt = odeopt.euler(gain_ratio(first=0.01, tries=9))
    _, state = opt.update(jax.grad(steep)(x), opt.init(x), x, value_fn=steep)
    state = state._replace(rule=state.rule._replace(size=jnp.asarray(10.0)))
    x = x - 0.01 * jax.grad(steep)(x)
    _, after = opt.update(jax.grad(steep)(x), state, x, value_fn=steep)
    assert int(after.rejected) == 0
    assert 0.0 < float(after.step_size) < 10.0


@pytest.mark.parametrize("bad", [{"value": jnp.nan}, {}])
def test_a_bad_batch_is_not_tried_again(bad):
    x = jnp.array([1.0, -0.5])
    opt = odeopt.euler(gain_ratio(first=1e3, tries=9))
    state = seen(opt, x, steep(x))
    grads = jax.grad(steep)(x) if bad else jnp.full(2, jnp.nan)
    updates, after = opt.update(grads, state, x, value_fn=steep, **{"value": steep(x), **bad})
    np.testing.assert_array_equal(updates, jnp.zeros(2))
    assert int(after.rejected) == 1
    assert float(after.rule.size) == 1e3
    assert int(after.gradients) == 1 + 3


@pytest.mark.slow
@pytest.mark.parametrize("solve", ["exact", "cg"])
def test_the_jacobian_is_taken_once_for_all_tries(solve):
    """Each try of the exact solve costs the loss at its point; `vmap` tries until all are done."""
    loss = odeopt.composite(
        lambda out: jnp.sum(out**2),
        lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]),
        samples=(),
    )
    opt = odeopt.linearly_implicit_euler(gain_ratio(first=1e3, tries=20), solve=solve)
    starts = jnp.array([[-1.2, 1.0], [1.0, 0.9], [0.3, 4.0]])

    def update(x):
        value, grads = jax.value_and_grad(loss)(x)
        return value, *opt.update(grads, seen(opt, x, value), x, value=value, value_fn=loss)

    before, updates, states = jax.jit(jax.vmap(update))(starts)
    alone = [jax.jit(update)(x) for x in starts]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    found = (before, updates, states)
    if solve == "cg":  # of the rest of its residual only the size is the same
        found, expected = ((*t[:2], t[2].rule) for t in (found, expected))
    chex.assert_trees_all_close(found, expected, rtol=1e-3, atol=1e-6)
    assert jnp.all(jax.vmap(loss)(starts + updates) < before)
    tries = 1 + np.round(np.log2(1e3 / states.step_size))
    assert tries.max() > 1 == tries.min()
    if solve == "exact":
        np.testing.assert_array_equal(states.gradients, 1 + 2 + tries)


@pytest.mark.slow
def test_a_try_evaluates_the_model_once():
    calls = []

    def predict(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])

    loss = odeopt.composite(lambda out: jnp.sum(out**2), predict, samples=())
    x = jnp.array([-1.2, 1.0])
    value, grads = jax.value_and_grad(loss)(x)

    def evaluations(first):
        opt = odeopt.linearly_implicit_euler(gain_ratio(first=first, tries=20))
        begun = seen(opt, x, value)
        update = jax.jit(lambda: opt.update(grads, begun, x, value=value, value_fn=loss))
        jax.effects_barrier()
        calls.clear()
        _, state = jax.block_until_ready(update())
        jax.effects_barrier()
        return len(calls), state

    several, state = evaluations(1e3)
    once, accepted = evaluations(float(state.step_size))
    assert several > once
    assert int(state.gradients) - int(accepted.gradients) == several - once


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


@pytest.mark.untyped
def test_bad_options():
    for tries in (0, 1.5):
        with pytest.raises(ValueError, match=r"tries is .*whole number of at least 1"):
            gain_ratio(tries=tries)


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
