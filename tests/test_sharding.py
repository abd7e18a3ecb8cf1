"""The state shards as the parameters do, and nothing is gathered; on eight host devices."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from .table import EXPLICIT, KINDS, STAGED, TABLE

COLLECTIVES = ("all-gather", "all-to-all", "collective-permute")


def problem():
    x = jax.random.normal(jax.random.key(0), (16, 8))
    params = {
        "w1": jax.random.normal(jax.random.key(1), (8, 16)) / 3,
        "w2": jax.random.normal(jax.random.key(2), (16, 8)) / 4,
    }
    return params, x


def loss(params, batch):
    return jnp.mean((jnp.tanh(batch @ params["w1"]) @ params["w2"] - batch) ** 2)


def train(opt, params, batch, n):
    state = opt.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, batch)
        updates, state = opt.update(grads, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    shardings = []
    for _ in range(n):
        params, state = step(params, state)
        shardings.append(jax.tree.map(lambda x: x.sharding, (params, state)))
    return params, state, shardings


@pytest.mark.parametrize(
    ("name", "staged"), [(n, s) for n in KINDS for s in (False, True) if n in STAGED or not s]
)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_data_parallel_with_sharded_state(name, staged, axis_type):
    factory, stages, _ = TABLE[name]
    opt = factory(0.1, staged=True) if staged else factory(0.1)
    params, x = problem()
    calls = 2 * stages if staged else 2
    expected, _, _ = train(opt, params, x, calls)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, P("data", None)))
        replicated = jax.device_put(params, NamedSharding(mesh, P()))
        got, _, shardings = train(opt, replicated, sharded, calls)
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(expected), atol=1e-5)
    assert all(s == shardings[0] for s in shardings[1:])


VARIANTS = [
    *((name, {"stage_transform": optax.scale_by_rms()}) for name in ("euler", "rk4", "tsit5")),
    ("rk4", {"stage_transform": optax.scale_by_rms(), "scan_stages": True}),
    *((name, {}) for name in KINDS if name not in EXPLICIT),
]


@pytest.mark.parametrize(("name", "kwargs"), VARIANTS)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_the_update_of_sharded_parameters_gathers_nothing(name, kwargs, axis_type):
    """FSDP-like: every leaf is split; the field is local, so a collective would be the update's."""
    factory, _, _ = TABLE[name]
    mesh = jax.make_mesh((8,), ("model",), axis_types=(axis_type,))
    opt = factory(0.1, **kwargs)
    with jax.set_mesh(mesh):
        sharding = {
            "a": NamedSharding(mesh, P("model", None)),
            "b": NamedSharding(mesh, P("model")),
        }
        params = {"a": jnp.ones((16, 4)), "b": jnp.arange(8.0)}
        params = jax.tree.map(jax.device_put, params, sharding)
        state = opt.init(params)
        # what has the parameters' size, in flow or transformation, is split as they are
        shapes = {leaf.shape: leaf.sharding for leaf in jax.tree.leaves(params)}
        for leaf in jax.tree.leaves((state.aux, state.transform)):
            if leaf.shape in shapes:
                assert leaf.sharding.is_equivalent_to(shapes[leaf.shape], leaf.ndim)

        @jax.jit
        def step(params, state):
            gradient = lambda p, stage: jax.tree.map(jnp.sinh, p)
            return opt.update(gradient(params, 0), state, params, grad_fn=gradient)

        text = step.lower(params, state).compile().as_text()
        assert not [c for c in COLLECTIVES if c in text]
        updates, after = step(params, state)
        for leaf, like in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
            assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


def test_staged_state_is_split_as_the_parameters():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))
    params = jax.device_put(jnp.ones((16, 4)), NamedSharding(mesh, P("model", None)))
    state = EXPLICIT["rk4"][0](0.1, staged=True).init(params)
    copies = [x for x in jax.tree.leaves(state) if x.shape == params.shape]
    assert len(copies) == 4  # the start of the step and three slopes
    assert all(x.sharding == params.sharding for x in copies)
