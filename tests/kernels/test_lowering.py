"""Every kernel is lowered for each platform, without a device: what the program then calls."""

import re

import jax
import jax.numpy as jnp
import pytest

from .cases import LEAF, TILES, UPDATES, lowered

CALL = {"cuda": "__gpu$xla.gpu.triton", "rocm": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}
# arrays that an update writes into: their number
ALIASES = {"combination": 0, "combination_with_error": 0, "heavy_ball": 2, "nesterov": 2}
ALIASES |= dict.fromkeys(["adam", "nadam", "adamw", "exponential_adam"], 3) | {"rounding": 1}
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]


def program(name, shape, dtype, platform):
    k = [jax.ShapeDtypeStruct(shape, dtype)] * 4
    return lowered(lambda k: UPDATES[name](k, "pallas"), k, platform=platform)


@pytest.mark.parametrize("platform", CALL)
@pytest.mark.parametrize("name", UPDATES)
def test_the_program_is_one_kernel_that_writes_in_place(name, platform):
    for dtype in DTYPES:
        text = program(name, TILES, dtype, platform)
        none = name == "rounding" and dtype != jnp.bfloat16
        none |= platform == "tpu" and dtype == jnp.float16  # which that compiler refuses
        assert text.count(f"custom_call @{CALL[platform]}") == (0 if none else 1)
        aliases = re.findall(r"output_operand_alias<", text)
        assert len(aliases) == (0 if none else ALIASES[name])


def test_flat_leaves_take_the_reference_on_a_tpu_and_the_kernel_on_a_gpu():
    assert "custom_call" not in program("adam", LEAF, jnp.float32, "tpu")
    assert "custom_call" in program("adam", LEAF, jnp.float32, "cuda")


def test_float64_is_computed_in_float64_on_a_gpu_and_by_the_reference_on_a_tpu(x64):
    assert "custom_call" in program("adam", TILES, jnp.float64, "cuda")
    assert "custom_call" not in program("adam", TILES, jnp.float64, "tpu")
