"""Step sizes by how well a quadratic model foresees the loss."""

from typing import ClassVar

import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_positive
from ..information import Information
from ..solvers import Model, Step
from ..sums import inner
from .rule import AbstractRule, StepInfo, Verdict

# Thresholds and factors as usual in trust-region codes, where h plays the radius.
_GOOD, _BAD = 0.75, 0.25
_GROW, _SHRINK, _REJECT = 3.0, 0.5, 0.25
_FAR, _NEAR = 0.75, 0.6  # of a step: where on it the model's minimum is, to grow or to shrink
_RISE = 1e-12  # relative rise of the loss that still counts as none
_ROUNDING = 10.0  # roundings of the loss: what the model predicts below so many cannot be judged


class GainRatio(AbstractRule):
    """Accepts a step on which the loss falls, and sizes the next one by actual over predicted."""

    needs: ClassVar[Information] = (
        Information.VALUE | Information.PRODUCT | Information.DESCENT | Information.POINT
    )

    first: float | Array
    least: float
    limit: float

    def init(self, params: PyTree[Array]) -> Scalar:
        """The size to try next."""
        return jnp.asarray(self.first, float)

    def propose(self, state: Scalar, info: StepInfo) -> tuple[Scalar, Scalar]:
        """What the last step left."""
        return state, state

    def judge(self, state: Scalar, info: StepInfo, h: Scalar, step: Step) -> Verdict:
        """Accepted if the loss is finite and does not rise."""
        params, objective = info.z[0], info.objective
        update = optax.tree.cast_like(step.update, params)
        before = objective.value(params) if info.value is None else jnp.asarray(info.value)
        after = objective.value(optax.apply_updates(params, update))
        model, used = step.model, 1 + (info.value is None)
        if model is None:  # the step knows none of the caller's own loss
            curvature = objective.product(params)(update)
            model = Model(inner(objective.here(params), update), 0.5 * inner(update, curvature))
            used += 2
        linear, quadratic = model

        accept = jnp.isfinite(after) & (after <= before + _RISE * jnp.abs(before))
        predicted, decrease = -(linear + quadratic), before - after
        far, near = (-linear >= 2 * part * quadratic for part in (_FAR, _NEAR))
        longer = jnp.where(far, _GROW, jnp.where(near, 1.0, _SHRINK))
        grow = (predicted > 0) & (decrease > _GOOD * predicted)
        keep = (predicted > 0) & (decrease >= _BAD * predicted)
        factor = jnp.where(grow, longer, jnp.where(keep, 1.0, _SHRINK))
        factor = jnp.where(accept, factor, _REJECT)
        # What cannot be seen in the loss is the model's alone to judge.
        rounding = _ROUNDING * jnp.finfo(after.dtype).eps * jnp.abs(before)
        unseen = jnp.maximum(jnp.abs(linear), jnp.abs(quadratic)) <= rounding
        trusted = jnp.where(predicted > 0, longer, jnp.where(predicted < 0, _SHRINK, 1.0))
        factor = jnp.where(unseen, trusted, factor)
        return Verdict(accept, jnp.clip(h * factor, self.least, self.limit), used)

    def failed(self, state: Scalar) -> Scalar:
        """A quarter of the size, as after a rejection."""
        return jnp.maximum(_REJECT * state, self.least)


def gain_ratio(
    *, first: float | Array = 1.0, least: float = 1e-6, limit: float = 1e12
) -> GainRatio:
    r"""Trust-region control: the loss never rises, and the step grows while it is foreseen.

    With the update u of a step, the actual decrease of the loss is compared with that of its
    quadratic model, $-(g\cdot u + \tfrac12 u\cdot Hu)$. The step is accepted if the loss does not
    rise (to 1e-12 of itself) and is finite; the next size is 3 times this one if the ratio is
    above 0.75, half of it below 0.25, a quarter after a rejection. It does not grow where the model
    has its minimum along u before three quarters of u, and is halved where that is before 0.6 of u:
    there a method without damping, such as the implicit midpoint rule, would only swing to the
    other side. Where both terms of the model are below the rounding of the loss, the ratio says
    nothing: it counts as 1 if the model says that the loss falls, and the size is halved if it says
    that it rises.

    The choice for implicit, linearly implicit and exponential steps, of which a large one is a
    Newton step; an explicit step it keeps near the stability limit, at the price of rejections.

    Each step costs a Hessian product (2 gradients; none for the linearly implicit and the
    exponential Euler method, whose model is the one that they solve) and a loss at the trial point
    (counted as 1), and a loss at the start (1) unless `update` gets `value=`. `value_fn` must be
    given. On a mini-batch the ratio is that of the mini-batch, also the promise not to rise.

    Args:
      first: the size of the first step that is tried.
      least: the smallest size.
      limit: the largest size.

    Raises:
      ValueError: an argument that is not positive; in `update`, a flow with momentum, a missing
        `value_fn`, or a `stage_transform` (of whose gradients the loss is not the potential).

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> opt = odeopt.heun(odeopt.stepsize.gain_ratio())
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * x**2)
      >>> x = jnp.ones(2)
      >>> value, grads = jax.value_and_grad(loss)(x)
      >>> updates, state = opt.update(grads, opt.init(x), x, value=value, value_fn=loss)
      >>> updates, int(state.rejected), float(state.rule)  # a step of 1 was too large
      (Array([0., 0.], dtype=float32), 1, 0.25)
    """
    check_positive(first=first, least=least, limit=limit)
    return GainRatio(first, least, limit)
