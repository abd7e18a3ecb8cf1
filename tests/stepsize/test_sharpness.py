"""Sharpness rule: the size it promises, what it costs, and every loop that optax users write."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt.stepsize import sharpness

from ..table import gradient, mixed_loss, mixed_params

CURVATURES = jnp.array([0.1, 1.0, 10.0])


def bowl(x, scale=1.0):
    return 0.5 * scale * jnp.sum(CURVATURES * x**2)


def descend(opt, start, steps, loss=bowl):
    """The end, the state, and flow time and gradients after each step."""

    def step(carry, _):
        x, state = carry
        updates, state = opt.update(gradient(loss, x), state, x, value_fn=loss)
        return (optax.apply_updates(x, updates), state), (state.time, state.gradients)

    run = jax.jit(lambda x: jax.lax.scan(step, (x, opt.init(x)), length=steps))
    (end, state), (times, gradients) = run(start)
    return end, state, np.diff(times, prepend=0.0), np.diff(gradients, prepend=0)


FLOWS = {
    "euler": (odeopt.euler, 2.0, 1),
    "rk4 scanned": (lambda rule: odeopt.rk4(rule, scan_stages=True), 2.785, 4),
    "heavy_ball": (lambda rule: odeopt.heavy_ball(rule, 0.9), 3.8, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOWS)
def test_the_size_is_a_fraction_of_the_limit_and_every_gradient_is_counted(name):
    make, limit, cost = FLOWS[name]
    # so cautious that momentum does not overshoot: a longer gradient asks for another estimate
    rule = sharpness(0.1, every=4, products=2, first=3)
    _, state, sizes, gradients = descend(make(rule), jnp.ones(3), 10)
    np.testing.assert_allclose(sizes, 0.1 * limit / 10, rtol=1e-3)
    # 3 products in the first step, 2 in every fourth after it, 2 gradients each
    expected = np.full(10, cost) + 2 * np.array([3, 0, 0, 0, 2, 0, 0, 0, 2, 0])
    np.testing.assert_array_equal(gradients, expected)
    assert int(state.rejected) == 0


def test_a_size_is_capped_and_no_more_products_counted_than_there_are_directions():
    _, _, sizes, gradients = descend(odeopt.euler(sharpness(products=9, cap=0.01)), jnp.ones(3), 1)
    assert sizes[0] == pytest.approx(0.01)
    assert gradients[0] == 1 + 2 * 3


@pytest.mark.slow
def test_it_follows_a_curvature_that_moves():
    """The sharpest direction changes too: a warm start alone would never see the second one."""

    def valley(z):
        x, y = z[0], z[1:]
        stiffness = jnp.where(x < 1.0, jnp.array([4.0, 1.0, 1.0]), jnp.array([1.0, 1.0, 100.0]))
        return -x + 0.5 * jnp.sum(stiffness * y**2)

    start = jnp.array([0.0, 0.1, 0.1, 0.1])
    end, _, sizes, _ = descend(odeopt.euler(sharpness(0.9, every=1)), start, 100, valley)
    np.testing.assert_allclose(sizes[0], 0.9 * 2 / 4, rtol=1e-3)
    np.testing.assert_allclose(sizes[-1], 0.9 * 2 / 100, rtol=1e-2)
    assert jnp.all(jnp.abs(end[1:]) <= 0.1)
    lost, *_ = descend(odeopt.euler(0.9 * 2 / 4), start, 100, valley)
    assert not jnp.all(jnp.abs(lost[1:]) < 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [odeopt.euler, odeopt.rk4])
def test_it_looks_again_where_the_gradient_grows(make, x64):
    """Rosenbrock's valley turns within twenty steps: half of these runs would diverge."""
    valley = lambda x: jnp.sum(5.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
    for start in 2 * jax.random.normal(jax.random.key(0), (8, 6)):
        end, *_ = descend(make(sharpness()), start, 300, valley)
        assert valley(end) < 0.05 * valley(start)  # 3.7 at its other minimum


@pytest.mark.slow
def test_it_stays_below_the_edge_of_stability_of_a_network_that_sharpens():
    keys = jax.random.split(jax.random.key(0), 2)
    x = jnp.linspace(-2, 2, 20)[:, None]
    params = [jax.random.normal(keys[0], (1, 16)), 0.25 * jax.random.normal(keys[1], (16, 1))]
    loss = lambda p: jnp.mean((jnp.tanh(x @ p[0]) @ p[1] - jnp.sin(3 * x)) ** 2)
    rule = sharpness(0.9, every=10)
    end, _, sizes, _ = descend(odeopt.euler(rule), params, 600, loss)
    measure = jax.jit(lambda p: odeopt.diagnostics.sharpness(loss, p).value)
    exact = measure(end)
    assert 0.75 < sizes[-1] * exact / 2 < 1.0
    assert exact > 1.2 * measure(params)
    assert loss(end) < 0.7 * loss(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    "curvature",
    [jnp.zeros(3), -jnp.ones(3), jnp.full(3, jnp.nan)],
    ids=["linear", "concave", "nan"],
)
def test_without_a_good_estimate_the_cap_is_the_size(curvature):
    loss = lambda x: jnp.sum(x) + 0.5 * jnp.sum(curvature * x**2)
    x = jnp.ones(3)
    grads = jnp.ones(3)
    for cap, size, rejected in [(0.3, 0.3, 0), (float("inf"), 0.0, 1)]:
        opt = odeopt.euler(sharpness(cap=cap, products=1))
        update = jax.jit(lambda s: opt.update(grads, s, x, value_fn=loss))
        updates, state = update(opt.init(x))
        np.testing.assert_allclose(updates, -size * grads)
        assert (float(state.time), int(state.rejected)) == (pytest.approx(size), rejected)


def test_a_bad_estimate_leaves_the_last_good_size():
    opt = odeopt.euler(sharpness(0.5, every=1))
    update = jax.jit(lambda g, s, x, scale: opt.update(g, s, x, value_fn=bowl, scale=scale))
    x = jnp.ones(3)
    state = opt.init(x)
    for scale in [1.0, -1.0, jnp.nan, 0.0]:
        before = state
        _, state = update(x, state, x, scale)
        np.testing.assert_allclose(state.time - before.time, 0.5 * 2 / 10, rtol=1e-4)
        assert jnp.all(jnp.isfinite(state.rule.vector))
    _, state = update(x, before, x, 2.0)
    np.testing.assert_allclose(state.time - before.time, 0.5 * 2 / 20, rtol=1e-4)


@pytest.mark.parametrize("cap", [1.0, float("inf")])
def test_a_bad_first_batch_costs_one_step(cap):
    """The estimate that it spoils is made in the next one, with the products of the first."""
    loss = lambda x: 0.5 * jnp.sum(jnp.array([100.0, 1.0]) * x**2)
    opt = odeopt.rk4(sharpness(cap=cap, every=20))

    @jax.jit
    def step(x, state, factor):
        updates, state = opt.update(factor * jax.grad(loss)(x), state, x, value_fn=loss)
        return x + updates, state

    for bad in (jnp.nan, jnp.inf):
        x = jnp.ones(2)
        state, sizes = opt.init(x), []
        for factor in (bad, *[1.0] * 24):
            x, state = step(x, state, factor)
            sizes.append(float(state.step_size))
        assert int(state.rejected) == 1
        assert int(state.gradients) == 25 * 4 + 3 * 2 * 2  # the spoiled estimate is counted too
        np.testing.assert_allclose(sizes[1:], 0.9 * 2.785 / 100, rtol=1e-3)


@pytest.mark.slow
def test_mixed_trees_keep_their_types_and_nothing_recompiles():
    params = mixed_params()
    opt = odeopt.heun(sharpness(0.5, every=2, products=2))
    state = opt.init(params)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        grads = gradient(mixed_loss, params)
        updates, state = opt.update(grads, state, params, value_fn=mixed_loss)
        return optax.apply_updates(params, updates), state

    start = mixed_loss(params)
    for _ in range(4):
        params, after = step(params, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
    assert mixed_loss(params) < start
    # 21 real entries, so as many products at first
    assert int(state.gradients) == 4 * 2 + 2 * 21 + 2 * 2


def test_vmap_gives_each_its_own_size():
    opt = odeopt.euler(sharpness(0.5))

    def first(scale):
        x = jnp.ones(3)
        state = opt.init(x)
        return opt.update(x, state, x, value_fn=bowl, scale=scale)[1]

    scales = jnp.array([1.0, 2.0, 5.0])
    states = jax.jit(jax.vmap(first))(scales)
    np.testing.assert_allclose(states.time, 0.5 * 2 / (10 * scales), rtol=1e-4)


def test_a_mask_hides_its_parameters():
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    loss = lambda p: bowl(p["a"]) + 500.0 * jnp.sum(p["b"] ** 2)
    opt = optax.masked(odeopt.euler(sharpness(0.5)), {"a": True, "b": False})
    state = opt.init(params)
    grads = jax.grad(loss)(params)
    updates, _ = opt.update(grads, state, params, value_fn=loss, full_params=params)
    np.testing.assert_allclose(updates["a"], -0.5 * 2 / 10 * grads["a"], rtol=1e-4)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match=r"SharpnessRule needs Hessian products.*staged"):
        odeopt.heun(sharpness(), staged=True)
    x = jnp.ones(3)
    opt = odeopt.euler(sharpness())
    with pytest.raises(ValueError, match="value_fn=loss"):
        opt.update(x, opt.init(x), x)


@pytest.mark.parametrize(
    "make",
    [
        odeopt.adam,
        odeopt.rmsprop,
        odeopt.strang_adam,
        lambda rule: odeopt.euler(rule, correction=2),  # whose clip has a scale of its own
    ],
)
def test_a_normalized_flow_is_refused_when_built(make):
    with pytest.raises(ValueError, match=r"divides by the size of the gradient.*stepsize.angle"):
        make(sharpness())


@pytest.mark.parametrize("make", [odeopt.implicit_euler, odeopt.exponential_euler])
def test_a_method_that_is_stable_at_any_step_is_refused_when_built(make):
    with pytest.raises(ValueError, match=r"no stability limit.*gain_ratio"):
        make(sharpness(cap=0.1))


@pytest.mark.parametrize("name", ["safety", "cap"])
def test_bad_arguments(name):
    with pytest.raises(ValueError, match=f"{name} is 0; it must be positive"):
        sharpness(**{name: 0})


@pytest.mark.untyped  # the hints refuse them too
@pytest.mark.parametrize("name", ["every", "products", "first"])
@pytest.mark.parametrize("number", [0, 2.5, True])
def test_counts_are_whole_numbers(name, number):
    with pytest.raises(ValueError, match=f"{name} is {number}; it must be a whole number"):
        sharpness(**{name: number})


def test_parameters_without_entries_are_named_as_the_reason():
    opt = odeopt.euler(odeopt.stepsize.sharpness())
    with pytest.raises(ValueError, match="params has no entries"):
        opt.update({}, opt.init({}), {}, value_fn=lambda params: jnp.float32(1.0))
