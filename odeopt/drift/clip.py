"""The base class of corrected flows, with the clip of their counter-terms."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from ..arrays import Scalar
from ..checks import check
from ..flows import AbstractFlow
from ..flows.wrapper import AbstractWrapper
from ..sums import inner, scaled


class Corrected(NamedTuple):
    """The auxiliary variables of a corrected flow.

    Attributes:
      aux: the auxiliary variables of the flow that is corrected.
      clipped: the number of steps with a clipped counter-term, as a real number: a step of several
        stages adds the weights of its clipped stages.
    """

    aux: PyTree[Array]
    clipped: Scalar


class AbstractCorrected(AbstractWrapper):
    """A flow `base` with counter-terms, and a count of the steps in which they were clipped."""

    clip: eqx.AbstractVar[float | None]  # the largest counter-term, relative to what it corrects

    needs_params: ClassVar[bool] = True  # gradients are taken at other points

    @property
    def linear(self) -> bool:
        """Whether `base` is linear and nothing is clipped."""
        return self.base.linear and self.clip is None

    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        """The auxiliary variables of `base`, with a counter of clipped steps if there is a clip."""
        aux = self.base.init(params)
        return aux if self.clip is None else Corrected(aux, jnp.zeros([], float))

    def inner(self, aux: PyTree[Array]) -> PyTree[Array]:
        return aux if self.clip is None else aux.aux

    def outer(self, aux: PyTree[Array], inner: PyTree[Array], short: Any = False) -> PyTree[Array]:
        """`inner`, with 1 more in the counter where the counter-term was `short`."""
        moved = self.moved(inner, short)
        return moved if self.clip is None else Corrected(inner, aux.clipped + moved.clipped)

    def moved(self, inner: PyTree[Array], short: Any = False) -> PyTree[Array]:
        """The increment of `outer`."""
        if self.clip is None:
            return inner
        return Corrected(inner, jnp.where(short, 1.0, 0.0).astype(float))

    def around(self, change: Callable[[AbstractFlow], AbstractFlow]) -> NoReturn:
        """Refuse a second correction, which would cancel the same error again."""
        raise ValueError(
            f"This {type(self.base).__name__} cannot be corrected: it is corrected already. "
            "Correct the flow that it is made of."
        )


def check_clip(clip: Any) -> None:
    """Refuse a clip that is not a positive number or None."""
    must = "the largest counter-term relative to what it corrects, positive, or None for no limit"
    if clip is not None:
        check(lambda clip: clip > 0, "clip", clip, must)


def clipped(
    term: PyTree[Array], params_term: PyTree[Array], params_plain: PyTree[Array], clip: float | None
) -> tuple[PyTree[Array], Bool[Array, ""] | bool]:
    """`term`, scaled down until `params_term` is at most `clip` times as long as `params_plain`.

    A term that is not finite becomes 0. Returns the term and whether it was changed.
    """
    if clip is None:
        return term, False
    size, plain = inner(params_term, params_term), inner(params_plain, params_plain)
    small, finite = size <= clip**2 * plain, jnp.isfinite(size)
    factor = jnp.where(small, 1.0, clip * jnp.sqrt(plain / jnp.where(small, 1.0, size)))

    def leaf(x: Array) -> Array:
        return jnp.where(finite, scaled(factor, x), 0)

    return jax.tree.map(leaf, term), ~(small & finite)
