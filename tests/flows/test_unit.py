"""Units: every leaf moves by its own size."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import flows, solvers

KEY = jax.random.key(0)
PARAMS = {"w": jax.random.normal(KEY, (6, 4)), "b": jnp.linspace(1.0, 2.0, 4)}


def unit(weight_decay=0.0, learning_rate=0.1, fading=1.0):
    flow = flows.UnitFlow(flows.AdamFlow(), weight_decay, fading)
    return odeopt.ode_optimizer(flow, solvers.Lie(), learning_rate)


def train(opt, params, grad, steps=5):
    def step(carry, _):
        params, state = carry
        updates, state = opt.update(grad(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.jit(lambda: jax.lax.scan(step, (params, opt.init(params)), length=steps)[0])()


def pull(params, scale=1.0):
    return jax.tree.map(lambda x: x / scale - 3.0, params)


@pytest.mark.parametrize("scale", [0.1, 1e3])
def test_it_does_not_see_the_units_of_a_parameter(scale):
    """Of matrices larger than the least size: those of c x move c times as far."""
    start = {"w": 10 * PARAMS["w"]}
    wide = jax.tree.map(lambda x: scale * x, start)
    one, _ = train(unit(0.5), start, pull)
    other, _ = train(unit(0.5), wide, lambda p: pull(p, scale))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(b / scale, a, rtol=1e-4)


@pytest.mark.slow
def test_a_step_is_that_of_the_base_times_the_unit():
    for shape, size, length in (
        ((4, 2), 2.0, 2.0),
        ((4, 2), 0.0, 0.25),
        ((8,), 0.0, 0.1),
        ((8,), 10.0, 1.0),  # of a vector: the root of 0.1 and its size
    ):
        x, g = jnp.full(shape, size), jnp.arange(1.0, 9.0).reshape(shape)
        opt, base = unit(), odeopt.adam(0.1)
        found = opt.update(g, opt.init(x), x)[0]
        plain = base.update(g, base.init(x), x)[0]
        np.testing.assert_allclose(found, plain * length, rtol=1e-6)


def test_the_least_size_of_a_matrix_depends_on_its_longer_side():
    w, g = jnp.zeros((2, 3, 25)), jnp.ones((2, 3, 25))
    opt = unit()
    np.testing.assert_allclose(opt.update(g, opt.init(w), w)[0], -0.1 * 0.5 / 5, rtol=1e-5)


def test_the_unit_grows_as_the_root_of_the_leaf():
    x, opt, g = jnp.ones((4, 2)), unit(), jnp.ones((4, 2))
    state = opt.init(x)
    _, state = opt.update(g, state, x)
    moved, _ = opt.update(g, state, 9 * x)
    np.testing.assert_allclose(moved, -0.1 * 3.0, rtol=1e-4)
    moved, _ = opt.update(g, state, x / 9)  # and does not fall below its start
    np.testing.assert_allclose(moved, -0.1, rtol=1e-4)


def test_with_decay_directed_motion_ends_where_the_two_balance():
    push = lambda params: jax.tree.map(lambda x: -jnp.ones_like(x), params)
    start = jax.tree.map(jnp.ones_like, PARAMS)
    end, state = train(unit(0.5, 0.05), start, push, steps=500)
    first = {"b": 0.1, "w": 1.0}
    for name, leaf in end.items():
        np.testing.assert_allclose(leaf, first[name] * (1 / 0.5) ** 2, rtol=5e-3)
    assert {k: round(float(s), 6) for k, s in state.aux.start.items()} == first


def test_a_norm_that_overflows_leaves_the_decay_as_it_is():
    x, g = jnp.ones((4, 2)), jnp.ones((4, 2))
    opt = unit(0.5, fading=4.0)
    _, state = opt.update(g, opt.init(x), x)
    _, state = opt.update(1e30 * g, state, x)
    assert int(state.rejected) == 0
    np.testing.assert_allclose((state.aux.slope, state.aux.steepest), np.sqrt(8), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_decay_grows_as_the_gradients_of_all_leaves_fade(scale):
    """By the square of how far the least faded is below its largest, from a quarter to whole."""
    params = jax.tree.map(jnp.ones_like, PARAMS)
    opt, plain = unit(0.5, fading=4.0), unit()
    state, bare = opt.init(params), plain.init(params)
    sizes = {"w": 0.8 ** np.arange(24), "b": 0.7 ** np.arange(24)}
    mean, most, shares = {}, {}, []
    for n in range(24):
        grads = {k: scale * sizes[k][n] * jnp.ones_like(x) for k, x in params.items()}
        updates, state = opt.update(grads, state, params)
        without, bare = plain.update(grads, bare, params)
        for k in params:
            mean[k] = mean.get(k, sizes[k][n]) * 0.9 + 0.1 * sizes[k][n]
            most[k] = max(most.get(k, 0.0), mean[k])
        shares.append(min(1.0, max(0.25, (min(most[k] / mean[k] for k in params) / 4) ** 2)))
        for k, length in (("w", 1.0), ("b", 0.1**0.5)):
            speed = float(jnp.sqrt(jnp.mean(without[k] ** 2))) / length
            np.testing.assert_allclose(
                without[k] - updates[k], 0.5 * shares[-1] * speed, rtol=2e-3, atol=1e-7
            )
    assert shares[0] == 0.25 < shares[-2]
    assert shares[-1] == 1.0


def test_a_leaf_without_gradient_neither_decays_nor_counts():
    params = jax.tree.map(jnp.ones_like, PARAMS)

    def train(fading):
        opt = unit(0.5, fading=fading)
        state = opt.init(params)
        for n in range(40):
            grads = {"w": jnp.zeros((6, 4)), "b": 0.7**n * jnp.ones(4)}
            updates, state = opt.update(grads, state, params)
        return updates

    np.testing.assert_array_equal(train(4.0)["w"], 0.0)
    np.testing.assert_allclose(train(4.0)["b"], train(1.0)["b"], rtol=1e-6)  # whole


def test_what_rests_does_not_decay():
    opt, params = unit(0.5), jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = opt.update(jax.tree.map(jnp.zeros_like, params), opt.init(params), params)
    assert all(np.all(u == 0.0) for u in jax.tree.leaves(updates))


def test_a_run_from_zeros_has_a_derivative(x64):
    """Biases start at 0, where the root of a mean square has none."""
    start = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2), "b": jnp.zeros(2), "still": jnp.ones(2)}
    loss = lambda p: jnp.sum((jnp.ones((4, 3)) @ p["w"] + p["b"] - 1) ** 2)

    def end(scale):
        params = jax.tree.map(lambda x: scale * x, start)
        params, state = train(odeopt.untuned(horizon=10), params, jax.grad(loss), 3)
        return loss(odeopt.step_params(state, params))

    expected = (end(1 + 1e-6) - end(1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(end)(1.0), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(end, (1.0,), (1.0,))[1], expected, rtol=1e-5)


def without_a_field():
    adam, soap = flows.AdamFlow(), flows.KroneckerFlow()
    unit = flows.UnitFlow(adam)
    yield from (unit, soap, flows.AveragedFlow(unit))
    yield flows.GroupedFlow({"w": soap, "b": adam}, lambda params: {"w": "w", "b": "b"})
    yield odeopt.drift.corrected(adam, solvers.Lie(), 2)


@pytest.mark.parametrize(
    "solver", [solvers.Euler(), solvers.RK4(), solvers.RungeKuttaChebyshev(3), diffrax.Kvaerno3()]
)
def test_a_flow_without_a_field_needs_a_splitting(solver):
    for flow in without_a_field():
        odeopt.ode_optimizer(flow, solvers.Lie(), 0.1)
        with pytest.raises(ValueError, match=rf"{type(flow).__name__} has none, as .*Lie"):
            odeopt.ode_optimizer(flow, solver, 0.1)


def test_a_decay_that_looks_at_the_gradient_splits_in_no_middle():
    """Strang's opening would take a gradient that nobody counts."""
    make = lambda fading: odeopt.ode_optimizer(
        flows.UnitFlow(flows.AdamFlow(), weight_decay=0.1, fading=fading), solvers.Strang(), 0.1
    )
    assert make(1.0).gradients_per_step == 1
    with pytest.raises(ValueError, match="several do"):
        make(10.0)


def test_a_negative_decay_is_refused():
    with pytest.raises(ValueError, match="weight_decay is -1"):
        flows.UnitFlow(flows.AdamFlow(), -1.0)


def test_a_fading_below_1_is_refused():
    with pytest.raises(ValueError, match=r"fading is 0\.5"):
        flows.UnitFlow(flows.AdamFlow(), 0.1, fading=0.5)


def test_a_tree_without_leaves_is_left_alone():
    opt = unit(0.5, fading=4.0)
    assert opt.update({}, opt.init({}), {})[0] == {}
