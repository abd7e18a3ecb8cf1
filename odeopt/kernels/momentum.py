"""The step of heavy ball and Nesterov's momentum."""

from collections.abc import Sequence

from jaxtyping import Array, PyTree

from ..arrays import Scalar
from .fused import Number, Outputs, fused, rounded


def momentum_step(
    h: Scalar,
    grads: PyTree[Array],
    momentum: PyTree[Array],
    decay: Number,
    *,
    nesterov: bool = False,
) -> tuple[PyTree[Array], PyTree[Array]]:
    r"""$m^+ = g + \mu m$ and the update $-hm^+$, or $-h(g + \mu m^+)$ with `nesterov`.

    Every leaf in its own dtype, equal to optax; float16, and the Pallas form below 32 bits, in
    float32, rounded once. The Pallas form writes the update where the gradient was, and the
    momentum in its own place.

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
