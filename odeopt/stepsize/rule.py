"""The interface of a step-size rule, and the two rules that optax users know."""

import abc
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PyTree

from ..arrays import Scalar
from ..checks import is_traced
from ..flows import AbstractFlow, State
from ..information import Information
from ..objective import Objective
from ..solvers import AbstractMethod, Step
from ..sums import finite


class StepInfo(NamedTuple):
    """The information that a rule may use.

    Attributes:
      steps: number of steps taken before this one.
      z: parameters and auxiliary variables at the start of the step.
      objective: the loss; `objective.here(params)` is the gradient that the caller already has.
      value: the loss at the start of the step; None if the caller did not pass `value=`.
      flow: the flow of the optimizer.
      method: the method, for its order and stability limit.
    """

    steps: Int[Array, ""]
    z: State
    objective: Objective
    value: Scalar | None
    flow: AbstractFlow
    method: AbstractMethod


class Verdict(NamedTuple):
    """The verdict of a rule on a step.

    Attributes:
      accept: whether the step is accepted; a Python True costs nothing.
      state: the state of the rule after the step.
      gradients: number that the rule itself has evaluated; a Hessian product counts as 2.
      again: whether a rejected step is tried again in the same call (see `AbstractRule.tries`).
    """

    accept: bool | Bool[Array, ""]
    state: PyTree[Array]
    gradients: int | Int[Array, ""] = 0
    again: bool | Bool[Array, ""] = False


class AbstractRule(eqx.Module):
    """Proposes the size of each step, then accepts or rejects the step.

    A rejected step leaves the parameters where they were before it. Rules are not callable: optax
    would take them for schedules.

    Attributes:
      needs: the information that the rule requires beside the gradient; compared with what flow,
        solver and mode provide when the optimizer is built.
      rejects: whether a step that is not finite is rejected; `odeopt.guard` does so for any rule.
      tries: the most steps that one call of `update` makes while the verdict is to try again.
      counts: whether the size of a step depends on its number.
    """

    needs: ClassVar[Information] = Information.NONE
    rejects: ClassVar[bool] = True
    tries = 1
    counts = False

    def check(self, flow: AbstractFlow, method: AbstractMethod) -> None:
        """Raise a `ValueError`, when the optimizer is built, for what `needs` cannot express."""

    @abc.abstractmethod
    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        """The state of the rule before the first step, from shapes and dtypes alone."""

    @abc.abstractmethod
    def propose(self, state: PyTree[Array], info: StepInfo) -> tuple[Scalar, PyTree[Array]]:
        """The step size, in flow time, as a scalar of the default float dtype."""

    def judge(self, state: PyTree[Array], info: StepInfo, h: Scalar, step: Step) -> Verdict:
        """Whether the step of size `h` is accepted; by default, if it is finite."""
        return Verdict(True, state)

    def failed(self, state: PyTree[Array]) -> PyTree[Array]:
        """The state after a step that was not finite though its gradient and loss were.

        `state` is the state before the step was proposed.
        """
        return state


class AbstractLocalRule(AbstractRule):
    """A rule without memory: the start of the step determines the size."""

    @abc.abstractmethod
    def size(self, info: StepInfo) -> Scalar:
        """The step size."""

    def init(self, params: PyTree[Array]) -> tuple[()]:
        return ()

    def propose(self, state: tuple[()], info: StepInfo) -> tuple[Scalar, tuple[()]]:
        return self.size(info).astype(float), state


class Fixed(AbstractRule):
    """One step size for all steps, known when the optimizer is built; accepts every step."""

    step_size: float

    rejects: ClassVar[bool] = False

    def init(self, params: PyTree[Array]) -> tuple[()]:
        """No memory. A `ValueError` where the dtype of a parameter, or of time, cannot hold h."""
        dtypes = {jnp.finfo(leaf.dtype).dtype for leaf in jax.tree.leaves(params)}
        for dtype in (*dtypes, jnp.zeros([]).dtype):
            with np.errstate(over="ignore"):
                rounded = float(jnp.finfo(dtype).dtype.type(self.step_size))
            if not 0 < rounded < math.inf:
                raise ValueError(
                    f"learning_rate is {self.step_size}, which is {rounded} in {dtype}: give one "
                    f"between {float(jnp.finfo(dtype).tiny):.3g} and "
                    f"{float(jnp.finfo(dtype).max):.3g}, or wider parameters."
                )
        return ()

    def propose(self, state: tuple[()], info: StepInfo) -> tuple[Scalar, tuple[()]]:
        return jnp.asarray(self.step_size, float), state


