"""Gradient flow by explicit Runge-Kutta methods."""

from typing import Unpack

import diffrax

from .. import solvers
from ..flows import GradientFlow
from ..optimizer import LearningRate, Optimizer, ode_optimizer
from .options import Options, named


@named
def runge_kutta(
    learning_rate: LearningRate,
    tableau: solvers.Tableau | diffrax.ButcherTableau,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Gradient flow by the explicit Runge-Kutta method of any tableau.

    Step: $k_i = -\nabla E(x + h\sum_{j<i} a_{ij}k_j)$, $x^+ = x + h\sum_i b_ik_i$ with $h$ the
    learning rate. One gradient a stage; the first is the `grads` passed to `update`. The state
    stores five scalars; only `staged` and rules that remember a vector add copies of the
    parameters. Within a step the slopes of all stages are in memory, or fewer with `scan_stages`:
    see `solvers.ExplicitRungeKutta`.

    Args:
      learning_rate: the step size, in flow time: a number, a schedule of the number of steps, or a
        step-size rule.
      tableau: `odeopt.solvers.Tableau` or `diffrax.ButcherTableau`; checked for consistency.

    Raises:
      ValueError: an inconsistent tableau; for other errors see `ode_optimizer`.

    Examples:
      >>> import odeopt
      >>> kutta3 = odeopt.solvers.Tableau(a=[[0.5], [-1.0, 2.0]], b=[1 / 6, 2 / 3, 1 / 6])
      >>> odeopt.runge_kutta(0.1, kutta3).order
      3
      >>> odeopt.runge_kutta(0.1, odeopt.solvers.Tableau(a=[[0.5]], b=[0.5, 0.4]))
      Traceback (most recent call last):
      ...
      ValueError: Inconsistent tableau: b sums to 0.9, not to 1 (consistency).
    """
    return ode_optimizer(GradientFlow(), tableau, learning_rate, **options)


@named
def from_diffrax(
    solver: diffrax.AbstractSolver, learning_rate: LearningRate, **options: Unpack[Options]
) -> Optimizer:
    r"""Gradient flow by any one-step diffrax solver for ODEs.

    An explicit Runge-Kutta solver runs odeopt's own stage loop on its tableau (mixed dtypes,
    sharding, the first stage from `grads`). Any other, such as `diffrax.Kvaerno3()`, runs diffrax's
    step: it evaluates the first gradient again, forms a dense Jacobian if it is implicit, and needs
    leaves of one dtype. Its gradients cannot be counted (`state.gradients` is -1). A step whose
    inner solve fails is rejected.

    Args:
      solver: an instance of a diffrax solver.
      learning_rate: the step size, in flow time.
      **options: see `ode_optimizer`; all but `stage_transform` need an explicit solver.

    Raises:
      ValueError: a solver that does not step one vector field from scratch (split, SDE, multistep).
      TypeError: something that is not a diffrax solver.

    Examples:
      >>> import diffrax, odeopt
      >>> odeopt.from_diffrax(diffrax.Bosh3(), 0.1).gradients_per_step
      3
    """
    return ode_optimizer(GradientFlow(), solver, learning_rate, **options)


@named
def euler(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""Euler's method, gradient descent: equal to `optax.sgd(learning_rate)`.

    Step: $x^+ = x - h\nabla E(x)$. Order 1, 1 gradient a step, stable to $h\lambda \le 2$. Needs no
    `value_fn`.

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.euler(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.Euler(), learning_rate, **options)


@named
def heun(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""Heun's method (explicit trapezoidal rule).

    Step: $x^+ = x - \tfrac h2(g_1 + g_2)$, $g_1 = \nabla E(x)$, $g_2 = \nabla E(x - hg_1)$. Order
    2, 2 gradients a step, stable to $h\lambda \le 2$: half of Euler's limit per gradient.

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.heun(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.Heun(), learning_rate, **options)


@named
def midpoint(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""The explicit midpoint rule.

    Step: $x^+ = x - h\nabla E(x - \tfrac h2\nabla E(x))$. Order 2, 2 gradients a step, stable to
    $h\lambda \le 2$.

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.midpoint(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.Midpoint(), learning_rate, **options)


@named
def ralston(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""Ralston's method: the 2-stage method of order 2 with the least error bound.

    Step: $x^+ = x - h(\tfrac14 g_1 + \tfrac34 g_2)$, $g_2 = \nabla E(x - \tfrac23 hg_1)$. Order 2,
    2 gradients a step, stable to $h\lambda \le 2$ (Ralston, Math. Comp. 16, 1962).

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.ralston(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.Ralston(), learning_rate, **options)


@named
def bosh3(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""Bogacki and Shampine's method of order 3.

    Step: $x^+ = x - h(\tfrac29 g_1 + \tfrac13 g_2 + \tfrac49 g_3)$ with $g_2$ half a step and $g_3$
    three quarters of a step along the latest slope. Order 3, 3 gradients a step, stable to
    $h\lambda \le 2.51$. Its error estimate costs a fourth gradient, and is computed for
    `stepsize.embedded_error` only (Bogacki and Shampine, Appl. Math. Lett. 2, 1989).

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.bosh3(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.Bosh3(), learning_rate, **options)


@named
def ssprk3(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""Shu and Osher's strong-stability-preserving method of order 3.

    Step: $x_1 = x - hg(x)$, $x_2 = \tfrac34x + \tfrac14(x_1 - hg(x_1))$,
    $x^+ = \tfrac13x + \tfrac23(x_2 - hg(x_2))$, a convex combination of Euler steps. A step does
    not increase a convex function if an Euler step of size $h$ from any of the stage points does
    not increase it. Order 3, 3 gradients a step, stable to $h\lambda \le 2.51$ (Shu and Osher, J.
    Comput. Phys. 77, 1988).

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.ssprk3(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.SSPRK3(), learning_rate, **options)


@named
def rk4(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""The classical Runge-Kutta method of order 4.

    Step: $x^+ = x - \tfrac h6(g_1 + 2g_2 + 2g_3 + g_4)$ with $g_2, g_3$ at half steps and $g_4$ at
    a full step. Order 4, 4 gradients a step, stable to $h\lambda \le 2.785$: a third of Euler's
    limit per gradient (Kutta, 1901; in deep learning arXiv:2505.13397).

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.rk4(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.RK4(), learning_rate, **options)


@named
def low_storage4(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""A method of order 4 for large models: it keeps one vector besides the point of a stage.

    Step: $\delta_{i+1} = \gamma_i\delta_i - \alpha_ihg(x + \delta_i)$ from $\delta_0 = 0$,
    $x^+ = x + \delta_6$. Order 4, 6 gradients a step, stable to $h\lambda \le 4.359$; derived here
    (`solvers.LowStorage4`). From 4 million parameters on, or with `scan_stages=True`, it needs as
    much memory as `ssprk3` and less than `rk4`. Where memory allows, `rk4` costs fewer gradients.

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.low_storage4(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.LowStorage4(), learning_rate, **options)


@named
def dopri5(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""Dormand and Prince's method of order 5.

    Order 5, 6 gradients a step (a seventh stage serves the error estimate of
    `stepsize.embedded_error` only), stable to $h\lambda \le 3.31$ (Dormand and Prince,
    J. Comput. Appl. Math. 6, 1980).

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.dopri5(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.Dopri5(), learning_rate, **options)


@named
def tsit5(learning_rate: LearningRate, **options: Unpack[Options]) -> Optimizer:
    r"""Tsitouras' method of order 5.

    Order 5, 6 gradients a step (a seventh stage serves the error estimate of
    `stepsize.embedded_error` only), stable to $h\lambda \le 3.51$ (Tsitouras,
    Comput. Math. Appl. 62, 2011).

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.tsit5(0.1)
    """
    return ode_optimizer(GradientFlow(), solvers.Tsit5(), learning_rate, **options)


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

    Step, at order 1: $x_1 = x - h\tfrac{w_1}{w_0}\nabla E(x)$,
    $x_j = \nu_jx_{j-1} + (1 - \nu_j)x_{j-2} - \mu_jh\nabla E(x_{j-1})$, $x^+ = x_s$, with
    coefficients such that a mode of curvature $\lambda$ is multiplied by
    $T_s(w_0 - w_1h\lambda)/T_s(w_0)$, $T_s$ the Chebyshev polynomial. Stable to
    $h\lambda \le 1.93s^2$ (at order 2 to $0.65s^2$): with 10 stages 97 times Euler's limit for 10
    times its gradients. Use full or large batches: a step follows the flow of its own batch for a
    long time.

    Order 1 or 2, `stages` gradients a step; the first is the `grads` passed to `update` (van der
    Houwen and Sommeijer, Z. Angew. Math. Mech. 60, 1980; Sommeijer, Shampine and Verwer, J. Comput.
    Appl. Math. 88, 1998).

    With `stages=None` each step takes as many stages as its size and the curvature of the loss
    require, with a margin of 1.2. The learning rate is then only the flow time of a step. The
    estimate of the curvature costs 2 more gradients a step, and 48 before the first. A step that
    would need more than `max_stages` is rejected.

    Args:
      learning_rate: the step size, in flow time; see `runge_kutta`.
      stages: at least 2, or None. Compile time and memory do not depend on it.
      order: 1 or 2. Order 1 is stable three times as far.
      damping: modes at the edge of stability are damped by about this fraction; it costs 3 % of the
        limit at the default.
      max_stages: maximum number of stages that `stages=None` takes.
      **options: `stage_transform`; with `stages=None` it may only scale. `correction`, not with
        `stages=None`, is for accuracy at small steps: the counter-term grows with the square of
        $h\lambda$. For order 2 at large steps use `order=2`.

    Returns:
      An optax transformation. Its state has five scalars; `stages=None` adds one and a copy of the
      parameters. A step needs memory for three vectors, four at order 2, and up to 5.3 with
      `stages=None`. A `grad_fn` gets a traced stage number. Inside `optax.inject_hyperparams` name
      the other numbers in `static_args=("stages", "order", "damping", "max_stages")`.

    Raises:
      ValueError: `stages` or `max_stages` below 2, an order that is not 1 or 2, a negative damping,
        or a number that is not positive as learning rate.
      TypeError: a traced number of stages, order or damping.

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
