"""The gradient flow. May use: `odeopt.objective`."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..objective import Gradient
from ..sums import scaled
from .flow import AbstractSplitFlow, State


class GradientFlow(AbstractSplitFlow):
    r"""Gradient flow: $\dot x = -\nabla E(x)$, nothing auxiliary.

    Complex parameters follow $\dot x = -\overline{\partial E}$ with JAX's `grad` as $\partial E$.
    Flow time is the sum of learning rates; one gradient per evaluation of the field. Its one part,
    `descent`, is a step of Euler's method.
    """

    parts: ClassVar[tuple[str, ...]] = ("descent",)
    gradient_part: ClassVar[str | None] = None

    def init(self, params: PyTree[Array]) -> tuple[()]:
        """There is nothing auxiliary."""
        return ()

    def field(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> State:
        """`(-grad E(params), ())`."""
        params, aux = z
        return jax.tree.map(jnp.negative, gradient.here(params)), aux

    def potential(self, gradient: Gradient, h: Float[Array, ""]) -> Gradient:
        """The loss itself."""
        return gradient

    @property
    def has_potential(self) -> bool:
        """Yes."""
        return True

    def part(
        self, name: str, z: State, gradient: Gradient, h: Float[Array, ""], fraction: float
    ) -> tuple[PyTree[Array], tuple[()]]:
        """`descent`."""
        params, aux = z
        return jax.tree.map(lambda g: scaled(-fraction * h, g), gradient.here(params)), aux
