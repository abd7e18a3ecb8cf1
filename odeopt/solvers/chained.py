"""Anything on the mean gradient of a solver's step. May use: `odeopt.flows`, `.splitting`."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..flows import AbstractFlow, GradientFlow, State
from ..objective import Gradient
from .method import AbstractMethod, Step
from .splitting import Lie


class Chained(AbstractMethod):
    r"""A one-gradient method that is handed the mean gradient of another method's step.

    `inner` takes a step along gradient flow, whose mean gradient is
    $g^* = (x - \Phi_h(x))/h = \sum_ib_ig_i$ for a Runge-Kutta method; `outer` then steps its own
    flow with $g^*$ in place of the gradient. It is what an optax user gets by chaining momentum
    after a solver, and *not* a solver of the flow with momentum: the order is 1.

    Args:
      inner: a method for gradient flow.
      outer: a method that takes one gradient, at the start of its step.
    """

    inner: AbstractMethod
    outer: AbstractMethod = Lie()

    @property
    def order(self) -> int:
        """1."""
        return 1

    @property
    def gradients_per_step(self) -> int | None:
        """Those of `inner`."""
        return self.inner.gradients_per_step

    def check(self, flow: AbstractFlow) -> None:
        """What `outer` refuses."""
        self.outer.check(flow)

    def init(self, z: State) -> PyTree[Array]:
        """The memory of both."""
        return self.inner.init((z[0], ())), self.outer.init(z)

    def step(
        self,
        flow: AbstractFlow,
        gradient: Gradient,
        z: State,
        h: Float[Array, ""],
        memory: PyTree[Array],
    ) -> Step:
        """One step of size `h`."""
        inner = self.inner.step(GradientFlow(), gradient, (z[0], ()), h, memory[0])
        safe = jnp.where(h == 0, 1.0, h)
        mean = jax.tree.map(lambda u: u / -safe.astype(jnp.finfo(u.dtype).dtype), inner.update)

        def elsewhere(params: PyTree[Array], stage: Any) -> PyTree[Array]:
            raise ValueError(f"{type(self.outer).__name__} takes more than one gradient a step.")

        outer = self.outer.step(flow, Gradient(mean, elsewhere), z, h, memory[1])
        success = inner.success & outer.success
        return Step(outer.update, outer.aux, None, (inner.memory, outer.memory), success)
