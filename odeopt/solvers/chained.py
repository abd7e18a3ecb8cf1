"""A one-gradient method on the mean gradient of another method's step."""

from typing import ClassVar

import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_kind
from ..flows import AbstractFlow, GradientFlow, State
from ..objective import Objective
from ..sums import multiple, widened
from .method import AbstractMethod, Step
from .splitting import Lie


class Chained(AbstractMethod):
    r"""A one-gradient method that gets the mean gradient of another method's step.

    `inner` steps along gradient flow with the mean gradient $g^* = (x - \Phi_h(x))/h$
    ($\sum_ib_ig_i$ for a Runge-Kutta method); `outer` then steps its own flow with $g^*$ as the
    gradient, as if momentum were chained after a solver. The order is 1.

    Args:
      inner: a method for gradient flow.
      outer: a method that takes one gradient, at the start of its step.

    Raises:
      ValueError: an `outer` that takes several gradients.
      TypeError: an argument that is no method (`as_method` converts a solver).
    """

    inner: AbstractMethod
    outer: AbstractMethod = Lie()

    def __check_init__(self) -> None:
        such_as = "solvers.as_method(odeopt.solvers.RK4())"
        check_kind(AbstractMethod, such_as, inner=self.inner, outer=self.outer)
        if self.outer.gradients_per_step != 1:
            raise ValueError(
                f"outer is {type(self.outer).__name__}, which takes more than one gradient a step, "
                "but it gets the mean gradient alone: use `solvers.Lie()`."
            )

    order: ClassVar[int] = 1

    @property
    def gradients_per_step(self) -> int | None:
        return self.inner.gradients_per_step

    def check(self, flow: AbstractFlow) -> None:
        self.inner.check(GradientFlow())
        self.outer.check(flow)

    def init(self, flow: AbstractFlow, z: State) -> PyTree[Array]:
        return self.inner.init(GradientFlow(), (z[0], ())), self.outer.init(flow, z)

    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: PyTree[Array]
    ) -> Step:
        inner = self.inner.step(GradientFlow(), objective, (z[0], ()), h, memory[0])
        still = h == 0  # no move: the mean gradient is the gradient
        safe = jnp.where(still, 1.0, h)

        given = objective.here(z[0])
        mean = multiple(-1 / safe, widened(inner.update))  # in float16 1/h overflows for small h
        mean = optax.tree.where(still, given, optax.tree.cast_like(mean, given))
        outer = self.outer.step(flow, objective.with_given(mean), z, h, memory[1])
        used = None
        if inner.gradients is not None and outer.gradients is not None:
            used = inner.gradients + outer.gradients
        memory, sound = (inner.memory, outer.memory), inner.finite & outer.finite
        return Step(outer.update, outer.aux, memory, gradients=used, finite=sound)
