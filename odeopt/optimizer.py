"""Where a flow, a solver and a step size become an optax optimizer."""

import dataclasses
from typing import Any

import jax
import optax

from .checks import check_flags, check_kind, design_of, is_transformation, known_design
from .design import Design, Init, LearningRate, Update
from .flows import AbstractFlow
from .information import Information, names
from .solvers import Solver, as_method
from .solvers import stability_limit as limit_of
from .stepsize import as_rule

_MODES = Information.VALUE | Information.PRODUCT | Information.POINT


class Optimizer(optax.GradientTransformationExtraArgs):
    """An optax optimizer that knows its parts.

    `ode_optimizer` and every named optimizer return it: optax's pair `(init, update)`, whose two
    functions carry one frozen `Design`. Two optimizers are equal if their designs are equal.
    `optax.chain` and `inject_hyperparams` hide the design, so read it before you wrap.
    """

    __slots__ = ()

    @property
    def design(self) -> Design:
        """Flow, solver, step-size rule and options."""
        try:
            return self.update.design
        except AttributeError:
            raise TypeError(
                "The update of this optimizer was replaced by another function, so its design is "
                "not known: ask the optimizer that odeopt returned."
            ) from None

    @property
    def order(self) -> int | None:
        """Order of accuracy with which a step follows the flow; None where it is not known."""
        return self.design.order

    @property
    def stability_limit(self) -> float | None:
        r"""The largest stable $h\lambda$, see `odeopt.stability_limit`; None if there is none.

        $\lambda$ is the curvature that the steps see, which a `stage_transform` may change.
        """
        try:
            return limit_of(self.design.flow, self.design.solver)
        except ValueError:
            return None

    @property
    def gradients_per_step(self) -> int | None:
        """Gradients of a step of the method, the given one included; None where not known.

        For an iterative method this is the maximum. For a game it counts rounds of one gradient for
        each player (without those of `correction=` if players move in turn or at unequal speeds).
        Gradients of a step-size rule are not included; `state.gradients` counts them.
        """
        return self.design.gradients_per_step

    @property
    def memory(self) -> float | None:
        """Memory of the state, in copies of parameters that are vectors; None where not known.

        For matrices `muon`, `soap`, `untuned` and `log_time_soap` need other amounts.
        """
        return self.design.memory


