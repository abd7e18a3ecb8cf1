"""Every kernel is lowered for each platform, without a device: what the program then calls."""

import re

import jax
import jax.numpy as jnp
import pytest

from .cases import COMPLETE, FORMULAS, LEAF, TILES, UPDATES, lowered

CALL = {"cuda": "mosaic_gpu", "rocm": None, "tpu": "tpu_custom_call"}
ROOTS = {"adam", "nadam", "adamw", "exponential_adam"}
# arrays that an update writes into: their number
ALIASES = {"combination": 0, "heavy_ball": 2, "nesterov": 2, "rounding": 1} | dict.fromkeys(
    ROOTS, 3
)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


def program(name, shape, dtype, platform):
    k = [jax.ShapeDtypeStruct(shape, dtype)] * 4
    return lowered(lambda k: UPDATES[name](k, "pallas"), k, platform=platform)


def has_kernel(name, dtype, platform):
    if name == "rounding" and dtype != jnp.bfloat16:
        return False
    if platform == "tpu":  # whose compiler refuses float16
        return dtype != jnp.float16
    # Mosaic GPU is for NVIDIA; before jax 0.12 it has no square root
    return platform == "cuda" and (COMPLETE or name not in ROOTS)


@pytest.mark.parametrize("platform", CALL)
@pytest.mark.parametrize("name", FORMULAS)
def test_the_program_is_one_kernel_that_writes_in_place(name, platform):
    for dtype in DTYPES:
        text = program(name, TILES, dtype, platform)
        one = has_kernel(name, dtype, platform)
        assert len(re.findall(rf"custom_call @{CALL[platform]}", text)) == one
        in_place = one and (COMPLETE or platform == "tpu")
        assert len(re.findall(r"output_operand_alias<", text)) == (ALIASES[name] * in_place)


def test_flat_leaves_take_the_reference_on_a_tpu_and_the_kernel_on_a_gpu():
    assert "custom_call" not in program("nesterov", LEAF, jnp.float32, "tpu")
    assert "custom_call" in program("nesterov", LEAF, jnp.float32, "cuda")


def test_a_leaf_that_does_not_fill_a_block_takes_the_reference():
    assert "custom_call" not in program("nesterov", (1000,), jnp.float32, "cuda")


def test_float64_is_computed_in_float64_on_a_gpu_and_by_the_reference_on_a_tpu(x64):
    assert "custom_call" in program("nesterov", TILES, jnp.float64, "cuda")
    assert "custom_call" not in program("nesterov", TILES, jnp.float64, "tpu")
