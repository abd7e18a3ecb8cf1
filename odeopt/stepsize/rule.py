"""What a step-size rule is, and the two that optax users know. May use: `odeopt.solvers`."""

import abc
import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..flows import AbstractFlow, State
from ..objective import Gradient
from ..solvers import AbstractMethod, Step


class StepInfo(NamedTuple):
    """What a rule may look at.

    Attributes:
      steps: number of steps taken before this one.
      z: parameters and auxiliary variables at the start of the step.
      gradient: the counted gradient; `gradient.stage(0).here(params)` is the one that is paid for.
      value: the loss at the start of the step, None where the caller did not pass `value=`.
      flow: the flow that is followed.
      method: the method, for its order and stability limit.
    """

    steps: Int[Array, ""]
    z: State
    gradient: Gradient
    value: Float[Array, ""] | None
    flow: AbstractFlow
    method: AbstractMethod


class AbstractRule(eqx.Module):
    """Proposes the size of each step, then accepts or rejects the step.

    A rejected step returns zero updates and leaves the parameters where they were. Rules are not
    callable: optax would take them for schedules.

    Attributes:
      needs: what a rule cannot do without beside the gradient: any of "value" (the loss),
        "curvature" (Hessian products) and "error" (an estimate of the method). Staged mode, which
        has only the gradient, refuses a rule that needs more.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        """The state of the rule before the first step. Structural."""

    @abc.abstractmethod
    def propose(
        self, state: PyTree[Array], info: StepInfo
    ) -> tuple[Float[Array, ""], PyTree[Array]]:
        """The step size, in flow time, as a scalar of the default float dtype."""

    @abc.abstractmethod
    def judge(
        self, state: PyTree[Array], info: StepInfo, h: Float[Array, ""], step: Step
    ) -> tuple[bool | Bool[Array, ""], PyTree[Array]]:
        """Whether the step of size `h` is accepted; a Python True costs nothing."""


class Fixed(AbstractRule):
    """One step size for all steps, known when the optimizer is built; accepts every step."""

    step_size: float

    def init(self, params: PyTree[Array]) -> tuple[()]:
        """Nothing to remember."""
        return ()

    def propose(self, state: tuple[()], info: StepInfo) -> tuple[Float[Array, ""], tuple[()]]:
        """The step size."""
        return jnp.asarray(self.step_size, float), state

    def judge(
        self, state: tuple[()], info: StepInfo, h: Float[Array, ""], step: Step
    ) -> tuple[bool, tuple[()]]:
        """Accepted."""
        return True, state


class AbstractLocalRule(AbstractRule):
    """A rule without memory: it reads the size off the start of the step.

    A step whose size comes out negative or non-finite is rejected: nothing moves.
    """

    @abc.abstractmethod
    def size(self, info: StepInfo) -> Float[Array, ""]:
        """The step size."""

    def init(self, params: PyTree[Array]) -> tuple[()]:
        """Nothing to remember."""
        return ()

    def propose(self, state: tuple[()], info: StepInfo) -> tuple[Float[Array, ""], tuple[()]]:
        """What `size` says."""
        return self.size(info).astype(float), state

    def judge(
        self, state: tuple[()], info: StepInfo, h: Float[Array, ""], step: Step
    ) -> tuple[Bool[Array, ""], tuple[()]]:
        """Accepted if the size is finite and not negative (0 is a step of a warm-up)."""
        return jnp.isfinite(h) & (h >= 0), state


class Scheduled(AbstractLocalRule):
    """A step size for each step: an optax schedule, or a number that is known only at run time.

    A step whose size comes out negative or non-finite is rejected: nothing moves, and the next
    step asks the schedule again.
    """

    schedule: Callable[[Int[Array, ""]], Any]

    def size(self, info: StepInfo) -> Float[Array, ""]:
        """The schedule at the number of steps taken so far."""
        # inject_hyperparams makes the rate complex where the parameters are
        return jnp.real(jnp.asarray(self.schedule(info.steps)))


def as_rule(learning_rate: Any) -> AbstractRule:
    """The rule that `learning_rate` stands for: a number, an optax schedule, or a rule.

    Raises:
      ValueError: a Python or NumPy number that is not positive and finite. (A traced one, as under
        `optax.inject_hyperparams`, cannot be looked at: it freezes the step instead.)
      TypeError: anything else.
    """
    if isinstance(learning_rate, AbstractRule):
        return learning_rate
    if isinstance(learning_rate, np.ndarray) and learning_rate.shape == ():
        learning_rate = learning_rate.item()
    if isinstance(learning_rate, numbers.Real) and not isinstance(learning_rate, bool):
        rate = float(learning_rate)
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(
                f"learning_rate is {rate}: a step size is a positive, finite amount of flow time. "
                "(For a rate that starts at zero pass a schedule, such as "
                "`optax.linear_schedule(0., 0.1, 100)`.)"
            )
        return Fixed(rate)
    if isinstance(learning_rate, jax.Array) and learning_rate.shape == ():
        return Scheduled(lambda _: learning_rate)
    if callable(learning_rate):
        return Scheduled(learning_rate)
    raise TypeError(
        f"learning_rate is {learning_rate!r:.80}; pass a number, an optax schedule (a function of "
        "the step count) or a rule from odeopt.stepsize."
    )


def check_positive(**numbers: Any) -> None:
    """Refuse a number that is not positive, by name; a traced one cannot be looked at.

    Raises:
      ValueError: with the name and the number.
    """
    for name, number in numbers.items():
        if isinstance(number, int | float | np.number) and not number > 0:
            raise ValueError(f"{name} is {number}; it must be positive.")
