"""Every numbered promise of the contract with optax, on every row of the table of optimizers."""

import functools
import inspect

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import stepsize
from odeopt.zoo.registry import REGISTRY

from .table import (
    ADAPTIVE,
    EXPLICIT,
    KINDS,
    MOMENTUM,
    RESTING,
    STAGED,
    STIFF,
    TABLE,
    VARIED,
    gradient,
    mixed_loss,
    mixed_params,
)

everyone = pytest.mark.parametrize("name", [*VARIED, *STIFF])
known_cost = pytest.mark.parametrize("name", VARIED)
kinds = pytest.mark.parametrize("name", KINDS)
multi_stage = pytest.mark.parametrize("name", [n for n in VARIED if TABLE[n][1] > 1])
runge_kutta = pytest.mark.parametrize("name", [n for n in VARIED if n in EXPLICIT])
staged_ones = pytest.mark.parametrize("name", STAGED)
both_modes = pytest.mark.parametrize(
    ("name", "staged"), [(n, False) for n in [*VARIED, *STIFF]] + [(n, True) for n in STAGED]
)
known_cost_in_both_modes = pytest.mark.parametrize(
    ("name", "staged"), [(n, False) for n in VARIED] + [(n, True) for n in STAGED]
)
kinds_in_both_modes = pytest.mark.parametrize(
    ("name", "staged"), [(n, s) for s in (False, True) for n in KINDS if n in STAGED or not s]
)


def make(name, learning_rate=0.1, **kwargs):
    if name not in STAGED:
        assert not kwargs.pop("staged", False)
    return TABLE[name][0](learning_rate, **kwargs)


def stages(name):
    return TABLE[name][1]


def descend(opt, params, loss, n=3, **kwargs):
    """`n` calls of update, as a user writes them; returns the parameters and the state."""
    state = opt.init(params)

    @jax.jit
    def step(params, state):
        updates, state = opt.update(gradient(loss, params), state, params, value_fn=loss, **kwargs)
        return optax.apply_updates(params, updates), state

    for _ in range(n):
        params, state = step(params, state)
    return params, state


# 1. closure mode


@known_cost
def test_grads_are_stage_one_and_each_further_stage_costs_one_gradient(name):
    calls = []

    def loss(params):
        calls.append(1)
        return mixed_loss(params)

    params = mixed_params()
    opt = make(name)
    state = opt.init(params)
    grads = gradient(mixed_loss, params)
    _, state = opt.update(grads, state, params, value_fn=loss)
    assert len(calls) == stages(name) - 1
    assert int(state.gradients) == stages(name)


@multi_stage
def test_arguments_named_like_parameters_are_forwarded_and_others_ignored(name):
    params = {"x": jnp.ones(3)}
    seen = []

    def loss(params, batch, *, weight=1.0):
        seen.append((batch, weight))
        return jnp.sum((params["x"] - batch) ** 2) * weight

    grads = jax.grad(loss)(params, 2.0)
    opt = make(name)
    opt.update(
        grads, opt.init(params), params, value_fn=loss, batch=2.0, weight=3.0, unknown=object()
    )
    assert seen[1:] == [(2.0, 3.0)] * (stages(name) - 1)


def test_a_value_function_that_takes_anything_gets_everything_but_our_own_arguments():
    seen = {}

    def loss(params, **kwargs):
        seen.update(kwargs)
        return jnp.sum(params**2)

    params = jnp.ones(2)
    opt = odeopt.heun(0.1)
    opt.update(params, opt.init(params), params, value_fn=loss, value=1.0, a=1, b=2)
    assert seen == {"a": 1, "b": 2}


@multi_stage
def test_value_functions_with_aux(name):
    params = mixed_params()
    plain, _ = descend(make(name), params, mixed_loss)
    state = make(name).init(params)
    with_aux = lambda p: (mixed_loss(p), {"logits": p["w"]})
    step = jax.jit(lambda p, s: make(name).update(gradient(mixed_loss, p), s, p, value_fn=with_aux))
    for _ in range(3):
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(params, plain)


@runge_kutta
def test_grad_fn_replaces_the_gradient_and_is_told_its_stage(name):
    told = []

    def field(params, stage):
        told.append(stage)
        return {"x": -jnp.stack([params["x"][1], -params["x"][0]])}  # a rotation: no gradient

    params = {"x": jnp.array([1.0, 0.0])}
    opt = make(name, 0.2)
    updates, _ = opt.update(field(params, 0), opt.init(params), params, grad_fn=field)
    assert told == list(range(stages(name)))
    order = TABLE[name][2]
    exact = jnp.array([jnp.cos(0.2), -jnp.sin(0.2)])
    # the local error of a method of order p on a linear field is below h^(p+1)
    chex.assert_trees_all_close(
        optax.apply_updates(params, updates)["x"], exact, atol=0.2 ** (order + 1) + 1e-6
    )


