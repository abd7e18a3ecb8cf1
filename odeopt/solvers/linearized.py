"""What the methods that linearize the field share. May use: diffrax, `.face`, `.method`."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..flows import AbstractFlow
from ..information import Information
from ..objective import LinearMap
from .face import AbstractFace
from .method import AbstractMethod


class AbstractLinearized(AbstractFace):
    """A diffrax solver whose step is a function of the field and of its Jacobian at the start.

    Time is one more variable, of derivative 1, so that a field which depends on it costs no order.
    """

    method: ClassVar[AbstractMethod]

    @property
    @abc.abstractmethod
    def gradients_per_step(self) -> int:
        """Evaluations of the field; products with its Jacobian come on top."""

    @abc.abstractmethod
    def move(
        self, h: Array, f: PyTree, jacobian: LinearMap, field: Callable[[PyTree], PyTree]
    ) -> tuple[PyTree, diffrax.RESULTS]:
        """The increment of (time, state), and whether it was found.

        Args:
          h: the step size.
          f: the field at the start.
          jacobian: `v -> J v` there.
          field: `increment -> field` that far from the start.
        """

    def step(
        self,
        terms: diffrax.ODETerm,
        t0: Any,
        t1: Any,
        y0: PyTree[Array],
        args: Any,
        solver_state: None,
        made_jump: Any,
    ) -> tuple[PyTree[Array], None, dict[str, PyTree[Array]], None, diffrax.RESULTS]:
        """One step, without an error estimate."""
        start = jnp.asarray(t0), y0

        def field(increment: PyTree) -> PyTree:
            time, y = jax.tree.map(jnp.add, start, increment)
            return jnp.ones_like(time), terms.vf(time, y, args)

        f, jacobian = jax.linearize(field, jax.tree.map(jnp.zeros_like, start))
        (_, update), result = self.move(jnp.asarray(t1 - t0), f, jacobian, field)
        y1 = jax.tree.map(jnp.add, y0, update)
        return y1, None, {"y0": y0, "y1": y1}, None, result


def only_gradient_flow(flow: AbstractFlow, method: str) -> None:
    """Refuse another flow."""
    if Information.POTENTIAL not in flow.has:
        raise ValueError(
            f"{method} goes by the curvature of the loss, which is the Jacobian of gradient flow "
            f"and not that of {type(flow).__name__}: use `odeopt.flows.GradientFlow()`, or a "
            "splitting such as `odeopt.solvers.Lie()`."
        )
