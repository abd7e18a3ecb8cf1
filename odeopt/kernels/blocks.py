"""A fused update as a Pallas kernel, block by block."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from .fused import Fused, Outputs

GPU_BLOCK = 1024  # 8 elements for each thread of a warpgroup
TPU_BLOCK = (256, 512)  # rows, columns: 0.5 MiB of float32 for each operand
_LANES = 128
_VECTOR = 16  # bytes that a thread of a GPU reads at once
# Before jax 0.12 Mosaic GPU has no square root, no interpreter, and no kernel writes in place.
_COMPLETE = jax.__version_info__ >= (0, 12)
_gpu: Any = plgpu  # its names and arguments differ between versions of jax


def on_gpu(fused: Fused, numbers: Array, *arrays: Array, interpret: bool = False) -> Outputs:
    """Run by Mosaic GPU, in flat blocks of one warpgroup; XLA computes the tail."""
    shape, size = arrays[0].shape, arrays[0].size
    blocks, tail = size // GPU_BLOCK, size % GPU_BLOCK
    flat = [a.reshape(-1) for a in arrays]
    width = max(a.dtype.itemsize for a in arrays)
    layout = plgpu.Layout.WG_STRIDED((GPU_BLOCK,), vec_size=_VECTOR // width)
    in_place = fused.in_place and _COMPLETE

    def load(ref: Any, place: Any) -> Array:
        at = (ref.at[place],) if _COMPLETE else (ref, place)
        return _gpu.load(*at, layout=layout, optimized=False)

    def body(given: Any, *refs: Any) -> None:
        start = jax.lax.axis_index("block") * GPU_BLOCK
        place = pl.ds(start, GPU_BLOCK)
        index = None
        if fused.indexed:
            inner = plgpu.broadcasted_iota(jnp.int32, (GPU_BLOCK,), 0, layout=layout)
            index = (inner + start).astype(jnp.uint32)
        values = [load(ref, place) for ref in refs[: len(flat)]]
        outputs = fused.on([given[i] for i in range(numbers.size)], values, index)
        into = refs if in_place else refs[len(flat) :]
        for ref, value in zip(into, outputs, strict=False):
            ref[place] = value

    body.__name__ = f"odeopt_{fused.name}"
    new = [jax.ShapeDtypeStruct((size,), a.dtype) for a in flat[: fused.outputs]]
    kernel = plgpu.kernel(
        body,
        out_type=[] if in_place else new,
        grid=(blocks,),
        grid_names=("block",),
        **({"interpret": _gpu.InterpretGPUParams()} if interpret else {}),
    )
    if in_place:
        results = pl.run_state(lambda refs: kernel(numbers, *refs))(flat)[: fused.outputs]
    else:
        results = kernel(numbers, *flat)
    if tail:
        ends = [a[-tail:] for a in flat]
        index = jnp.arange(size - tail, size, dtype=jnp.uint32) if fused.indexed else None
        last = fused.on(numbers, ends, index)
        results = [r.at[-tail:].set(end) for r, end in zip(results, last, strict=True)]
    return tuple(r.reshape(shape) for r in results)


def on_tpu(fused: Fused, numbers: Array, *arrays: Array, interpret: bool = False) -> Outputs:
    """Run by Mosaic, in tiles of a matrix: the leaf's last dimension, and all others merged."""
    shape = arrays[0].shape
    rows, columns = math.prod(shape[:-1]), shape[-1]
    block = tuple(min(b, n) for b, n in zip(TPU_BLOCK, (rows, columns), strict=True))
    grid = (pl.cdiv(rows, block[0]), pl.cdiv(columns, block[1]))

    def body(given: Any, *refs: Any) -> None:
        index = None
        if fused.indexed:
            row, column = (
                pl.program_id(axis) * block[axis] + jax.lax.broadcasted_iota(jnp.int32, block, axis)
                for axis in (0, 1)
            )
            index = (row * columns + column).astype(jnp.uint32)
        values = [ref[...] for ref in refs[: len(arrays)]]
        outputs = fused.on([given[i] for i in range(numbers.size)], values, index)
        for ref, value in zip(refs[len(arrays) :], outputs, strict=True):
            ref[...] = value

    tile = pl.BlockSpec(block, lambda i, j: (i, j))
    results = pl.pallas_call(
        body,
        grid=grid,
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM), *[tile] * len(arrays)],
        out_specs=[tile] * fused.outputs,
        out_shape=[jax.ShapeDtypeStruct((rows, columns), a.dtype) for a in arrays[: fused.outputs]],
        # operand 0 holds the numbers
        input_output_aliases={i + 1: i for i in range(fused.outputs * fused.in_place)},
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        interpret=interpret,
        name=f"odeopt_{fused.name}",
    )(numbers, *(a.reshape(rows, columns) for a in arrays))
    return tuple(r.reshape(shape) for r in results)


def suits_gpu(fused: Fused, arrays: Sequence[Array]) -> bool:
    """Whether a leaf fills a block, and this version of jax supports the formula."""
    return arrays[0].size >= GPU_BLOCK and (_COMPLETE or not fused.roots)


def suits_tpu(arrays: Sequence[Array]) -> bool:
    """Whether a leaf fits the tiles of a TPU; a flat leaf would be padded, at a cost."""
    native = all(a.dtype in (jnp.float32, jnp.bfloat16) for a in arrays)
    return native and arrays[0].ndim > 1 and arrays[0].shape[-1] >= _LANES