# 2. staged mode


@pytest.mark.parametrize(
    ("name", "closure_mode"),
    [(n, {}) for n in STAGED] + [(n, {"scan_stages": True}) for n in STAGED if n in EXPLICIT],
)
def test_staged_equals_closure_on_a_repeated_batch(name, closure_mode):
    params = mixed_params()
    closure, end = descend(make(name, **closure_mode), params, mixed_loss, n=3)
    opt = make(name, staged=True)
    state, staged = opt.init(params), params
    step = jax.jit(lambda p, s: opt.update(gradient(mixed_loss, p), s, p))
    for _ in range(3 * stages(name)):
        updates, state = step(staged, state)
        staged = optax.apply_updates(staged, updates)
    # bfloat16 leaves are rounded at every stage point, so they agree to their own precision
    half = staged.pop("half"), closure.pop("half")
    chex.assert_trees_all_close(*(h.astype(jnp.float32) for h in half), atol=1e-2)
    chex.assert_trees_all_close(staged, closure, atol=2e-6)
    assert (int(state.steps), int(state.gradients)) == (int(end.steps), int(end.gradients))
    np.testing.assert_allclose(state.time, end.time, rtol=1e-6)


@pytest.mark.parametrize(
    "rule",
    [
        optax.linear_schedule(0.0, 0.8, 9),
        odeopt.stepsize.horizon(30),
        odeopt.stepsize.anytime(0.1),
        odeopt.stepsize.angle(gain=0.5, first=0.05),
    ],
    ids=["schedule", "horizon", "anytime", "angle"],
)
def test_a_rule_proposes_the_same_sizes_in_staged_mode(rule):
    curvature = jnp.array([2.0, 0.1])
    loss = lambda x: 0.5 * jnp.sum(curvature * x**2)
    closure, end = descend(odeopt.rk4(rule), jnp.ones(2), loss, n=12)
    staged, last = descend(odeopt.rk4(rule, staged=True), jnp.ones(2), loss, n=48)
    chex.assert_trees_all_close(staged, closure, rtol=1e-5)
    np.testing.assert_allclose(last.step_size, end.step_size, rtol=1e-5)
    np.testing.assert_allclose(last.time, end.time, rtol=1e-5)


@pytest.mark.parametrize("make", [odeopt.strang_adam, odeopt.log_time_adam, odeopt.untuned])
def test_step_params_of_python_floats(make):
    opt, params = (make(0.1) if make is odeopt.strang_adam else make()), {"a": 0.5, "b": 2.0}
    _, state = opt.update({"a": 1.0, "b": 4.0}, opt.init(params), params)
    read = odeopt.step_params(state, params)
    assert jax.tree.structure(read) == jax.tree.structure(params)


@pytest.mark.parametrize("name", [n for n in STAGED if TABLE[n][1] > 1])
def test_step_params_are_those_of_the_last_completed_step(name):
    params = jnp.array([1.0, -2.0])
    loss = lambda x: jnp.sum(jnp.cosh(x))
    opt = optax.chain(optax.clip(10.0), make(name, staged=True))
    state = opt.init(params)
    completed = params
    chex.assert_trees_all_equal(odeopt.step_params(state, params), params)
    for call in range(1, 2 * stages(name) + 1):
        updates, state = opt.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        if call % stages(name) == 0:
            completed = params
        chex.assert_trees_all_equal(odeopt.step_params(state, params), completed)


class Network(eqx.Module):
    """A model with the names of what odeopt looks for in states."""

    readout: eqx.nn.Linear

    def get_value(self, x):
        return self.readout(x)


@pytest.mark.whole
@pytest.mark.parametrize("name", ["heavy_ball", "strang_adam", "linearly_implicit_euler"])
def test_names_in_a_model_mean_nothing(name):
    class Loss:
        split = "train"

        def __call__(self, model):
            return jnp.sum(model.get_value(jnp.ones(2)) ** 2)

    model = Network(eqx.nn.Linear(2, 2, key=jax.random.key(0)))
    found, state = descend(make(name), model, loss := Loss())
    pair = model.readout.weight, model.readout.bias
    as_pair = lambda pair: loss(
        eqx.tree_at(lambda m: (m.readout.weight, m.readout.bias), model, pair)
    )
    expected, of_pair = descend(make(name), pair, as_pair)
    found, expected = odeopt.step_params(state, found), odeopt.step_params(of_pair, expected)
    chex.assert_trees_all_close(jax.tree.leaves(found), jax.tree.leaves(expected), rtol=1e-5)
    if name == "heavy_ball":  # rests nowhere else
        odeopt.step_params(optax.chain(make(name), optax.scale(0.5)).init(model), model)


