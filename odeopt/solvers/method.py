"""What a method (a one-step solver) is."""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Int, PyTree

from ..arrays import Scalar
from ..flows import AbstractFlow, State
from ..information import Information
from ..objective import Objective, count_gradients

CounterTerm = Literal["series", "memory", "penalty"]


class Model(NamedTuple):
    r"""A quadratic model of the caller's loss along the update $u$ of a step.

    Attributes:
      linear: $g\cdot u$.
      quadratic: $\tfrac12u\cdot Bu$ with the curvature B of the step.
      exact: whether the step solves its system to rounding, however long it is.
    """

    linear: Scalar
    quadratic: Scalar
    exact: bool = False


class Step(NamedTuple):
    """What one step of a method reports.

    Attributes:
      update: new parameters minus old ones. Never the new ones themselves: forming `new - old`
        cancels in floating point (at weights near 1000 an update of 1e-5 would vanish in float32).
      aux: the new auxiliary variables.
      memory: what the method carries to its next step.
      error: an estimate of the local error, a tree like `z`; None where there is none.
      model: the model of the loss that the step has solved, where that loss is the caller's own;
        None where it is another, or none was solved.
      gradients: those evaluated beside the given one: a number, one that is traced, or
        None where it cannot be known. A Hessian product counts as 2.
      finite: False where the step could not be computed.
    """

    update: PyTree[Array]
    aux: PyTree[Array]
    memory: PyTree[Array] = ()
    error: State | None = None
    model: Model | None = None
    gradients: int | Int[Array, ""] | None = None
    finite: bool | Bool[Array, ""] = True


class AbstractMethod(eqx.Module):
    r"""A one-step method $\Phi_h$: a pure function of trees that knows nothing of optax.

    Attributes:
      options: the options of `ode_optimizer` that it can use; others are refused.
      has: what it can say of a step (`Information`).
      counter_term: what cancels its drift (`drift.corrected`): a B-series, by its tableau
        (`butcher`); the age of the flow's memory (`AbstractFlow.aged`); or the gradient penalty
        $+\tfrac h4\|\nabla E\|^2$. None where it is not known.
    """

    options: ClassVar[frozenset[str]] = frozenset({"stage_transform"})
    has: ClassVar[Information] = Information.NONE
    counter_term: ClassVar[CounterTerm | None] = "series"

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
        """Gradients of a step along gradient flow, the given one included; None: not known."""

    def butcher(self) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
        """The Butcher tableau `(A, b)`, the whole matrix.

        Raises:
          ValueError: no Runge-Kutta method.
        """
        raise ValueError(
            f"{type(self).__name__} is no Runge-Kutta method with a tableau, so there are no "
            "tree coefficients of it: pass a pair (A, b), or its step map to "
            "`drift.modified_field(step, None, order)`."
        )

    def check(self, flow: AbstractFlow) -> None:
        """Refuse a flow that the method cannot step: a `ValueError` that names both."""

    def with_options(self, **options: Any) -> "AbstractMethod":
        """The method with those of its own options that are given."""
        return self

    def init(self, flow: AbstractFlow, z: State) -> PyTree[Array]:
        """The memory before the first step, none by default. Structural, like `flow.init`."""
        return ()

    def prepared(self, objective: Objective, z: State) -> tuple["AbstractMethod", int]:
        """For steps from one `z`: the method with what they share, and its cost in gradients."""
        return self, 0

    @abc.abstractmethod
    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: PyTree[Array]
    ) -> Step:
        """One step of size `h` (flow time) from `z`."""


def field_cost(flow: AbstractFlow, z: State, h: Scalar, *, given: bool = False) -> int:
    """Gradients that one evaluation of the field costs."""
    return count_gradients(
        lambda objective, z, h: flow.increment(z, objective, h), z, h, given=given
    )
