"""Step sizes from a distance and the number of steps."""

from typing import Any

import jax.numpy as jnp

from ..arrays import Scalar
from ..checks import check, check_cap, check_positive, check_steps
from .rule import AbstractLocalRule, StepInfo

DISTANCE = 12.0
"""The distance in units of `flows.UnitFlow`; the only constant, found on twelve problems."""
LONGEST = 0.5
"""The longest step, in flow time: with Muon's velocity, a tenth of the size of a matrix."""
SHORT = 192
"""A run with fewer steps than this may take longer ones, since it would get nowhere otherwise."""
LONGER = 3.0
"""The most by which such a run multiplies its longest step."""


class Horizon(AbstractLocalRule):
    """A distance over the square root of the horizon, with warm-up and linear decay."""

    steps: Any
    distance: Any
    warm_up: float
    longest: Any

    counts = True

    def size(self, info: StepInfo) -> Scalar:
        n = info.steps.astype(float)
        rise = (n + 1) / (self.warm_up * self.steps)
        fall = jnp.maximum(self.steps - n, 1.0) / ((1 - self.warm_up) * self.steps)
        longest = self.longest * jnp.clip(SHORT / self.steps, 1.0, LONGER)
        most = jnp.minimum(self.distance / jnp.sqrt(self.steps), longest)
        return most * jnp.minimum(jnp.minimum(rise, fall), 1.0)


def horizon(
    steps: int, distance: float = DISTANCE, *, warm_up: float = 0.05, longest: float = LONGEST
) -> Horizon:
    r"""A distance over $\sqrt N$, $N$ the number of steps, with warm-up and linear decay.

    $h_n = \min\left(\frac{d}{\sqrt N}, \hat h\right)
    \min\left(1, \frac{n+1}{wN}, \frac{N-n}{(1-w)N}\right)$ for the step $n = 0, 1, \dots$: a random
    walk of $N$ steps of size $d/\sqrt N$ ends at the distance $d$. For flows of unit speed (Adam's,
    Muon's), whose learning rate is a distance (see `flows.UnitFlow`). Past the horizon the size
    stays that of step $N - 1$. Costs no gradient and no memory.

    Args:
      steps: $N \ge 1$, the steps that the run will take.
      distance: $d$, in flow time; a flow in other units needs one of its own.
      warm_up: $w$ in (0, 1), the part of the run in which the size rises.
      longest: $\hat h$, the longest step, in flow time; in a run of fewer than 192 steps it is
        $192\hat h/N$, at most $3\hat h$.

    Raises:
      ValueError: `steps` below 1, a distance or a longest step that is not positive,
        `warm_up` outside (0, 1).

    References: a distance over the root of the number of steps is the size in the convergence
    theory of subgradient descent (Zinkevich, 2003) and in DoG (arXiv:2302.12022); linear decay is
    the best schedule for the last iterate (arXiv:2310.07831).

    Examples:
      >>> import odeopt
      >>> opt = odeopt.adam(odeopt.stepsize.horizon(10_000, distance=0.2))
    """
    check_steps(steps=steps)
    check_positive(distance=distance)
    check_cap(longest=longest)
    check(lambda w: 0 < w < 1, "warm_up", warm_up, "between 0 and 1: a part of the run")
    return Horizon(steps, distance, warm_up, longest)


class Anytime(AbstractLocalRule):
    """A distance over the root of the number of steps so far, then over their number."""

    distance: Any
    warm_up: float
    transition: float
    longest: Any

    counts = True

    def size(self, info: StepInfo) -> Scalar:
        n = info.steps.astype(float) + 1
        m = n + self.warm_up
        size = self.distance / 4 / jnp.sqrt(m * jnp.maximum(m / self.transition, 1.0))
        return jnp.minimum(size, self.longest) * jnp.minimum(n / self.warm_up, 1.0)


def anytime(
    distance: float = DISTANCE,
    *,
    warm_up: float = 50,
    transition: float = 300,
    longest: float = LONGEST,
) -> Anytime:
    r"""A size that falls with the number of steps so far, for a run that may end at any time.

    With $m = n + 1 + w$ at step $n = 0, 1, \dots$, $h_n = \min\left(\frac{d}{4\sqrt m}
    \min\left(1, \sqrt{m_0/m}\right), \hat h\right)\min\left(1, \frac{n+1}{w}\right)$. At first
    it is a quarter of the largest size of a `horizon` of $m$ steps, and falls as $1/\sqrt m$; after
    $m_0$ steps it falls as $1/m$: noise averages out, and the distance still grows without bound,
    as $\ln m$. The last iterate stays noisy: evaluate an average, such as that of
    `flows.AveragedFlow`. Costs no gradient and no memory.

    Args:
      distance: $d$, as in `horizon`.
      warm_up: $w$, a number of steps.
      transition: $m_0$, the number of steps from which the size falls as $1/m$; `math.inf` for
        $1/\sqrt m$ throughout. Values of 150 and 600 ended as the default did.
      longest: $\hat h$, as in `horizon`.

    Raises:
      ValueError: a distance, a warm-up, a transition or a longest step that is not positive.

    References: $1/\sqrt n$ is the schedule of Zinkevich (2003) for convex losses, $1/n$ that of
    Robbins and Monro (1951). `docs/research-log.md` has what the change at $m_0$ is worth.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.adam(odeopt.stepsize.anytime(distance=0.2))
    """
    check_positive(distance=distance, warm_up=warm_up)
    check_cap(transition=transition, longest=longest)
    return Anytime(distance, warm_up, transition, longest)