def test_a_staged_step_within_apply_if_finite_without_jit():
    start, loss = jnp.array([1.0, -2.0]), lambda x: jnp.sum(jnp.cosh(x))
    opt = optax.apply_if_finite(odeopt.rk4(0.1, staged=True), 3)
    params, state = start, opt.init(start)
    for _ in range(4):
        updates, state = opt.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    expected = start + descend_once(odeopt.rk4(0.1), start, loss)[0]
    chex.assert_trees_all_close(params, expected, rtol=1e-6)


def test_step_params_of_a_staged_step_complete_what_a_filter_leaves():
    opt, part = odeopt.rk4(0.1, staged=True), {"a": jnp.ones(2), "b": None}
    _, state = opt.update(part, opt.init(part), part)
    full = {"a": jnp.zeros(2), "b": jnp.ones(3)}
    chex.assert_trees_all_equal(odeopt.step_params(state, full), {**full, "a": jnp.ones(2)})


@pytest.mark.whole  # one of them went round for ever
@everyone
def test_a_tree_without_leaves_stays_as_it_is(name):
    opt = make(name)
    updates, _ = opt.update({}, opt.init({}), {}, value_fn=lambda params: jnp.zeros(()))
    assert updates == {}


def test_staged_in_an_unmodified_flax_train_state():
    from flax.training.train_state import TrainState

    x, y = jax.random.normal(jax.random.key(1), (32, 5)), jnp.ones((32, 1))
    params = {"kernel": jax.random.normal(jax.random.key(2), (5, 1)), "bias": jnp.zeros(1)}
    apply = lambda p, x: jnp.tanh(x @ p["kernel"] + p["bias"])
    loss = lambda p: jnp.mean((apply(p, x) - y) ** 2)
    train = TrainState.create(apply_fn=apply, params=params, tx=odeopt.rk4(0.5, staged=True))

    @jax.jit
    def train_step(train):
        return train.apply_gradients(grads=jax.grad(loss)(train.params))

    for _ in range(40):
        train = train_step(train)
    closure, _ = descend(odeopt.rk4(0.5), params, loss, n=10)
    chex.assert_trees_all_close(train.params, closure, atol=1e-6)
    chex.assert_trees_all_equal(odeopt.step_params(train.opt_state, train.params), train.params)


def test_closure_mode_in_an_nnx_optimizer():
    from flax import nnx

    x, y = jax.random.normal(jax.random.key(1), (32, 5)), jnp.ones((32, 1))
    model = nnx.Linear(5, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, odeopt.rk4(0.1), wrt=nnx.Param)
    graph = nnx.graphdef(model)

    def loss(params):
        return jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)

    before = nnx.state(model, nnx.Param)
    expected, _ = descend(
        odeopt.rk4(0.1),
        nnx.to_pure_dict(before),
        lambda p: jnp.mean((x @ p["kernel"] + p["bias"] - y) ** 2),
        n=1,
    )
    optimizer.update(model, jax.grad(loss)(before), value_fn=loss)
    chex.assert_trees_all_close(nnx.to_pure_dict(nnx.state(model, nnx.Param)), expected, atol=1e-6)


# 3. equality with optax


@pytest.mark.parametrize(
    "learning_rate",
    [0.1, optax.cosine_decay_schedule(0.3, 50), optax.warmup_constant_schedule(0.0, 0.1, 10)],
    ids=["number", "cosine", "warm-up"],
)
def test_euler_is_sgd_bit_for_bit(learning_rate):
    ours, theirs = odeopt.euler(learning_rate), optax.sgd(learning_rate)
    params = mixed_params()
    states = [ours.init(params), theirs.init(params)]
    for step in range(60):
        grads = gradient(mixed_loss, params, 0.01 * step)
        updates, states[0] = ours.update(grads, states[0], params)
        expected, states[1] = theirs.update(grads, states[1], params)
        chex.assert_trees_all_equal(updates, expected)
        params = optax.apply_updates(params, updates)
    # and, like optax's, it does not ask for the parameters
    chex.assert_trees_all_equal(
        ours.update(grads, states[0])[0], theirs.update(grads, states[1])[0]
    )


