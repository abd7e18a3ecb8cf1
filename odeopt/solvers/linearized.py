"""The base classes of methods that linearize the field."""

import abc
import math
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..flows import AbstractFlow
from ..information import Information
from ..lanczos import flatten, unflatten
from ..objective import LinearMap
from .adapter import AbstractAdapter, Reached
from .method import AbstractMethod


class AbstractLinearized(AbstractAdapter):
    """A diffrax solver whose step is a function of the field and of its Jacobian at the start.

    Time is one more variable with derivative 1, so that a time-dependent field loses no order.
    """

    method: ClassVar[AbstractMethod]

    @abc.abstractmethod
    def move(
        self, h: Array, f: Array, jacobian: LinearMap, field: Callable[[Array], Array]
    ) -> tuple[Array, diffrax.RESULTS]:
        """The increment of (time, state) as one real vector, and whether it was found.

        `f` is the field at the start, `jacobian` the map `v -> J v` there, and `field` maps an
        increment to the field at the start plus this increment.
        """

    def reached(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Reached:
        time = jnp.asarray(t0)
        like = time, y0
        start = flatten(like)
        forwards = terms.contr(jnp.zeros_like(time), jnp.ones_like(time))

        def field(increment: Array) -> Array:
            now, y = unflatten(start + increment, like)
            return flatten((jnp.ones_like(now), terms.vf_prod(now, y, args, forwards)))

        f, jacobian = jax.linearize(field, jnp.zeros_like(start))
        moved, result = self.move(jnp.asarray(t1 - t0), f, jacobian, field)
        _, update = unflatten(moved, like)
        return Reached(jax.tree.map(jnp.add, y0, update), result)


class AbstractCurvatureMethod(AbstractMethod):
    """A method for gradient flow alone, whose step uses the curvature of the loss. A-stable."""

    options: ClassVar[frozenset[str]] = frozenset()
    stability_limit: ClassVar[float] = math.inf

    def check(self, flow: AbstractFlow) -> None:
        if Information.POTENTIAL not in flow.has:
            raise ValueError(
                f"{type(self).__name__} uses the curvature of the loss, which is the Jacobian "
                f"of gradient flow and not that of {type(flow).__name__}: use "
                "`odeopt.flows.GradientFlow()`, or a splitting such as `odeopt.solvers.Lie()`."
            )
