"""The monitor of a loop: what it says is true, and the loop does not notice it."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import odeopt

from .table import TABLE, VARIED

KEYS = jax.random.split(jax.random.key(0), 4)
BATCHES = [(x, jnp.sin(x[:, :1])) for x in jax.random.normal(KEYS[0], (3, 20, 3))]


def network(params, batch):
    x, y = batch
    return jnp.mean((jnp.tanh(x @ params["in"]) @ params["out"] - y) ** 2)


def start():
    return {"in": jax.random.normal(KEYS[1], (3, 4)), "out": jax.random.normal(KEYS[2], (4, 1))}


def train(opt, steps, watch=None, loss=network, params=None):
    """A loop of optax's; every state after a step."""
    opt = optax.with_extra_args_support(opt)
    params = start() if params is None else params
    state, path = opt.init(params), []

    @jax.jit
    def train_step(params, state, batch):
        grads = jax.grad(loss)(params, batch)
        updates, state = opt.update(grads, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    for step in range(steps):
        batch = BATCHES[step % len(BATCHES)]
        params, state = train_step(params, state, batch)
        if watch is not None:
            watch(params, state, batch)
        path.append((params, state, batch))
    return path


def dense(params, batch):
    flat, unravel = ravel_pytree(params)
    value = lambda v: network(unravel(v), batch)
    return jax.grad(value)(flat), jax.hessian(value)(flat)


@pytest.mark.slow
def test_sharpness_and_batch_sharpness_are_those_of_the_dense_hessian():
    watch = odeopt.monitor(optax.sgd(0.05), network, every=7)
    path = train(optax.sgd(0.05), 50, watch)
    assert [record["step"] for record in watch.history] == [1, 8, 15, 22, 29, 36, 43, 50]
    quotients = []
    for record in watch.history:
        params, _, batch = path[int(record["step"]) - 1]
        g, hessian = dense(params, batch)
        np.testing.assert_allclose(record["sharpness"], np.linalg.eigvalsh(hessian)[-1], rtol=0.02)
        quotients.append(g @ hessian @ g / (g @ g))
        np.testing.assert_allclose(record["batch_sharpness"], np.mean(quotients), rtol=1e-3)


def test_the_batch_sharpness_forgets_what_is_ten_records_old():
    loss = lambda x, curvature: 0.5 * curvature * jnp.sum(x**2)
    watch = odeopt.monitor(optax.sgd(0.1), loss, every=1)
    state = optax.sgd(0.1).init(jnp.ones(2))
    for curvature in range(1, 16):
        record = watch(jnp.ones(2), state, jnp.float32(curvature))
    np.testing.assert_allclose(record["batch_sharpness"], np.mean(range(6, 16)), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIED)
def test_training_does_not_notice_it(name):
    opt = TABLE[name][0](0.01)
    watch = odeopt.monitor(opt, network, every=2)
    alone, watched = train(opt, 3), train(opt, 3, watch)
    jax.tree.map(np.testing.assert_array_equal, alone[-1][:2], watched[-1][:2])
    for record in watch.history:
        assert all(type(value) is float and np.isfinite(value) for value in record.values())
        assert ("stability_ratio" in record) == (opt.stability_limit is not None)
    for name, value in odeopt.summary(watched[-1][1]).items():
        assert watch.history[-1][name] == float(value)


INSIDE = {
    "chain": lambda opt: optax.chain(optax.clip(1e3), opt),
    "inject": lambda opt: optax.inject_hyperparams(odeopt.euler)(0.01),
    "masked": lambda opt: optax.masked(opt, {"in": True, "out": False}),
    "MultiSteps": lambda opt: optax.MultiSteps(opt, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", INSIDE)
def test_an_optimizer_within_another_tells_its_summary(wrapper):
    opt = INSIDE[wrapper](odeopt.euler(0.01))
    watch = odeopt.monitor(opt, network, every=1)
    state = train(opt, 2, watch)[-1][1]
    record = watch.history[-1]
    assert {name: record[name] for name in odeopt.summary(state)} == odeopt.summary(state)
    assert record["step_size"] == np.float32(0.01)
    assert not {"drift", "stability_ratio"} & {*record}


@pytest.mark.slow
def test_several_optimizers_are_told_apart():
    opt = optax.partition(
        {"a": odeopt.euler(0.01), "b": odeopt.heavy_ball(0.02)}, {"in": "a", "out": "b"}
    )
    watch = odeopt.monitor(opt, network)
    train(opt, 1, watch)
    sizes = [value for name, value in watch.history[0].items() if name.startswith("step_size")]
    np.testing.assert_allclose(sorted(sizes), [0.01, 0.02])


@pytest.mark.slow
def test_of_another_optimizer_the_step_size_is_the_injected_rate():
    opt = optax.inject_hyperparams(optax.adam)(optax.linear_schedule(1.0, 0.0, 10))
    watch = odeopt.monitor(opt, network, every=1)
    train(opt, 3, watch)
    np.testing.assert_allclose([r["step_size"] for r in watch.history], [1.0, 0.9, 0.8], rtol=1e-6)


@pytest.mark.parametrize("name", ["euler", "rk4", "heavy_ball"])
def test_the_edge_of_stability_is_at_one(name):
    curvatures = jnp.array([1.0, 3.0])
    loss = lambda x: 0.5 * jnp.sum(curvatures * x**2)
    limit = odeopt.stability_limit(TABLE[name][0](1.0))
    for share in (0.9, 1.1):
        opt = TABLE[name][0](share * limit / 3.0)
        params, state, watch = jnp.ones(2), opt.init(jnp.ones(2)), odeopt.monitor(opt, loss)
        for _ in range(100):
            updates, state = opt.update(curvatures * params, state, params, value_fn=loss)
            params = optax.apply_updates(params, updates)
        record = watch(params, state)
        np.testing.assert_allclose(record["stability_ratio"], share, rtol=1e-5)
        assert (jnp.abs(params[1]) > 1) == (share > 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["euler", "heavy_ball", "adam"])
def test_the_drift_is_that_of_the_next_step(name):
    opt = TABLE[name][0](0.01)
    watch = odeopt.monitor(opt, network)
    params, state, batch = train(opt, 2)[-1]
    record = watch(params, state, batch)
    expected = odeopt.drift.step_drift(opt, state, params, value_fn=network, batch=batch)
    np.testing.assert_allclose(record["drift"], expected.size, rtol=1e-3)
    np.testing.assert_allclose(record["drift_cosine"], expected.cosine, rtol=1e-3)
    if name == "euler":
        along = odeopt.diagnostics.drift(network, params, 0.01, batch=batch)
        np.testing.assert_allclose(record["drift_cosine"], along.cosine, rtol=1e-2)
    without = odeopt.monitor(opt, network, drift_gradients=1)(params, state, batch)
    assert {*record} - {*without} == {"drift", "drift_cosine"}


@pytest.mark.slow
def test_models_of_equinox_and_flax():
    x, y = BATCHES[0]
    model = eqx.nn.MLP(3, 1, 4, 1, key=KEYS[3])
    by_model = lambda model, batch: jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)
    opt = odeopt.euler(0.1)
    for made in (eqx.is_array, eqx.is_inexact_array):
        state = opt.init(eqx.filter(model, made))
        equinox = odeopt.monitor(opt, by_model)(model, state, (x, y))
        assert equinox["sharpness"] >= equinox["batch_sharpness"] > 0
        assert equinox["drift"] > 0

    nnx = pytest.importorskip("flax.nnx")
    linear = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(linear, opt, wrt=nnx.Param)
    graph, params = nnx.split(linear)
    loss = lambda params, batch: jnp.mean((nnx.merge(graph, params)(batch[0]) - batch[1]) ** 2)
    flax = odeopt.monitor(opt, loss)(params, optimizer.opt_state, (x, y))
    extended = jnp.append(x, jnp.ones((len(x), 1)), axis=1)
    exact = np.linalg.eigvalsh(2 * extended.T @ extended / len(x))[-1]
    np.testing.assert_allclose(flax["sharpness"], exact, rtol=1e-4)
    assert flax["drift"] > 0


@pytest.mark.slow
@pytest.mark.whole
@pytest.mark.parametrize(
    "opt",
    [
        odeopt.adam(0.1),
        odeopt.heavy_ball(0.1),
        odeopt.linearly_implicit_euler(0.1, "hessian"),
        odeopt.untuned(10),
    ],
    ids=["adam", "heavy_ball", "linearly_implicit", "untuned"],
)
def test_variables_of_flax_are_measured_as_their_arrays(opt):
    nnx = pytest.importorskip("flax.nnx")
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, opt, wrt=nnx.Param)
    graph, variables = nnx.split(model)
    x, y = BATCHES[0]
    loss = lambda params: jnp.mean((nnx.merge(graph, params)(x) - y) ** 2)
    params = nnx.as_pure(variables)
    expected = odeopt.monitor(opt, loss)(params, opt.init(params))
    found = odeopt.monitor(opt, loss)(variables, optimizer.opt_state)
    assert found == pytest.approx(expected, rel=1e-5)


def test_of_a_line_search_the_step_size_is_the_step_that_it_chose():
    opt, params = optax.lbfgs(), jnp.ones(3)
    loss = lambda x: jnp.sum(jnp.array([1.0, 2.0, 30.0]) * x**2)
    grads, state = jax.grad(loss)(params), opt.init(params)
    _, state = opt.update(grads, state, params, value=loss(params), grad=grads, value_fn=loss)
    record = odeopt.monitor(opt, loss)(params, state)
    assert record["step_size"] == float(optax.tree.get(state, "learning_rate"))


def test_a_transformed_gradient_has_no_known_ratio():
    opt, params = odeopt.euler(0.1, stage_transform=optax.scale(100.0)), jnp.ones(3)
    record = odeopt.monitor(opt, lambda x: 0.5 * jnp.sum(x**2))(params, opt.init(params))
    assert "stability_ratio" not in record


def test_arguments_go_to_the_loss_as_they_are():
    loss = lambda x, scale, *, value_fn, mode: getattr(jnp, mode)(scale * value_fn * x**2)
    opt, params = optax.sgd(0.1), jnp.ones(4)
    record = odeopt.monitor(opt, loss)(params, opt.init(params), 2.0, value_fn=3.0, mode="sum")
    np.testing.assert_allclose(record["sharpness"], 12.0, rtol=1e-5)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_once_spoils_one_record():
    loss = lambda x, scale: 0.5 * scale * jnp.sum(x**2)
    opt, params = optax.sgd(0.1), jnp.ones(4)
    watch, state = odeopt.monitor(opt, loss, every=1), opt.init(params)
    found = [watch(params, state, scale) for scale in (1.0, jnp.nan, 2.0)]
    for name, values in [("sharpness", [1, np.nan, 2]), ("batch_sharpness", [1, np.nan, 1.5])]:
        np.testing.assert_allclose([record[name] for record in found], values, rtol=1e-5)


def test_a_batch_at_rest_counts_as_zero():
    loss, opt = lambda x, scale: 0.5 * scale * jnp.sum(x**2), odeopt.euler(0.1)
    watch, params = odeopt.monitor(opt, loss, every=1), jnp.zeros(4)
    found = [watch(x, opt.init(params), 2.0) for x in (params, params + 1)]
    np.testing.assert_allclose([one["batch_sharpness"] for one in found], [0, 1], rtol=1e-5)
    assert found[0]["sharpness"] == pytest.approx(2.0)


@pytest.mark.slow
def test_the_history_as_a_frame_and_as_a_figure(monkeypatch):
    opt = odeopt.euler(0.01)
    watch = odeopt.monitor(opt, network, every=2)
    with pytest.raises(ValueError, match="Nothing was recorded"):
        watch.plot()
    train(opt, 5, watch)
    frame = watch.to_frame()
    assert frame["step"].tolist() == [1, 3, 5]
    labels = {axes.get_ylabel().replace("\n", "_") for axes in watch.plot().axes}
    assert labels == {*frame.columns} - {"step", "steps", "accepted"}
    for module, method in [("pandas", watch.to_frame), ("matplotlib.figure", watch.plot)]:
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match="pip install"):
            method()