def ode_optimizer(
    flow: AbstractFlow,
    solver: Solver,
    learning_rate: LearningRate,
    *,
    stage_transform: optax.GradientTransformation | None = None,
    staged: bool = False,
    scan_stages: bool | None = None,
    correction: int | None = None,
) -> Optimizer:
    r"""The optimizer whose update is one step of `solver` along `flow`.

    The update is $\Phi_h(z) - z$ for the solver's one-step map $\Phi_h$ with $h$ the learning rate,
    in each parameter's own dtype. The learning rate *is* the step size: its sum is flow time.

    Closure mode (the default): `update(grads, state, params, value_fn=loss, **arguments)`. `grads`
    are the gradient of the first stage. Those of further stages come from
    `value_fn(params, **arguments)`, which may return `(loss, aux)` and gets the arguments that it
    names, or from `grad_fn(params, stage)`, with stages counted from 1. Inside `optax.masked`,
    `partition` or `multi_transform` also pass `full_params=params`. A method of one stage needs
    none of this.

    Staged mode (`staged=True`, explicit solvers): each `update` is one *stage*, with the gradient
    at the current parameters, and every s-th call completes a step. No extra argument is needed;
    `step_params` gives the parameters of the last completed step. The optimizer must be the last of
    a chain: a transformation that rescales its updates would move the stage points.

    At a fixed or scheduled rate, values that are not finite pass through, as in optax. A step that
    is not finite is rejected by the rules of `odeopt.stepsize`, by a flow with a schedule (of its
    weight decay) and by a method that solves a system: updates are zero, the state stays, and
    `rejected` counts the step (see `odeopt.guard`).

    Args:
      flow: the vector field to follow, e.g. `flows.GradientFlow()`.
      solver: a `solvers.Tableau`, a method, or an instance of a diffrax solver class.
      learning_rate: a number, an optax schedule (of the number of *steps*), or a step-size rule.
      stage_transform: an optax transformation applied to *every* stage's gradient, with its state
        frozen within the step and advanced once a step, by the first stage. (In
        `optax.chain(clip, rk4)` only the first stage would be clipped.) Not an optimizer: updates
        of `optax.sgd` or `optax.adam` are negative already, so the steps would raise the loss.
      staged: make each call of `update` one stage.
      scan_stages: loop over the stages with `lax.scan`, for less memory; None: only in large models
        where it saves memory, see `solvers.ExplicitRungeKutta`.
      correction: cancel the solver's drift, so that its steps follow the flow to this order
        (`drift.corrected`); None for the plain method. Costs further gradients, and needs
        `value_fn=` or `grad_fn=` also where the plain method does not.

    Returns:
      An `Optimizer`, whose state is an `ODEState`. Its memory is that of `flow`, `solver`,
      `stage_transform` and step-size rule: only five scalars for gradient flow at a given rate.
      Staged mode adds the start of the step and the slopes of all stages but the last.

    Raises:
      TypeError: something that is not a flow, a solver, or a learning rate.
      ValueError: a number that is not positive and finite as learning rate; an option that the
        solver cannot use; a rule that needs what flow, solver or mode do not have.

    Examples:
      >>> import jax, jax.numpy as jnp, optax, odeopt
      >>> opt = odeopt.ode_optimizer(odeopt.flows.GradientFlow(), odeopt.solvers.RK4(), 0.5)
      >>> opt.order, opt.gradients_per_step, round(opt.stability_limit, 3)
      (4, 4, 2.785)
      >>> loss = lambda x: jnp.sum(x**2)
      >>> params = jnp.array([1.0, -2.0])
      >>> state = opt.init(params)
      >>> updates, state = opt.update(jax.grad(loss)(params), state, params, value_fn=loss)
      >>> optax.apply_updates(params, updates).round(4)  # R(-1) = 0.375
      Array([ 0.375, -0.75 ], dtype=float32)
      >>> int(state.gradients), float(state.time)
      (4, 0.5)
    """
    check_kind(AbstractFlow, "flows.GradientFlow()", flow=flow)
    rule = as_rule(learning_rate)
    method = as_method(solver, error=Information.ERROR in rule.needs)
    _check_transform(stage_transform)
    check_flags(staged=staged, **({} if scan_stages is None else {"scan_stages": scan_stages}))
    given = {"stage_transform": stage_transform, "scan_stages": scan_stages, "staged": staged}
    for name, value in given.items():
        if value not in (None, False) and name not in method.options:
            hint = (
                " A step of one gradient needs neither staged=True nor `value_fn=`."
                if method.gradients_per_step == 1
                else " staged=True cuts a step at its gradients, which needs an explicit "
                "Runge-Kutta method; with others pass `value_fn=` to update."
            )
            raise ValueError(
                f"{name}= has no effect with {type(method).__name__}, which can use "
                f"{', '.join(sorted(method.options)) or 'no option'}: drop it."
                + (hint if name == "staged" else "")
            )
    if scan_stages is not None:
        method = method.with_options(scan_stages=scan_stages)
    if correction is not None:
        if Information.ERROR in rule.needs:
            raise ValueError(
                "correction= and error control exclude each other: the estimate is that of the "
                "plain method. Drop one of them."
            )
        # a quarter of the import time, and rarely needed
        from .drift import corrected  # noqa: PLC0415
        from .drift.trees import check_order  # noqa: PLC0415

        if isinstance(correction, jax.Array):
            raise ValueError(
                "correction is an array; it must be a Python integer. Under "
                '`optax.inject_hyperparams` name it: `static_args=("correction",)`.'
            )
        check_order(correction=correction)
        plain = flow
        try:
            flow = corrected(plain, method, correction)
        except (TypeError, ValueError) as error:
            raise type(error)(f"correction={correction}: {error}") from error
        if staged and flow is not plain:
            raise ValueError(
                "correction= needs more gradients than those of the stages, which staged mode does "
                "not have: drop one of them."
            )
    method.check(flow)
    staged = staged and method.gradients_per_step != 1
    has = flow.has | method.has | _MODES
    if staged:  # there is one gradient, and no function to evaluate
        has &= ~(Information.VALUE | Information.PRODUCT | Information.ERROR)
    if stage_transform is not None:
        has &= ~(Information.VALUE | Information.POTENTIAL)
    lacking = rule.needs & ~has
    if lacking:
        mode = "staged mode" if staged else "closure mode"
        raise ValueError(
            f"{type(rule).__name__} needs {names(lacking)}, which {type(flow).__name__} with "
            f"{type(method).__name__} in {mode}"
            f"{'' if stage_transform is None else ' with a stage_transform'} does not have. Use "
            "another step-size rule, or a number or a schedule."
        )
    rule.check(flow, method)
    return of_design(Design(flow, method, rule, stage_transform, staged, correction))


