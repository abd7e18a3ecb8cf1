"""Where a flow, a solver and a step size become an optax optimizer.

May use: `odeopt.stepsize`, `odeopt.solvers`, `odeopt.flows`, `odeopt.objective`.
"""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .flows import AbstractFlow
from .kernels import Kernel
from .objective import Gradient, GradientFunction, Objective
from .solvers import ExplicitRungeKutta, Solver, as_method
from .staged import StagedStep
from .state import ODEState, Parts, Readout, add_counts, select
from .stepsize import AbstractRule, StepInfo, as_rule

LearningRate: TypeAlias = optax.ScalarOrSchedule | AbstractRule
"""A number, an optax schedule (of the number of steps), or a step-size rule."""


def ode_optimizer(
    flow: AbstractFlow,
    solver: Solver,
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    kernel: Kernel = "auto",
) -> optax.GradientTransformationExtraArgs:
    r"""The optimizer whose update is one step of `solver` along `flow`.

    The update is $\Phi_h(z) - z$ for the solver's one-step map $\Phi_h$ with $h$ the learning rate,
    in each parameter's own dtype. The learning rate *is* the step size: its sum is flow time.

    Closure mode (the default): `update(grads, state, params, value_fn=loss, **arguments)`. `grads`
    serve as the first stage; further ones come from `value_fn(params, **arguments)`, to which
    keyword arguments named like its parameters are forwarded (others are ignored), or from
    `grad_fn(params, stage)`, stages counted from 1. `value_fn` may return `(loss, aux)`. Inside
    `optax.masked`, `partition` or `multi_transform` also pass `full_params=params`. A method of
    one stage needs none of this.

    Staged mode (`staged=True`, explicit solvers): each `update` is one *stage*, at the parameters
    that the caller was handed, and every s-th call completes a step. No extra argument is needed;
    `step_params` gives the parameters between steps. It must be the last of a chain: whatever
    rescales its updates would move the stage points.

    Args:
      flow: the vector field to follow, e.g. `flows.GradientFlow()`.
      solver: a `solvers.Tableau`, a method, or an instance of a diffrax solver class.
      learning_rate: a number, an optax schedule (of the number of *steps*), or a step-size rule.
      stage_transform: an optax transformation applied to *every* stage's gradient, with its state
        frozen within the step and advanced once a step, by the first stage. (In
        `optax.chain(clip, rk4)` only the first stage would be clipped.)
      staged: one stage a call.
      scan_stages: loop over the stages with `lax.scan`, for less memory; None: in large models
        where it saves some, see `solvers.ExplicitRungeKutta`.
      kernel: what combines the slopes of an explicit Runge-Kutta method: `"jnp"`, `"pallas"` or
        `"auto"` (`odeopt.kernels`). A splitting is given its own: `solvers.Lie(kernel=...)`.

    Returns:
      An optax transformation with `ODEState`. Its memory is that of `flow`, `solver` and
      `stage_transform`: nothing but four counters for gradient flow in closure mode; staged mode
      adds the start of the step and the slopes of all stages but the last.

    Raises:
      TypeError: something that is not a solver, or not a learning rate.
      ValueError: a number that is not positive and finite as learning rate; `staged=True` with a
        solver or a rule that cannot be cut into stages.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, odeopt
      >>> opt = odeopt.ode_optimizer(odeopt.flows.GradientFlow(), odeopt.solvers.RK4(), 0.5)
      >>> loss = lambda x: jnp.sum(x**2)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> updates, state = opt.update(jax.grad(loss)(params), state, params, value_fn=loss)
      >>> optax.apply_updates(params, updates).round(4)  # R(-1) = 0.375
      Array([ 0.375, -0.75 ], dtype=float32)
      >>> int(state.gradients), float(state.time)
      (4, 0.5)
    """
    if not isinstance(flow, AbstractFlow):
        raise TypeError(f"flow is a {type(flow).__name__}; pass e.g. odeopt.flows.GradientFlow().")
    rule = as_rule(learning_rate)
    method = as_method(solver, error="error" in rule.needs, scan=scan_stages, kernel=kernel)
    method.check(flow)
    parts = Parts(flow, method, rule, stage_transform)
    if not staged or method.gradients_per_step == 1:
        return optax.GradientTransformationExtraArgs(parts.init, functools.partial(_update, parts))
    if not isinstance(method, ExplicitRungeKutta):
        raise ValueError(
            f"staged=True cuts a step at its gradients, which needs an explicit Runge-Kutta "
            f"method, not {type(method).__name__}: drop staged=True and pass `value_fn=` to update."
        )
    if rule.needs:
        raise ValueError(
            f"{type(rule).__name__} needs {', '.join(sorted(rule.needs))}, and staged mode only "
            "has the gradient: drop staged=True, or pass a number or a schedule."
        )
    step = StagedStep(parts)
    return optax.GradientTransformationExtraArgs(step.init, step.update)


def _update(
    parts: Parts,
    grads: PyTree[Array],
    state: ODEState,
    params: PyTree[Array] | None = None,
    **extra_args: Any,
) -> tuple[PyTree[Array], ODEState]:
    """One whole step: gradient, propose, step, judge, count."""
    flow, method, rule, _ = parts
    grads, point = parts.check(grads, params)
    evaluate: GradientFunction = Objective(extra_args)
    at_start, evaluate, transform = parts.transformed(
        grads, evaluate, state.transform, params, extra_args
    )
    gradient = Gradient(at_start, evaluate, by_stage=extra_args.get("grad_fn") is not None)
    value = extra_args.get("value")
    info = StepInfo(state.steps, (point, state.aux), gradient, value, flow, method)
    h, rule_state = rule.propose(state.rule, info)
    step = method.step(flow, gradient, info.z, h, state.memory)
    accept, rule_state = rule.judge(rule_state, info, h, step)
    if step.success is not True:
        accept = accept & step.success

    # What a flow keeps in another dtype (optax's `mu_dtype`) is wider within the step.
    moved = optax.tree.cast_like((step.update, step.aux), (point, state.aux))
    stayed = (jax.tree.map(jnp.zeros_like, point), state.aux)
    (updates, aux), memory = select(accept, (moved, step.memory), (stayed, state.memory))
    spent = gradient.count if method.gradients_per_step is not None else None
    counts = add_counts(state, h=h, accept=accept, gradients=spent)
    readout = state.readout
    if isinstance(readout, Readout):
        readout = Readout.of(parts, select(accept, h, readout.step_size))
    return updates, counts._replace(
        aux=aux, memory=memory, rule=rule_state, transform=transform, readout=readout
    )
