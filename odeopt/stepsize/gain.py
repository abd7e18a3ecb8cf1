"""Step sizes by how well a quadratic model predicts the loss."""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_ascending, check_counts
from ..information import Information
from ..solvers import Model, Step
from ..sums import inner
from .rule import AbstractRule, StepInfo, Verdict

# Thresholds and factors as usual in trust-region codes, where h plays the radius.
_GOOD, _BAD = 0.75, 0.25
_GROW, _SHRINK, _REJECT = 3.0, 0.5, 0.25
_FAR, _NEAR = 0.75, 0.6  # least distance of the model's minimum, in steps: to grow, to keep size
_RISE = 1e-12  # relative rise of the loss that still counts as none
_ERROR = 0.01  # relative error of the model at which faster growth aims
_ROUNDING = 10.0  # a prediction below this many roundings of the loss cannot be judged by the loss


class Seen(NamedTuple):
    """State of `gain_ratio` with several tries."""

    size: Scalar  # to try next
    loss: Scalar  # at the end of the last call; a call that starts at another loss has a new batch


class GainRatio(AbstractRule):
    """Accepts a step if the loss does not rise; the gain ratio sets the next step size."""

    needs: ClassVar[Information] = (
        Information.VALUE | Information.PRODUCT | Information.DESCENT | Information.POINT
    )

    first: float | Array
    least: float
    limit: float
    tries: int = eqx.field(static=True, default=1)

    def init(self, params: PyTree[Array]) -> Any:
        first = jnp.asarray(self.first, float)
        return first if self.tries == 1 else Seen(first, jnp.zeros([], float))

    def propose(self, state: Any, info: StepInfo) -> tuple[Scalar, Any]:
        return (state if self.tries == 1 else state.size), state

    def judge(self, state: Any, info: StepInfo, h: Scalar, step: Step) -> Verdict:
        """Accepted if the loss is finite and does not rise."""
        params, objective = info.z[0], info.objective
        update = optax.tree.cast_like(step.update, params)
        before = objective.value(params) if info.value is None else jnp.asarray(info.value)
        after = objective.value(optax.apply_updates(params, update))
        eps = float(jnp.finfo(after.dtype).eps)
        before, after = before.astype(float), after.astype(float)
        same: bool | Array = False
        if self.tries > 1:
            same = jnp.abs(before - state.loss) <= math.sqrt(eps) * jnp.abs(before)
        model, used = step.model, 1 + (info.value is None)
        if model is None:  # the step has no model of the caller's own loss
            curvature = objective.product(params)(update)
            model = Model(inner(objective.here(params), update), 0.5 * inner(update, curvature))
            used += 2
        linear, quadratic, solved = model
        accept = jnp.isfinite(after) & (after <= before + _RISE * jnp.abs(before))
        predicted, decrease = -(linear + quadratic), before - after
        unit = _ROUNDING * eps
        rounding = unit * jnp.abs(before)
        far, near = (-linear >= 2 * part * quadratic for part in (_FAR, _NEAR))
        # the error of the model, including rounding
        missed = jnp.abs(decrease - predicted) + rounding + unit * jnp.abs(decrease)
        by_error = _ERROR * predicted / jnp.where(missed > 0, missed, 1.0)
        grown = jnp.where(same & solved, jnp.maximum(_GROW, by_error), _GROW)
        longer = jnp.where(far, grown, jnp.where(near, 1.0, _SHRINK))
        grow = (predicted > 0) & (decrease > _GOOD * predicted)
        keep = (predicted > 0) & (decrease >= _BAD * predicted)
        factor = jnp.where(grow, longer, jnp.where(keep, 1.0, _SHRINK))
        factor = jnp.where(accept, factor, jnp.where(same, _SHRINK, _REJECT))
        # If changes are too small to see in the loss, the model alone decides.
        unseen = jnp.maximum(jnp.abs(linear), jnp.abs(quadratic)) <= rounding
        trusted = jnp.where(predicted > 0, longer, jnp.where(predicted < 0, _SHRINK, 1.0))
        factor = jnp.where(unseen, trusted, factor)
        size = jnp.clip(h * factor, self.least, self.limit)
        if self.tries == 1:
            return Verdict(accept, size, used)
        return Verdict(accept, Seen(size, jnp.where(accept, after, before)), used, same)

    def failed(self, state: Any) -> Any:
        """A quarter of the size, as after a rejection."""
        size = jnp.maximum(_REJECT * (state if self.tries == 1 else state.size), self.least)
        return size if self.tries == 1 else state._replace(size=size)


def gain_ratio(
    *,
    first: float | Array = 1.0,
    least: float = 1e-6,
    limit: float = 1e12,
    tries: int = 1,
) -> GainRatio:
    r"""Trust-region control: the loss never rises, and the step grows while a model fits it.

    With the update u of a step, the actual decrease of the loss is compared with that of its
    quadratic model, $-(g\cdot u + \tfrac12 u\cdot Hu)$. The step is accepted if the loss does not
    rise (to 1e-12 of itself) and is finite; the next size is 3 times this one if the ratio is
    above 0.75, half of it below 0.25, a quarter after a rejection. It does not grow if the model
    has its minimum along u before 0.75 u, and is halved if that is before 0.6 u: there a method
    without damping, such as the implicit midpoint rule, would only swing to the other side. If both
    terms of the model are below the rounding of the loss, the ratio counts as 1 if the model
    predicts a decrease, and the size is halved if it predicts a rise.

    With several `tries` the rule remembers the loss at the end of a call. If the next call begins
    at that loss, its batch is the same, and the rule does two more things. First, it repeats a
    rejected step at half its size in the same call, with the known gradient and Jacobian. A try
    costs what the method and the rule evaluate for it: 1 gradient with the exact solve of
    `linearly_implicit_euler`. Second, if that method solves exactly, the size may grow by more than
    3: the share of the decrease that the model misses, |1 - ratio|, grows about as the size does,
    so the next size is 0.01 / |1 - ratio| times this one; rounding errors count as missed. A
    quadratic then takes a few steps. (Not with conjugate gradients: the larger the step, the less
    of its system a few products solve.)

    Use it for implicit, linearly implicit and exponential methods, where a large step is a Newton
    step. It keeps an explicit method near its stability limit, at the price of rejections.

    Each step costs a Hessian product (2 gradients; none for the linearly implicit and the
    exponential Euler method, which solve such a model themselves), a loss at the trial point
    (counted as 1), and a loss at the start (1) unless `update` gets `value=`. `update` needs
    `value_fn`. On a mini-batch, the ratio and the promise not to rise concern the mini-batch only.

    Args:
      first: the size of the first step that is tried.
      least: the smallest size.
      limit: the largest size.
      tries: the most steps that one call of `update` makes until one is accepted; `rejected` counts
        calls in which none was. With several, the state of the rule is a pair.

    Raises:
      ValueError: an argument that is not positive, `first` outside `least` to `limit`, fewer than
        1 of `tries`; when the optimizer is built, a flow with momentum or a `stage_transform`
        (whose gradients are not those of the loss); in `update`, a missing `value_fn`.

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
    check_ascending(least=least, first=first, limit=limit)
    check_counts(tries=tries)
    return GainRatio(first, least, limit, tries)
