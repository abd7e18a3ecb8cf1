r"""How long a moment remembers, per step and in flow time.

A moment that keeps the fraction $b$ of itself in a step of size $h$ is the solution of
$\tau\dot m = g - m$ with the time constant $\tau = -h/\ln b$; in a heavy ball, whose own time runs
in units of $\sqrt h$, it is friction $\gamma = -\ln b/\sqrt h$.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ..arrays import Scalar, wide_dtype
from ..checks import check, check_least, check_positive, fraction_dtype, is_known, is_zero

T = TypeVar("T")
_MUST = (
    "the part of a moment that a step keeps, at least 0 and below 1 (0.9, say), or a clock such as "
    "`odeopt.flows.LogTime(10.0)`"
)


class Constant(eqx.Module):
    """A memory of constant length: every step keeps the same fraction of a moment.

    Args:
      decay: the fraction that a step keeps, in [0, 1).
      least: the narrowest dtype of a moment; None for the parameters' dtype, as in optax.
    """

    decay: Any
    least: Any = eqx.field(static=True, default=None)

    unbiased: ClassVar[bool] = False
    """Whether a moment averages gradients only, without the zero that it started at."""

    def retained(self, age: Scalar, fraction: float | Array = 1.0) -> Any:
        """The part of a moment that remains after `fraction` of the step at `age`."""
        whole = is_known(fraction) and fraction == 1
        return self.decay if whole else self.decay**fraction

    def forgetting(self, age: Scalar) -> Array:
        """The rate at which a moment forgets, per step: -ln b.

        Raises:
          ValueError: b = 0, whose rate is infinite.
        """
        if is_zero(self.decay):
            raise ValueError(
                "With a decay of 0 a moment forgets at no finite rate, so this flow has no field: "
                "use `odeopt.solvers.Lie()`, or a decay above 0."
            )
        return -jnp.log(jnp.asarray(self.decay, float))

    def weight(self, age: Scalar) -> Array:
        """Total weight of the gradients in a moment that was zero `age` steps ago."""
        return 1 - self.decay**age

    def fixed(self) -> Any:
        """The decay."""
        return self.decay

    def check(self, name: str) -> None:
        """Refuse a number outside [0, 1), and a schedule."""
        if callable(self.decay):
            raise ValueError(
                f"{name} is a function; to change {name} with the steps write "
                f"`optax.inject_hyperparams(make)(..., {name}=schedule)`, where `make` makes the "
                "optimizer, such as `odeopt.adam`."
            )
        check(lambda decay: 0 <= decay < 1, name, self.decay, _MUST)

    def dtype(self, dtype: Any) -> Any:
        """The dtype of a moment, for parameters of `dtype`."""
        return dtype if self.least is None else np.promote_types(jnp.dtype(dtype), self.least)


class LogTime(eqx.Module):
    r"""A memory that grows with the run: step $n = 0, 1, \dots$ keeps $n/(n + r)$ of a moment.

    This is friction $r/t$: in logarithmic time, $\ln t$, every moment forgets at the constant rate
    $r$, so that it always averages over the last $1/r$ or so of the run, however long that is.
    Pass it as `momentum`, `b1` or `b2`. The first step keeps nothing, so no bias needs correction.
    (In ADANA, arXiv:2602.05298, it is the clock of both moments.)

    Args:
      rate: $r > 0$.

    Raises:
      ValueError: a rate that is not positive.

    Examples:
      >>> import odeopt
      >>> clock = odeopt.flows.LogTime(10.0)
      >>> opt = odeopt.adam(1e-3, b1=clock, b2=clock)
    """

    rate: float = 10.0

    unbiased: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_positive(rate=self.rate)

    def retained(self, age: Scalar, fraction: float | Array = 1.0) -> Array:
        """The part of a moment that remains after `fraction` of the step at `age`: n / (n + r).

        0 before time 0, which a substep backwards in time may reach.
        """
        known = age > 0
        safe = jnp.where(known, age, 1.0)
        return jnp.where(known, (safe / (safe + self.rate)) ** fraction, 0.0)

    def forgetting(self, age: Scalar) -> Array:
        """The rate at which a moment forgets, per step: r / (n + r)."""
        return self.rate / (age + self.rate)

    def weight(self, age: Scalar) -> Array:
        """1: the first step keeps nothing of the initial zero."""
        return jnp.ones_like(age)

    def check(self, name: str) -> None:
        """Any clock is fine."""

    def fixed(self) -> Any:
        """Refused: a counter-term needs a number."""
        raise ValueError("The decay is a clock; the counter-term needs a fixed number.")

    def dtype(self, dtype: Any) -> Any:
        """At least float32.

        Each step changes a moment by a smaller fraction, which bfloat16 would round away after a
        few hundred steps.
        """
        return wide_dtype(dtype)


Decay: TypeAlias = Constant | LogTime
"""The fraction of a moment that a step keeps: a number in [0, 1), or a clock."""


class ByStep(eqx.Module):
    """A hyper-parameter given as a schedule of the number of steps (rejected ones included).

    Before every step `at_step` replaces the schedule by its value, so that it keeps pace with a
    schedule of the learning rate.
    """

    schedule: Callable[[Any], Any]

    def __call__(self, step: Array) -> Any:
        """The value at a step."""
        return self.schedule(step)

    def at_age(self, age: Array) -> Any:
        """The value in a flow that no optimizer steps: the step is the flow's age, rounded down."""
        return self(jnp.floor(age).astype(jnp.int32))


