"""A fused update of a leaf that is split over devices: each device updates its own part."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from .fused import Fused, Outputs

Run = Callable[..., Outputs]  # run(fused, numbers, *arrays)


def partitioned(fused: Fused, run: Run, numbers: Array, *arrays: Array) -> Outputs:
    """Call `run` without gathering leaves that are split over devices.

    XLA cannot partition a kernel. With explicit axes, where the sharding is part of the type, this
    maps `run` by `shard_map`; else it registers a rule for XLA's partitioner. The two do not
    combine: a leaf that is split along explicit axes of a mesh with others runs the reference.
    """
    sharding = jax.typeof(arrays[0]).sharding
    if {*sharding.mesh.axis_types} == {AxisType.Explicit}:
        part = functools.partial(_part, fused, run, arrays[0].shape, sharding.spec)
        ins, outs = _specs(fused, arrays, sharding.spec)
        mesh = sharding.mesh  # the context may have none
        mapped = jax.shard_map(part, mesh=mesh, in_specs=ins, out_specs=outs, check_vma=False)
        return mapped(numbers, *arrays)
    if any(sharding.spec):
        return fused.reference(numbers, *arrays)

    @custom_partitioning
    def cut(numbers: Array, *arrays: Array) -> Outputs:
        return run(fused, numbers, *arrays)

    def partition(mesh: Any, arguments: Any, results: Any) -> tuple[Any, ...]:
        spec = _even(arguments[1].sharding.spec, arguments[1].shape, mesh)
        part = functools.partial(_part, fused, run, arguments[1].shape, spec)
        ins, outs = (
            tuple(NamedSharding(mesh, s) for s in specs) for specs in _specs(fused, arrays, spec)
        )
        return mesh, part, outs, ins

    leaf = " ".join(f"d{i}" for i in range(arrays[0].ndim))
    given = ", ".join(["number", *[leaf] * len(arrays)])
    results = ", ".join([leaf] * fused.outputs)
    cut.def_partition(partition, sharding_rule=f"{given} -> {results}")
    return cut(numbers, *arrays)


def _part(
    fused: Fused, run: Run, shape: tuple[int, ...], spec: P, numbers: Array, *arrays: Array
) -> Outputs:
    """The update of one device's part of a leaf of this shape, on that device."""
    part = arrays[0].shape
    if fused.indexed and part != shape:
        axes = map(_names, _padded(spec, len(shape)))
        offsets = [
            jax.lax.axis_index(names) * size if names else 0
            for names, size in zip(axes, part, strict=True)
        ]
        numbers = jnp.concatenate([numbers, jnp.asarray(offsets, numbers.dtype)])
        formula = functools.partial(_relocated, fused.formula, part, shape)
        fused = dataclasses.replace(fused, formula=formula)
    return run(fused, numbers, *arrays)


def _relocated(
    formula: Callable[..., Sequence[Array]],
    part: tuple[int, ...],
    whole: tuple[int, ...],
    numbers: Sequence[Any],
    *arrays: Array,
) -> Sequence[Array]:
    """Apply an indexed formula to a part of a leaf, with the indices in the whole leaf."""
    *arrays, index = arrays  # type: ignore[assignment]
    offsets = numbers[-len(whole) :]
    flat = jnp.zeros_like(index)
    for axis in reversed(range(len(whole))):
        size = jnp.full_like(index, part[axis])
        place = jax.lax.rem(index, size) + offsets[axis]
        flat = flat + place * jnp.full_like(index, math.prod(whole[axis + 1 :]))
        index = jax.lax.div(index, size)
    return formula(numbers[: -len(whole)], *arrays, flat)


def _specs(fused: Fused, arrays: Sequence[Array], spec: P) -> tuple[tuple[P, ...], tuple[P, ...]]:
    return (P(), *[spec] * len(arrays)), (spec,) * fused.outputs


def _even(spec: P, shape: tuple[int, ...], mesh: Any) -> P:
    """The axes over which the leaf is cut into parts of equal size."""
    entries = [
        entry if size % math.prod(mesh.shape[name] for name in _names(entry)) == 0 else None
        for entry, size in zip(_padded(spec, len(shape)), shape, strict=True)
    ]
    return P(*entries)


def _padded(spec: P, ndim: int) -> list[Any]:
    return [*spec, *[None] * (ndim - len(spec))]


def _names(entry: Any) -> tuple[str, ...]:
    return tuple(jax.tree.leaves(entry))
