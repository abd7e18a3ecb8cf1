"""Staged mode: the same step, cut at its gradient evaluations, one call of `update` for each.

May use: `odeopt.state` and what it uses.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .flows import State
from .objective import Gradient
from .solvers import ExplicitRungeKutta, Step
from .state import ODEState, Parts, Progress, add_counts, select
from .stepsize import StepInfo


class StagedStep(NamedTuple):
    """`init` and `update` of a staged optimizer; its method is an `ExplicitRungeKutta`."""

    parts: Parts

    @property
    def method(self) -> ExplicitRungeKutta:
        """The explicit Runge-Kutta method."""
        assert isinstance(self.parts.method, ExplicitRungeKutta)
        return self.parts.method

    def init(self, params: PyTree[Array]) -> ODEState:
        """The state before the first call."""
        state = self.parts.init(params)

        def zeros() -> State:
            return jax.tree.map(jnp.zeros_like, (params, state.aux))

        progress = Progress(
            stage=jnp.zeros([], jnp.int32),
            step_size=jnp.zeros([], float),
            start=zeros(),
            slopes=tuple(zeros() for _ in range(self.method.gradients_per_step - 1)),
            transform=self.parts.init_transform(params),
        )
        return state._replace(progress=progress)

    def update(
        self,
        grads: PyTree[Array],
        state: ODEState,
        params: PyTree[Array] | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree[Array], ODEState]:
        """One stage: from its point to the next one, or to the end of the step."""
        parts, method, stages = self.parts, self.method, self.method.gradients_per_step
        grads, params = parts.check(grads, params)
        progress = state.progress
        assert isinstance(progress, Progress)
        self._check_position(progress, params)
        first, last = progress.stage == 0, progress.stage == stages - 1
        frozen = select(first, state.transform, progress.transform)
        slope_gradient, _, advanced = parts.transformed(
            grads, _evaluate, frozen, params, extra_args
        )
        gradient = Gradient(slope_gradient, _evaluate)
        value = extra_args.get("value")
        info = StepInfo(state.steps, (params, state.aux), gradient, value, parts.flow, method)
        proposed, rule_state = parts.rule.propose(state.rule, info)
        h = select(first, proposed, progress.step_size)
        start = select(first, (params, state.aux), progress.start)

        def stage(i: int) -> Callable[[], tuple[State, tuple[State, ...]]]:
            def run() -> tuple[State, tuple[State, ...]]:
                done = progress.slopes[:i]
                aux = start[1]
                if i > 0:
                    aux = jax.tree.map(jnp.add, aux, method.increment(i, h, done)[1])
                slope = parts.flow.field((params, aux), gradient.stage(0), h)
                increment = method.increment(i + 1, h, (*done, slope))
                return increment, (*done, slope, *progress.slopes[i + 1 :])[: stages - 1]

            return run

        increment, slopes = jax.lax.switch(progress.stage, [stage(i) for i in range(stages)])
        # Both sides are near each other, so this difference is exact where it matters: the caller's
        # sum lands on the next point as if the step had been taken from `start` in one piece.
        target = jax.tree.map(jnp.add, start, increment)
        updates = jax.tree.map(jnp.subtract, target[0], params)
        step = Step(increment[0], target[1], None, ())
        accept, rule_state = parts.rule.judge(rule_state, info, h, step)
        updates, aux = select(
            accept, (updates, target[1]), (jax.tree.map(jnp.zeros_like, updates), start[1])
        )

        counted = add_counts(state, h=h, accept=accept, gradients=1)
        uncounted = state._replace(gradients=counted.gradients)
        counted = counted._replace(aux=aux, rule=rule_state)
        new = select(last, counted, uncounted)
        return updates, new._replace(
            transform=select(first, advanced, state.transform),
            progress=Progress(
                stage=jnp.where(last, 0, progress.stage + 1),
                step_size=h,
                start=start,
                slopes=slopes,
                transform=frozen,
            ),
        )

    def _check_position(self, progress: Progress, params: PyTree[Array]) -> None:
        """Outside `jit`, where values can be seen: are the parameters at the stage point?"""
        if isinstance(progress.stage, jax.core.Tracer) or int(progress.stage) == 0:
            return
        i = int(progress.stage)
        increment = self.method.increment(i, progress.step_size, progress.slopes[:i])[0]

        def displaced(start: Array, moved: Array, p: Array) -> bool:
            size = jnp.max(jnp.abs(moved), initial=0.0)
            slack = 8 * jnp.finfo(p.dtype).eps * jnp.max(jnp.abs(start), initial=0.0)
            off = jnp.max(jnp.abs(p - (start + moved)), initial=0.0)
            return bool(off > 0.05 * size + slack)

        if any(jax.tree.leaves(jax.tree.map(displaced, progress.start[0], increment, params))):
            raise ValueError(
                f"The parameters are not where stage {i + 1} of this staged step must be "
                "evaluated: something changed the updates or the parameters since the last call. "
                "A staged optimizer must be the last transformation of its chain, with its updates "
                "applied as they are; pass transformations of the gradient as `stage_transform=`."
            )


def _evaluate(params: PyTree[Array], stage: int | Array) -> PyTree[Array]:
    raise ValueError(
        "This flow takes its gradient at a point of its own choosing, which staged mode cannot "
        "offer: drop staged=True and pass `value_fn=` to update."
    )
