"""Gradient flow by explicit Runge-Kutta methods."""

import diffrax
import optax

from .. import solvers
from ..drift import corrected
from ..flows import AbstractFlow, GradientFlow
from ..kernels import Kernel
from ..optimizer import LearningRate, ode_optimizer
from ..stepsize import as_rule


def runge_kutta(
    learning_rate: LearningRate,
    tableau: solvers.Tableau | diffrax.ButcherTableau,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient flow by the explicit Runge-Kutta method of any tableau.

    Step: $k_i = -\nabla E(x + h\sum_{j<i} a_{ij}k_j)$, $x^+ = x + h\sum_i b_ik_i$ with $h$ the
    learning rate. One gradient a stage, of which the first is the `grads` handed to `update`.

    The named explicit optimizers are this with their own tableau and take the same arguments.

    Args:
      learning_rate: the step size, in flow time: a number, a schedule of the number of steps, or a
        step-size rule.
      tableau: `odeopt.solvers.Tableau` or `diffrax.ButcherTableau`; checked for consistency.
      stage_transform: an optax transformation applied to every stage's gradient.
      staged: one stage for each call of `update`, without extra arguments; see `ode_optimizer`.
      scan_stages: loop over the stages with `lax.scan`, for less memory; None: from 4 million
        parameters on where it saves memory and there is no `grad_fn`, which would see a traced
        stage.
      correction: cancel the method's drift, so that it follows the flow to this order
        (`drift.corrected`); None for the plain method. Costs further gradients and needs
        `value_fn=` also where the plain method does not.
      kernel: what combines the slopes: `"jnp"`, `"pallas"` (a GPU or TPU kernel) or `"auto"`, see
        `odeopt.kernels`.

    Returns:
      An optax transformation. It stores four scalars, and nothing like the parameters unless
      `staged` (the start of the step and `stages - 1` slopes); within a step the slopes of all
      stages are alive. With `scan_stages`: the point of a stage and one vector where every row of
      the tableau continues a multiple of the one above (heun, midpoint, ralston, ssprk3,
      `solvers.LowStorage4`), else the point, a sum, and the slopes that the tableau looks back on
      (one for rk4 and bosh3; of dopri5 and tsit5 so many that it saves nothing).

    Raises:
      ValueError: an inconsistent tableau, a number that is not positive as learning rate, a
        correction outside 1 to 6, or one in staged mode or under error control.
      TypeError: something else than a tableau or a learning rate.

    Examples:
      >>> import odeopt
      >>> kutta3 = odeopt.solvers.Tableau(a=[[0.5], [-1.0, 2.0]], b=[1 / 6, 2 / 3, 1 / 6])
      >>> opt = odeopt.runge_kutta(0.1, kutta3)
      >>> odeopt.runge_kutta(0.1, odeopt.solvers.Tableau(a=[[0.5]], b=[0.5, 0.4]))
      Traceback (most recent call last):
      ...
      ValueError: Inconsistent tableau: b sums to 0.9, not to 1 (consistency).
    """
    return _explicit(
        tableau, learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def from_diffrax(
    solver: diffrax.AbstractSolver,
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient flow by any one-step diffrax solver for ODEs.

    An explicit Runge-Kutta solver runs odeopt's own stage loop on its tableau (mixed dtypes,
    sharding, first stage for free). Any other, such as `diffrax.Kvaerno3()`, runs diffrax's step:
    it evaluates the first gradient again, forms a dense Jacobian if it is implicit, wants leaves of
    one dtype, and its gradients cannot be counted (`state.gradients` is -1). A step whose inner
    solve fails is rejected.

    Args:
      solver: an instance of a diffrax solver.
      learning_rate: the step size, in flow time.
      stage_transform: an optax transformation applied to every gradient.
      staged: one stage for each call of `update`; explicit solvers only.
      scan_stages: loop over the stages with `lax.scan`; explicit solvers only.
      correction: see `runge_kutta`; Runge-Kutta solvers only.
      kernel: see `runge_kutta`; explicit solvers only.

    Raises:
      ValueError: a solver that does not step one vector field from scratch (split, SDE, multistep).
      TypeError: something that is not a diffrax solver.

    Examples:
      >>> import diffrax, odeopt
      >>> opt = odeopt.from_diffrax(diffrax.Dopri8(), 0.1)
    """
    return _explicit(
        solver, learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def euler(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""Euler's method: gradient descent, equal to `optax.sgd(learning_rate)`.

    Step: $x^+ = x - h\nabla E(x)$. Order 1, 1 gradient a step, stable to $h\lambda \le 2$. Needs no
    `value_fn`. Its error is a term that can be written down: the iterates follow the gradient flow
    of $E + \tfrac h4\|\nabla E\|^2$ to second order (Barrett and Dherin, arXiv:2009.11162).

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.euler(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params)
    """
    return _explicit(
        solvers.Euler(), learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def heun(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""Heun's method (explicit trapezoidal rule).

    Step: $x^+ = x - \tfrac h2(g_1 + g_2)$, $g_1 = \nabla E(x)$, $g_2 = \nabla E(x - hg_1)$.
    Order 2, 2 gradients a step, stable to $h\lambda \le 2$: per gradient half of Euler's.

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.heun(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    return _explicit(
        solvers.Heun(), learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def midpoint(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""The explicit midpoint rule.

    Step: $x^+ = x - h\nabla E(x - \tfrac h2\nabla E(x))$. Order 2, 2 gradients a step, stable to
    $h\lambda \le 2$.

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.midpoint(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    return _explicit(
        solvers.Midpoint(), learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def ralston(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""Ralston's method: the 2-stage method of order 2 with the least error bound.

    Step: $x^+ = x - h(\tfrac14 g_1 + \tfrac34 g_2)$, $g_2 = \nabla E(x - \tfrac23 hg_1)$. Order 2,
    2 gradients a step, stable to $h\lambda \le 2$ (Ralston, Math. Comp. 16, 1962).

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.ralston(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    return _explicit(
        solvers.Ralston(), learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def bosh3(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""Bogacki and Shampine's method of order 3.

    Step: $x^+ = x - h(\tfrac29 g_1 + \tfrac13 g_2 + \tfrac49 g_3)$ with $g_2$ half a step and $g_3$
    three quarters of a step along the latest slope. Order 3, 3 gradients a step, stable to
    $h\lambda \le 2.51$. Its embedded estimate costs a fourth gradient and is not computed at a
    fixed step size (Bogacki and Shampine, Appl. Math. Lett. 2, 1989).

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.bosh3(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    return _explicit(
        solvers.Bosh3(), learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def ssprk3(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""Shu and Osher's strong-stability-preserving method of order 3.

    Step: $x_1 = x - hg(x)$, $x_2 = \tfrac34x + \tfrac14(x_1 - hg(x_1))$, $x^+ = \tfrac13x +
    \tfrac23(x_2 - hg(x_2))$: a convex combination of Euler steps, so any convex function that one
    Euler step of size $h$ decreases does not rise here either. Order 3, 3 gradients a step, stable
    to $h\lambda \le 2.51$ (Shu and Osher, J. Comput. Phys. 77, 1988).

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.ssprk3(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    return _explicit(
        solvers.SSPRK3(), learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def rk4(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""The classical Runge-Kutta method of order 4.

    Step: $x^+ = x - \tfrac h6(g_1 + 2g_2 + 2g_3 + g_4)$ with $g_2, g_3$ at half steps and $g_4$ at
    a full step. Order 4, 4 gradients a step, stable to $h\lambda \le 2.785$: per gradient a third
    of Euler's. With `scan_stages=True` it keeps one slope and a sum (Kutta, 1901; in deep learning
    arXiv:2505.13397).

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.rk4(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    return _explicit(
        solvers.RK4(), learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def low_storage4(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""A method of order 4 for large models: one vector beside the point of a stage.

    Step: $\delta_{i+1} = \gamma_i\delta_i - \alpha_ihg(x + \delta_i)$ from $\delta_0 = 0$,
    $x^+ = x + \delta_6$. Order 4, 6 gradients a step, stable to $h\lambda \le 4.359$; derived here
    (`solvers.LowStorage4`). From 4 million parameters on, or with `scan_stages=True`, it takes as
    much memory as `ssprk3`, and less than `rk4`, whose 4 gradients a step are the better bargain
    where that fits.

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.low_storage4(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    return _explicit(
        solvers.LowStorage4(),
        learning_rate,
        stage_transform,
        staged,
        scan_stages,
        correction,
        kernel,
    )


def dopri5(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""Dormand and Prince's method of order 5.

    Order 5, 6 gradients a step (the seventh stage only serves the error estimate and is not
    computed at a fixed step size), stable to $h\lambda \le 3.31$ (Dormand and Prince,
    J. Comput. Appl. Math. 6, 1980).

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.dopri5(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    return _explicit(
        solvers.Dopri5(), learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def tsit5(
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""Tsitouras' method of order 5.

    Order 5, 6 gradients a step (the seventh stage only serves the error estimate and is not
    computed at a fixed step size), stable to $h\lambda \le 3.51$ (Tsitouras,
    Comput. Math. Appl. 62, 2011).

    Args:
      learning_rate: the step size, in flow time.
      stage_transform: see `runge_kutta`, which also lists memory and errors.
      staged: see `ode_optimizer`.
      scan_stages: see `runge_kutta`.
      correction: see `runge_kutta`.
      kernel: see `runge_kutta`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.tsit5(0.1)
      >>> state, grads = opt.init(params), jax.grad(loss)(params)
      >>> updates, state = opt.update(grads, state, params, value_fn=loss)
    """
    return _explicit(
        solvers.Tsit5(), learning_rate, stage_transform, staged, scan_stages, correction, kernel
    )


def _explicit(
    solver: solvers.Solver,
    learning_rate: LearningRate,
    stage_transform: optax.GradientTransformation | None,
    staged: bool,
    scan_stages: bool | None,
    correction: int | None,
    kernel: Kernel,
) -> optax.GradientTransformationExtraArgs:
    flow: AbstractFlow = GradientFlow()
    if correction is not None:
        if staged:
            raise ValueError(
                "correction= takes gradients at points of its own, which staged mode cannot offer: "
                "drop staged=True and pass `value_fn=` to update."
            )
        if "error" in as_rule(learning_rate).needs:
            raise ValueError(
                "correction= and error control exclude each other: the estimate is an error of the "
                "plain method, which the correction cancels. Use one of the two."
            )
        flow = corrected(flow, solver, correction)
    return ode_optimizer(
        flow,
        solver,
        learning_rate,
        stage_transform=stage_transform,
        staged=staged,
        scan_stages=scan_stages,
        kernel=kernel,
    )
