"""A first learning rate."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .arrays import Scalar
from .checks import known_design
from .diagnostics import sharpness
from .flows import AbstractFlow, GradientFlow
from .objective import Objective
from .solvers import Solver, as_method, stability_limit

if TYPE_CHECKING:
    from .optimizer import Optimizer


def suggest_learning_rate(
    opt: "Optimizer | Solver",
    value_fn: Callable[..., Any],
    params: PyTree[Array],
    /,
    *,
    flow: AbstractFlow | None = None,
    products: int = 24,
    arguments: Mapping[str, Any] | None = None,
    **more: Any,
) -> Scalar:
    r"""The largest stable step size at `params`: $R/\lambda_{max}$, stability limit over sharpness.

    On a quadratic, larger steps diverge. On a network this is the boundary of *linear* stability at
    `params`, and a cautious estimate of the rate at which training diverges: on a digits network
    with squared error (64-32-10, 4 seeds) the loss of gradient descent stayed below its start up to
    1.2 to 1.5 times this rate, that of RK4 up to 2.0 to 2.8 times; both diverged from 2.4 to 3.1
    times on. Where training sharpens, `stepsize.sharpness` follows the boundary down.

    Costs `products` Hessian products, 2 gradients each, and in memory `products` copies of the
    parameters (see `diagnostics.sharpness`). A Ritz value is never above the largest eigenvalue,
    so too few products give a rate that is too large.

    Args:
      opt: an optimizer, whose flow and solver are used, or a solver: `solvers.RK4()`.
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`.
      params: where the curvature is taken.
      flow: the flow that a solver follows, if not gradient flow: `flows.HeavyBallFlow(0.9)`.
      products: number of Hessian products.
      arguments: arguments of `value_fn` by name, for those that are called `flow`, `products` or
        `arguments`.
      more: other arguments of `value_fn` by name, as in `update`. The larger the batch, the less
        its own noise adds to the sharpness.

    Returns:
      The step size, in flow time; infinity where no curvature is positive or the method is stable
      at any step, NaN where the Hessian is not finite.

    Raises:
      ValueError: a `flow` next to an optimizer, or an optimizer with a `stage_transform`; a flow
        that normalizes its gradient (RMSprop, Adam) or has a scale of its own, such as a corrected
        flow with a clip; a method whose limit is not between 1e-3 and 1e5.
      TypeError: something that is not a solver; an argument of `value_fn` that is missing.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * x**2)
      >>> rate = odeopt.suggest_learning_rate(odeopt.rk4(1.0), loss, jnp.ones(2))
      >>> rate.round(4)
      Array(0.2785, dtype=float32)
      >>> opt = odeopt.rk4(0.5 * rate)
    """
    design = known_design(opt)
    if design is None:
        method = as_method(opt)
    else:
        if flow is not None:
            raise ValueError("The optimizer has a flow: drop flow=, or pass a solver.")
        flow, method = design.flow, design.solver
        if design.stage_transform is not None:
            raise ValueError(
                "stage_transform changes the curvature that the steps see, and only that of the "
                "loss is measured here. If it leaves small gradients as they are, as a clip does, "
                "pass the solver, `opt.design.solver`; else use `stepsize.sharpness()`."
            )
    limit = stability_limit(GradientFlow() if flow is None else flow, method)
    objective = Objective.of(value_fn, {**(arguments or {}), **more})
    curvature = sharpness(objective.value, params, products=products).value
    return jnp.where(curvature <= 0, jnp.inf, limit / curvature)
