"""A type for signatures, the dtypes of computations, and elementwise functions."""

import functools
from collections.abc import Iterable
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Scalar: TypeAlias = Float[Array, ""]
"""A real number as an array, such as a step size or a loss."""


@functools.cache
def real_dtype(dtype: Any) -> Any:
    """The dtype of the real part."""
    return jnp.finfo(dtype).dtype


@functools.cache
def wide_dtype(dtype: Any) -> Any:
    """`dtype`, or float32 if it has fewer than 32 bits."""
    return jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else jnp.dtype(dtype)


def widest(leaves: Iterable[Array]) -> np.dtype:
    """The widest dtype of the real parts, at least float32; works under strict promotion too."""
    reals = (real_dtype(leaf.dtype) for leaf in leaves)
    return functools.reduce(np.promote_types, reals, np.dtype(np.float32))


def ratio(above: Array, below: Array) -> Array:
    """`above / below`; 0 where `below` is not positive, NaN where it is NaN."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1.0), 0.0 * below)


def root(square: Array) -> Array:
    """The square root, with derivative 0 (not infinity) where it is 0."""
    rests = square == 0
    return jnp.where(rests, 0.0, jnp.sqrt(jnp.where(rests, 1.0, square)))


def hashed(x: Array) -> Array:
    """A bijection of 32-bit words whose every output bit depends on every input bit."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * jnp.full_like(x, factor)  # a weak int32 cannot hold each factor
    return x ^ (x >> 16)