# 4. stage_transform


@pytest.mark.parametrize("name", [n for n in VARIED if n in EXPLICIT and TABLE[n][1] > 1])
def test_stage_transform_acts_on_every_stage(name):
    params = jnp.array([3.0, -4.0])
    loss = lambda x: jnp.sum(x**2)
    clipped = make(name, 1.0, stage_transform=optax.clip_by_global_norm(1.0))
    updates, _ = descend_once(clipped, params, loss)
    # every stage's gradient points to the origin with norm 1, so the step is that unit vector
    chex.assert_trees_all_close(updates, -params / 5.0, rtol=1e-5)
    chained = optax.chain(optax.clip_by_global_norm(1.0), make(name, 1.0))
    assert not np.allclose(descend_once(chained, params, loss)[0], updates, rtol=1e-2)


def descend_once(opt, params, loss):
    return opt.update(jax.grad(loss)(params), opt.init(params), params, value_fn=loss)


@pytest.mark.parametrize("name", [n for n in VARIED if n in EXPLICIT])
@pytest.mark.parametrize("staged", [False, True])
def test_stage_transform_state_is_frozen_within_a_step_and_advanced_once(name, staged):
    counting = optax.GradientTransformation(
        lambda params: jnp.zeros([], jnp.int32),
        # scales by 1 + the number of steps: a state that moved within a step would show
        lambda g, n, p=None: (jax.tree.map(lambda g: g * (1.0 + n), g), n + 1),
    )
    params = jnp.array([1.0, -2.0])
    loss = lambda x: 0.5 * jnp.sum(x**2)
    opt = make(name, 0.1, stage_transform=counting, staged=staged)
    state = opt.init(params)
    for n in range(3):
        # the flow of this step is x' = -(1 + n) x: a plain step at the rate (1 + n) h
        expected = params + descend_once(make(name, 0.1 * (1 + n)), params, loss)[0]
        for _ in range(stages(name) if staged else 1):
            updates, state = opt.update(jax.grad(loss)(params), state, params, value_fn=loss)
            params = optax.apply_updates(params, updates)
        chex.assert_trees_all_close(params, expected, rtol=1e-5)
        assert int(state.transform) == n + 1


@pytest.mark.parametrize("own", ["state", "updates"])
@pytest.mark.parametrize("staged", [False, True])
def test_arguments_of_the_loss_may_have_the_names_of_a_transformation(own, staged):
    """A chain hands these on by position."""
    through = optax.chain(optax.clip(1.0), optax.trace(0.9))
    opt = odeopt.rk4(0.1, stage_transform=through, staged=staged)
    x, shift = jnp.ones(2), jnp.zeros(2)
    losses = {
        "state": lambda x, state: jnp.sum((x - state) ** 2),
        "updates": lambda x, updates: jnp.sum((x - updates) ** 2),
    }
    plain = lambda x, other: jnp.sum((x - other) ** 2)
    found, _ = opt.update(2 * x, opt.init(x), x, value_fn=losses[own], **{own: shift})
    expected, _ = opt.update(2 * x, opt.init(x), x, value_fn=plain, other=shift)
    assert jnp.array_equal(found, expected)


def test_weight_decay_as_stage_transform_is_the_flow_of_the_penalized_loss():
    params = jnp.array([1.0, -2.0])
    loss = lambda x: jnp.sum(jnp.cosh(x))
    decayed = odeopt.rk4(0.1, stage_transform=optax.add_decayed_weights(0.3))
    penalized = lambda x: loss(x) + 0.15 * jnp.sum(x**2)
    chex.assert_trees_all_close(
        descend_once(decayed, params, loss)[0],
        descend_once(odeopt.rk4(0.1), params, penalized)[0],
        rtol=1e-5,
    )


# 5. masks and partitions


@everyone
def test_masked_trees_are_filled_from_full_params(name):
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])}
    loss = lambda p: jnp.sum(p["a"] ** 2) * jnp.sum(p["b"])
    opt = optax.masked(make(name, 0.01), {"a": True, "b": False})
    grads = jax.grad(loss)(params)
    updates, _ = opt.update(grads, opt.init(params), params, value_fn=loss, full_params=params)
    alone = descend_once(make(name, 0.01), params["a"], lambda a: loss({"a": a, "b": params["b"]}))
    chex.assert_trees_all_close(updates["a"], alone[0], rtol=1e-5)
    chex.assert_trees_all_equal(updates["b"], grads["b"])  # passed through, as optax.masked does