class Scheduled(AbstractLocalRule):
    """A step size for each step: an optax schedule, or a number that is known only at run time.

    A step with a negative or non-finite size is rejected: nothing moves, and the next step asks the
    schedule again. (A size of 0 is accepted, as in a warm-up.)
    """

    schedule: Callable[[Int[Array, ""]], Any]
    counts: bool = eqx.field(static=True, default=True, repr=False)

    rejects: ClassVar[bool] = False

    def size(self, info: StepInfo) -> Scalar:
        """The schedule at the number of steps taken so far."""
        size = self.schedule(info.steps)
        try:  # inject_hyperparams makes the rate complex where the parameters are
            size = jnp.real(jnp.asarray(size))
        except (TypeError, ValueError):
            raise TypeError(
                f"learning_rate is a schedule that gives {size!r:.60} where a number is expected: "
                "return one. If the function makes a schedule or a rule, pass what it makes, "
                "such as `stepsize.horizon(1000)` or `optax.constant_schedule(0.1)`."
            ) from None
        if size.shape:
            raise ValueError(
                f"The schedule gives an array of shape {size.shape}: return one number, the size "
                "of the step for all parameters. (For sizes by group use optax.partition.)"
            )
        return size

    def judge(self, state: tuple[()], info: StepInfo, h: Scalar, step: Step) -> Verdict:
        """Accepted if the size is finite, in the parameters' dtypes too, and not negative."""
        largest = min((jnp.finfo(x.dtype).max for x in jax.tree.leaves(info.z[0])), default=jnp.inf)
        return Verdict(jnp.isfinite(h) & (h <= float(largest)) & (h >= 0), state)


def settled(
    rule: AbstractRule,
    before: PyTree[Array],
    verdict: Verdict,
    given: PyTree,
    made: tuple[PyTree, ...],
    sound: Bool[Array, ""],
) -> tuple[Bool[Array, ""], PyTree[Array]]:
    """The policy for non-finite numbers: whether a step can be kept, and the state of its rule.

    A non-finite gradient or loss (`given`) is not the fault of the step size: the rule keeps its
    state. If only the step is non-finite (`made`, or not `sound`), the rule is told (`failed`).
    """
    sane = finite(given)
    kept = sane & sound & finite(*made, verdict.state)
    otherwise = optax.tree.where(sane, rule.failed(before), before)
    return kept, optax.tree.where(kept, verdict.state, otherwise)


def _always(rate: Array, step: Int[Array, ""]) -> Array:
    return rate


def _is_real(number: Array) -> bool:
    """Whether it can be a size; a traced one may be complex by `optax.inject_hyperparams`."""
    complex_one = jnp.iscomplexobj(number) and not is_traced(number) and jnp.imag(number) != 0
    return number.dtype != bool and not complex_one


def _check_schedule(schedule: Callable[..., Any]) -> None:
    """Refuse a function that cannot be called with the step count alone: a factory of schedules."""
    try:
        parameters = inspect.signature(schedule)
    except ValueError:  # some builtin functions have no signature
        return
    try:
        parameters.bind(0)
    except TypeError as error:
        name = getattr(schedule, "__name__", repr(schedule))
        raise TypeError(
            f"learning_rate is {name}, no schedule: it cannot be called with the step count alone, "
            f"{error}. If it makes a schedule or a rule, pass what it makes, `{name}(...)`."
        ) from None


def as_rule(learning_rate: Any) -> AbstractRule:
    """The rule that `learning_rate` stands for: a number, an optax schedule, or a rule.

    Raises:
      ValueError: a Python or NumPy number that is not positive and finite. (A traced one, as under
        `optax.inject_hyperparams`, cannot be checked: it freezes the step instead.)
      TypeError: anything else.
    """
    if hasattr(learning_rate, "propose"):
        return learning_rate
    if callable(learning_rate):
        _check_schedule(learning_rate)
        return Scheduled(learning_rate)
    array = isinstance(learning_rate, jax.Array)
    if array and learning_rate.shape == () and _is_real(learning_rate):
        return Scheduled(jax.tree_util.Partial(_always, learning_rate), counts=False)
    # NumPy's scalars are `numbers.Real`, its bool is not
    if not array and isinstance(np.asarray(learning_rate)[()], numbers.Real):
        rate = float(learning_rate)
        if not (math.isfinite(rate) and rate > 0):
            raise ValueError(
                f"learning_rate is {rate}: a step size is a positive, finite amount of flow time. "
                "(For a rate that starts at zero pass a schedule, such as "
                "`optax.linear_schedule(0., 0.1, 100)`.)"
            )
        return Fixed(rate)
    raise TypeError(
        f"learning_rate is {learning_rate!r:.80}; pass a number, an optax schedule (a function of "
        "the step count) or a rule from odeopt.stepsize."
    )
