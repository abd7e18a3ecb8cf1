"""The distance between the next step of an optimizer and its flow."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arguments import floating
from ..arrays import ratio
from ..checks import design_of
from ..diagnostics.drift import Drift, compared
from ..objective import Objective, count_gradients, transformed
from ..state import ODEState, check_own, check_state, of_arrays, step_params, unwrapped
from ..stepsize.rule import StepInfo
from ..sums import levelled
from .corrected import corrected

if TYPE_CHECKING:
    from ..design import Design
    from ..optimizer import Optimizer


def step_drift(
    opt: "Optimizer",
    state: ODEState,
    params: PyTree[Array],
    /,
    *,
    value_fn: Callable[..., Any],
    **arguments: Any,
) -> Drift:
    r"""The drift of a running optimizer whose counter-term is known, called like `update`.

    The drift is the difference between the next step with and without its leading counter-term
    (`drift.corrected`, to one order more than the solver's, no clip), to leading order. Memory and
    preconditioner are included. The step size is the one that the optimizer would use next. For
    Euler's method on gradient flow this is `diagnostics.drift`.

    Costs, in gradients: 2 for Euler's method, momentum and Adam. Other Runge-Kutta methods cost two
    steps, one of which evaluates the field of `drift.b_series` in every stage: 17 for Heun's
    method, 41 for SSPRK3, 147 for RK4.

    Args:
      opt: the optimizer, as odeopt returned it: `odeopt.adam(1e-3)`.
      state: its state.
      params: the current parameters.
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`.
      arguments: forwarded to `value_fn` by name, as `update` does; `full_params` too.

    Returns:
      `diagnostics.Drift`: `size` is what drift adds to the next step, in units of the parameters;
      `relative` and `cosine` compare it with that step, $hu$, instead of the gradient. The drift is
      one term: its share `own` is 1, or 0 if there is no drift.

    Raises:
      ValueError: a flow or solver without known drift, or already corrected; see
        `drift.corrected`; the state of another optimizer, or of other parameters.
      TypeError: an optimizer of optax or in a chain, or the state of one.

    Derived here; `tests/drift/test_measured.py` compares with the distance to the flow.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 4.0]) * x**2)
      >>> opt, x = odeopt.heavy_ball(1e-3, momentum=0.9), jnp.ones(2)
      >>> found = odeopt.drift.step_drift(opt, opt.init(x), x, value_fn=loss)
      >>> print(f"{found.relative:.4f}")  # of the first step: (h / 2) |Hg| / |g|
      0.0019
    """
    design = design_of(opt)
    method, rule = design.solver, design.rule
    value_fn = of_arrays(value_fn, params)
    params, state = floating(unwrapped(params)), unwrapped(state)
    check_state(state, staged=design.staged)
    check_own(opt.init, state, params)
    params = step_params(state, params) if design.staged else params
    objective = Objective.of(value_fn, arguments)
    value, grads = objective.value_and_gradient(params)  # an unused value costs nothing
    objective = dataclasses.replace(objective, args={"value": value, **objective.args})
    objective, _ = transformed(
        design.stage_transform, grads, state.transform, params, objective.args
    )
    z = params, state.aux
    info = StepInfo(state.steps, z, objective, objective.given_value(), design.flow, method)
    h, _ = rule.propose(state.rule, info)
    step, follows = _steps(design, objective, z, h, state.memory)
    drift = jax.tree.map(jnp.subtract, step, follows)
    size, relative, cosine = compared(levelled(drift), levelled(step))
    one = ratio(size, size)
    none = jnp.zeros_like(one)
    return Drift(size, relative, cosine, one, none, none)


def drift_cost(design: "Design") -> int | None:
    """The gradients that `step_drift` evaluates; None where no counter-term is known.

    For a method that loops, whose rounds cannot be counted, at least the gradients of two steps.
    """
    x, h = jnp.zeros([]), jnp.ones([], float)

    def steps(objective: Any) -> list[PyTree]:
        z = x, design.flow.init(x)
        return _steps(design, objective, z, h, design.solver.init(design.flow, z))

    try:
        found = 1 + count_gradients(steps, given=True)
    except (ValueError, TypeError, LookupError):  # also of a game, which needs players
        return None
    return max(found, 2 * (design.gradients_per_step or 1))


def _steps(design: "Design", objective: Any, z: tuple, h: Array, memory: PyTree) -> list[PyTree]:
    """The update of the next step, without and with its counter-term."""
    method = design.solver
    better = corrected(design.flow, method, (method.order or 1) + 1, clip=None)
    return [method.step(flow, objective, z, h, memory).update for flow in (design.flow, better)]