@both_modes
def test_partition(name, staged):
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])}
    loss = lambda p: jnp.sum(p["a"] ** 2) + jnp.sum(jnp.cosh(p["b"]))
    opt = optax.partition(
        {"solver": make(name, 0.1, staged=staged), "none": optax.set_to_zero()},
        {"a": "solver", "b": "none"},
    )
    state, p = opt.init(params), params
    for _ in range(stages(name) if staged else 1):
        updates, state = opt.update(jax.grad(loss)(p), state, p, value_fn=loss, full_params=p)
        p = optax.apply_updates(p, updates)
    expected = params["a"] + descend_once(make(name), params["a"], lambda a: jnp.sum(a**2))[0]
    chex.assert_trees_all_close(p, {"a": expected, "b": params["b"]}, rtol=1e-5)
    read = odeopt.step_params(state, p)
    chex.assert_trees_all_equal(read["b"], p["b"])
    if name in RESTING:
        assert jax.tree.structure(read) == jax.tree.structure(p)
    else:
        chex.assert_trees_all_equal(read, p)


# 7. wrappers and transformations


def injectable(name):
    """A factory of which the learning rate is the only hyperparameter.

    Others would become float32 arrays, and 1 - b2 another number.
    """
    factory = functools.partial(make, name)
    rate = inspect.Parameter("learning_rate", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    factory.__signature__ = inspect.Signature([rate])
    return factory


@everyone
def test_inject_hyperparams(name):
    params = mixed_params()
    plain, _ = descend(make(name, 0.1), params, mixed_loss)
    opt = optax.inject_hyperparams(injectable(name))(learning_rate=0.1)
    injected, state = descend(opt, params, mixed_loss)
    unit = float(jnp.finfo(jnp.float32).eps)  # of parameters whose size is about 1
    chex.assert_trees_all_close(injected, plain, rtol=1e-6, atol=unit)
    assert complex(state.hyperparams["learning_rate"]) == pytest.approx(0.1)


@kinds
def test_inject_hyperparams_takes_schedules_and_counts_steps(name):
    schedule = optax.linear_schedule(0.2, 0.0, 4)
    plain, _ = descend(make(name, schedule), mixed_params(), mixed_loss)
    opt = optax.inject_hyperparams(injectable(name))(learning_rate=schedule)
    chex.assert_trees_all_close(descend(opt, mixed_params(), mixed_loss)[0], plain, rtol=1e-6)


# optax casts the complex hyperparameters of a tree with complex leaves to real leaves.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Casting (from )?complex")
@pytest.mark.parametrize("leaves", ["real", "complex"])
@pytest.mark.parametrize(
    ("ours", "theirs", "static"),
    [
        (odeopt.heavy_ball, optax.sgd, ()),
        (odeopt.adamw, optax.adamw, ("nesterov", "mask", "mu_dtype")),
        (
            odeopt.rmsprop,
            optax.rmsprop,
            ("centered", "eps_in_sqrt", "nesterov", "bias_correction"),
        ),
    ],
    ids=["heavy_ball", "adamw", "rmsprop"],
)
def test_inject_hyperparams_takes_every_number(ours, theirs, static, leaves):
    params = {"w": jnp.array([[1.0, -2.0], [0.5, 3.0]])}
    if leaves == "complex":  # then the hyperparameters arrive complex
        params["z"] = jnp.array([1.0 + 2.0j], jnp.complex64)
    loss = lambda p: sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(p))
    numbers = {"learning_rate": 0.1}
    if ours is not odeopt.adamw:
        numbers["momentum"] = 0.8
    ends = [
        descend(optax.inject_hyperparams(make, static_args=static)(**numbers), params, loss)[0]
        for make in (ours, theirs)
    ]
    if leaves == "real":
        chex.assert_trees_all_close(*ends, rtol=1e-6)
    assert jax.tree.map(lambda e: e.dtype, ends[0]) == jax.tree.map(lambda p: p.dtype, params)
    chex.assert_tree_all_finite(ends[0])


@kinds
@pytest.mark.parametrize(
    "wrap",
    [
        lambda opt: optax.chain(opt, optax.identity()),
        lambda opt: optax.named_chain(("solver", opt)),
        lambda opt: optax.apply_if_finite(opt, 3),
        lambda opt: optax.MultiSteps(opt, 1),
    ],
    ids=["chain", "named_chain", "apply_if_finite", "MultiSteps"],
)
def test_wrappers_that_do_nothing_change_nothing(name, wrap):
    params = mixed_params()
    plain, _ = descend(make(name), params, mixed_loss)
    chex.assert_trees_all_close(descend(wrap(make(name)), params, mixed_loss)[0], plain, rtol=1e-6)


