"""Gradient flow by methods that linearize it: large steps where the loss is stiff."""

from typing import Any, Unpack

from .. import solvers
from ..arrays import Scalar
from ..flows import GradientFlow
from ..optimizer import LearningRate, Optimizer, ode_optimizer
from ..solvers.linear import Curvature, Solve
from ..stepsize import gain_ratio
from .options import Options, named


@named
def linearly_implicit_euler(
    learning_rate: LearningRate | None = None,
    curvature: Curvature = "auto",
    solve: Solve = "auto",
    *,
    products: int | None = None,
    tolerance: float | Scalar = 1e-3,
    fraction: float | None = None,
    precondition: bool = False,
    rank: int | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Linearly implicit Euler: the Levenberg-Marquardt method as an ODE solver; nothing to tune.

    Step: $x^+ = x + d$, $(I + hB)\,d = -h\nabla E(x)$ with B the Gauss-Newton matrix or the
    Hessian. Order 1 on gradient flow, stability function $1/(1 + h\lambda)$: stable for any step on
    a convex quadratic. For $h \to \infty$ it is the Newton or Gauss-Newton step, for $h \to 0$
    gradient descent. Nothing bounds a large step on another loss, so a fixed learning rate may
    diverge (on cross-entropy it does, since B vanishes where softmax saturates); with
    `stepsize.gain_ratio`, the default, the loss never rises.

    Costs, in gradients a step: 1. The exact solve adds as many as a sample has outputs, and a
    Cholesky decomposition of at most 1,000 rows; conjugate gradients add 2 for each product.
    `gain_ratio` adds 1, and 1 for the loss at the start unless `update` gets `value=`. It uses the
    quadratic model of the linear system and needs no product of its own. While the batch is the
    same, it tries a rejected step again in the same call, which costs 1 (and products), but no
    Jacobian.

    Args:
      learning_rate: $h$: None for `stepsize.gain_ratio(tries=5)`; or a number, a schedule of the
        number of steps, or another rule.
      curvature: "auto": "ggn" where `value_fn` is an `odeopt.composite`, else "hessian", which any
        loss has. Where that is indefinite, conjugate gradients stop before the first direction of
        negative curvature.
      solve: "exact", for "ggn": by Cholesky's decomposition and the Jacobian of every sample, which
        must not depend on the others (with batch normalization pass "cg"); "cg": conjugate
        gradients, started from the last step's direction; "auto": exact where its matrix is small
        (see `solvers.LinearSolver`).
      products: maximum number of curvature products in a step, besides one for the start; None for
        10.
      tolerance: the relative residual at which conjugate gradients stop.
      fraction: the share of samples (the first ones) used for the curvature; None for all.
      precondition: precondition conjugate gradients by an estimate of the diagonal of B, which
        costs a product a step and one more copy of the parameters in the state.
      rank: precondition conjugate gradients by an approximation of B of this rank, made at each
        point by as many products, all at once; None for none. It saves seconds rather than
        gradients where B is dense and its eigenvalues decay fast: [how
        much](../stiff.md#a-sketch-of-the-curvature).
        Memory: about 4.5 copies of the parameters for each unit of rank.
      **options: `correction=2`, with "hessian", cancels the drift: the step is taken with the loss
        $E + \tfrac h4\|\nabla E\|^2$, has order 2, and stays L-stable on a convex quadratic. A
        gradient then costs 3, a Hessian product 6. The other options of `ode_optimizer` do not
        apply.

    Returns:
      An optax transformation; its state holds one copy of the parameters (none with
      `solve="exact"`), and in `memory` (`solvers.LinearSolve`) the number of products (0 for an
      exact solve), the residual and the curvature of the last accepted step. Within a step
      conjugate gradients need 4.3 copies, 6.3 with `gain_ratio`; the exact solve needs the
      Jacobian: samples times outputs times parameters.

    Raises:
      ValueError: an unknown `curvature` or `solve`, `products` below 1, a negative `tolerance`, a
        `fraction` outside (0, 1], a negative `rank`, or `rank` with `precondition`; `products`,
        `precondition`, `rank` or the Hessian with `solve="exact"`; in `update`, "ggn" or a fraction
        without a `composite`.
      TypeError: traced `products`, `fraction` or `rank`; in `update`, complex parameters with
        `solve="exact"`.

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
    numbers = products, tolerance, fraction, precondition, rank
    solver = solvers.LinearSolver(curvature, solve, *numbers)
    return controlled(solvers.Rosenbrock(1, solver), learning_rate, tries=5, **options)


@named
def rosenbrock2(
    learning_rate: LearningRate | None = None,
    curvature: Curvature = "auto",
    solve: Solve = "auto",
    *,
    products: int | None = None,
    tolerance: float | Scalar = 1e-3,
    fraction: float | None = None,
    precondition: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    r"""ROS2, a Rosenbrock method of order 2 that is L-stable.

    Step, with $W = I + \gamma hB$ and $\gamma = 1 - 1/\sqrt2$: $Wk_1 = -\nabla E(x)$,
    $Wk_2 = -\nabla E(x + hk_1) - 2k_1$, $x^+ = x + \tfrac32hk_1 + \tfrac12hk_2$ (Verwer, Spee, Blom
    and Hundsdorfer, SIAM J. Sci. Comput. 20, 1999). Order 2 with either curvature, and stable for
    any step on a convex quadratic if the linear systems are solved accurately. Ten products, the
    default, may not be enough: a large fixed rate may then diverge. Costs one gradient more than
    `linearly_implicit_euler`, with `solve="cg"` a second solve, and with `gain_ratio` a Hessian
    product.

    Args:
      learning_rate: None for `stepsize.gain_ratio()`; else see `linearly_implicit_euler`, also for
        all other arguments.
      curvature: "auto", "ggn" or "hessian".
      solve: "auto", "exact" or "cg".
      products: maximum number of curvature products in each solve, besides one for its start.
      tolerance: the relative residual at which conjugate gradients stop.
      fraction: the share of samples used for the curvature.
      precondition: precondition both solves.
      **options: `correction=2` has nothing to cancel.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(jnp.cosh(x)), jnp.array([1.0, 2.0])
      >>> opt = odeopt.rosenbrock2(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    solver = solvers.LinearSolver(curvature, solve, products, tolerance, fraction, precondition)
    return controlled(solvers.Rosenbrock(2, solver), learning_rate, **options)


@named
def exponential_euler(
    learning_rate: LearningRate | None = None,
    curvature: Curvature = "auto",
    *,
    products: int | None = None,
    basis: int | None = None,
    tolerance: float | Scalar = 1e-3,
    fraction: float | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Exponential Euler: follows the flow of the quadratic model exactly.

    Step: $x^+ = x - h\varphi_1(-hB)\nabla E(x)$, $\varphi_1(z) = (e^z - 1)/z$, with B the
    Gauss-Newton matrix or the Hessian, on the Krylov space of B and the gradient (Lanczos'
    algorithm; Hochbruck and Ostermann, Acta Numerica 19, 2010). Exact on quadratics at any $h$ if
    the space is large enough; gradient descent for $h \to 0$, the Newton or Gauss-Newton step for
    $h \to \infty$. Order 2 on gradient flow with the Hessian, 1 with the Gauss-Newton matrix.
    Costs, in gradients a step: 1, and 2 for each product. `gain_ratio`, the default, adds 1, and 1
    for the loss at the start unless `update` gets `value=`.

    Args:
      learning_rate: None for `stepsize.gain_ratio()`; else as for `linearly_implicit_euler`.
      curvature: "auto", "ggn" or "hessian"; see `linearly_implicit_euler`. Along directions of
        negative curvature the step grows exponentially, as the flow does.
      products: maximum number of curvature products in a step; None for 10.
      basis: Krylov vectors kept at once, to save memory: a divisor of `products`. Lanczos'
        algorithm is then restarted on the rest of the flow. None for as many as products.
      tolerance: the relative error up to which each space but the last follows the flow.
      fraction: see `linearly_implicit_euler`.
      **options: with "hessian" `correction=2` has nothing to cancel.

    Returns:
      An optax transformation whose state holds a few scalars. Its `memory` has the number of
      products, an estimate of the relative error of the Krylov space and the curvature of the last
      accepted step. A step needs `basis` copies of the parameters and about 6 more (16 in all at
      the defaults, 8 with `basis=2`).

    Raises:
      ValueError: as `linearly_implicit_euler`; a `basis` that does not divide `products`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> curvatures = jnp.array([1.0, 100.0])
      >>> loss, params = lambda x: 0.5 * jnp.sum(curvatures * x**2), jnp.ones(2)
      >>> opt = odeopt.exponential_euler(0.5)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
      >>> bool(jnp.allclose(params + updates, jnp.exp(-0.5 * curvatures), atol=1e-6))
      True
    """
    method = solvers.Exponential(curvature, products, basis, tolerance, fraction)
    return controlled(method, learning_rate, **options)


def controlled(
    method: solvers.AbstractMethod,
    learning_rate: LearningRate | None,
    *,
    tries: int = 1,
    **options: Any,
) -> Optimizer:
    """The optimizer of a method on gradient flow, by default with `gain_ratio(tries)`."""
    rule = gain_ratio(tries=tries) if learning_rate is None else learning_rate
    return ode_optimizer(GradientFlow(), method, rule, **options)
