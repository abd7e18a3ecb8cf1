"""A counter-term that is not small is no correction: its size is limited. May use: jax."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..sums import inner


class Corrected(NamedTuple):
    """What moves with the parameters of a corrected flow.

    Attributes:
      aux: the auxiliary variables of the flow that is corrected.
      clipped: steps whose counter-term was clipped, as a real number: a step of several stages
        counts the weight of those that were.
    """

    aux: PyTree[Array]
    clipped: Float[Array, ""]


def check_clip(clip: Any) -> None:
    """Refuse a clip that is not a positive number or None.

    Raises:
      ValueError: with what to write instead.
    """
    if isinstance(clip, int | float) and not clip > 0:
        raise ValueError(
            f"clip is {clip}; it is the largest counter-term relative to what it corrects, a "
            "positive number, or None for no limit."
        )


def clipped(
    term: PyTree[Array],
    params_term: PyTree[Array],
    params_plain: PyTree[Array],
    clip: float | None,
) -> tuple[PyTree[Array], Bool[Array, ""] | bool]:
    """`term`, made so short that its part of the parameters is at most `clip` times the plain one.

    A term that is not finite is left out. Returns the term and whether it was changed.
    """
    if clip is None:
        return term, False
    size, plain = inner(params_term, params_term), inner(params_plain, params_plain)
    small, finite = size <= clip**2 * plain, jnp.isfinite(size)
    factor = jnp.where(small, 1.0, clip * jnp.sqrt(plain / jnp.where(small, 1.0, size)))

    def leaf(x: Array) -> Array:
        return jnp.where(finite, factor.astype(jnp.finfo(x.dtype).dtype) * x, 0)

    return jax.tree.map(leaf, term), ~(small & finite)
