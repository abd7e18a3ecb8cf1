"""A fused update as a Pallas kernel, block by block. May use: `.fused`."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array

from .fused import Fused, Outputs, Scalars

GPU_BLOCK = 1024
TPU_BLOCK = (256, 512)  # rows, columns: 0.5 MiB of float32 for each operand
_LANES, _SUBLANES = 128, 8


def on_gpu(fused: Fused, scalars: Scalars, *arrays: Array, interpret: bool = False) -> Outputs:
    """By Triton, in flat blocks; the tail of the last one is masked."""
    shape, size = arrays[0].shape, arrays[0].size
    blocks = pl.cdiv(size, GPU_BLOCK)

    def body(*refs: Any) -> None:
        given, ins, outs = refs[0], refs[1 : 1 + len(arrays)], refs[1 + len(arrays) :]
        index = pl.program_id(0) * GPU_BLOCK + jnp.arange(GPU_BLOCK, dtype=jnp.int32)
        inside = index < size
        values = [plgpu.load(ref, mask=inside, other=0) for ref in ins]
        outputs, summands = fused(
            [given[i] for i in range(len(scalars))], values, index.astype(jnp.uint32)
        )
        for ref, value in zip(outs, outputs, strict=False):
            plgpu.store(ref, value, mask=inside)
        for ref, value in zip(outs[len(outputs) :], summands, strict=True):
            ref[0] = jnp.sum(jnp.where(inside, value, 0))

    block = pl.BlockSpec((GPU_BLOCK,), lambda i: (i,))
    results = pl.pallas_call(
        body,
        grid=(blocks,),
        in_specs=[pl.BlockSpec((len(scalars),), lambda i: (0,)), *[block] * len(arrays)],
        out_specs=[
            *[block] * len(fused.dtypes),
            *[pl.BlockSpec((1,), lambda i: (i,))] * fused.sums,
        ],
        out_shape=[
            *[jax.ShapeDtypeStruct((size,), d) for d in fused.dtypes],
            *[jax.ShapeDtypeStruct((blocks,), scalars[0].dtype)] * fused.sums,
        ],
        input_output_aliases=_aliases(fused, arrays),
        compiler_params=plgpu.CompilerParams(num_warps=4),
        interpret=interpret,
        name=f"odeopt_{fused.name}",
    )(jnp.stack(scalars), *(a.reshape(-1) for a in arrays))
    return _gathered(fused, results, shape)


def on_tpu(fused: Fused, scalars: Scalars, *arrays: Array, interpret: bool = False) -> Outputs:
    """By Mosaic, in tiles of the leaf's last dimension and all others together."""
    shape = arrays[0].shape
    rows, columns = math.prod(shape[:-1]), shape[-1]
    block = tuple(min(b, n) for b, n in zip(TPU_BLOCK, (rows, columns), strict=True))
    grid = (pl.cdiv(rows, block[0]), pl.cdiv(columns, block[1]))

    def body(*refs: Any) -> None:
        given, ins, outs = refs[0], refs[1 : 1 + len(arrays)], refs[1 + len(arrays) :]
        row, column = (
            pl.program_id(axis) * block[axis] + jax.lax.broadcasted_iota(jnp.int32, block, axis)
            for axis in (0, 1)
        )
        index = (row * columns + column).astype(jnp.uint32) if fused.indexed else None
        outputs, summands = fused(
            [given[i] for i in range(len(scalars))], [ref[...] for ref in ins], index
        )
        for ref, value in zip(outs, outputs, strict=False):
            ref[...] = value
        inside = (row < rows) & (column < columns)
        for ref, value in zip(outs[len(outputs) :], summands, strict=True):
            ref[...] = jnp.full(ref.shape, jnp.sum(jnp.where(inside, value, 0)))

    tile = pl.BlockSpec(block, lambda i, j: (i, j))
    partial = pl.BlockSpec((_SUBLANES, _LANES), lambda i, j: (i, j))
    partials = (grid[0] * _SUBLANES, grid[1] * _LANES)
    results = pl.pallas_call(
        body,
        grid=grid,
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *[tile] * len(arrays)],
        out_specs=[*[tile] * len(fused.dtypes), *[partial] * fused.sums],
        out_shape=[
            *[jax.ShapeDtypeStruct((rows, columns), d) for d in fused.dtypes],
            *[jax.ShapeDtypeStruct(partials, scalars[0].dtype)] * fused.sums,
        ],
        input_output_aliases=_aliases(fused, arrays),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name=f"odeopt_{fused.name}",
    )(jnp.stack(scalars), *(a.reshape(rows, columns) for a in arrays))
    outputs = results[: len(fused.dtypes)]
    one_each = [r[::_SUBLANES, ::_LANES] for r in results[len(fused.dtypes) :]]
    return _gathered(fused, [*outputs, *one_each], shape)


def suits_tpu(arrays: Sequence[Array]) -> bool:
    """Whether a leaf lies in the tiles of a TPU; flat ones would be padded, at a cost."""
    native = all(a.dtype in (jnp.float32, jnp.bfloat16) for a in arrays)
    return native and arrays[0].ndim > 1 and arrays[0].shape[-1] >= _LANES


def _aliases(fused: Fused, arrays: Sequence[Array]) -> dict[int, int]:
    # counted with the scalars in front
    return {i + 1: o for i, o in fused.aliases if arrays[i].dtype == fused.dtypes[o]}


def _gathered(fused: Fused, results: Sequence[Array], shape: tuple[int, ...]) -> Outputs:
    count = len(fused.dtypes)
    return *(r.reshape(shape) for r in results[:count]), *(jnp.sum(r) for r in results[count:])