@kinds
def test_apply_if_finite_survives_a_non_finite_loss(name):
    params = jnp.array([1.0, 2.0])
    opt = optax.apply_if_finite(make(name), 10)
    state = opt.init(params)
    bad = lambda x: jnp.sum(x**2) * jnp.nan
    updates, state = opt.update(jax.grad(bad)(params), state, params, value_fn=bad)
    chex.assert_trees_all_equal(updates, jnp.zeros(2))
    good = lambda x: jnp.sum(x**2)
    updates, state = opt.update(jax.grad(good)(params), state, params, value_fn=good)
    # a counter-term is a difference of gradients, in which jit rounds otherwise
    rtol = 1e-5 if "corrected" in name else 1e-6
    chex.assert_trees_all_close(updates, descend_once(make(name), params, good)[0], rtol=rtol)


@pytest.mark.parametrize("name", [n for n in KINDS if n in EXPLICIT])  # it replaces momentum
def test_schedule_free_drives_a_solver(name):
    opt = optax.contrib.schedule_free(make(name, 0.1), 0.1)
    params, _ = descend(opt, {"x": jnp.array([1.0, -2.0])}, lambda p: jnp.sum(p["x"] ** 2), n=100)
    assert float(jnp.sum(params["x"] ** 2)) < 1e-2


AUXILIARY = dict.fromkeys(MOMENTUM, 1) | dict.fromkeys(ADAPTIVE, 2) | {"rmsprop": 1}
AUXILIARY |= {"log_time_adam": 3}  # lag, second moment, and (of small leaves) the last gradient
AUXILIARY |= {"heavy_ball-corrected": 1, "adam-corrected": 2}
AUXILIARY |= {"untuned": 3}  # Adam's moments, and the lag of the average
AUXILIARY |= {"log_time_soap": 4}  # the same, and the last gradient


@known_cost_in_both_modes
def test_tree_map_params_finds_the_copies_of_the_parameters(name, staged):
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    opt = make(name, staged=staged)
    state = opt.init(params)
    found = []
    optax.tree_map_params(opt, lambda leaf: found.append(leaf.shape), state)
    found = [shape for shape in found if shape]  # a scalar a leaf is no copy
    # a staged step keeps its start and the slopes of all stages but the last, with all moments
    steps = stages(name) if staged and stages(name) > 1 else 0
    copies = AUXILIARY.get(name, 0) + steps * (1 + AUXILIARY.get(name, 0))
    assert found == [(2,), (3,)] * copies


@pytest.mark.slow
@kinds
def test_vmap_over_learning_rates(name):
    rates = jnp.array([0.01, 0.1, 0.5])
    params = jnp.array([1.0, -2.0])
    loss = lambda x: jnp.sum(jnp.cosh(x))
    updates = jax.vmap(lambda rate: descend_once(make(name, rate), params, loss)[0])(rates)
    for rate, update in zip(rates, updates, strict=True):
        chex.assert_trees_all_close(
            update, descend_once(make(name, float(rate)), params, loss)[0], rtol=1e-6
        )


@kinds_in_both_modes
def test_scan_and_cond(name, staged):
    params = mixed_params()
    opt = make(name, staged=staged)

    def step(carry, _):
        def take(carry):
            p, s = carry
            updates, s = opt.update(gradient(mixed_loss, p), s, p, value_fn=mixed_loss)
            return optax.apply_updates(p, updates), s

        return jax.lax.cond(carry[1].steps < 2, take, lambda c: c, carry), None

    calls = 3 * stages(name) if staged else 3
    (scanned, state), _ = jax.lax.scan(step, (params, opt.init(params)), length=calls)
    looped, _ = descend(make(name), params, mixed_loss, n=2)
    assert int(state.steps) == 2
    chex.assert_trees_all_close({**scanned, "half": 0}, {**looped, "half": 0}, atol=2e-6)


@both_modes
def test_donation(name, staged):
    opt = make(name, staged=staged)
    params = mixed_params()
    state = opt.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = opt.update(
            gradient(mixed_loss, params), state, params, value_fn=mixed_loss
        )
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)  # a buffer donated twice would raise
    chex.assert_tree_all_finite(params)


# 8. structure


