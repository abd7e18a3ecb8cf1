"""What a flow is. May use: `odeopt.objective`."""

import abc
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from ..objective import Gradient

Substeps = Sequence[tuple[str, float]]
"""Parts of a flow and the fractions of a step for which each is followed, in order."""

State = tuple[PyTree[Array], PyTree[Array]]
"""`z = (params, aux)`: the parameters, and whatever else moves with them."""


class AbstractFlow(eqx.Module):
    """A vector field `dz/dt = field(z)` on `z = (params, aux)`.

    A solver steps it by `h`, in units of flow time. `h` is handed to the field because a
    drift-corrected field depends on it, and so does one whose momentum is given per step; a plain
    one ignores it.

    Attributes:
      linear: whether the flow is linear where the gradient is, so that a solver has a stability
        limit on it. A flow that divides by the size of the gradient is not.
    """

    linear: ClassVar[bool] = True

    @abc.abstractmethod
    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        """The auxiliary variables at time 0. Structural: shapes and dtypes only, no values."""

    @abc.abstractmethod
    def field(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> State:
        """`dz/dt` at `z`, a tree like `z`; the gradient at its own point is `gradient.here`."""

    @property
    def needs_params(self) -> bool:
        """Whether a step reads the parameters, beside their gradient."""
        return False

    def descent(self, z: State, gradient: Gradient, *, seen: bool = False) -> PyTree[Array]:
        """The gradient in the flow's own metric: minus the direction that it alone would give.

        A metric that learns from gradients includes this one; `seen` says that `z` already does.
        """
        return gradient.here(z[0])

    def heading(self, z: State) -> PyTree[Array]:
        """The direction that the parameters have been moving in, where the flow knows it."""
        raise ValueError(f"{type(self).__name__} does not remember where it has been going.")

    def potential(self, gradient: Gradient, h: Float[Array, ""]) -> Gradient:
        """The loss that the flow descends, as its gradient: for methods that look at the loss.

        Raises:
          ValueError: a flow that is not the gradient flow of any loss.
        """
        raise ValueError(f"{type(self).__name__} is not the gradient flow of a loss.")

    @property
    def has_potential(self) -> bool:
        """Whether the flow is the gradient flow of a loss, which `potential` gives."""
        return False

    def readout(self, z: State) -> PyTree[Array]:
        """What to evaluate and to keep, where that is not the point that gradients are taken at.

        A flow that has such a read-out keeps a tree like the parameters first in its `aux`.
        """
        return z[0]

    @property
    def has_readout(self) -> bool:
        """Whether `readout` is anything else than the parameters."""
        return type(self).readout is not AbstractFlow.readout


class AbstractSplitFlow(AbstractFlow):
    """A flow that is a sum of parts, each solved exactly (or as its docstring says) on its own.

    Attributes:
      parts: their names, in the order in which Lie's splitting composes them.
      gradient_part: the one part that looks at the gradient; None where several do, and the step
        therefore cannot be cut in the middle.
    """

    parts: ClassVar[tuple[str, ...]]
    gradient_part: ClassVar[str | None]

    def looks_again(self, name: str) -> bool:
        """Whether a part wants the gradient where the parts before it have moved the parameters."""
        return name == self.gradient_part

    @abc.abstractmethod
    def part(
        self, name: str, z: State, gradient: Gradient, h: Float[Array, ""], fraction: float
    ) -> tuple[PyTree[Array] | None, PyTree[Array]]:
        """Follow one part for `fraction` of a step of size `h`, from `z`.

        Returns:
          The update of the parameters, None where this part does not move them, and the new
          auxiliary variables.
        """

    def fused(
        self, substeps: Substeps, z: State, gradient: Gradient, h: Float[Array, ""], kernel: str
    ) -> tuple[PyTree[Array], PyTree[Array]] | None:
        """All of `substeps` in one pass, where there is a kernel for them and it is chosen.

        Returns:
          The update of the parameters and the new auxiliary variables; None to follow the parts.
        """
        return None
