r"""Adding an update to low-precision parameters, rounded at random.

The random numbers are a hash of the element's flat index, the leaf's number, the step and the
seed, in integer arithmetic only: the same bits on every backend, under any sharding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer, PyTree

from ..arrays import hashed
from .fused import Outputs, fused

_EXPONENT = 0x7F800000  # the exponent bits of a float32


def add_rounded(
    params: PyTree[Array],
    updates: PyTree[Array],
    step: int | Int[Array, ""],
    seed: int | Integer[Array, ""] = 0,
) -> PyTree[Array]:
    r"""`params + updates`, with bfloat16 leaves rounded up or down at random, without bias.

    The sum is computed in float32; 16 random bits are added to its bits, and the low 16 bits
    dropped. A sum at the fraction $p$ between two neighbours in bfloat16 becomes the upper one with
    probability $p$ (to $2^{-16}$). Other dtypes are added and rounded as usual. Derivatives are
    those of the sum. The Pallas form writes the sum in place of the parameters.

    Args:
      params: the parameters.
      updates: a tree like the parameters; best in float32.
      step: the number of the step; each step rounds with other random numbers.
      seed: an integer from 0 to 2^32 - 1; other seeds give other random numbers.

    Raises:
      TypeError: a `step` that is not a whole number.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> ones = jnp.ones(10_000, jnp.bfloat16)
      >>> update = jnp.full(10_000, 1 / 1024)  # an eighth of the distance to the next number
      >>> rounded = odeopt.kernels.add_rounded(ones, update, step=0)
      >>> sorted(set(rounded.tolist()))
      [1.0, 1.0078125]
      >>> abs(float(jnp.mean(rounded.astype(jnp.float32))) - 1 - 1 / 1024) < 1e-4
      True
    """
    if not jnp.issubdtype(jnp.result_type(step), jnp.integer):
        raise TypeError(f"step is {step!r:.60}; it must be a whole number, such as `state.steps`.")

    def leaf(number: int, p: Array, u: Array) -> Array:
        if p.dtype != jnp.bfloat16:
            return jnp.asarray(p + u).astype(p.dtype)
        word = hashed(jnp.uint32(seed) ^ hashed(jnp.uint32(step) ^ hashed(jnp.uint32(number))))
        return _add((word, hashed(word + jnp.uint32(1))), p, u)[0]

    leaves, structure = jax.tree.flatten(params)
    numbers = jax.tree.unflatten(structure, range(len(leaves)))
    return jax.tree.map(leaf, numbers, params, updates)


@fused("rounding", indexed=True)
def _add(words: Sequence[Any], p: Array, u: Array, index: Array) -> Outputs:
    """The sum, rounded at random to 16 bits, in float32; the derivatives are those of the sum."""
    total = p.astype(jnp.float32) + u.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(total, jnp.uint32)
    drawn = ((bits + _noise(index, *words)) >> 16) << 16
    high, same = (jax.lax.bitcast_convert_type(b, jnp.float32) for b in (drawn, bits))
    # Bits have no derivatives: `total - same` is 0 and has those of `total`.
    finite = (bits & _EXPONENT) != _EXPONENT  # infinity plus a bit is not a number
    return (jnp.where(finite, high + (total - same), total),)


def _noise(index: Array, first: Array, second: Array) -> Array:
    """16 random bits for every index: in each run of 2^16 indices every value occurs once.

    So the errors of a long leaf cancel better than independent ones would.
    """
    key = hashed((index >> 16) ^ first) + second
    return _shuffle(_shuffle((index ^ key) & 0xFFFF) + (key >> 16) & 0xFFFF)


def _shuffle(x: Array) -> Array:
    """A bijection of 16-bit words."""
    for shift, factor in ((8, 0x88B5), (7, 0xDB2D)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFF
    return x ^ (x >> 9)