@pytest.mark.whole
@both_modes
def test_init_is_structural(name, staged):
    params = mixed_params()
    without = ("suzuki_yoshida", "heavy_ball-corrected", "adam-corrected")
    several = name not in STIFF and stages(name) > 1 and name not in without
    transform = {"stage_transform": optax.trace(0.9)} if several else {}
    opt = make(name, staged=staged, **transform)
    concrete = opt.init(params)
    abstract = jax.eval_shape(opt.init, params)
    from_shapes = opt.init(jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params))
    chex.assert_trees_all_equal_shapes_and_dtypes(concrete, abstract, from_shapes)


@both_modes
@pytest.mark.parametrize("enable_x64", [False, True])
def test_the_state_never_changes_its_type_and_nothing_recompiles(name, staged, enable_x64):
    with jax.enable_x64(enable_x64):
        params = mixed_params()
        opt = make(name, optax.constant_schedule(0.1), staged=staged)
        state = opt.init(params)

        @jax.jit
        @chex.assert_max_traces(n=1)
        def step(params, state):
            updates, state = opt.update(
                gradient(mixed_loss, params), state, params, value_fn=mixed_loss
            )
            return optax.apply_updates(params, updates), updates, state

        for _ in range(3):
            new_params, updates, new_state = step(params, state)
            types = jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), (new_state, new_params))
            assert types == jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), (state, params))
            chex.assert_trees_all_equal_dtypes(updates, params)
            params, state = new_params, new_state


# an adaptive flow divides by the modulus of a complex number, not by that of each of two reals
@pytest.mark.parametrize(
    "name", [n for n in [*VARIED, *STIFF] if n not in (*ADAPTIVE, "adam-corrected")]
)
def test_complex_parameters_follow_the_conjugate_flow(name):
    # |z|^2 as a function of two reals, and of one complex number
    z = jnp.array([1.0 + 2.0j, -0.5 + 0.1j], jnp.complex64)
    loss = lambda z: jnp.sum(jnp.cosh(z.real) * jnp.cos(0.3 * z.imag))
    pair = {"x": z.real, "y": z.imag}
    as_reals, _ = descend(make(name), pair, lambda p: loss(p["x"] + 1j * p["y"]))
    as_complex, _ = descend(make(name), z, loss)
    chex.assert_trees_all_close(as_complex, as_reals["x"] + 1j * as_reals["y"], rtol=1e-5)


# 9. counters


@known_cost_in_both_modes
def test_counters(name, staged):
    params = jnp.array([1.0, -2.0])
    schedule = optax.linear_schedule(0.4, 0.0, 4)
    opt = make(name, schedule, staged=staged)
    calls = 3 * (stages(name) if staged else 1)
    _, state = descend(opt, params, lambda x: jnp.sum(jnp.cosh(x)), n=calls)
    assert (int(state.steps), int(state.rejected)) == (3, 0)
    assert int(state.gradients) == 3 * stages(name)
    assert float(state.time) == pytest.approx(0.4 + 0.3 + 0.2)  # flow time: the sum of the rates


@both_modes
def test_an_invalid_rate_that_is_known_at_run_time_only_freezes_the_step(name, staged):
    start = jnp.array([1.0, -2.0])
    loss = lambda x: jnp.sum(jnp.cosh(x))
    calls = stages(name) if staged else 1

    @jax.jit
    def two_steps(first_rate):
        opt = make(name, lambda step: jnp.where(step == 0, first_rate, 0.1), staged=staged)
        params, state, ends = start, opt.init(start), []
        for of_step in (1, calls):  # a step that cannot go on ends at its first stage
            for _ in range(of_step):
                updates, state = opt.update(jax.grad(loss)(params), state, params, value_fn=loss)
                params = optax.apply_updates(params, updates)
            ends.append((params, state))
        return ends

    for rate in (-1.0, jnp.nan, jnp.inf, -1e-30):
        (frozen, state), (moved, after) = two_steps(jnp.asarray(rate, float))
        chex.assert_trees_all_equal(frozen, start)
        assert (int(state.steps), int(state.rejected), float(state.time)) == (1, 1, 0.0)
        # the next step is an ordinary one: nothing was poisoned
        chex.assert_trees_all_close(
            moved, start + descend_once(make(name), start, loss)[0], rtol=1e-6
        )
        assert (int(after.steps), int(after.rejected)) == (2, 1)
        assert float(after.time) == pytest.approx(0.1)


