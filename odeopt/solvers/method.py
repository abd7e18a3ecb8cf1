"""What a method (a one-step solver) is. May use: `odeopt.flows`."""

import abc
from typing import NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Float, PyTree

from ..flows import AbstractFlow, State
from ..objective import Gradient


class Step(NamedTuple):
    """What one step of a method yields.

    Attributes:
      update: new parameters minus old ones. Never the new ones themselves: forming `new - old`
        cancels in floating point (at weights near 1000 an update of 1e-5 would vanish in float32).
      aux: the new auxiliary variables.
      error: an estimate of the local error, a tree like `z`; None where the method has none.
      memory: what the method carries to its next step.
      success: False where the step could not be computed; the optimizer then rejects it.
    """

    update: PyTree[Array]
    aux: PyTree[Array]
    error: State | None
    memory: PyTree[Array]
    success: bool | Bool[Array, ""] = True


class AbstractMethod(eqx.Module):
    r"""A one-step method $\Phi_h$: a pure function of trees that knows nothing of optax."""

    @property
    @abc.abstractmethod
    def order(self) -> int | None:
        """Order of accuracy; None where it is not known."""

    @property
    def stability_limit(self) -> float | None:
        r"""$R$: on $\dot x = -\lambda x$ the method is stable up to $h\lambda = R$.

        None where that is not known, or depends on the flow: `solvers.stability_limit(flow,
        method)`.
        """
        return None

    @property
    @abc.abstractmethod
    def gradients_per_step(self) -> int | None:
        """Gradients a step costs, the given one included; None where it depends on the problem."""

    def check(self, flow: AbstractFlow) -> None:
        """Refuse a flow that the method cannot step: a `ValueError` that names both."""

    def init(self, z: State) -> PyTree[Array]:
        """The memory before the first step, none by default. Structural, like `flow.init`."""
        return ()

    @abc.abstractmethod
    def step(
        self,
        flow: AbstractFlow,
        gradient: Gradient,
        z: State,
        h: Float[Array, ""],
        memory: PyTree[Array],
    ) -> Step:
        """One step of size `h` (flow time) from `z`."""

    def readout(self, flow: AbstractFlow, z: State, h: Float[Array, ""]) -> PyTree[Array]:
        """The parameters that a step of size `h` led to, where its `z` rests elsewhere."""
        return flow.readout(z)
