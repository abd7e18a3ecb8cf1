"""The gradient flow. May use: `odeopt.objective`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..objective import Gradient
from .flow import AbstractFlow, State


class GradientFlow(AbstractFlow):
    r"""Gradient flow: $\dot x = -\nabla E(x)$, nothing auxiliary.

    Complex parameters follow $\dot x = -\overline{\partial E}$ with JAX's `grad` as $\partial E$.
    Flow time is the sum of learning rates; one gradient per evaluation of the field.
    """

    def init(self, params: PyTree[Array]) -> tuple[()]:
        """There is nothing auxiliary."""
        return ()

    def field(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> State:
        """`(-grad E(params), ())`."""
        params, aux = z
        return jax.tree.map(jnp.negative, gradient.here(params)), aux
