"""Growth keeps the function and the dynamics, of every optimizer whose state it maps."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import flows, solvers
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


def average(base, **options):
    flow = flows.AveragedFlow(base, beta=0.5, power=2.0)
    return odeopt.ode_optimizer(flow, solvers.Lie(), 0.01, **options)


NORMALIZED = {
    "adam": odeopt.adam(1e-2, eps=0.0),
    "adam_nesterov": odeopt.adam(1e-2, eps=0.0, nesterov=True),
    "strang_adam": odeopt.strang_adam(1e-2, eps=0.0),
    "rmsprop": odeopt.rmsprop(1e-2, eps=0.0),
    "rmsprop_momentum": odeopt.rmsprop(1e-2, eps=0.0, momentum=0.9),
    "rmsprop_centered": odeopt.rmsprop(1e-2, eps=1e-14, momentum=0.9, centered=True),
    "average_of_adam": average(flows.AdamFlow(0.9, 0.99, eps=0.0)),
    "optax.adam": optax.adam(1e-2, eps=0.0),
    "optax.adamax": optax.adamax(1e-2, eps=0.0),
    "optax.lion": optax.lion(1e-2, weight_decay=0.0),
    "optax.rmsprop": optax.rmsprop(1e-2, eps=0.0, momentum=0.9),
    "optax.sgd after adam": optax.chain(optax.scale_by_adam(eps=0.0), optax.sgd(1e-3, 0.9)),
    "optax.adam after sgd": optax.chain(optax.sgd(1.0, 0.9), optax.adam(-1e-2, eps=0.0)),
    "injected": optax.inject_hyperparams(optax.adam)(1e-2, eps=1e-14),
}
LINEAR = {
    "heavy_ball": lambda **o: odeopt.heavy_ball(0.05, 0.9, **o),
    "nesterov": lambda **o: odeopt.nesterov(0.05, 0.9, **o),
    "conformal_leapfrog": lambda **o: odeopt.conformal_leapfrog(0.05, **o),
    "average": lambda **o: average(flows.GradientFlow(), **o),
}
IN_STAGES = {
    "rk4": lambda **o: odeopt.rk4(0.1, **o),
    "rkc": lambda **o: odeopt.rkc(0.1, **o),
    "euler_correction": lambda **o: odeopt.euler(0.1, correction=2, **o),
    "suzuki_yoshida": lambda **o: odeopt.suzuki_yoshida(0.05, **o),
    "rk_momentum": lambda **o: odeopt.rk_momentum(0.05, 0.9, solvers.RK4(), **o),
}
PLAIN = {name: make() for name, make in LINEAR.items()} | {
    "euler": odeopt.euler(0.1),
    "optax.sgd": optax.sgd(0.05, 0.9),
}
DEGREE = {
    "average": {"lag": 1},
    "average_of_adam": {"lag": 0},
    "optax.adamax": {"nu": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("layers", LAYERS)
def test_the_function_stays(layers, params):
    grown = grow(params, (), LAYERS[layers])
    np.testing.assert_allclose(model(grown.params, X), model(params, X), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMALIZED | PLAIN)
def test_the_dynamics_stay_in_the_middle_of_a_run(name, params):
    opt = optax.with_extra_args_support((NORMALIZED | PLAIN)[name])
    params, state = train(opt, params, opt.init(params), 5)
    expected, _ = train(opt, params, state, 10)
    grown = grow(params, state, LAYERS["both"], degrees={**DEGREES, **DEGREE.get(name, {})})
    after = optax.with_extra_args_support(
        optax.chain(opt, grown.rates(normalized=name in NORMALIZED))
    )
    found, _ = train(after, grown.params, (grown.state, optax.EmptyState()), 10)
    np.testing.assert_allclose(model(found, X), model(expected, X), rtol=1e-6)
    chex.assert_trees_all_close(found, grow(expected, (), LAYERS["both"]).params, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", LINEAR | IN_STAGES)
def test_the_dynamics_stay_with_the_rates_in_every_stage(name, params):
    make = (LINEAR | IN_STAGES)[name]
    params, state = train(make(), params, make().init(params), 5)
    expected, _ = train(make(), params, state, 10)
    if name in IN_STAGES:
        with pytest.raises(ValueError, match=r"inside its steps.*in_stages=True.*opt\.init"):
            grow(params, state, LAYERS["both"])
    degrees = {**DEGREES, **DEGREE.get(name, {})}
    grown = grow(params, state, LAYERS["both"], degrees=degrees, in_stages=True)
    opt = make(stage_transform=grown.rates(normalized=False))
    state = grown.state._replace(transform=optax.EmptyState())
    found, _ = train(opt, grown.params, state, 10)
    chex.assert_trees_all_close(found, grow(expected, (), LAYERS["both"]).params, rtol=1e-9)


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

    rms = lambda x: float(jnp.sqrt(jnp.mean(x**2)))
    exact, split = (grow(params, (), FIRST, split=s, key=KEYS[4]).params for s in (0.0, 0.1))
    sizes = jax.tree.leaves(jax.tree.map(lambda x, y: rms(y - x) / rms(x), exact, split))
    assert 0.05 < max(sizes) < 0.15


def test_a_split_cancels_over_the_copies_of_a_unit(params):
    layers = [FIRST, SECOND]  # a leaf of the second's `into` is one of the first's `out`
    exact, split = (grow(params, (), layers, split=s, key=KEYS[4]).params for s in (0.0, 0.1))
    moved = split["b"] - exact["b"]
    parts = jnp.split(moved, SECOND.copies, SECOND.into_axis)
    assert jnp.max(jnp.abs(moved)) > 0.01
    np.testing.assert_allclose(sum(parts), 0, atol=1e-6)


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


@pytest.mark.parametrize("opt", [odeopt.soap(0.01), optax.novograd(0.1)], ids=["soap", "novograd"])
def test_a_state_of_other_shapes_than_the_parameters_is_refused(params, opt):
    with pytest.raises(ValueError, match=r"has the shape .* go on with `opt\.init"):
        grow(params, opt.init(params), FIRST)


ALONE = Units(lambda p: p, lambda p: ())


@pytest.mark.parametrize("opt", [odeopt.soap(0.01), optax.novograd(0.1)], ids=["soap", "novograd"])
def test_it_is_refused_for_a_bare_array_too(opt):
    params = jnp.ones((3, 4))
    with pytest.raises(ValueError, match=r"has the shape .* go on with `opt\.init"):
        grow(params, opt.init(params), ALONE)


def test_a_bare_array_grows():
    state = optax.adam(0.1).init(jnp.ones((3, 4)))
    grown = grow(jnp.ones((3, 4)), state, ALONE)
    assert grown.state[0].nu.shape == grown.params.shape == (3, 8)
    assert grown.state[0].count.shape == ()


REFUSED = {
    "'ema'": optax.ema(0.9),
    "'lag'": odeopt.untuned(),
    "'nu_max'": optax.amsgrad(0.1),
    "'sum_of_squares'": optax.adagrad(0.1),
    "'acc_grads'": optax.MultiSteps(optax.sgd(0.1), 2),
    "'start'": odeopt.rk4(0.1, staged=True),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_is_not_known_is_refused(name, params):
    with pytest.raises(ValueError, match=f'{name}.*degrees=.*"params".*Or pass'):
        grow(params, REFUSED[name].init(params), FIRST)


def test_a_field_in_units_of_the_parameters_grows_as_they_do(params):
    grown = grow(params, optax.EmaState(jnp.int32(0), params), FIRST, degrees={"ema": "params"})
    chex.assert_trees_all_equal(grown.state.ema, grown.params)


@pytest.mark.parametrize(
    "opt",
    [odeopt.adam(1e-2, correction=2), odeopt.heavy_ball(1e-2, correction=2)],
    ids=["adam", "heavy_ball"],
)
def test_counter_terms_with_moments_are_refused_either_way(opt, params):
    params, state = train(opt, params, opt.init(params), 1)
    for in_stages in (False, True):
        with pytest.raises(ValueError, match=r"`state=\(\)`"):
            grow(params, state, FIRST, in_stages=in_stages)


def test_axes_of_another_length_are_refused():
    layer = Units(lambda p: p[0], lambda p: p[1])
    for rows in (5, 24):  # a flattened image of 6 pixels has 24
        with pytest.raises(
            ValueError, match=rf"\[4\] units.*take up \[{rows}\].*axis of their own"
        ):
            grow([jnp.ones((3, 4)), jnp.ones((rows, 2))], (), layer)


def test_units_after_a_flattening_grow_on_an_axis_of_their_own(x64):
    params = [jax.random.normal(KEYS[0], (3, 4)), jax.random.normal(KEYS[1], (6, 4, 2))]
    image = jax.random.normal(KEYS[2], (6, 3))

    def run(p):
        return jnp.tanh(image @ p[0]).reshape(-1) @ p[1].reshape(-1, 2)

    grown = grow(params, (), Units(lambda p: p[0], lambda p: p[1], out_axis=1))
    np.testing.assert_allclose(run(grown.params), run(params), rtol=1e-12)


def test_a_parameter_may_be_named_like_a_hyper_parameter():
    params = {"b1": jnp.ones((3, 4)), "eps": jnp.ones((4, 2))}
    state = optax.inject_hyperparams(optax.adam)(optax.constant_schedule(0.1)).init(params)
    grown = grow(params, state, Units(lambda p: p["b1"], lambda p: p["eps"]))
    chex.assert_trees_all_equal(grown.state.hyperparams, state.hyperparams)
    assert grown.state.inner_state[0].mu["b1"].shape == (3, 8)


@pytest.mark.parametrize("copies", [0, 2.0, 1.5, True])
def test_copies_are_a_whole_number(copies):
    with pytest.raises(ValueError, match=r"copies is .* whole number of at least 1"):
        Units(FIRST.into, FIRST.out, copies)


def test_a_split_needs_a_key(params):
    with pytest.raises(ValueError, match="key="):
        grow(params, (), FIRST, split=0.1)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Units(lambda p: p["a"], FIRST.out, into_axis=2), "`into` must .* an axis 2"),
        (Units(lambda p: p["a"], FIRST.out, out_axis=-3), "`out` must .* an axis -3"),
        (Units(lambda p: p["a"] + p["s"], FIRST.out), "`into` must return leaves"),
        (Units(lambda p: 0, FIRST.out), "`into` must return leaves"),
        (Units(lambda p: None, FIRST.out), r"`into` have \[\] units"),
    ],
)
def test_units_are_leaves_that_have_their_axis(params, layer, message):
    with pytest.raises(ValueError, match=message):
        grow(params, (), layer)


@pytest.mark.parametrize("split", [np.nan, -0.1, np.inf])
def test_the_size_of_a_split_is_at_least_0(params, split):
    with pytest.raises(ValueError, match=r"split is .* at least 0"):
        grow(params, (), FIRST, split=split, key=KEYS[4])


@pytest.mark.parametrize("dtype", ["float16", "complex64"])
def test_a_split_is_relative_to_the_size_of_a_leaf_in_every_dtype(dtype):
    circle = jnp.exp(2j * jnp.pi * jnp.arange(400.0) / 400)  # whose squares add up to 0
    row = circle.astype(dtype) if dtype == "complex64" else jnp.full(400, 1e3, dtype)
    params = {"a": row[None], "b": jnp.ones((400, 2), dtype)}
    grown = jax.jit(
        lambda size: grow(params, (), Units(lambda p: p["a"], FIRST.out), split=size, key=KEYS[4])
    )
    exact, moved = (grown(size).params["a"][0].astype("complex64") for size in (0.0, 0.1))
    assert grown(0.1).params["a"].dtype == dtype
    assert 0.05 < jnp.linalg.norm(moved - exact) / jnp.linalg.norm(exact) < 0.15
