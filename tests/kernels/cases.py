"""Every fused update: name -> function(four trees, kernel)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from odeopt import kernels

H = jnp.float32(0.1)
NUMBERS = kernels.AdamNumbers(0.9, 0.999, 1 / 0.1, 0.0, 1 / 0.001, 1e-8, 0.0)
LOOKING = NUMBERS._replace(look=0.5)


def _adam(step, arrays, kernel, numbers=NUMBERS, **decay):
    g, m, v, _ = arrays
    # a size that bfloat16 holds exactly: XLA may leave out the rounding of a square
    return step(H, g, m, jax.tree.map(jnp.abs, v), numbers, kernel=kernel, **decay)


UPDATES = {
    "combination": lambda k, kernel: kernels.combination(
        H, [1 / 6, 1 / 3, 0.0, 1 / 6], k, kernel=kernel
    ),
    "combination_with_error": lambda k, kernel: kernels.combination_with_error(
        H, [0.5, 0.5, 0.0], [0.5, -0.25, -0.25], k[1:], k[0], rtol=1e-2, atol=1e-3, kernel=kernel
    ),
    "heavy_ball": lambda k, kernel: kernels.momentum_step(H, k[0], k[1], 0.9, kernel=kernel),
    "nesterov": lambda k, kernel: kernels.momentum_step(
        H, k[0], k[1], 0.9, nesterov=True, kernel=kernel
    ),
    "adam": lambda k, kernel: _adam(kernels.adam_step, k, kernel),
    "nadam": lambda k, kernel: _adam(kernels.adam_step, k, kernel, LOOKING),
    "adamw": lambda k, kernel: _adam(kernels.adam_step, k, kernel, params=k[3], decay=0.1),
    "exponential_adam": lambda k, kernel: _adam(
        kernels.exponential_adam_step, k, kernel, params=k[3], decay=0.1
    ),
    "rounding": lambda k, kernel: kernels.add_rounded(k[0], k[1], 3, kernel=kernel),
}
# one with a sum, a plain one, one of many arrays, one with an index: used where a test is slow
FEW = ["combination_with_error", "nesterov", "adamw", "rounding"]
LEAF, TILES = (1025,), (33, 130)
SIZES = [(0,), (), (1,), (7,), (1000,), LEAF, (5000,), (3, 300), TILES]


def arrays(shape, dtype, count=4):
    keys = jax.random.split(jax.random.key(0), count)
    return [jax.random.normal(key, shape).astype(dtype) for key in keys]


def trees(shapes, dtype):
    """Four trees with a leaf of each shape."""
    leaves = [arrays(shape, dtype) for shape in shapes]
    return [{str(x.shape): x for x in column} for column in zip(*leaves, strict=True)]


KINDS = {"cuda": "NVIDIA H100 80GB HBM3", "rocm": "gfx942", "tpu": "TPU v5 lite"}


def lowered(function, *arguments, platform):
    """Text of the program of `function` for one device of a kind that is not here."""
    here = jax.make_mesh((1,), ("x",), axis_types=(AxisType.Explicit,)).abstract_mesh
    mesh = here.update(
        abstract_device=dataclasses.replace(
            here.abstract_device,
            device_kind=KINDS[platform],
            platform="tpu" if platform == "tpu" else "gpu",
        )
    )
    whole = NamedSharding(mesh, P())
    struct = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(function).trace(*jax.tree.map(struct, arguments))
        return traced.lower(lowering_platforms=(platform,)).as_text()
