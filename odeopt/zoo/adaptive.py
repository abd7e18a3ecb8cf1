"""Adaptive flows: RMSprop and Adam by splitting, Adam by Strang's splitting and Runge-Kutta."""

from collections.abc import Callable
from typing import Any, Unpack

import optax

from .. import solvers
from ..flows import AdamFlow, LogTime, RMSpropFlow
from ..optimizer import LearningRate, Optimizer, ode_optimizer
from .options import Options, named


@named
def rmsprop(
    learning_rate: LearningRate,
    decay: float | LogTime = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: float | LogTime | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    r"""RMSprop by Lie's splitting of its flow: equal to `optax.rmsprop`, with the same arguments.

    Step: $v^+ = bv + (1-b)g^2$ (exact for a fixed gradient), $x^+ = x - hg/\sqrt{v^+ + \epsilon}$.
    Order 1 on `flows.RMSpropFlow`, 1 gradient a step. Needs no `value_fn`. The state holds one to
    three copies of the parameters.

    Args:
      learning_rate: $h$: a number, a schedule of the number of steps, or a step-size rule.
      decay: $b$ in [0, 1), or `flows.LogTime(r)`.
      eps: $\epsilon$.
      initial_scale: $v$ at the start.
      eps_in_sqrt: False for $\sqrt{v} + \epsilon$.
      centered: divide by the standard deviation; one more copy of the parameters.
      momentum: decay of an accumulated update; None for none. One more copy of the parameters.
      nesterov: look ahead in the momentum.
      bias_correction: divide the moments by the total weight of their gradients.
      **options: see `adam`. `correction` excludes `centered` and `momentum`; for order 2 from the
        first step on it needs `bias_correction=True`.

    Raises:
      ValueError: a decay or momentum outside [0, 1), a negative `eps` or `initial_scale`, or a
        number that is not positive as learning rate.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.rmsprop(1e-3)
    """
    flow = RMSpropFlow(
        decay, eps, initial_scale, eps_in_sqrt, centered, momentum, nesterov, bias_correction
    )
    return ode_optimizer(flow, solvers.Lie(), learning_rate, **options)


@named
def adam(
    learning_rate: LearningRate,
    b1: float | LogTime = 0.9,
    b2: float | LogTime = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Adam by Lie's splitting of its flow: equal to `optax.adam`, with the same arguments.

    Step: the moments relax to the gradient, $m^+ = b_1m + (1-b_1)g$, $v^+ = b_2v + (1-b_2)g^2$
    (exact for a fixed gradient), then the parameters drift,
    $x^+ = x - h\hat m^+/(\sqrt{\hat v^+ + \epsilon_r} + \epsilon)$. Order 1 on `flows.AdamFlow`,
    1 gradient a step. Needs no `value_fn`. The state holds two copies of the parameters.

    Args:
      learning_rate: $h$: a number, a schedule of the number of steps, or a step-size rule.
      b1: decay of the first moment in [0, 1), or `flows.LogTime(r)`.
      b2: decay of the second moment in [0, 1), or `flows.LogTime(r)`.
      eps: $\epsilon$.
      eps_root: $\epsilon_r$. To differentiate through updates, as in meta-learning, give a
        positive one: without it the derivative is NaN where all gradients so far are exactly 0, as
        in optax.
      mu_dtype: dtype of the first moment; None for the parameters' dtype.
      nesterov: look ahead in the first moment, as `optax.nadam` does.
      **options: see `ode_optimizer`. With `correction=2` the iterates follow
        $\dot x = -g/(|g| + \epsilon)$ with order 2 from the first step on, for one more gradient a
        step. The counter-term is clipped where the gradient changes much within $b_2/(1 - b_2)$
        steps. Not with `nesterov`.

    Raises:
      ValueError: `b1` or `b2` outside [0, 1), a negative `eps` or `eps_root`, or a number that is
        not positive as learning rate.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.adam(1e-3)
    """
    flow = AdamFlow(b1, b2, eps, eps_root, nesterov=nesterov, mu_dtype=mu_dtype)
    return ode_optimizer(flow, solvers.Lie(), learning_rate, **options)


@named
def adamw(
    learning_rate: LearningRate,
    b1: float | LogTime = 0.9,
    b2: float | LogTime = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any | Callable | None = None,
    *,
    nesterov: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Adam with decoupled weight decay: equal to `optax.adamw`, with the same arguments.

    As `adam`, with the drift $x^+ = x - h(u + wx)$. `update` needs the parameters.

    Args:
      learning_rate: $h$; see `adam`, which also lists memory and errors.
      b1: see `adam`.
      b2: see `adam`.
      eps: see `adam`.
      eps_root: see `adam`.
      mu_dtype: see `adam`.
      weight_decay: $w$, per unit of flow time: a number, or a schedule of the number of steps.
      mask: what to decay: a tree of booleans, or a function of the parameters that returns one.
      nesterov: see `adam`.
      **options: see `adam`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.adamw(1e-3, weight_decay=0.1)
    """
    flow = AdamFlow(b1, b2, eps, eps_root, weight_decay, mask, nesterov, mu_dtype)
    return ode_optimizer(flow, solvers.Lie(), learning_rate, **options)


@named
def strang_adam(
    learning_rate: LearningRate,
    b1: float | LogTime = 0.9,
    b2: float | LogTime = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Adam's flow by Strang's splitting: order 2 with one gradient a step.

    Step: half a drift, then the moments relax to the gradient at that point, then half a drift.
    Between calls `params` is the point of the next gradient; `odeopt.step_params(state, params)`
    returns the end of the step, half a drift earlier. Adam's direction is not known before the
    first gradient, so the first step makes both halves of its drift after it. The order is 2 after
    a transient; from the default start it is between 1 and 2 (`tests/zoo/test_orders.py`). At a
    fixed rate and without weight decay `params` takes the values of Adam's iterates after a first
    step 1.5 times as long: only the evaluation parameters differ.

    Args:
      learning_rate: $h$; see `adam`, which also lists errors and memory (a third copy with a mask).
      b1: see `adam`.
      b2: see `adam`.
      eps: see `adam`.
      eps_root: see `adam`.
      mu_dtype: see `adam`.
      weight_decay: $w$, decoupled and solved exactly within a drift.
      mask: what to decay; see `adamw`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.strang_adam(1e-3)
    """
    flow = AdamFlow(b1, b2, eps, eps_root, weight_decay, mask, mu_dtype=mu_dtype, exact_decay=True)
    return ode_optimizer(flow, solvers.Strang(), learning_rate, **options)


@named
def rk_adam(
    learning_rate: LearningRate,
    solver: solvers.Solver,
    b1: float | LogTime = 0.9,
    b2: float | LogTime = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""Adam's flow by any solver: Runge-Kutta on parameters and both moments together.

    Solves `flows.AdamFlow`, including the bias correction. A step has the order of the solver where
    the flow is smooth (away from sign changes of a gradient that has just begun to move), and costs
    its gradients. From the default start, where the bias correction is 0/0, RK4 has order 3 only
    (`tests/zoo/test_orders.py`). The state holds two copies of the parameters; `staged` adds three
    for each stage.

    Args:
      learning_rate: $h$; see `adam`, which also lists errors.
      solver: an instance of a solver class such as `odeopt.solvers.RK4()`, a tableau or a method.
      b1: see `adam`.
      b2: see `adam`.
      eps: see `adam`.
      eps_root: see `adam`.
      weight_decay: $w$, decoupled; a number or a schedule.
      mask: what to decay; see `adamw`.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.rk_adam(1e-3, odeopt.solvers.RK4())
    """
    flow = AdamFlow(b1, b2, eps, eps_root, weight_decay, mask)
    return ode_optimizer(flow, solver, learning_rate, **options)
