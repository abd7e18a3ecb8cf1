"""Every fused update: name -> function(four trees, kernel)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from odeopt import kernels
from odeopt.kernels import choice

H = jnp.float32(0.1)
NUMBERS = kernels.AdamNumbers(0.9, 0.999, 0.1, 0.001, 1e-8, 0.0)
LOOKING = NUMBERS._replace(ahead=(0.9, 0.19))


def _adam(arrays, numbers=NUMBERS, **decay):
    g, m, v, x = arrays
    # a size that bfloat16 holds exactly: XLA may leave out the rounding of a square
    v = jax.tree.map(jnp.abs, v)
    return kernels.adam_step(H, g, m, v, numbers, params=x if decay else None, **decay)


FORMULAS = {
    "combination": lambda k: kernels.combination([1 / 6, 1 / 3, 0.0, H], k),
    "heavy_ball": lambda k: kernels.momentum_step(H, k[0], k[1], 0.9),
    "nesterov": lambda k: kernels.momentum_step(H, k[0], k[1], 0.9, nesterov=True),
    "adam": _adam,
    "nadam": lambda k: _adam(k, LOOKING),
    "adamw": lambda k: _adam(k, decay=0.1),
    "exponential_adam": lambda k: _adam(k, decay=0.1, exact_decay=True),
    "rounding": lambda k: kernels.add_rounded(k[0], k[1], 3),
}


def _by(formula):
    def update(k, kernel):
        with choice.chosen(kernel):
            return formula(k)

    return update


UPDATES = {name: _by(formula) for name, formula in FORMULAS.items()}
# one of many slopes, a plain one, one of many arrays, one with an index: where a test is slow
FEW = ["combination", "nesterov", "adamw", "rounding"]
# Pallas' interpreters: that of the GPU form came with jax 0.12, as did all that the form needs.
COMPLETE = hasattr(mosaic_gpu, "InterpretGPUParams")
FORMS = ["interpret", "interpret_tpu"] if COMPLETE else ["interpret_tpu"]
LEAF, TILES = (1025,), (33, 130)
SIZES = [(0,), (), (1,), (7,), (1000,), (1024,), LEAF, (5000,), (3, 300), TILES]


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
