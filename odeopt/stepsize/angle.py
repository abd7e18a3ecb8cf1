"""A step size from the angle between the gradient and the direction of the run."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check, check_ascending, check_flags, check_kind, check_positive
from ..flows import LogTime
from ..information import Information
from ..solvers import Step
from ..sums import inner
from .rule import AbstractRule, StepInfo, Verdict

_LONGEST = 3.0  # longest direction, in units of the running length, that does not shrink the step
_AGAINST, _BRAKE = -0.5, 2.0  # of methods with several gradients: the cosine, and its factor below


class Heading(NamedTuple):
    """The state of the rule."""

    log_size: Scalar
    square: Scalar  # running mean of the squared length of the descent direction
    update: PyTree[Array]  # the last one; `()` if the flow's heading is used


class Angle(AbstractRule):
    """Grows the step while the descent direction agrees with the heading, else shrinks it."""

    gain: float
    shrink: float
    clock: LogTime | None
    first: float
    limit: float
    remembers: bool = eqx.field(static=True)

    @property
    def needs(self) -> Information:  # type: ignore[override]
        """The flow's heading, unless the rule remembers the last update."""
        return Information.NONE if self.remembers else Information.HEADING

    def init(self, params: PyTree[Array]) -> Heading:
        """The first size. Memory: one copy of the parameters, unless the flow's heading is used."""
        update = optax.tree.zeros_like(params) if self.remembers else ()
        return Heading(jnp.log(jnp.asarray(self.first, float)), jnp.zeros([], float), update)

    def propose(self, state: Heading, info: StepInfo) -> tuple[Scalar, Heading]:
        """`h exp(kappa c) / excess`, with the cosine `c` times `shrink` if it is negative."""
        heading = state.update if self.remembers else info.flow.heading(info.z)
        descent = info.flow.descent(info.z, info.objective)
        steps = info.steps.astype(float)
        rate: Any = self.gain if self.clock is None else self.clock.forgetting(steps)
        length = inner(descent, descent)
        most = jnp.where(state.square > 0, _LONGEST**2 * state.square, jnp.inf)
        longer = length > most
        # Chosen before the logarithm: the branch that is not used needs a derivative too.
        excess = 0.5 * jnp.log(jnp.where(longer, length / jnp.where(longer, most, 1.0), 1.0))
        # The first length starts the running mean.
        fresh = (state.square == 0) | (rate >= 1)
        square = jnp.where(fresh, length, state.square + rate * (length - state.square))
        product, ahead = inner(descent, heading), inner(heading, heading)
        agreement = -_cosine(product, square, ahead)
        shrink: Any = self.shrink
        if info.method.gradients_per_step != 1:
            shrink = jnp.where(agreement < _AGAINST, _BRAKE, shrink)
        turned = jnp.where(agreement < 0, shrink * agreement, agreement)
        change = turned * self.gain * (1.0 if self.clock is None else rate) - excess
        # A gradient whose square overflows says nothing of the angle.
        known = jnp.isfinite(change) & jnp.isfinite(square)
        limit = jnp.log(jnp.asarray(self.limit, float))
        size = jnp.minimum(state.log_size + jnp.where(known, change, 0.0), limit)
        square = jnp.where(known, square, state.square)
        return jnp.exp(size), Heading(size, square, state.update)

    def judge(self, state: Heading, info: StepInfo, h: Scalar, step: Step) -> Verdict:
        """Accepted; the update is remembered."""
        if self.remembers:
            state = state._replace(update=optax.tree.cast_like(step.update, state.update))
        return Verdict(True, state)

    def failed(self, state: Heading) -> Heading:
        """Halve the size."""
        return state._replace(log_size=state.log_size - math.log(2.0))


def angle(
    gain: float = 0.1,
    *,
    clock: LogTime | None = None,
    shrink: float = 0.7,
    first: float = 1e-3,
    limit: float = float("inf"),
    remembers: bool = True,
) -> Angle:
    r"""The step size grows while the descent direction agrees with the direction of the run.

    Before each step $\ln h \leftarrow \ln h + \kappa c$ with $c = \cos\theta$ (times `shrink` if it
    is negative). $\theta$ is the angle between the last update and the descent direction $u = -Dg$
    (in the metric $D$ of the flow: Adam's divides by the root of the second moment), in Euclidean
    inner products over all leaves. The cosine uses the *running mean* of $\|u\|^2$: a step that
    hardly moves, since gradients fade faster than the metric forgets them, must not count as
    agreement. `shrink` compensates for the noise of mini-batches, which makes the cosine negative.
    The rule is a line search on average, at no cost in gradients.

    A direction more than three times as long as the root of that mean shows that the last steps
    went too far: the step size is divided by the excess. Otherwise a network that has fitted its
    data would diverge: its step size grows while its gradients are lost in rounding
    (`tests/zoo/test_log_time_soap.py`).

    For methods with several gradients a step, the factor below $c = -1/2$ is 2 in place of
    `shrink`: they may not reverse the gradient along a sharp direction before they are unstable
    ($R > 0$), so $h$ settles at the stability limit, where it must fall faster than it rises. (With
    `shrink` alone Heun's method and often RK4 diverge on quadratics.)

    The multiplicative form on the last direction of Adam is Martínez-Rubio's (thesis, Oxford,
    2017), after Almeida (1998) and Baydin et al. (arXiv:1703.04782). The running mean, the
    asymmetry and the clock (by which the rule averages over as much of the past as a momentum on
    the same clock) are ours; `odeopt benchmark` measures their effect.

    Works with any optimizer. A step that is not finite is rejected and halves the size.

    Args:
      gain: $\kappa$; with a clock, $\kappa$ is `gain` times $r/(n + r)$.
      clock: `flows.LogTime(r)`; None for a constant gain, which is then also the rate of the
        running mean.
      shrink: the factor of a negative cosine, in (0, 1].
      first: the size of the first step, in flow time.
      limit: the largest size.
      remembers: keep the last update, one copy of the parameters, to measure the angle with it.
        False: use the flow's heading; only `flows.AveragedFlow` has one.

    Raises:
      ValueError: a gain, `shrink`, `first` or `limit` that is not positive, a `shrink` above 1, or
        a `first` above `limit`.
      TypeError: a clock that is no `LogTime`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.adam(odeopt.stepsize.angle(), b1=0.98, b2=0.98)
    """
    check_positive(gain=gain)
    check_flags(remembers=remembers)
    check(lambda x: 0 < x <= 1, "shrink", shrink, "above 0 and at most 1")
    if clock is not None:
        check_kind(LogTime, "flows.LogTime(10.0)", clock=clock)
    check_ascending(first=first, limit=limit)
    return Angle(gain, shrink, clock, first, limit, remembers)


def _cosine(product: Scalar, square: Scalar, ahead: Scalar) -> Scalar:
    """The cosine from an inner product and two squared norms; 0 if either vector is 0."""
    known = (square > 0) & (ahead > 0)
    # One root after the other: the product of two small squares underflows.
    first, second = (jnp.sqrt(jnp.where(known, s, 1.0)) for s in (square, ahead))
    return jnp.where(known, jnp.clip(product / first / second, -1.0, 1.0), 0.0)
