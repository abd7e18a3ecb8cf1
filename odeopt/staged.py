"""Staged mode: the same step, with one call of `update` for each of its gradient evaluations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .checks import is_traced
from .flows import State
from .loops import switch
from .objective import transformed
from .solvers import Step, field_cost
from .state import ODEState, Progress, counted, select
from .stepsize import StepInfo
from .stepsize.rule import settled
from .sums import add


def init_progress(design: Any, z: State) -> Progress:
    """The progress between two steps, zeros; refuses a flow with gradients at other points."""
    if field_cost(design.flow, z, jnp.zeros([], float), given=True):
        raise ValueError(
            f"{type(design.flow).__name__} takes its gradient at a point of its own choosing, "
            "which staged mode cannot offer: drop staged=True and pass `value_fn=` to update."
        )

    def zeros() -> State:  # each call makes new buffers
        return jax.tree.map(jnp.zeros_like, z)

    return Progress(
        stage=jnp.zeros([], jnp.int32),
        step_size=jnp.zeros([], float),
        start=zeros(),
        slopes=tuple(zeros() for _ in range(design.solver.gradients_per_step - 1)),
        transform=design.init_transform(z[0]),
        rule=design.rule.init(z[0]),
    )


def staged_update(
    design: Any,
    grads: PyTree[Array],
    state: ODEState,
    params: PyTree[Array],
    extra: dict[str, Any],
) -> tuple[PyTree[Array], ODEState]:
    """One stage: from its point to the point of the next stage, or to the end of the step."""
    flow, method, rule = design.flow_at(state.steps), design.solver, design.rule
    stages = method.gradients_per_step
    progress: Any = state.progress
    _check_position(method, progress, params)
    first, last = progress.stage == 0, progress.stage == stages - 1
    frozen = select(first, state.transform, progress.transform)
    objective, advanced = transformed(design.stage_transform, grads, frozen, params, extra)
    value = objective.given_value()
    info = StepInfo(state.steps, (params, state.aux), objective, value, design.flow, method)
    proposed = rule.propose(state.rule, info)  # used in the first stage only
    h, asked = select(first, proposed, (progress.step_size, progress.rule))
    start = select(first, (params, state.aux), progress.start)

    def stage(i: int) -> Callable[[], tuple[State, tuple[State, ...]]]:
        def run() -> tuple[State, tuple[State, ...]]:
            done = progress.slopes[:i]
            aux = add(start[1], method.increment(i, done)[1]) if i > 0 else start[1]
            slope = flow.increment((params, aux), objective, h)
            slope = jax.tree.map(lambda k, z: k.astype(z.dtype), slope, start)
            increment = method.increment(i + 1, (*done, slope))
            return increment, (*done, slope, *progress.slopes[i + 1 :])[: stages - 1]

        return run

    increment, slopes = switch(progress.stage, [stage(i) for i in range(stages)])
    # The update below, `target - params`, is a difference of nearby numbers, with little rounding:
    # the caller's sum lands on the next point as if the step had gone there from `start`.
    target = add(start, increment)
    step = Step(increment[0], target[1])
    verdict = rule.judge(asked, info, h, step)
    ok: Any = True
    rule_state = verdict.state
    if design.rejects:
        given, made = (grads, value), (h, increment)
        ok, rule_state = settled(rule, state.rule, verdict, given, made, h >= 0)
    accept = ok if verdict.accept is True else ok & verdict.accept
    # A rejected step goes back to its start at once.
    target = select(accept, target, start)
    ended = last if accept is True else last | ~accept

    done = counted(state, h, accept, 1)._replace(aux=target[1], rule=rule_state)
    new = select(ended, done, state._replace(gradients=done.gradients))
    transform = select(first if ok is True else first & ok, advanced, state.transform)
    return jax.tree.map(jnp.subtract, target[0], params), new._replace(
        transform=transform,
        progress=Progress(
            stage=jnp.where(ended, 0, progress.stage + 1),
            step_size=h,
            start=start,
            slopes=select(accept, slopes, progress.slopes),
            transform=frozen,
            rule=asked,
        ),
    )


def _check_position(method: Any, progress: Progress, params: PyTree[Array]) -> None:
    """Outside `jit`, where values are known: refuse parameters that are not the stage point."""
    if is_traced(progress.stage) or int(progress.stage) == 0:
        return
    i = int(progress.stage)
    increment = method.increment(i, progress.slopes[:i])[0]

    def displaced(start: Array, moved: Array, p: Array) -> Array:
        size = jnp.max(jnp.abs(moved), initial=0.0)
        slack = 8 * jnp.finfo(p.dtype).eps * jnp.max(jnp.abs(start), initial=0.0)
        return jnp.max(jnp.abs(p - (start + moved)), initial=0.0) > 0.05 * size + slack

    off = jax.tree.leaves(jax.tree.map(displaced, progress.start[0], increment, params))
    # inside a `cond`, as in `apply_if_finite`, `off` may be traced even if `progress.stage` is not
    if not is_traced(off) and any(off):
        raise ValueError(
            f"The parameters are not where stage {i + 1} of this staged step must be "
            "evaluated: something changed the updates or the parameters since the last call. "
            "A staged optimizer must be the last transformation of its chain, with its updates "
            "applied as they are; pass transformations of the gradient as `stage_transform=`."
        )
