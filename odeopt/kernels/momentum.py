"""The step of heavy ball and Nesterov's momentum. May use: `.fused`, `.choice`."""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float, PyTree

from .choice import where
from .fused import Fused, apply, real_scalars, unzip

NAME = "momentum"


def momentum_step(
    h: Float[Array, ""],
    grads: PyTree[Array],
    momentum: PyTree[Array],
    kept: float | Float[Array, ""],
    *,
    nesterov: bool = False,
    kernel: str = "auto",
) -> tuple[PyTree[Array], PyTree[Array]]:
    r"""$m^+ = g + \mu m$ and the update $-hm^+$, or $-h(g + \mu m^+)$ with `nesterov`.

    In at least float32, rounded once; every leaf in its own dtype.

    Args:
      h: the step size $h$.
      grads: $g$.
      momentum: $m$, a tree like $g$; its leaves may have dtypes of their own.
      kept: $\mu$.
      nesterov: look ahead.
      kernel: `"auto"`, `"jnp"` or `"pallas"`, see `kernels.Kernel`. The Pallas form writes the
        update where the gradient was, and the momentum in its own place.

    Returns:
      The update and the new momentum.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> g, m = jnp.array([1.0, 2.0]), jnp.array([10.0, 10.0])
      >>> odeopt.kernels.momentum_step(jnp.float32(0.5), g, m, 0.5)
      (Array([-3. , -3.5], dtype=float32), Array([6., 7.], dtype=float32))
    """
    platforms = where(kernel, NAME)

    def leaf(g: Array, m: Array) -> tuple[Array, ...]:
        aliases = ((0, 0), (1, 1))
        fused = Fused(NAME, _step, (nesterov,), (g.dtype, m.dtype), aliases)
        return apply(fused, platforms, real_scalars((h, kept), (g, m)), g, m)

    return unzip(jax.tree.map(leaf, grads, momentum), grads, 2)


def _step(
    static: tuple[bool], scalars: Sequence[Array], arrays: Sequence[Array], _: None
) -> tuple[list[Array], list[Array]]:
    (h, kept), (g, m) = scalars, arrays
    m = g + kept * m
    return [-h * (g + kept * m if static[0] else m), m], []
