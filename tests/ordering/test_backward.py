"""Backward order: what it composes, what it stores, what it costs, what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import ordering

from ..table import gradient, mixed_loss, mixed_params
from .models import composed, gap, regression, train

INNER = {
    "euler": lambda: odeopt.euler(0.1),
    "heavy_ball": lambda: odeopt.heavy_ball(0.05, 0.9),
    "rk4": lambda: odeopt.rk4(0.1),
    "adam": lambda: odeopt.adam(0.1),
    "leapfrog": lambda: odeopt.conformal_leapfrog(0.05, 0.9),
    "optax.sgd": lambda: optax.sgd(optax.linear_schedule(0.2, 0.0, 20)),
    "optax.adam": lambda: optax.chain(optax.clip(0.5), optax.adam(0.1)),
}
ORDER = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
SHAPE = {"i": jax.ShapeDtypeStruct((), jnp.int32)}


@pytest.mark.parametrize("name", ["euler", "heavy_ball", "rk4", "adam"])
def test_a_window_of_one_is_the_optimizer_bit_for_bit(name):
    loss, params, _ = regression()
    inner = INNER[name]()
    plain, state = train(inner, loss, params, ORDER, given=True)
    wrapped, outer = train(ordering.backward(inner, 1), loss, params, ORDER, given=True)
    assert gap(plain, wrapped) == 0
    chex.assert_trees_all_equal(state, outer.inner)
    assert int(outer.gradients) == int(state.gradients)

    warm = ordering.backward(inner, 4, start_after=10, example=SHAPE)  # nothing but warm-up
    path, outer = train(warm, loss, params, ORDER, given=True)
    assert gap(plain, path) < 1e-7  # another program, which may round otherwise
    assert int(outer.gradients) == int(state.gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", INNER)
def test_it_is_the_composition_newest_first(x64, name):
    loss, params, _ = regression()
    inner = INNER[name]()
    full = optax.with_extra_args_support(inner)
    for window, start_after, kwargs, given in [
        (3, 2, {"window": 3, "start_after": 2}, True),
        (10, 0, {"steps": 10}, False),
    ]:
        expected, state = composed(full, loss, params, ORDER, window, start_after)
        opt = ordering.backward(inner, **kwargs, example=SHAPE)
        path, outer = train(opt, loss, params, ORDER, given=given)
        assert gap(path, expected) < 1e-13
        chex.assert_trees_all_close(outer.inner, state, atol=1e-13)
    forward, _ = train(full, loss, params, ORDER, given=True)
    assert gap(path, forward) > 1e-3


def test_where_parameters_rest_elsewhere_step_params_reads_the_end_of_the_replay(x64):
    loss, params, _ = regression()
    inner = INNER["leapfrog"]()
    path, state = train(ordering.backward(inner, 4, example=SHAPE), loss, params, ORDER)
    last = jax.tree.map(lambda x: x[-1], path)
    end, after = composed(inner, loss, params, ORDER, 4)
    expected = odeopt.step_params(after, jax.tree.map(lambda x: x[-1], end))
    assert gap(odeopt.step_params(state, last), expected) < 1e-13 < gap(last, expected)


def bytes_of(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("method", ["replay", "bracket", "linearized"])
def test_gradients_and_memory_are_what_the_docstring_says(method):
    loss, params, _ = regression()
    params = jax.tree.map(jnp.asarray, params)
    calls = []

    def counted(x, i):
        jax.debug.callback(lambda: calls.append(1))
        return loss(x, i)

    rounds = {"replay": lambda j: j + 1, "bracket": lambda j: j + 2 if j else 1}
    rounds["linearized"] = rounds["replay"]
    cost = {
        "replay": lambda j: j + 1,
        "bracket": lambda j: 2 * j + 3 if j else 1,
        "linearized": lambda j: 2 * j + 1,
    }[method]
    window, inner = 4, odeopt.euler(0.1)
    opt = ordering.backward(inner, window, example=SHAPE, method=method)
    for given in (True, False):
        calls.clear()
        _, state = train(opt, counted, params, ORDER, given=given)
        jax.effects_barrier()
        places = [n % window for n in range(len(ORDER))]
        unused = sum(j > 0 for j in places) if given and method != "bracket" else 0
        assert int(state.gradients) == sum(cost(j) for j in places) + unused
        # a Hessian product, counted as two, is one run of the loss
        handed = unused if given else 0
        assert len(calls) == sum(rounds[method](j) for j in places) + handed
    stored = bytes_of(params) + 2 * bytes_of(inner.init(params)) + (window - 1) * 4 + 2 * 4
    assert bytes_of(state) == stored

    batch = jnp.zeros((16, 11))
    whole = ordering.backward(inner, window, example={"batch": batch}, method=method)
    assert bytes_of(whole.init(params)) == stored + (window - 1) * (batch.nbytes - 4)


def test_stages_are_counted(x64):
    loss, params, _ = regression()
    _, state = train(ordering.backward(odeopt.rk4(0.1), 5, example=SHAPE), loss, params, ORDER)
    assert int(state.gradients) == 4 * 2 * (1 + 2 + 3 + 4 + 5)


def target_loss(params, shift):
    return mixed_loss(params, shift)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "rk4"])
def test_state_keeps_its_shapes_and_nothing_recompiles_with_donation(name):
    inner = getattr(odeopt, name)(0.01)
    opt = ordering.backward(inner, 3, 2, example={"shift": jnp.float32(0)})
    params = mixed_params()

    @jax.jit
    def start(params):
        return opt.init(params)

    def step(params, state, shift):
        grads = gradient(target_loss, params, shift)
        updates, state = opt.update(grads, state, params, value_fn=target_loss, shift=shift)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(chex.assert_max_traces(step, n=1), donate_argnums=(0, 1))
    state = start(params)
    before = jax.tree.map(lambda x: jax.typeof(x).str_short(), (params, state))
    losses = []
    for n in range(9):
        params, state = step(params, state, jnp.float32(0.1 * (n % 3)))
        losses.append(float(mixed_loss(params)))
    after = jax.tree.map(lambda x: jax.typeof(x).str_short(), (params, state))
    assert before == after
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_it_runs_under_vmap_masked_and_inject_hyperparams(x64):
    loss, params, _ = regression()
    expected, _ = train(ordering.backward(odeopt.euler(0.1), 4, example=SHAPE), loss, params, ORDER)

    injected = optax.inject_hyperparams(odeopt.euler)(learning_rate=0.1)
    path, _ = train(ordering.backward(injected, 4, example=SHAPE), loss, params, ORDER)
    assert gap(path, expected) < 1e-14

    opt = ordering.backward(odeopt.euler(0.1), 4, example=SHAPE)
    orders = np.stack([ORDER, ORDER[::-1]])
    both = jax.vmap(lambda order: train(opt, loss, params, order)[0])(orders)
    assert gap(jax.tree.map(lambda x: x[0], both), expected) < 1e-14

    masked = optax.masked(opt, {"w": True, "other": False})
    params = {"w": jnp.zeros(10), "other": jnp.ones(2)}
    state = masked.init(params)
    whole = lambda p, i: loss({"w": p["w"]}, i)
    for i in ORDER[:3]:
        updates, state = masked.update(
            jax.grad(whole)(params, i), state, params, value_fn=whole, i=i, full_params=params
        )
        params = optax.apply_updates(params, updates)
    zero, _ = train(opt, loss, {"w": jnp.zeros(10)}, ORDER[:3])
    assert gap({"w": params["w"]}, jax.tree.map(lambda x: x[-1], zero)) < 1e-14


@pytest.mark.slow
def test_random_keys_can_be_stored():
    loss = lambda x, key: jnp.sum((x - jax.random.normal(key, x.shape)) ** 2)
    opt = ordering.backward(odeopt.euler(0.1), 3, example={"key": jax.random.key(0)})
    keys = jax.random.split(jax.random.key(1), 3)
    x, state = jnp.ones(4), opt.init(jnp.ones(4))
    for key in keys:
        updates, state = opt.update(None, state, x, value_fn=loss, key=key)
        x = x + updates
    expected = jnp.ones(4)
    for key in keys[::-1]:
        expected = expected - 0.1 * jax.grad(loss)(expected, key)
    np.testing.assert_allclose(x, expected, rtol=1e-6)


@pytest.mark.untyped
def test_what_makes_no_sense_is_refused():
    euler, example = odeopt.euler(0.1), {"i": 0}
    for kwargs, message in [
        ({}, "either `window=`"),
        ({"window": 3, "steps": 3}, "either `window=`"),
        ({"window": 0}, "window is 0"),
        ({"steps": 3, "start_after": 3}, "steps is 3 and start_after is 3"),
        ({"window": 3.0}, "window is 3.0"),
        ({"steps": 8.0}, "steps is 8.0"),
        ({"window": 3, "start_after": -1}, "start_after is -1"),
        ({"window": 3, "start_after": 2.0}, "start_after is 2.0"),
        ({"window": 3, "method": "guess", "example": example}, "method is 'guess'"),
        ({"window": 3}, r"example=\{\"batch\": batch\}"),
    ]:
        with pytest.raises(ValueError, match=message):
            ordering.backward(euler, **kwargs)
    for names in ("i", ("i",)):
        with pytest.raises(TypeError, match=r"example is .*pass a dict"):
            ordering.backward(euler, 3, example=names)
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="drop `staged=True`"):
        ordering.backward(odeopt.rk4(0.1, staged=True), 3, example=example).init(x)
    falling = optax.linear_schedule(0.1, 0.0, 9)  # earlier steps had other sizes
    anytime = odeopt.euler(odeopt.stepsize.anytime(0.1))
    scheduled = odeopt.euler(falling), anytime, optax.sgd(falling)
    moments = odeopt.heavy_ball(0.1, 0.9), odeopt.adam(0.1), optax.sgd(0.1, momentum=0.9)
    for inner in (*scheduled, *moments):
        for method in ("bracket", "linearized"):
            with pytest.raises(ValueError, match='use method="replay"'):
                ordering.backward(inner, 3, example=example, method=method).init(x)
    opt = ordering.backward(euler, 3, example=example)
    state, loss = opt.init(x), lambda x, i: jnp.sum(x**2)
    for extra, message in [
        ({"i": 0}, "value_fn=loss"),
        ({"value_fn": loss}, "`i=i`"),
        ({"value_fn": loss, "i": jnp.arange(2)}, "must look like their example"),
        ({"value_fn": loss, "i": 0.5}, "must look like their example"),
        ({"value_fn": loss, "i": (0, 1)}, "must look like their example"),
    ]:
        with pytest.raises(ValueError, match=message):
            opt.update(x, state, x, **extra)
    with pytest.raises(ValueError, match="needs the parameters"):
        opt.update(x, state, value_fn=loss, i=0)
    for window in (1, 2, 5):
        other = ordering.backward(euler, window, example=example)
        for update, of in [(opt.update, other.init(x)), (other.update, state)]:
            with pytest.raises(ValueError, match="state is of another window"):
                update(x, of, x, value_fn=loss, i=0)
    with pytest.raises(TypeError, match="state is a ODEState, not that of `ordering"):
        opt.update(x, euler.init(x), x, value_fn=loss, i=0)


@pytest.mark.untyped
def test_a_run_goes_on_from_a_state_of_numpy_arrays():
    loss, params, _ = regression()
    opt, params = (
        ordering.backward(odeopt.euler(0.1), 3, example=SHAPE),
        jax.tree.map(jnp.asarray, params),
    )
    _, state = train(opt, loss, params, ORDER[:5])
    expected = opt.update(None, state, params, value_fn=loss, i=6)
    found = opt.update(None, jax.tree.map(np.asarray, state), params, value_fn=loss, i=6)
    chex.assert_trees_all_equal(found, expected)


@pytest.mark.parametrize("method", ["replay", "bracket"])
def test_an_update_outside_of_jit_compiles_nothing_that_the_last_window_did(method):
    loss, x = lambda x, i: 0.5 * jnp.sum((x - i) ** 2), jnp.ones(3)
    opt = ordering.backward(odeopt.euler(0.1), 3, example={"i": 0}, method=method)
    state, compiled = opt.init(x), []
    for i in range(6):
        if i == 3:
            count = lambda event, *_, **more: compiled.append(event)
            jax.monitoring.register_event_duration_secs_listener(count)
        updates, state = opt.update(None, state, x, value_fn=loss, i=i)
        x = optax.apply_updates(x, updates)
    jax.monitoring.unregister_event_duration_listener(count)
    assert not [event for event in compiled if "backend_compile" in event]


def test_the_summary_is_that_of_the_replay_and_the_wrapper_counts_all_gradients():
    loss, params, _ = regression()
    for window, gradients in ((1, 6), (3, 12)):
        opt = ordering.backward(odeopt.euler(0.25), window, example=SHAPE)
        _, state = train(opt, loss, params, ORDER[:6])
        found = odeopt.summary(state)
        assert (int(found["steps"]), int(found["rejected"])) == (6, 0)
        assert (float(found["step_size"]), float(found["time"])) == (0.25, 1.5)
        assert int(state.gradients) == gradients


@pytest.mark.parametrize("name", ["state", "start", "learning_rate", "self", "grads", "window"])
@pytest.mark.parametrize("window", [1, 2])
def test_a_loss_may_call_its_batch_what_it_likes(name, window):
    names: dict = {}
    exec(f"def loss(x, *, {name}): return (x - {name}) ** 2 / 2", names)
    opt = ordering.backward(odeopt.euler(0.5), window, example={name: 0.0})
    x, state = jnp.array(0.0), opt.init(jnp.array(0.0))
    for target in (8.0, 0.0):
        updates, state = opt.update(None, state, x, value_fn=names["loss"], **{name: target})
        x = x + updates
    assert float(x) == {1: 2.0, 2: 4.0}[window]
