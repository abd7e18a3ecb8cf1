"""Gradient flow by implicit methods: any step size, at the cost of a minimization."""

from typing import Unpack

from .. import solvers
from ..arrays import Scalar
from ..optimizer import LearningRate, Optimizer
from ..solvers.linear import Curvature, Solve
from .linearized import controlled
from .options import Options, named


@named
def implicit_euler(
    learning_rate: LearningRate | None = None,
    curvature: Curvature = "auto",
    solve: Solve = "auto",
    *,
    iterations: int | None = None,
    products: int | None = None,
    tolerance: float | Scalar = 1e-2,
    fraction: float | None = None,
    precondition: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Implicit Euler, the proximal point method: the loss never rises, at any learning rate.

    Step: $x^+ = \arg\min_y E(y) + \|y - x\|^2/(2h)$, so that $x^+ = x - h\nabla E(x^+)$. Order 1 on
    gradient flow, stability function $1/(1 + h\lambda)$. Newton's method with a line search,
    started at x, lowers the objective wherever it ends, so $E(x^+) + \|x^+ - x\|^2/(2h) \le E(x)$
    at any h. With `correction=2` this holds for the penalized loss below in place of E, and E
    itself may rise.

    Costs, in gradients a step: 1, and 1 for the loss at the start unless `update` gets `value=`.
    Each Newton step adds at most 1, 1 more for each failed trial of its line search, and the linear
    solve of a step of `linearly_implicit_euler`. The state's `memory` (a `solvers.Proximal`)
    reports these numbers. `gain_ratio`, the default, adds 3, or 4 without `value=`. It rejects a
    step only where rounding raises the loss, or with `correction`.

    Args:
      learning_rate: $h$: None for `stepsize.gain_ratio()`; or a number, a schedule of the number of
        steps, or another rule.
      curvature: "auto": "ggn" where `value_fn` is an `odeopt.composite`, else "hessian".
      solve: how linear systems are solved; see `linearly_implicit_euler`.
      iterations: maximum number of Newton steps; None for 5.
      products: maximum number of curvature products of each, besides one for the start; None for
        10.
      tolerance: Newton's method stops when the gradient of the proximal objective, relative to that
        at the start, is this small; the conjugate gradients in it have the same tolerance.
      fraction: see `linearly_implicit_euler`.
      precondition: see `linearly_implicit_euler`.
      **options: `correction=2` cancels the drift: the step is taken with the loss
        $E + \tfrac h4\|\nabla E\|^2$, has order 2, and stays L-stable. A gradient then costs 3, a
        Hessian product 6. The other options of `ode_optimizer` do not apply.

    Returns:
      An optax transformation; its state is that of `linearly_implicit_euler`. A step with conjugate
      gradients needs memory for twelve copies of the parameters.

    Raises:
      ValueError: as for `linearly_implicit_euler`; `iterations` below 1.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(jnp.cosh(x)), jnp.array([1.0, 5.0])
      >>> opt = odeopt.implicit_euler(1e6, iterations=20, tolerance=1e-4)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
      >>> float(loss(params + updates).round(3))  # the minimum
      2.0
    """
    solver = solvers.LinearSolver(curvature, solve, products, tolerance, fraction, precondition)
    method = solvers.Implicit("euler", solver, iterations, tolerance)
    return controlled(method, learning_rate, **options)


@named
def implicit_midpoint(
    learning_rate: LearningRate | None = None,
    curvature: Curvature = "auto",
    solve: Solve = "auto",
    *,
    iterations: int | None = None,
    products: int | None = None,
    tolerance: float | Scalar = 1e-2,
    fraction: float | None = None,
    precondition: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    r"""The implicit midpoint rule: half an implicit Euler step, extrapolated to the full step.

    Step: $x^+ = x - h\nabla E(\tfrac12(x + x^+)) = 2\,\mathrm{prox}_{h/2}(x) - x$. Order 2 on
    gradient flow, stability function $(1 - z/2)/(1 + z/2)$ at $z = h\lambda$: A-stable, but a mode
    with large z is not damped: only its sign changes. Costs: as for `implicit_euler`.

    Args:
      learning_rate: see `implicit_euler`, also for all other arguments.
      curvature: "auto", "ggn" or "hessian".
      solve: "auto", "exact" or "cg".
      iterations: maximum number of Newton steps.
      products: maximum number of curvature products in each.
      tolerance: of the minimization; order 2 needs a small one, such as 1e-12.
      fraction: the share of samples used for the curvature.
      precondition: precondition conjugate gradients by an estimate of the diagonal.
      **options: `correction=2` has nothing to cancel.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: 0.5 * jnp.sum(x**2), jnp.ones(2)
      >>> opt = odeopt.implicit_midpoint(2.0)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> opt.update(grads, state, params, value_fn=loss)[0]
      Array([-1., -1.], dtype=float32)
    """
    solver = solvers.LinearSolver(curvature, solve, products, tolerance, fraction, precondition)
    method = solvers.Implicit("midpoint", solver, iterations, tolerance)
    return controlled(method, learning_rate, **options)


@named
def trapezoidal(
    learning_rate: LearningRate | None = None,
    curvature: Curvature = "auto",
    solve: Solve = "auto",
    *,
    iterations: int | None = None,
    products: int | None = None,
    tolerance: float | Scalar = 1e-2,
    fraction: float | None = None,
    precondition: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    r"""The trapezoidal rule: half a step of gradient descent, half a step of `implicit_euler`.

    Step: $x^+ = x - \tfrac h2(\nabla E(x) + \nabla E(x^+)) = \mathrm{prox}_{h/2}(x - \tfrac
    h2\nabla E(x))$. Order 2 on gradient flow, with the stability function of `implicit_midpoint`.
    Costs: as for `implicit_euler`.

    Args:
      learning_rate: see `implicit_euler`, also for all other arguments.
      curvature: "auto", "ggn" or "hessian".
      solve: "auto", "exact" or "cg".
      iterations: maximum number of Newton steps.
      products: maximum number of curvature products in each.
      tolerance: of the minimization; order 2 needs a small one, such as 1e-12.
      fraction: the share of samples used for the curvature.
      precondition: precondition conjugate gradients by an estimate of the diagonal.
      **options: `correction=2` has nothing to cancel.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: 0.5 * jnp.sum(x**2), jnp.ones(2)
      >>> opt = odeopt.trapezoidal(1.0)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
      >>> (params + updates).round(6)  # 1/3
      Array([0.333333, 0.333333], dtype=float32)
    """
    solver = solvers.LinearSolver(curvature, solve, products, tolerance, fraction, precondition)
    method = solvers.Implicit("trapezoidal", solver, iterations, tolerance)
    return controlled(method, learning_rate, **options)
