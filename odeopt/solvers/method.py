"""The interface of a method, a one-step solver."""

import abc
import math
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
      exact: whether the step solves its system to rounding, at any step size.
    """

    linear: Scalar
    quadratic: Scalar
    exact: bool = False


class Step(NamedTuple):
    """The result of one step of a method.

    Attributes:
      update: new parameters minus old ones, not formed as `new - old`, which cancels in floating
        point (at weights near 1000 an update of 1e-5 would vanish in float32).
      aux: the new auxiliary variables.
      memory: the state that the method carries to its next step.
      error: an estimate of the local error, a tree like `z`; None without one.
      model: the quadratic model of the caller's loss that the step has solved, or None.
      gradients: the number of gradients beside the given one, possibly traced; None if it cannot be
        known. A Hessian product counts as 2.
      finite: False if the step could not be computed.
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
      options: the options of `ode_optimizer` that the method can use; others are refused.
      has: the information that the method provides (`Information`).
      counter_term: how `drift.corrected` cancels the drift: by a B-series from the tableau
        (`butcher`), by the age of the flow's memory (`AbstractFlow.aged`), or by the gradient
        penalty $+\tfrac h4\|\nabla E\|^2$. None if no counter-term is known.
    """

    options: ClassVar[frozenset[str]] = frozenset({"stage_transform"})
    has: ClassVar[Information] = Information.NONE
    counter_term: ClassVar[CounterTerm | None] = "series"

    @property
    @abc.abstractmethod
    def order(self) -> int | None:
        """Order of accuracy; None if it is not known."""

    @property
    def stability_limit(self) -> float | None:
        r"""$R$: on $\dot x = -\lambda x$ the method is stable up to $h\lambda = R$.

        None if it is not known, or depends on the flow: `solvers.stability_limit(flow, method)`.
        """
        return None

    @property
    @abc.abstractmethod
    def gradients_per_step(self) -> int | None:
        """Gradients of a step along gradient flow, the given one included; None: not known."""

    def butcher(self) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
        """The Butcher tableau `(A, b)`, with the full matrix A.

        Raises:
          ValueError: the method is no Runge-Kutta method.
        """
        raise ValueError(
            f"{type(self).__name__} is no Runge-Kutta method with a tableau, so there are no "
            "tree coefficients of it: pass a pair (A, b), or its step map to "
            "`drift.modified_field(step, None, order)`."
        )

    def check(self, flow: AbstractFlow) -> None:
        """Refuse a flow that the method cannot step: a `ValueError` that names both."""
        if flow.no_field:
            raise ValueError(
                f"{type(self).__name__} steps a flow along its field, and {type(flow).__name__} "
                f"has none, as {flow.no_field}: use `odeopt.solvers.Lie()`."
            )

    def with_options(self, **options: Any) -> "AbstractMethod":
        """The method with the given options, as far as they are its own."""
        return self

    def init(self, flow: AbstractFlow, z: State) -> PyTree[Array]:
        """The memory before the first step, from shapes and dtypes alone; none by default."""
        return ()

    def prepared(self, objective: Objective, z: State) -> tuple["AbstractMethod", int]:
        """The method with the work that all steps from `z` share, and its cost in gradients."""
        return self, 0

    @abc.abstractmethod
    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: PyTree[Array]
    ) -> Step:
        """One step of size `h` (flow time) from `z`."""


class AbstractCurvatureMethod(AbstractMethod):
    """A method for gradient flow alone, whose step uses the curvature of the loss. A-stable."""

    options: ClassVar[frozenset[str]] = frozenset()
    stability_limit: ClassVar[float] = math.inf

    def check(self, flow: AbstractFlow) -> None:
        if Information.POTENTIAL not in flow.has:
            raise ValueError(
                f"{type(self).__name__} uses the curvature of the loss, which is the Jacobian "
                f"of gradient flow and not that of {type(flow).__name__}: use "
                "`odeopt.flows.GradientFlow()`, or a splitting such as `odeopt.solvers.Lie()`."
            )


def field_cost(flow: AbstractFlow, z: State, h: Scalar, *, given: bool = False) -> int:
    """Gradients that one evaluation of the field costs."""
    return count_gradients(
        lambda objective, z, h: flow.increment(z, objective, h), z, h, given=given
    )
