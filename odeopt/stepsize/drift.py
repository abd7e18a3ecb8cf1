"""Step sizes from the gradient and either the drift or the loss."""

import math
from typing import ClassVar

import jax.numpy as jnp

from ..arrays import Scalar, ratio
from ..checks import check, check_cap, check_flags, check_positive
from ..information import Information
from ..solvers import Step
from ..sums import inner, norm
from .rule import AbstractLocalRule, StepInfo, Verdict


class DriftAdjusted(AbstractLocalRule):
    """A step size from the size of the drift, `‖Hg‖ / ‖g‖`."""

    needs: ClassVar[Information] = Information.PRODUCT | Information.POINT

    power: float
    cap: float
    smooth: bool

    def size(self, info: StepInfo) -> Scalar:
        params = info.z[0]
        g = info.objective.here(params)
        # Complex gradients arrive conjugated, which is right for a direction in parameter space.
        r = ratio(norm(info.objective.product(params)(g)), norm(g)) ** self.power
        least = 1.0 / self.cap  # 0 without a cap
        return 1.0 / (least + 0.5 * r if self.smooth else jnp.maximum(least, 0.5 * r))

    def judge(self, state: tuple[()], info: StepInfo, h: Scalar, step: Step) -> Verdict:
        """Accepted; the Hessian product counts as 2 gradients."""
        return Verdict(True, state, 2)


def drift_adjusted(power: float = 1.0, *, cap: float = 5.0, smooth: bool = False) -> DriftAdjusted:
    r"""The drift-adjusted learning rate, DAL-p.

    $h = \min(2/r, \text{cap})$ with $r = (\|Hg\|/\|g\|)^p$ at the start of the step (Rosca, Wu, Qin
    and Dherin, arXiv:2302.01952, where $\tfrac h2 Hg$ is the drift of gradient descent); or, with
    `smooth`, $1/h = 1/\text{cap} + r/2$ (the capped form of arXiv:2505.13397). Both tend to `cap`
    as the drift vanishes, never exceed it, and are `cap` at a zero gradient. As $\|Hg\| \le
    \max|\lambda|\,\|g\|$, DAL-1 without cap is at least $2/\max|\lambda|$: for a positive definite
    Hessian the limit of Euler's method. The rule needs no sweep, but need not beat a tuned rate. It
    was made for gradient descent; with momentum a run may diverge where the curvature changes
    (`docs/step-size.md` has a table).

    Costs one Hessian product a step, counted as 2 gradients. Only the power 1 is scale-free.

    Args:
      power: p.
      cap: the largest step size, in flow time; `inf` for none, which rejects a step without drift.
      smooth: the smooth form.

    Raises:
      ValueError: a cap or power that is not positive.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.euler(odeopt.stepsize.drift_adjusted(cap=1.0))
    """
    check_positive(power=power)
    check_cap(cap=cap)
    check_flags(smooth=smooth)
    return DriftAdjusted(power, cap, smooth)


class Corridor(AbstractLocalRule):
    """A step size from the loss above its minimum."""

    needs: ClassVar[Information] = Information.VALUE

    minimum: float
    cap: float

    def size(self, info: StepInfo) -> Scalar:
        if info.value is None:
            raise ValueError(
                "corridor() looks at the loss: pass it to update, "
                "`opt.update(grads, state, params, value=value, ...)`."
            )
        above = jnp.maximum(info.value.astype(float) - self.minimum, 0.0)
        g = info.objective.here(info.z[0])
        square = inner(g, g)
        return jnp.where(above > 0, jnp.minimum(above / square, self.cap), 0.0 * above)


def corridor(minimum: float = 0.0, *, cap: float = float("inf")) -> Corridor:
    r"""The corridor learning rate, CLR.

    $h = \min((E - E^*)/\|g\|^2, \text{cap})$: along a straight piece of gradient flow (a corridor)
    on which the loss falls linearly, as for $E = \|x\|$, one Euler step reaches the minimum. This
    is Polyak's step size; with $E^* = 0$ it is the CLR of Dherin and Rosca (arXiv:2402.08818).

    Needs `value=` in `update`; costs nothing else. A loss at or below `minimum` gives a step of
    size 0; one that is not finite is rejected. Set `cap` for the noisy loss of a mini-batch, and
    where the gradient may fade before the loss does. With other methods than Euler's runs may
    diverge (`docs/step-size.md` has a table).

    Args:
      minimum: the least value of the loss, $E^*$.
      cap: the largest step size, in flow time.

    Raises:
      ValueError: a cap that is not positive, a minimum that is not finite; in `update`, a missing
        `value=`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> opt = odeopt.euler(odeopt.stepsize.corridor())
      >>> x = jnp.array([3.0, -4.0])
      >>> value, grads = jax.value_and_grad(jnp.linalg.norm)(x)
      >>> updates, state = opt.update(grads, opt.init(x), x, value=value)
      >>> (x + updates).round(5)
      Array([0., 0.], dtype=float32)
    """
    check_cap(cap=cap)
    check(math.isfinite, "minimum", minimum, "the least value of the loss, a finite number")
    return Corridor(minimum, cap)
