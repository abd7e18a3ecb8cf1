"""The interface of a flow."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
from jaxtyping import Array, Bool, PyTree

from ..arrays import Scalar
from ..checks import is_zero
from ..information import Information
from ..objective import Objective
from .clock import Constant

State = tuple[PyTree[Array], PyTree[Array]]
"""`z = (params, aux)`: the parameters, and the auxiliary variables that move with them."""

Share: TypeAlias = float | Array
"""A fraction of a step."""

Substeps: TypeAlias = Sequence[tuple[str, Share]]
"""Parts of a flow and the fraction of a step for which each is followed, in order."""

Moved: TypeAlias = tuple[PyTree[Array] | None, PyTree[Array]]
"""The result of a part: the update (None if the parameters do not move), and the new `aux`."""

Fused: TypeAlias = tuple[PyTree[Array], PyTree[Array], int] | None
"""The result of a fused step: update, new `aux`, number of gradients beside the given one."""


class AbstractFlow(eqx.Module):
    r"""A vector field $\dot z = F(z)$ on `z = (params, aux)`, given as its increments $hF(z)$.

    A solver steps it by `h`, in units of flow time. The field is never divided by h, so a step of
    size 0 is well defined: the parameters stay. A flow may name parts that are solved exactly, each
    on its own; then a splitting can compose them.

    Attributes:
      has: the information that the flow provides (`Information`).
      parts: names of its parts, in the order in which Lie's splitting composes them; () for none.
      gradient_part: the one part that uses the gradient; None if several do, so that the step
        cannot be cut in the middle.
      needs_params: whether a step reads the parameters, beside their gradient.
    """

    has: ClassVar[Information] = Information.NONE
    parts: ClassVar[tuple[str, ...]] = ()
    gradient_part: ClassVar[str | None] = None
    needs_params: ClassVar[bool] = False

    @property
    def each(self) -> "Sequence[AbstractFlow]":
        """The flows that single leaves follow: this one, except in a flow of groups."""
        return (self,)

    @property
    def linear(self) -> bool:
        """Whether the flow is linear if the gradient is, so that a solver has a stability limit.

        A flow that divides by the size of the gradient is not.
        """
        return True

    @property
    def no_field(self) -> str:
        """Why only a splitting can step the flow, if it has parts and no field; else ""."""
        clocks = (x for x in vars(self).values() if isinstance(x, Constant))
        at_once = any(is_zero(clock.decay) for clock in clocks)
        return "a decay of 0 forgets at no finite rate" if at_once else ""

    @abc.abstractmethod
    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        """The auxiliary variables at time 0, from shapes and dtypes alone."""

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """`h dz/dt` at `z`, a tree like `z`; the gradient at `z` is `objective.here(params)`."""
        why = f", as {self.no_field}" if self.no_field else ""
        raise ValueError(
            f"{type(self).__name__} has no field, only parts{why}: use `odeopt.solvers.Lie()`."
        )

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        """Follow one part for `fraction` of a step of size `h`, from `z`.

        Returns the update of the parameters (None if they do not move) and the new `aux`.
        """
        raise ValueError(f"{type(self).__name__} names no parts.")

    def looks_again(self, name: str, moved: Sequence[str]) -> bool:
        """Whether a part needs a new gradient after the parts in `moved` moved the parameters."""
        return bool(moved) and name == self.gradient_part

    def fused(self, substeps: Substeps, z: State, objective: Objective, h: Scalar) -> Fused:
        """All of `substeps` in one pass, if there is a formula for them; else None."""
        return None

    def descent(self, z: State, objective: Objective, *, seen: bool = False) -> PyTree[Array]:
        """The gradient in the flow's own metric; its negative is the direction without momentum.

        A metric learned from gradients includes this one; with `seen`, `z` includes it already.
        """
        return objective.here(z[0])

    def heading(self, z: State) -> PyTree[Array]:
        """The direction in which the parameters have been moving (`Information.HEADING`)."""
        raise ValueError(f"{type(self).__name__} does not remember where it has been going.")

    def potential(self, objective: Objective, h: Scalar) -> Any:
        """The objective whose gradient flow this is (`Information.POTENTIAL`)."""
        raise ValueError(f"{type(self).__name__} is not the gradient flow of a loss.")

    def aged(self, aux: PyTree[Array], grads: PyTree[Array], back: PyTree[Array]) -> PyTree[Array]:
        r"""The change of `aux` if each gradient in it changes in proportion to its age.

        The counter-term of Lie's splitting needs it. A moment $\sum_kw_kg_k$, with $g_k$ the
        gradient $k$ steps ago, changes by $\sum_kw_k(k + \tfrac12)\delta$.

        Args:
          aux: the auxiliary variables at the start of the last part.
          grads: the gradient.
          back: $\delta$, by how much the gradient was larger one step ago.

        Returns:
          A tree like `aux`, with None for variables that do not change.

        Raises:
          ValueError: the flow does not know the ages of its gradients.
        """
        raise ValueError(
            f"No counter-term is known for `solvers.Lie()` on {type(self).__name__}: it does not "
            "say how old its memory is (`aged`). Use a Runge-Kutta method such as "
            "`solvers.Euler()`, whose counter-terms need none."
        )

    def around(self, change: "Callable[[AbstractFlow], AbstractFlow]") -> "AbstractFlow":
        """`change(self)`; a flow that only changes the objective of `base` changes `base`."""
        return change(self)

    def owed(self, aux: PyTree[Array]) -> Bool[Array, ""] | None:
        """Whether the first half of a symmetric step is still due, because it needs a gradient.

        None for a flow that starts at rest: its first half moves nothing.
        """
        return None

    def rest(self, z: State, h: Scalar, fraction: float) -> Any:
        """How to undo the move to `z` by `fraction` of a step without its gradient part.

        Returns:
          A NamedTuple of scalars with a method `readout(params, aux)`; None if scalars do not
          suffice, so that the solver keeps a copy of the move.
        """
        return None
