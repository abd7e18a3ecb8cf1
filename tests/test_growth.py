"""Growth keeps the function and the dynamics, of every optimizer whose state it maps."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt.growth import DEGREES, Units, grow

KEYS = jax.random.split(jax.random.key(0), 8)
X = jax.random.normal(KEYS[6], (32, 3))
FIRST = Units(lambda p: (p["a"], p["s"]), lambda p: p["b"])
SECOND = Units(lambda p: [p["b"]], lambda p: p["c"], copies=3)
LAYERS = {"one": FIRST, "another": SECOND, "both": [FIRST, SECOND]}


@pytest.fixture
def params(x64):
    return {
        "a": jax.random.normal(KEYS[0], (3, 4)),
        "s": jax.random.normal(KEYS[1], (4,)),
        "b": jax.random.normal(KEYS[2], (4, 5)),
        "c": jax.random.normal(KEYS[3], (5, 2)),
    }


def model(p, x):
    return jnp.tanh(jnp.tanh(x @ p["a"] + p["s"]) @ p["b"]) @ p["c"]


def loss(p):
    return jnp.mean((model(p, X) - jnp.sin(X[:, :2])) ** 2)


def train(opt, params, state, steps=100, of=loss):
    @jax.jit
    def step(params, state):
        grads = jax.grad(of)(params)
        updates, state = opt.update(grads, state, params, value_fn=of)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


NORMALIZED = {
    "adam": odeopt.adam(1e-2, eps=0.0),
    "strang_adam": odeopt.strang_adam(1e-2, eps=0.0),
    "optax.adam": optax.with_extra_args_support(optax.adam(1e-2, eps=0.0)),
}
PLAIN = {
    "euler": odeopt.euler(0.1),
    "heavy_ball": odeopt.heavy_ball(0.05, 0.9),
    "optax.sgd": optax.with_extra_args_support(optax.sgd(0.05, 0.9)),
}


@pytest.mark.slow
@pytest.mark.parametrize("layers", LAYERS)
def test_the_function_stays(layers, params):
    grown = grow(params, (), LAYERS[layers])
    np.testing.assert_allclose(model(grown.params, X), model(params, X), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("name", NORMALIZED | PLAIN)
def test_the_dynamics_stay_in_the_middle_of_a_run(name, layers, params):
    opt = (NORMALIZED | PLAIN)[name]
    params, state = train(opt, params, opt.init(params), 20)
    expected, _ = train(opt, params, state)
    grown = grow(params, state, LAYERS[layers])
    after = optax.with_extra_args_support(
        optax.chain(opt, grown.rates(normalized=name in NORMALIZED))
    )
    found, _ = train(after, grown.params, (grown.state, optax.EmptyState()))
    np.testing.assert_allclose(model(found, X), model(expected, X), rtol=1e-6)
    chex.assert_trees_all_close(found, grow(expected, (), LAYERS[layers]).params, rtol=1e-6)


@pytest.mark.slow
def test_a_runge_kutta_step_commutes_with_growth(params):
    expected, _ = train(odeopt.rk4(0.1), params, odeopt.rk4(0.1).init(params))
    grown = grow(params, (), LAYERS["both"])
    opt = odeopt.rk4(0.1, stage_transform=grown.rates(normalized=False))
    found, _ = train(opt, grown.params, opt.init(grown.params))
    chex.assert_trees_all_close(found, grow(expected, (), LAYERS["both"]).params, rtol=1e-9)


@pytest.mark.slow
def test_without_the_map_of_the_state_the_dynamics_change(params):
    """The control: moments that are copied but not scaled."""
    opt = NORMALIZED["adam"]
    params, state = train(opt, params, opt.init(params), 20)
    expected, _ = train(opt, params, state)
    grown = grow(params, state, FIRST, degrees={**DEGREES, "nu": 1})
    after = optax.with_extra_args_support(optax.chain(opt, grown.rates(normalized=True)))
    found, _ = train(after, grown.params, (grown.state, optax.EmptyState()))
    assert jnp.max(jnp.abs(model(found, X) - model(expected, X))) > 1e-3


@pytest.mark.slow
def test_old_units_can_be_frozen(params):
    opt = odeopt.adam(1e-2)
    grown = grow(params, opt.init(params), FIRST, split=0.1, key=KEYS[4])
    after = optax.with_extra_args_support(optax.chain(opt, grown.freeze_old()))
    found, _ = train(after, grown.params, (grown.state, optax.EmptyState()))
    for name, axis in (("a", 1), ("s", 0), ("b", 0)):
        old, new = jnp.split(found[name], 2, axis)
        before_old, before_new = jnp.split(grown.params[name], 2, axis)
        chex.assert_trees_all_equal(old, before_old)
        assert jnp.all(new != before_new)
    chex.assert_trees_all_equal(found["c"], params["c"])
    assert loss(found) < loss(params)


def test_a_split_separates_copies_and_moves_the_function_at_second_order(params):
    def moved(size):
        grown = grow(params, (), FIRST, split=size, key=KEYS[4])
        return float(jnp.max(jnp.abs(model(grown.params, X) - model(params, X))))

    assert moved(1e-3) > 0
    assert np.log2(moved(2e-3) / moved(1e-3)) == pytest.approx(2, abs=0.1)


@pytest.mark.slow
def test_a_module_of_equinox_grows(x64):
    net = eqx.nn.MLP(3, 2, 6, 2, key=KEYS[5])
    params, static = eqx.partition(net, eqx.is_array)
    opt = odeopt.adam(1e-3)
    layer = Units(
        lambda m: (m.layers[0].weight, m.layers[0].bias),
        lambda m: m.layers[1].weight,
        into_axis=0,
        out_axis=1,
    )
    grown = grow(params, opt.init(params), layer)
    run = lambda p: jax.vmap(eqx.combine(p, static))(X)
    np.testing.assert_allclose(run(grown.params), run(params), rtol=1e-12)
    assert grown.state.aux.mu.layers[1].weight.shape == (6, 12)


def test_decoupled_decay_after_the_rates_leaves_the_dynamics(params):
    opt, decay = NORMALIZED["adam"], optax.add_decayed_weights(-0.05)
    with_decay = optax.with_extra_args_support(optax.chain(opt, decay))
    params, state = train(with_decay, params, with_decay.init(params), 20)
    expected, _ = train(with_decay, params, state)
    grown = grow(params, state[0], FIRST)
    after = optax.with_extra_args_support(optax.chain(opt, grown.rates(normalized=True), decay))
    found, _ = train(after, grown.params, (grown.state, optax.EmptyState(), state[1]))
    np.testing.assert_allclose(model(found, X), model(expected, X), rtol=1e-6)


@pytest.mark.parametrize("opt", [odeopt.soap(0.01), odeopt.untuned()], ids=["soap", "untuned"])
def test_a_state_of_other_shapes_than_the_parameters_is_refused(params, opt):
    with pytest.raises(ValueError, match=r"has the shape .* go on with `opt\.init"):
        grow(params, opt.init(params), FIRST)


def test_what_is_not_known_is_refused(params):
    ema = optax.ema(0.9)
    with pytest.raises(ValueError, match=r"'ema'.*degrees="):
        grow(params, ema.init(params), FIRST)
    with pytest.raises(ValueError, match="at least 1"):
        grow(params, (), Units(FIRST.into, FIRST.out, copies=0))
    with pytest.raises(ValueError, match="key="):
        grow(params, (), FIRST, split=0.1)