def _check_transform(stage_transform: Any) -> None:
    """Raise a `TypeError` if it does not transform gradients."""
    if stage_transform is not None and not is_transformation(stage_transform):
        raise TypeError(
            f"stage_transform is {stage_transform!r:.60}, not an optax transformation: pass one "
            "that is built, such as `stage_transform=optax.clip(1.0)`."
        )
    if known_design(stage_transform) is not None:
        raise TypeError(
            "stage_transform is an optimizer of odeopt, whose updates are negative already: the "
            "steps would raise the loss. Pass a transformation of gradients, such as "
            "`optax.scale_by_adam()` or `optax.trace(0.9)`."
        )


def guard(opt: Optimizer) -> Optimizer:
    """The optimizer, but rejecting steps that are not finite, at any learning rate.

    A step whose size, gradient, loss (`value=`) or result is not finite returns zero updates and
    counts in `rejected`. It leaves moments and solver as they were, and also the step-size rule,
    unless the rule made the step too large. Optimizers whose step-size rule looks at the step do
    this by themselves. In staged mode the step goes back to its start.

    Costs no gradient. The old state is kept until the step is known to be finite, so nothing is
    updated in place: this takes memory for one more update and state, and an update of Adam with
    ten million parameters takes 4 to 7 times as long on a CPU (in a checkout:
    `python -m benchmarks --only updates`).

    In a chain, a transformation *before* this one keeps a NaN in its own state: put it into
    `stage_transform=`, or use `optax.apply_if_finite` around the chain. `optax.MultiSteps` keeps a
    NaN in its sum forever: pass `should_skip_update_fn=optax.skip_not_finite` to it.

    Args:
      opt: an optimizer of odeopt.

    Raises:
      TypeError: an optimizer that is not one of odeopt's.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> opt, params = odeopt.guard(odeopt.adam(0.1)), jnp.ones(2)
      >>> updates, state = opt.update(jnp.array([jnp.nan, 1.0]), opt.init(params), params)
      >>> updates, int(state.rejected)
      (Array([0., 0.], dtype=float32), 1)
    """
    hint = " Write `optax.chain(..., odeopt.guard(opt))`, or use `optax.apply_if_finite`."
    return of_design(dataclasses.replace(design_of(opt, hint), guarded=True))


def of_design(design: Design) -> Optimizer:
    """The optimizer of this design."""
    return Optimizer(Init(design), Update(design))


def stability_limit(opt: Optimizer) -> float:
    r"""The largest stable $h\lambda$ of an optimizer, $R$; see `solvers.stability_limit`.

    Args:
      opt: an optimizer of odeopt.

    Raises:
      TypeError: an optimizer that is not one of odeopt's.
      ValueError: a flow that normalizes its gradient, or no limit between 1e-3 and 1e5.

    Examples:
      >>> import odeopt
      >>> round(odeopt.stability_limit(odeopt.heavy_ball(0.1, momentum=0.9)), 3)
      3.8
    """
    design = design_of(opt)
    return limit_of(design.flow, design.solver)


def describe(opt: Optimizer) -> dict[str, Any]:
    """The parts of an optimizer, its order, stability limit, cost and memory.

    Args:
      opt: an optimizer of odeopt.

    Returns:
      A dict: `flow`, `solver`, `step_size` (the rule) and `mode`, as text; `options`; `order`,
      `stability_limit`, `gradients_per_step` and `memory` (of the state, in copies of parameters
      that are vectors), as numbers, None where not known.

    Raises:
      TypeError: an optimizer that is not one of odeopt's.

    Examples:
      >>> import odeopt
      >>> about = odeopt.describe(odeopt.rk4(0.1))
      >>> about["flow"], about["order"], about["gradients_per_step"], about["memory"]
      ('GradientFlow()', 4, 4, 0.0)
    """
    design = design_of(opt)
    options = {
        "stage_transform": design.stage_transform,
        "correction": design.correction,
        "guarded": design.guarded or None,
        "kernel": None if design.kernel == "auto" else design.kernel,
    }
    return {
        "flow": repr(design.flow),
        "solver": repr(design.solver),
        "step_size": repr(design.rule),
        "mode": "staged" if design.staged else "closure",
        "options": {name: value for name, value in options.items() if value is not None},
        "order": opt.order,
        "stability_limit": opt.stability_limit,
        "gradients_per_step": opt.gradients_per_step,
        "memory": opt.memory,
    }
