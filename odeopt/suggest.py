"""A first learning rate. May use: `odeopt.diagnostics`, `odeopt.solvers`, `odeopt.flows`."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .diagnostics import sharpness
from .flows import AbstractFlow, GradientFlow
from .solvers import Solver, as_method, stability_limit


def suggest_learning_rate(
    solver: Solver,
    value_fn: Callable[..., Any],
    params: PyTree[Array],
    *,
    flow: AbstractFlow | None = None,
    products: int = 24,
    **arguments: Any,
) -> Float[Array, ""]:
    r"""The largest stable step at `params`: $R/\lambda_{max}$, limit over sharpness.

    On a quadratic that is the boundary of divergence. On a network it is the boundary of *linear*
    stability at `params`, and a cautious estimate of the other one: beyond it the sharpest
    direction grows until it finds less curvature, often without diverging. On a digits network
    with squared error (64-32-10, 4 seeds) the loss of gradient descent stayed below its start up to
    1.2 to 1.5 times this rate, that of RK4 up to 2.0 to 2.8 times; both diverged from 2.4 to 3.1
    times on, and gradient descent with cross-entropy from 2.8 (3 seeds). Where training sharpens
    the boundary comes down again: `stepsize.sharpness` follows it.

    Costs `products` Hessian products, 2 gradients each, and in memory `products` copies of the
    parameters (see `diagnostics.sharpness`). A Ritz value is never above the largest eigenvalue,
    so with too few products too much is suggested.

    Args:
      solver: a method, a `Tableau`, or an instance of a diffrax solver class, as for
        `ode_optimizer`: `solvers.RK4()`.
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`.
      params: where the curvature is taken.
      flow: the flow to follow, where that is not gradient flow: `flows.HeavyBallFlow(0.9)`.
      products: Hessian products.
      arguments: forwarded to `value_fn` by name, as `update` does. The larger the batch, the less
        its own noise adds to the sharpness.

    Returns:
      The step size, in flow time; infinity where no curvature is positive, NaN where the loss is
      not finite.

    Raises:
      ValueError: a flow that normalizes its gradient (RMSprop, Adam), a method that has no limit.
      TypeError: something that is not a solver; an argument of `value_fn` that is missing.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * x**2)
      >>> rate = odeopt.suggest_learning_rate(odeopt.solvers.RK4(), loss, jnp.ones(2))
      >>> rate.round(4)
      Array(0.2785, dtype=float32)
      >>> opt = odeopt.rk4(0.5 * rate)
    """
    limit = stability_limit(GradientFlow() if flow is None else flow, as_method(solver))
    curvature = sharpness(value_fn, params, products=products, **arguments).value
    return jnp.where(curvature <= 0, jnp.inf, limit / curvature)