def test_counters_saturate_instead_of_wrapping():
    params = jnp.ones(2)
    opt = odeopt.rk4(0.1)
    top = jnp.iinfo(jnp.int32).max
    state = opt.init(params)._replace(gradients=jnp.int32(top - 2), steps=jnp.int32(top))
    _, state = opt.update(params, state, params, value_fn=lambda x: jnp.sum(x**2))
    assert (int(state.gradients), int(state.steps)) == (top, top)


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.int32])
@pytest.mark.parametrize("name", STIFF)
def test_under_strict_promotion_data_may_be_of_any_dtype(name, dtype):
    """Counts and switches of an optimizer meet no dtype of the data."""
    x, data = jnp.ones(3), jnp.array([1, 0, 1], dtype)
    loss = lambda x, data: jnp.mean((x * data.astype(x.dtype) - 2.0) ** 2)
    with jax.numpy_dtype_promotion("strict"):
        grads = jax.grad(loss)(x, data)
        opt = make(name, 0.1)
        updates, state = opt.update(grads, opt.init(x), x, value_fn=loss, data=data)
    assert jnp.all(jnp.isfinite(updates))
    assert updates[0] > 0
    assert updates[1] == 0
    assert state.gradients > 1


STRICT = {
    name: functools.partial(entry.build, 0.1)
    for name, entry in REGISTRY.items()
    if not entry.needs & {"players"}
} | {
    f"{make.__name__}, {name}": functools.partial(make, 0.1, **options)
    for make, options in (
        (odeopt.linearly_implicit_euler, {"rank": 2}),
        (odeopt.linearly_implicit_euler, {"precondition": True}),
        (odeopt.implicit_euler, {"precondition": True}),
        (odeopt.exponential_euler, {"basis": 2, "products": 4}),
        (odeopt.rkc, {"stages": None}),
    )
    for name in options
}


@pytest.mark.parametrize("name", STRICT)
def test_under_strict_promotion_parameters_may_be_narrower_than_time(name, x64):
    """With `jax_enable_x64` time and counts are wide, whatever the parameters."""
    params = {"w": jnp.linspace(-1, 1, 6, dtype=jnp.float32).reshape(3, 2)}
    loss = lambda x: jnp.sum(jnp.tanh(x["w"] + 0.5) ** 2)
    opt = STRICT[name]()
    state = opt.init(params)
    with jax.numpy_dtype_promotion("strict"):
        for _ in range(2):
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = opt.update(grads, state, params, value=value, value_fn=loss)
            assert updates["w"].dtype == jnp.float32
            params = optax.apply_updates(params, updates)
    assert jnp.all(jnp.isfinite(params["w"]))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(
    "opt",
    [
        odeopt.rk4(stepsize.gain_ratio(first=0.1)),
        odeopt.linearly_implicit_euler(stepsize.gain_ratio(first=0.1, tries=3)),
        odeopt.euler(stepsize.corridor(cap=0.1)),
        odeopt.implicit_euler(0.1),
    ],
    ids=["gain_ratio", "tries", "corridor", "implicit"],
)
def test_under_strict_promotion_the_loss_may_be_of_any_dtype(opt, dtype):
    """What looks at the loss compares it with sums in single precision."""
    x = jnp.array([1.0, -0.5])
    loss = lambda x: jnp.sum(jnp.cosh(x) - 1).astype(dtype)
    with jax.numpy_dtype_promotion("strict"):
        value, grads = jax.value_and_grad(loss)(x)
        updates, state = opt.update(grads, opt.init(x), x, value=value, value_fn=loss)
    assert state.rejected == 0
    assert loss(x + updates) < loss(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["rk4", "rk_momentum", "strang_adam", "log_time_adam", "linearly_implicit_euler"]
)
def test_updates_are_differentiated_forwards_and_explicit_ones_backwards_too(name, x64):
    start, loss = jnp.array([1.0, -0.5]), lambda x: jnp.sum(jnp.cosh(x))

    def end(rate):
        opt = REGISTRY[name].build(rate)

        def step(carry, _):
            x, state = carry
            updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
            return (x + updates, state), None

        # in a loop tangents are known to be zero by their values only
        return loss(jax.lax.scan(step, (start, opt.init(start)), length=2)[0][0])

    rate, step = 0.1, 1e-6
    expected = (end(rate + step) - end(rate - step)) / (2 * step)
    _, found = jax.jvp(end, (rate,), (1.0,))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if name == "linearly_implicit_euler":
        with pytest.raises(ValueError, match="Reverse-mode differentiation"):
            jax.grad(end)(rate)
    else:
        np.testing.assert_allclose(jax.grad(end)(rate), expected, rtol=1e-5)
