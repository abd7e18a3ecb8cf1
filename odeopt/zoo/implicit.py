"""Gradient flow by linearly implicit methods, which take large steps where the loss is stiff."""

import optax

from .. import solvers
from ..flows import GradientFlow
from ..optimizer import LearningRate, ode_optimizer
from ..solvers.linear import Curvature, Solve
from ..stepsize import gain_ratio


def linearly_implicit_euler(
    learning_rate: LearningRate | None = None,
    curvature: Curvature = "ggn",
    solve: Solve = "auto",
    *,
    products: int = 20,
    tolerance: float = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    r"""Linearly implicit Euler, by default with nothing to tune: Levenberg and Marquardt as an ODE.

    Step: $x^+ = x + d$, $(I + hB)\,d = -h\nabla E(x)$ with B the Gauss-Newton matrix or the
    Hessian. Order 1 on gradient flow, stability function $1/(1 + h\lambda)$: stable for any step
    where B is the Hessian and the loss convex. For $h \to \infty$ it is the Newton or Gauss-Newton
    step, for $h \to 0$ gradient descent. It descends to first order, but nothing bounds a large
    step on a loss that is not quadratic: a fixed learning rate may diverge (on cross-entropy it
    does: softmax saturates, B vanishes, and what is left is gradient descent with step $h$). So the
    default is `stepsize.gain_ratio()`, with which the loss never rises.

    Costs, in gradients a step: 1; the exact solve as many as a sample has outputs, and a Cholesky
    decomposition of at most 1,000 rows; or conjugate gradients 2 a product; `gain_ratio` 1, and 1
    for the loss at the start unless `update` gets `value=`. The quadratic model of `gain_ratio` is
    that of the linear system, so it takes no product of its own.

    The state's `memory` holds the products, the relative residual and the curvature of the last
    accepted step.

    Args:
      learning_rate: $h$: None for `stepsize.gain_ratio()`; or a number, a schedule of the number of
        steps, or another rule.
      curvature: "ggn", for which `value_fn` must be an `odeopt.composite`; or "hessian", for any
        loss. Where that is indefinite, conjugate gradients stop at the last direction before they
        saw it.
      solve: "exact", for "ggn": by Cholesky's decomposition and the Jacobian of every sample;
        "cg": conjugate gradients, from the last step's direction on; "auto": exact where that is
        small (see `solvers.LinearSolver`).
      products: the most curvature products of a step, beside one for the start.
      tolerance: the relative residual at which conjugate gradients stop.

    Returns:
      An optax transformation; its state holds one copy of the parameters (none with
      `solve="exact"`). Conjugate gradients take five more within a step; the exact solve the
      Jacobian: samples times outputs times parameters.

    Raises:
      ValueError: an unknown `curvature` or `solve`, `products` below 1, a negative `tolerance`; in
        `update`, "ggn" without a `composite`, or a `stage_transform`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss = odeopt.composite(
      ...     lambda outputs, targets: jnp.mean((outputs - targets) ** 2),
      ...     lambda params, inputs: jnp.tanh(inputs @ params),
      ... )
      >>> batch = {"inputs": jnp.array([[1.0, 2.0], [3.0, -1.0]]), "targets": jnp.array([0.5, 0.1])}
      >>> opt, params = odeopt.linearly_implicit_euler(), jnp.array([0.1, 0.1])
      >>> state = opt.init(params)
      >>> for _ in range(8):
      ...     value, grads = jax.value_and_grad(loss)(params, **batch)
      ...     updates, state = opt.update(
      ...         grads, state, params, value=value, value_fn=loss, **batch
      ...     )
      ...     params = params + updates
      >>> float(loss(params, **batch)) < 1e-9
      True
    """
    method = solvers.LinearlyImplicitEuler(
        solvers.LinearSolver(curvature, solve, products, tolerance)
    )
    rate = gain_ratio() if learning_rate is None else learning_rate
    return ode_optimizer(GradientFlow(), method, rate)


def rosenbrock2(
    learning_rate: LearningRate | None = None,
    curvature: Curvature = "ggn",
    solve: Solve = "auto",
    *,
    products: int = 20,
    tolerance: float = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    r"""ROS2, a Rosenbrock method of order 2 that is L-stable.

    Step, with $W = I + \gamma hB$ and $\gamma = 1 - 1/\sqrt2$: $Wk_1 = -\nabla E(x)$,
    $Wk_2 = -\nabla E(x + hk_1) - 2k_1$, $x^+ = x + \tfrac32hk_1 + \tfrac12hk_2$ (Verwer, Spee, Blom
    and Hundsdorfer, SIAM J. Sci. Comput. 20, 1999). Order 2 with either curvature, as far as the
    linear systems are solved. Against `linearly_implicit_euler`, which lists memory and errors:
    one gradient more, and with `solve="cg"` a second solve; `gain_ratio` takes a Hessian product.

    Args:
      learning_rate: $h$; None for `stepsize.gain_ratio()`.
      curvature: "ggn" or "hessian"; see `linearly_implicit_euler`.
      solve: "auto", "exact" or "cg"; see `linearly_implicit_euler`.
      products: the most curvature products of each of two solves, beside one for its start.
      tolerance: the relative residual at which conjugate gradients stop.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(jnp.cosh(x)), jnp.array([1.0, 2.0])
      >>> opt = odeopt.rosenbrock2(0.1, "hessian")
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    method = solvers.Rosenbrock2(solvers.LinearSolver(curvature, solve, products, tolerance))
    rate = gain_ratio() if learning_rate is None else learning_rate
    return ode_optimizer(GradientFlow(), method, rate)
