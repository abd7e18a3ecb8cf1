"""A fused update of a leaf that is split over devices: each updates its own part.

May use: `.fused`.
"""

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

from .fused import Fused, Outputs, Scalars

Run = Callable[..., Outputs]  # run(fused, scalars, *arrays)


def partitioned(fused: Fused, run: Run, scalars: Scalars, *arrays: Array) -> Outputs:
    """`run`, without gathering leaves that are split.

    A kernel is a call that XLA cannot cut. Where the sharding is part of the type (explicit axes)
    this is `shard_map` over it, else the partitioner is told how to cut.
    """
    sharding = jax.typeof(arrays[0]).sharding
    explicit = sharding.mesh.axis_types == (AxisType.Explicit,) * len(sharding.mesh.axis_types)
    if not sharding.mesh.empty and explicit:
        part = functools.partial(_part, fused, run, arrays[0].shape, sharding.mesh, sharding.spec)
        ins, outs = _specs(fused, arrays, sharding.spec)
        mapped = jax.shard_map(part, in_specs=ins, out_specs=outs, check_vma=False)
        return mapped(jnp.stack(scalars), *arrays)

    @custom_partitioning
    def cut(scalars: Array, *arrays: Array) -> Outputs:
        return run(fused, tuple(scalars), *arrays)

    def partition(mesh: Any, arguments: Any, results: Any) -> tuple[Any, ...]:
        spec = _even(arguments[1].sharding.spec, arguments[1].shape, mesh)
        part = functools.partial(_part, fused, run, arguments[1].shape, mesh, spec)
        ins, outs = jax.tree.map(
            lambda s: NamedSharding(mesh, s), _specs(fused, arrays, spec), is_leaf=_is_spec
        )
        return mesh, part, outs, ins

    leaf = " ".join(f"d{i}" for i in range(arrays[0].ndim))
    given = ", ".join(["number", *[leaf] * len(arrays)])
    results = ", ".join([*[leaf] * len(fused.dtypes), *[""] * fused.sums])
    cut.def_partition(partition, sharding_rule=f"{given} -> {results}")
    return cut(jnp.stack(scalars), *arrays)


def _part(
    fused: Fused,
    run: Run,
    shape: tuple[int, ...],
    mesh: Any,
    spec: P,
    scalars: Array,
    *arrays: Array,
) -> Outputs:
    """The update of one device's part of a leaf of this shape, on that device."""
    given, part = tuple(scalars), arrays[0].shape
    names = [_names(entry) for entry in _padded(spec, len(shape))]
    if fused.indexed and part != shape:
        offsets = [
            jax.lax.axis_index(axes) * size if axes else 0
            for axes, size in zip(names, part, strict=True)
        ]
        given += tuple(jnp.asarray(offset, scalars.dtype) for offset in offsets)
        static = fused.formula, fused.static, part, shape
        fused = dataclasses.replace(fused, formula=_relocated, static=static)
    results = run(fused, given, *arrays)
    count, axes = len(fused.dtypes), sum(names, ())
    sums = results[count:]
    return *results[:count], *(jax.lax.psum(sums, axes) if axes and sums else sums)


def _relocated(
    static: tuple[Any, ...], scalars: Scalars, arrays: Sequence[Array], index: Array
) -> tuple[Sequence[Array], Sequence[Array]]:
    """A formula that looks at the index, with that of the whole leaf instead of the part's."""
    formula, inner, part, whole = static
    given, offsets = scalars[: -len(whole)], scalars[-len(whole) :]
    flat = jnp.zeros_like(index)
    for axis in reversed(range(len(whole))):
        size = jnp.full_like(index, part[axis])
        place = jax.lax.rem(index, size) + offsets[axis].astype(index.dtype)
        flat = flat + place * jnp.full_like(index, math.prod(whole[axis + 1 :]))
        index = jax.lax.div(index, size)
    return formula(inner, given, arrays, flat)


def _specs(fused: Fused, arrays: Sequence[Array], spec: P) -> tuple[tuple[P, ...], tuple[P, ...]]:
    return (P(), *[spec] * len(arrays)), (*[spec] * len(fused.dtypes), *[P()] * fused.sums)


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
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def _is_spec(node: Any) -> bool:
    return isinstance(node, P)
