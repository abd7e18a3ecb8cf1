"""Gradient flow by stabilized methods."""

from typing import Unpack

from .. import solvers
from ..flows import GradientFlow
from ..optimizer import LearningRate, Optimizer, ode_optimizer
from .options import Options, named


@named
def rkc(
    learning_rate: LearningRate,
    stages: int | None = 10,
    order: int = 1,
    damping: float = 0.05,
    *,
    max_stages: int = 100,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Runge-Kutta-Chebyshev: stable at steps far beyond those of classical Runge-Kutta methods.

    Step, at order 1: $x_1 = x - h\tfrac{w_1}{w_0}\nabla E(x)$, $x_j = \nu_jx_{j-1} +
    (1 - \nu_j)x_{j-2} - \mu_jh\nabla E(x_{j-1})$, $x^+ = x_s$, with coefficients such that a mode
    of curvature $\lambda$ is multiplied by $T_s(w_0 - w_1h\lambda)/T_s(w_0)$, $T_s$ the Chebyshev
    polynomial. Stable to $h\lambda \le 1.93s^2$ (at order 2 to $0.65s^2$): with 10 stages 97 times
    Euler's limit for 10 times its gradients. Full batches or large ones: a step follows the flow
    of its own batch for a long time.

    Order 1 or 2, `stages` gradients a step, of which the first is the `grads` handed to `update`
    (van der Houwen and Sommeijer, Z. Angew. Math. Mech. 60, 1980; Sommeijer, Shampine and Verwer,
    J. Comput. Appl. Math. 88, 1998).

    With `stages=None` each step takes as many stages as its size and the curvature of the loss ask
    for, with a margin of 1.2, so that the learning rate is only the flow time of a step: 2
    gradients a step more for the estimate, 48 before the first. A step that would need more than
    `max_stages` is rejected.

    Args:
      learning_rate: the step size, in flow time: a number, a schedule of the number of steps, or a
        step-size rule.
      stages: at least 2, or None. Compile time and memory do not depend on it.
      order: 1 or 2. Order 1 is stable three times as far.
      damping: modes at the edge of stability are damped by about this fraction; it costs 3 % of the
        limit at the default.
      max_stages: the most that `stages=None` takes.
      **options: `stage_transform`; with `stages=None` one that only scales. `correction`, not with
        `stages=None`, for accuracy at small steps: the counter-term grows with the square of
        $h\lambda$. For order 2 at large ones take `order=2`.

    Returns:
      An optax transformation. It stores five scalars, with `stages=None` one more and a copy of
      the parameters. Within a step three vectors are alive, four at order 2, and up to 5.3 with
      `stages=None`. A `grad_fn` sees a traced
      stage. Inside `optax.inject_hyperparams` name the other numbers in
      `static_args=("stages", "order", "damping", "max_stages")`.

    Raises:
      ValueError: fewer than 2 of `stages` or `max_stages`, another order, negative damping, or a
        number that is not positive as learning rate.
      TypeError: a number of stages, order or damping that is known at run time only.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> curvatures = jnp.array([1.0, 10.0])
      >>> loss, params = lambda x: 0.5 * jnp.sum(curvatures * x**2), jnp.ones(2)
      >>> opt = odeopt.rkc(15.0)  # h * curvature = 150: Euler's limit is 2
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
      >>> bool(loss(params + updates) < loss(params)), int(state.gradients)
      (True, 10)
    """
    method = solvers.RungeKuttaChebyshev(stages, order, damping, max_stages)
    return ode_optimizer(GradientFlow(), method, learning_rate, **options)
