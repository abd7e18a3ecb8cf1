"""Flows with momentum, by splitting, symplectic and Runge-Kutta methods."""

from typing import Any, Unpack

from .. import solvers
from ..checks import check_flags, is_zero
from ..flows import HeavyBallFlow, LogTime, NesterovFlow, RelativisticFlow
from ..optimizer import LearningRate, Optimizer, ode_optimizer
from .options import Options, named


@named
def heavy_ball(
    learning_rate: LearningRate,
    momentum: float | LogTime = 0.9,
    *,
    accumulator_dtype: Any = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""The heavy ball by Lie's splitting: equal to `optax.sgd(learning_rate, momentum)`.

    Step: $m^+ = \mu m + \nabla E(x)$, $x^+ = x - hm^+$: friction, kick and drift, each solved
    exactly (the conformal symplectic Euler method; França, Sulam, Robinson and Vidal,
    arXiv:1903.04100). 1 gradient a step, stable to $h\lambda \le 2(1+\mu)$. Needs no `value_fn`.
    Where friction dominates it follows gradient flow at the rate $h/(1-\mu)$.

    Order 1 on the heavy ball's flow (`flows.HeavyBallFlow`) in its own time step $\sqrt h$, which
    is order 1/2 in the learning rate $h$: at a fixed friction the error halves when $h$ is
    quartered and $\mu$ becomes $\sqrt\mu$. The state holds one copy of the parameters.

    Args:
      learning_rate: $h$: a number, a schedule of the number of steps, or a step-size rule.
      momentum: $\mu$ in [0, 1), or `flows.LogTime(r)` for friction $r/t$.
      accumulator_dtype: dtype of the momentum; None for the parameters' dtype.
      **options: see `ode_optimizer`. With `correction=2` the iterates follow gradient flow
        with order 2, for one more gradient a step. Step k then lasts $h(1 - \mu^k)/(1 - \mu)$: $h$
        times the total weight of the gradients in its momentum. The counter-term helps where
        $h\lambda < (1-\mu)^2$; beyond that it is clipped.

    Raises:
      ValueError: a momentum outside [0, 1), a number that is not positive as learning rate, a
        `correction` with `flows.LogTime`; in `init`, an `accumulator_dtype` of integers.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.heavy_ball(0.1, 0.9)
    """
    flow = HeavyBallFlow(momentum, accumulator_dtype)
    return ode_optimizer(flow, solvers.Lie(), learning_rate, **options)


@named
def nesterov(
    learning_rate: LearningRate,
    momentum: float | LogTime = 0.9,
    *,
    accumulator_dtype: Any = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Nesterov's momentum: equal to `optax.sgd(learning_rate, momentum, nesterov=True)`.

    Step, with y the look-ahead point: $m^+ = \mu m + \nabla E(y)$,
    $y^+ = y - h(\nabla E(y) + \mu m^+)$. Order 1 in $\sqrt h$, 1/2 in $h$ (see `heavy_ball`), 1
    gradient a step, stable to $h\lambda \le 2(1+\mu)/(1+2\mu)$. Unlike the heavy ball it is not
    conformally symplectic. Needs no `value_fn`.

    Args:
      learning_rate: $h$; see `heavy_ball`, which also lists memory and errors.
      momentum: $\mu$ in [0, 1), or `flows.LogTime(r)`.
      accumulator_dtype: dtype of the momentum; None for the parameters' dtype.
      **options: see `heavy_ball`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.nesterov(0.1, 0.9)
    """
    flow = NesterovFlow(momentum, accumulator_dtype)
    return ode_optimizer(flow, solvers.Lie(), learning_rate, **options)


@named
def conformal_leapfrog(
    learning_rate: LearningRate, momentum: float | LogTime = 0.9, **options: Unpack[Options]
) -> Optimizer:
    r"""The heavy ball by Strang's splitting: order 2 in its own time, with one gradient a step.

    Step: $\hat x = x - \tfrac h2\sqrt\mu\,m$, $\hat m = \sqrt\mu\,m + \nabla E(\hat x)$,
    $x^+ = \hat x - \tfrac h2\hat m$, $m^+ = \sqrt\mu\,\hat m$: half of the friction and drift
    before the kick, half after it. Order 2 in $\sqrt h$, 1 in $h$ (see `heavy_ball`). Conformally
    symplectic, stable to $h\lambda \le 4$ (arXiv:1903.04100). Needs no `value_fn`: between calls
    `params` is the point $\hat x$ of the next gradient, and `odeopt.step_params(state, params)`
    returns $x^+$. A change of the step size moves that point by half as much.

    Args:
      learning_rate: $h$; see `heavy_ball`, which also lists memory and errors.
      momentum: $\mu$ in [0, 1), or `flows.LogTime(r)`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss, params = lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
      >>> opt = odeopt.conformal_leapfrog(0.1, 0.9)
      >>> state = opt.init(params)
      >>> updates, state = opt.update(jax.grad(loss)(params), state, params)
      >>> end = odeopt.step_params(state, params + updates)  # evaluate and keep these
    """
    return ode_optimizer(HeavyBallFlow(momentum), solvers.Strang(), learning_rate, **options)


@named
def suzuki_yoshida(
    learning_rate: LearningRate, momentum: float = 0.9, **options: Unpack[Options]
) -> Optimizer:
    r"""The heavy ball to order 4: three conformal leapfrogs, the middle one backwards in time.

    Lengths $\tau, 1-2\tau, \tau$ with $\tau = 1/(2-2^{1/3}) = 1.35$ (Suzuki, Phys. Lett. A 146,
    1990; Yoshida, Phys. Lett. A 150, 1990). Order 4 in $\sqrt h$, 2 in $h$ (see `heavy_ball`). 3
    gradients a step, conformally symplectic; at $\mu = 0.9$ stable to $h\lambda \le 2.47$. Between
    calls `params` is as for `conformal_leapfrog`.

    Args:
      learning_rate: $h$; see `heavy_ball`, which also lists memory and errors.
      momentum: $\mu$ in (0, 1): the step backwards in time undoes friction.

    Raises:
      ValueError: a momentum of 0, whose friction is infinite, or `flows.LogTime`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.suzuki_yoshida(0.1, 0.9)
    """
    _positive(momentum)
    if isinstance(momentum, LogTime):
        raise ValueError("momentum is a clock, but one of three steps goes back: pass a number.")
    solver = solvers.Strang(solvers.SUZUKI_YOSHIDA)
    return ode_optimizer(HeavyBallFlow(momentum), solver, learning_rate, **options)


@named
def relativistic(
    learning_rate: LearningRate,
    momentum: float | LogTime = 0.9,
    delta: float = 1.0,
    *,
    leapfrog: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    r"""The heavy ball with a speed limit: no step is longer than $1/\sqrt\delta$.

    Step: $m^+ = \mu m + \nabla E(x)$, $x^+ = x - hm^+/\sqrt{1 + \delta h^2\|m^+\|^2}$, the norm
    over all parameters (relativistic gradient descent; França, Sulam, Robinson and Vidal,
    arXiv:1903.04100). Order 1 in $\sqrt h$, 1/2 in $h$; with `leapfrog` 2 and 1. 1 gradient a step,
    conformally symplectic. `delta=0` is `heavy_ball` or `conformal_leapfrog`; near a minimum the
    stability limit is theirs.

    Args:
      learning_rate: $h$; see `heavy_ball`, which also lists memory and errors.
      momentum: $\mu$ in [0, 1), or `flows.LogTime(r)`.
      delta: $\delta \ge 0$, one over the square of the longest step.
      leapfrog: the symmetric splitting; between calls `params` is as for `conformal_leapfrog`.

    Raises:
      ValueError: a negative `delta`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.relativistic(0.1, 0.9, delta=4.0)  # steps of at most 1/2
    """
    check_flags(leapfrog=leapfrog)
    solver = solvers.Strang() if leapfrog else solvers.Lie()
    return ode_optimizer(RelativisticFlow(momentum, delta=delta), solver, learning_rate, **options)


@named
def rk_momentum(
    learning_rate: LearningRate,
    momentum: float,
    solver: solvers.Solver,
    **options: Unpack[Options],
) -> Optimizer:
    r"""The heavy ball's flow by any solver: Runge-Kutta on parameters and momentum together.

    Solves $\dot x = -m$, $h\dot m = \nabla E(x) + m\ln\mu$ (`flows.HeavyBallFlow`) with the order
    of the solver in $\sqrt h$, half of it in $h$ (see `heavy_ball`), and the gradients of the
    solver. The solver's stability polynomial at the eigenvalues of this system gives the stability
    limit, `solvers.stability_limit(flow, method)`: 8.20 for RK4 at $\mu = 0.9$. For momentum *on* a
    solver of gradient flow see `chained_momentum`. The state holds one copy of the parameters;
    `staged` adds two for each stage.

    Args:
      learning_rate: $h$; see `heavy_ball`, which also lists errors. With
        `stepsize.embedded_error` the solver must have an error estimate.
      momentum: $\mu$ in (0, 1).
      solver: an instance of a solver class such as `odeopt.solvers.RK4()`, a tableau or a method.

    Raises:
      ValueError: a momentum outside (0, 1).

    Examples:
      >>> import odeopt
      >>> opt = odeopt.rk_momentum(0.1, 0.9, odeopt.solvers.RK4())
    """
    _positive(momentum)
    return ode_optimizer(HeavyBallFlow(momentum), solver, learning_rate, **options)


@named
def chained_momentum(
    learning_rate: LearningRate,
    momentum: float | LogTime,
    solver: solvers.Solver,
    *,
    nesterov: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Momentum on the mean gradient of a solver's step along gradient flow.

    $g^* = (x - \Phi_h(x))/h$ takes the place of the gradient in `heavy_ball` (or `nesterov`): at a
    fixed rate this is `optax.chain(odeopt.rk4(h), optax.trace(momentum))`. It is not a solver of
    the heavy ball's flow (`rk_momentum` is). If the solver's stability polynomial is 1 at the
    stability limit, momentum does not change the limit: RK4 keeps 2.785. If it is -1, the limit
    grows: with momentum 0.9 from 2 to 3.80 for Euler's method, from 2.51 to 3.29 for SSPRK3.
    `nesterov=True` may lower it: 1.36 for Euler's method. A step costs the gradients of the solver.

    Args:
      learning_rate: $h$; see `heavy_ball`, which also lists memory and errors.
      momentum: $\mu$ in [0, 1), or `flows.LogTime(r)`.
      solver: an instance of a solver class such as `odeopt.solvers.RK4()`, a tableau or a method.
      nesterov: look ahead.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.chained_momentum(0.1, 0.9, odeopt.solvers.RK4())
    """
    check_flags(nesterov=nesterov)
    flow = NesterovFlow(momentum) if nesterov else HeavyBallFlow(momentum)
    method = solvers.Chained(solvers.as_method(solver))
    return ode_optimizer(flow, method, learning_rate, **options)


def _positive(momentum: float) -> None:
    if is_zero(momentum):
        raise ValueError(
            "momentum is 0: this solver needs the friction -ln(momentum) to be finite. Without "
            "momentum use a solver of gradient flow, such as `odeopt.rk4`."
        )
