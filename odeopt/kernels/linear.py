"""Updates that are linear in gradients: Runge-Kutta slopes combined, and steps with momentum."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import KNOWN
from .fused import Number, Outputs, fused, rounded


def combination(weights: Sequence[Number], slopes: Sequence[PyTree[Array]]) -> PyTree[Array]:
    r"""$\sum_i w_i k_i$, each leaf in its own dtype; weights that are zero cost nothing.

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


def momentum_step(
    h: Scalar,
    grads: PyTree[Array],
    momentum: PyTree[Array],
    decay: Number,
    *,
    nesterov: bool = False,
) -> tuple[PyTree[Array], PyTree[Array]]:
    r"""$m^+ = g + \mu m$ and the update $-hm^+$, or $-h(g + \mu m^+)$ with `nesterov`.

    Dtypes and memory as for `adam_step`: the Pallas form writes the update in place of the
    gradient, and the momentum in place.

    Args:
      h: the step size $h$.
      grads: $g$.
      momentum: $m$, a tree like $g$; its leaves may have dtypes of their own.
      decay: $\mu$.
      nesterov: look ahead.

    Returns:
      The update and the new momentum.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> g, m = jnp.array([1.0, 2.0]), jnp.array([10.0, 10.0])
      >>> odeopt.kernels.momentum_step(jnp.float32(0.5), g, m, 0.5)
      (Array([-3. , -3.5], dtype=float32), Array([6., 7.], dtype=float32))
    """
    update, momentum = (_nesterov if nesterov else _heavy_ball)((h, decay), grads, momentum)
    return update, momentum


@fused("momentum", outputs=2, as_optax=True)
def _heavy_ball(numbers: Sequence[Number], g: Array, m: Array) -> Outputs:
    h, decay = numbers
    m = g + decay * m
    return -rounded(h, m) * m, m


@fused("momentum", outputs=2, as_optax=True)
def _nesterov(numbers: Sequence[Number], g: Array, m: Array) -> Outputs:
    h, decay = numbers
    m = g + decay * m
    return -rounded(h, m) * (g + decay * m), m