def by_step(number: Any) -> Any:
    """A schedule as a `ByStep`; the real part of a number."""
    return ByStep(number) if callable(number) and not is_scheduled(number) else real(number)


def is_scheduled(node: Any) -> bool:
    """Whether a node is a `ByStep`."""
    return isinstance(node, ByStep)


def schedules(flow: PyTree) -> list[Any]:
    """Every `ByStep` of a flow, including those of the flows inside it."""
    return [x for x in jax.tree.leaves(flow, is_leaf=is_scheduled) if is_scheduled(x)]


def at_step(flow: T, step: Array) -> T:
    """The flow with every schedule replaced by its value at a step."""
    return jax.tree.map(lambda x: x(step) if is_scheduled(x) else x, flow, is_leaf=is_scheduled)


def real(number: Any) -> Any:
    """The real part: `optax.inject_hyperparams` makes numbers complex if the parameters are."""
    return jnp.real(number) if isinstance(number, jax.Array) else number


def as_decay(decay: Any, least: Any = None) -> Any:
    """A number as a `Constant` with moments of at least the dtype `least`; a clock unchanged."""
    if decay is None or hasattr(decay, "retained"):
        return decay
    decay = real(decay)
    if not is_known(decay):
        # `optax.inject_hyperparams` rounds 0.999 to 1 in bfloat16, which would ignore gradients
        with contextlib.suppress(TypeError):  # `check_decay` refuses a non-number by its name
            decay = jnp.minimum(decay, 1 - jnp.finfo(jnp.result_type(decay, float)).epsneg)
    return Constant(decay, least)


def check_decay(**decays: Decay) -> None:
    """Refuse a number outside [0, 1), by name; a traced number cannot be checked."""
    for name, clock in decays.items():
        if clock is None:
            raise ValueError(f"{name} is None; it must be {_MUST}.")
        clock.check(name)


def moment_like(params: PyTree[Array], clock: Decay, dtype: Any = None) -> PyTree[Array]:
    """A zero moment of `dtype` (default: the parameters' own), or wider if the clock needs it."""
    dtype = fraction_dtype("moment", dtype)
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=clock.dtype(dtype or p.dtype)), params)


def time_constant(learning_rate: float, decay: float) -> float:
    r"""The time constant of a moment in flow time, $\tau = -h/\ln b$.

    Args:
      learning_rate: step size $h$.
      decay: $b$, such as Adam's `b1` or `b2`.

    Raises:
      ValueError: a learning rate that is not positive, a decay that is not between 0 and 1.

    Examples:
      >>> import odeopt
      >>> round(odeopt.flows.time_constant(1e-3, 0.9), 6)
      0.009491
    """
    check_positive(learning_rate=learning_rate)
    check(lambda b: 0 < b < 1, "decay", decay, "between 0 and 1")
    return -learning_rate / math.log(decay)


def decay_of(learning_rate: float, time_constant: float) -> float:
    r"""The fraction that a step keeps of a moment: $b = e^{-h/\tau}$, inverse of `time_constant`.

    With this decay the *flow* stays the same when the learning rate changes.

    Args:
      learning_rate: step size $h$.
      time_constant: $\tau$, in flow time.

    Raises:
      ValueError: a number that is not positive.

    Examples:
      >>> import odeopt
      >>> h, tau = 1e-3, odeopt.flows.time_constant(1e-3, 0.9)
      >>> round(odeopt.flows.decay_of(h / 2, tau) ** 2, 6)  # two half steps keep what one keeps
      0.9
    """
    check_positive(learning_rate=learning_rate, time_constant=time_constant)
    return math.exp(-learning_rate / time_constant)


def friction(learning_rate: float, momentum: float) -> float:
    r"""The friction of a heavy ball, $\gamma = -\ln\mu/\sqrt h$, in units of its own time.

    Args:
      learning_rate: $h$; the ball's own time step is $\sqrt h$.
      momentum: $\mu$.

    Raises:
      ValueError: a learning rate that is not positive, a momentum outside (0, 1].

    Examples:
      >>> import odeopt
      >>> round(odeopt.flows.friction(0.01, 0.9), 4)
      1.0536
    """
    check_positive(learning_rate=learning_rate)
    check(lambda mu: 0 < mu <= 1, "momentum", momentum, "above 0 and at most 1")
    return -math.log(momentum) / math.sqrt(learning_rate)


def momentum_of(learning_rate: float, friction: float) -> float:
    r"""The momentum of a heavy ball, $\mu = e^{-\gamma\sqrt h}$, the inverse of `friction`.

    Args:
      learning_rate: see `friction`.
      friction: $\gamma$, per unit of the ball's own time.

    Raises:
      ValueError: a learning rate that is not positive, a negative friction.

    Examples:
      >>> import odeopt
      >>> gamma = odeopt.flows.friction(0.01, 0.9)
      >>> round(odeopt.flows.momentum_of(0.0025, gamma) ** 2, 6)  # two steps of half the length
      0.9
    """
    check_positive(learning_rate=learning_rate)
    check_least(0, friction=friction)
    return math.exp(-friction * math.sqrt(learning_rate))
