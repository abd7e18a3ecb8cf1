r"""The combination of Runge-Kutta slopes, $h\sum_i w_ik_i$, and the norm of its error.

May use: `.fused`, `.choice`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .choice import where
from .fused import Fused, apply

NAME = "combination"


def combination(weights: Sequence[float | Array], trees: Sequence[PyTree[Array]]) -> PyTree[Array]:
    """`sum_i weights[i] * trees[i]`."""
    weights, trees = _nonzero(weights, trees)
    if not weights:
        return jax.tree.map(jnp.zeros_like, trees[0])

    def leaf(*slopes: Array) -> Array:
        wide = jnp.promote_types(slopes[0].dtype, jnp.float32)
        terms = [jnp.asarray(w, jnp.finfo(wide).dtype) * k.astype(wide) for w, k in zip(weights, slopes)]
        return sum(terms[1:], terms[0]).astype(slopes[0].dtype)

    return jax.tree.map(leaf, *trees)


def combination_with_error(
    h: Float[Array, ""],
    weights: Sequence[float],
    error_weights: Sequence[float],
    trees: Sequence[PyTree[Array]],
    start: PyTree[Array],
    *,
    rtol: float,
    atol: float,
    kernel: str = "auto",
) -> tuple[PyTree[Array], Float[Array, ""]]:
    r"""The combination $u = h\sum_i w_ik_i$ and the squared norm of its scaled error, in one pass.

    The error is scaled as in `stepsize.embedded_error`,
    $h\sum_i w^{err}_ik_i\,/\,(atol + rtol\max(|x|, |x + u|))$, and never stored. The root mean
    square that error control looks at is the root of the sum over the number of parameters.

    Args:
      h: the step size $h$.
      weights: $w_i$.
      error_weights: $w^{err}_i$.
      trees: the slopes $k_i$.
      start: $x$, a tree like the slopes.
      rtol: error allowed relative to the size of each parameter.
      atol: error allowed in units of the parameters.
      kernel: `"auto"`, `"jnp"` or `"pallas"`.

    Returns:
      The combination and the sum of squares, a scalar of the default float dtype. Within
      `shard_map` the sum is of the device's own part.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> x, slopes = jnp.ones(3), [-jnp.ones(3), -0.5 * jnp.ones(3)]
      >>> u, squares = odeopt.kernels.combination_with_error(
      ...     jnp.float32(0.1), [0.5, 0.5], [-0.5, 0.5], slopes, x, rtol=0.0, atol=0.1)
      >>> u.round(3), float(jnp.sqrt(squares / 3).round(3))
      (Array([-0.075, -0.075, -0.075], dtype=float32), 0.25)
    """
    platforms = where(kernel, NAME)
    static = tuple(weights), tuple(error_weights), float(rtol), float(atol)

    def leaf(x: Array, *slopes: Array) -> Any:
        fused = Fused(NAME, _combine_with_error, static, (x.dtype,), sums=1)
        return apply(fused, platforms, (_rounded(h, x.dtype),), x, *slopes)

    results = [leaf(*leaves) for leaves in zip(*map(jax.tree.leaves, (start, *trees)), strict=True)]
    updates = jax.tree.unflatten(jax.tree.structure(start), [u for u, _ in results])
    return updates, sum((t.astype(float) for _, t in results), jnp.zeros([], float))


def _combine(
    weights: Sequence[float | Array], scalars: Sequence[Array], slopes: Sequence[Array], _: Any
) -> tuple[list[Array], list[Array]]:
    weights, slopes = _nonzero(weights, slopes)
    dtype = jnp.finfo(slopes[0].dtype).dtype
    terms = [jnp.asarray(w, dtype) * k for w, k in zip(weights, slopes, strict=True)]
    return [scalars[0] * functools.reduce(jnp.add, terms)], []


def _combine_with_error(
    static: tuple[Sequence[float], Sequence[float], float, float],
    scalars: Sequence[Array],
    arrays: Sequence[Array],
    _: Any,
) -> tuple[list[Array], list[Array]]:
    weights, error_weights, rtol, atol = static
    x, *slopes = arrays
    (update,), _ = _combine(weights, scalars, slopes, None)
    (error,), _ = _combine(error_weights, scalars, slopes, None)
    size = jnp.maximum(jnp.abs(x), jnp.abs(x + update))
    return [update], [jnp.square(jnp.abs(error) / (atol + rtol * size))]


def _nonzero(weights: Sequence[Any], things: Sequence[Any]) -> tuple[tuple, tuple]:
    """Those whose weight is not the number 0; of the things the first, if it is all of them."""
    terms = [
        (w, t)
        for w, t in zip(weights, things, strict=True)
        if not (isinstance(w, float) and w == 0)
    ]
    return tuple(w for w, _ in terms), tuple(t for _, t in terms) or (things[0],)


def _rounded(h: Array, dtype: Any) -> Array:
    """The step size as a number of the leaf's dtype, in at least 32 bits."""
    narrow = jnp.finfo(dtype).dtype
    return h.astype(narrow).astype(jnp.promote_types(narrow, jnp.float32))
