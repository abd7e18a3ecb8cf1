"""The combination of Runge-Kutta slopes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..checks import KNOWN
from .fused import Number, Outputs, fused


def combination(weights: Sequence[Number], slopes: Sequence[PyTree[Array]]) -> PyTree[Array]:
    r"""$\sum_i w_i k_i$, every leaf in its own dtype; weights that are zero cost nothing.

    Leaves below 32 bits are summed in float32 and rounded once.

    Args:
      weights: $w_i$, floats or scalar arrays.
      slopes: the increments $k_i$, trees of one structure, at least one.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> odeopt.kernels.combination([0.5, 0.0, 0.25], [jnp.ones(2), jnp.ones(2), jnp.arange(2.0)])
      Array([0.5 , 0.75], dtype=float32)
    """
    pairs = zip(weights, slopes, strict=True)
    terms = [(w, k) for w, k in pairs if not (isinstance(w, KNOWN) and w == 0)]
    if not terms:
        return jax.tree.map(jnp.zeros_like, slopes[0])
    weights, slopes = zip(*terms, strict=True)
    return _combined(weights, *slopes)[0]


@fused("combination", in_place=False)
def _combined(weights: Sequence[Number], *slopes: Array) -> Outputs:
    total = weights[0] * slopes[0]
    for w, k in zip(weights[1:], slopes[1:], strict=True):
        total = total + w * k
    return (total,)
