"""The gradient flow."""

from typing import ClassVar

from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..information import Information
from ..objective import Objective
from ..sums import multiple
from .flow import AbstractFlow, Moved, Share, State


class GradientFlow(AbstractFlow):
    r"""Gradient flow: $\dot x = -\nabla E(x)$, without auxiliary variables.

    Complex parameters follow $\dot x = -\overline{\partial E}$ with JAX's `grad` as $\partial E$.
    Flow time is the sum of learning rates; one gradient per evaluation of the field. Its one part,
    `descent`, is a step of Euler's method.
    """

    has: ClassVar[Information] = Information.DESCENT | Information.POTENTIAL
    parts: ClassVar[tuple[str, ...]] = ("descent",)

    def init(self, params: PyTree[Array]) -> tuple[()]:
        return ()

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """`(-h grad E(params), ())`."""
        return multiple(-h, objective.here(z[0])), z[1]

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        return self.increment(z, objective, fraction * h)

    def potential(self, objective: Objective, h: Scalar) -> Objective:
        return objective
