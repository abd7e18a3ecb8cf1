"""Kernels on eight host devices, in the interpreter: each device updates its own part."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import odeopt
from benchmarks.programs import collectives

from .cases import UPDATES, arrays

AXES = [AxisType.Auto, AxisType.Explicit]


# One interpreter: that of the GPU form is a chain of callbacks, which JAX cannot partition. What
# cuts leaves is the same for both forms.
FORM = "interpret_tpu"
NAMES = ["combination", "adamw", "rounding"]


def check(compiled):
    assert not collectives(compiled)


@functools.cache
def expected(name):
    k = arrays((16, 1024), jnp.bfloat16 if name == "rounding" else jnp.float32)
    return k, jax.jit(lambda k: UPDATES[name](k, "jnp"))(k)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis_type", AXES)
def test_a_split_leaf_is_updated_part_by_part(name, axis_type):
    k, whole = expected(name)
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(axis_type,) * 2)
    for spec in (P("a", "b"), P(None, ("b", "a"))):
        with jax.set_mesh(mesh):
            split = jax.device_put(k, NamedSharding(mesh, spec))
            compiled = jax.jit(lambda k: UPDATES[name](k, FORM)).lower(split).compile()
            got = compiled(split)
        check(compiled)
        for leaf in jax.tree.leaves(got):
            assert leaf.sharding.is_equivalent_to(split[0].sharding, leaf.ndim)
        if name == "rounding":  # also the random numbers are those of the whole leaf
            assert jnp.array_equal(jax.device_get(got), whole)
        else:
            chex.assert_trees_all_close(jax.device_get(got), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", AXES)
def test_explicit_axes_need_no_context_and_may_be_among_others(name, first):
    k, whole = expected(name)
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(first, AxisType.Explicit))
    for spec in (P("a"), P(None, "b"), P("a", "b")):
        split = jax.device_put(k, NamedSharding(mesh, spec))
        got = jax.jit(lambda k: UPDATES[name](k, FORM))(split)
        chex.assert_trees_all_close(jax.device_get(got), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis_type", AXES)
def test_an_optimizer_gathers_nothing(axis_type):
    mesh = jax.make_mesh((8,), ("model",), axis_types=(axis_type,))
    opt = odeopt.kernels.using(FORM, odeopt.adamw(0.1, weight_decay=0.1))
    with jax.set_mesh(mesh):
        params = {
            "w": jax.device_put(jnp.ones((16, 256)), NamedSharding(mesh, P("model", None))),
            "b": jax.device_put(jnp.arange(8.0), NamedSharding(mesh, P("model"))),
        }
        state = opt.init(params)
        grads = jax.tree.map(jnp.sin, params)
        step = jax.jit(opt.update)
        check(step.lower(grads, state, params).compile())
        updates, after = step(grads, state, params)
    for leaf, like in zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True):
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


@pytest.mark.parametrize("name", ["combination", "heavy_ball"])
def test_kernels_inside_shard_map(name):
    k, whole = expected(name)
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        lambda *k: UPDATES[name](k, FORM),
        mesh=mesh,
        in_specs=P("a"),
        out_specs=P("a"),
        check_vma=False,
    )
    compiled = jax.jit(mapped).lower(*jax.device_put(k, NamedSharding(mesh, P("a")))).compile()
    check(compiled)
    chex.assert_trees_all_close(mapped(*k), whole, rtol=1e-5, atol=1e-6)


def test_a_leaf_that_cannot_be_cut_evenly_is_updated_whole():
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    k = arrays((8, 300), jnp.float32)

    @jax.jit
    def step(k):
        k = [jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(None, "a"))) for x in k]
        return UPDATES["adamw"](k, FORM)

    got = step(jax.device_put(k, NamedSharding(mesh, P("a"))))
    chex.assert_trees_all_close(got, UPDATES["adamw"](k, "jnp"), rtol=1e-5, atol=1e-6)