def test_what_is_wrong_is_said():
    opt, params = odeopt.euler(0.1), start()
    state = opt.init(params)
    watch = odeopt.monitor(opt, network)
    with pytest.raises(TypeError, match=r"missing a required argument: 'batch'.*watch\("):
        watch(params, state)
    with pytest.raises(ValueError, match=r"shape \(20, 1\).*must return a scalar"):
        odeopt.monitor(opt, lambda p, x: x @ p["in"] @ p["out"])(params, state, BATCHES[0][0])
    with pytest.raises(ValueError, match="not a state of the optimizer"):
        watch(params, optax.adam(0.1).init(params), BATCHES[0])
    with pytest.raises(TypeError, match="after the compiled train step"):
        jax.jit(lambda p: odeopt.monitor(opt, network)(p, state, BATCHES[0]))(params)
    between = odeopt.monitor(opt, network, every=3)
    between(params, state, BATCHES[0])
    for _ in range(3):  # between two records too
        with pytest.raises(TypeError, match="after the compiled train step"):
            jax.jit(lambda p: between(p, state, BATCHES[0]))(params)
    assert len(between.history) == 1
    with pytest.raises(TypeError, match=r"monitor\(opt, loss\) takes"):
        odeopt.monitor(network, opt)
    with pytest.raises(ValueError, match="every is 0"):
        odeopt.monitor(opt, network, every=0)
