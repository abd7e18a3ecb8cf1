"""The frozen design of an optimizer, and its two functions `init` and `update`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from .arguments import as_arrays, check_gradient, floating
from .checks import is_whole
from .flows import AbstractFlow
from .flows.clock import at_step, schedules
from .information import Information
from .kernels.choice import chosen
from .loops import while_loop
from .objective import Objective, transformed
from .solvers import AbstractMethod
from .staged import init_progress, staged_update
from .state import ODEState, check_own, check_state, counted, select
from .stepsize import AbstractRule, StepInfo
from .stepsize.rule import settled
from .sums import finite

LearningRate: TypeAlias = optax.ScalarOrSchedule | AbstractRule
"""A number, an optax schedule (of the number of steps), or a step-size rule."""

_PROBE = 2**16  # entries of the parameter on which memory is measured


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """The parts of an optimizer.

    Two designs are equal if all parts are equal by value (array hyper-parameters: by identity).

    Attributes:
      flow: the flow, with its counter-terms if it is corrected.
      solver: the method that steps it.
      rule: its step size.
      stage_transform: the optax transformation of every stage's gradient, or None.
      staged: whether every call of `update` is one stage.
      correction: the order that the counter-terms reach, or None.
      guarded: whether a step that is not finite is rejected, whatever the rule.
      kernel: the kernel of the fused formulas (`odeopt.kernels.using`).
    """

    flow: AbstractFlow
    solver: AbstractMethod
    rule: AbstractRule
    stage_transform: optax.GradientTransformation | None = None
    staged: bool = False
    correction: int | None = None
    guarded: bool = False
    kernel: str = "auto"

    @property
    def _key(self) -> tuple:
        parts = self.flow, self.solver, self.rule, self.stage_transform
        leaves, structure = jax.tree.flatten(parts)
        known = tuple(id(x) if isinstance(x, jax.Array) else x for x in leaves)
        return structure, known, self.staged, self.correction, self.guarded, self.kernel

    def __eq__(self, other: object) -> bool:
        return type(other) is Design and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def rejects(self) -> bool:
        """Whether a step that is not finite is rejected."""
        return self.guarded or self.rule.rejects or bool(self._schedules)

    @property
    def counts(self) -> bool:
        """Whether a step depends on its number."""
        return self.rule.counts or bool(self._schedules)

    @functools.cached_property
    def _schedules(self) -> list[Any]:
        return schedules(self.flow)

    def flow_at(self, step: Array) -> AbstractFlow:
        """The flow with its schedules evaluated at a step."""
        return at_step(self.flow, step) if self._schedules else self.flow

    def init_transform(self, params: PyTree[Array]) -> PyTree[Array]:
        """The state of `stage_transform` before the first step."""
        return () if self.stage_transform is None else self.stage_transform.init(params)

    @property
    def order(self) -> int | None:
        """Order of accuracy."""
        order = self.solver.order
        return order if self.correction is None or order is None else max(order, self.correction)

    @property
    def gradients_per_step(self) -> int | None:
        """Gradients of one step, counted on one scalar parameter; the same on any other."""
        return self.solver.gradients_per_step if self._used is None else 1 + self._used

    @property
    def steps_cost_alike(self) -> bool:
        """Whether every step at a fixed step size takes as many gradients as any other."""
        return self._used is not None

    @functools.cached_property
    def _used(self) -> int | None:
        """Gradients of one step besides the given one; None if their number may vary."""
        used: list[Any] = []
        zero, h = jnp.zeros([1, 1]), jnp.ones([], float)  # some flows move matrices only

        def step(flow: AbstractFlow, x: Array, h: Array) -> PyTree:
            z = x, flow.init(x)
            objective = Objective({"value_fn": lambda x: jnp.sum(x**2)}, given=x)
            taken = self.solver.step(flow, objective, z, h, self.solver.init(flow, z))
            used.append(taken.gradients)
            return taken.update

        try:
            for flow in self.flow.each:
                jax.eval_shape(functools.partial(step, flow), zero, h)
        except (ValueError, TypeError, LookupError):  # a game needs players
            return None
        return max(used) if all(map(is_whole, used)) else None

    @property
    def memory(self) -> float | None:
        """Entries of the state for each entry of a large parameter; None if `init` refuses it."""
        probe = jax.ShapeDtypeStruct((_PROBE,), jnp.float32)
        try:
            state = jax.eval_shape(Init(self), probe)
        except (ValueError, TypeError, LookupError):  # a game needs players
            return None
        large = [leaf.size for leaf in jax.tree.leaves(state) if leaf.size > 1]
        return round(sum(large) / _PROBE, 4)

    @property
    def needs_params(self) -> bool:
        """Whether `update` must be given the parameters."""
        needs = self.flow.needs_params or Information.POINT in self.rule.needs
        return needs or self.solver.gradients_per_step != 1


@dataclasses.dataclass(frozen=True)
class Init:
    """`init` of an optimizer."""

    design: Design

    def __call__(self, params: PyTree[Array]) -> ODEState:
        """The state before the first step; reads only shapes and dtypes of `params`."""
        params, design = floating(params), self.design
        aux = design.flow.init(params)
        z = params, aux
        return ODEState(  # every scalar has its own buffer: a shared one could not be donated
            steps=jnp.zeros([], jnp.int32),
            time=jnp.zeros([], float),
            gradients=jnp.zeros([], jnp.int32),
            rejected=jnp.zeros([], jnp.int32),
            step_size=jnp.zeros([], float),
            aux=aux,
            memory=design.solver.init(design.flow, z),
            rule=design.rule.init(params),
            transform=design.init_transform(params),
            progress=init_progress(design, z) if design.staged else (),
        )


@dataclasses.dataclass(frozen=True)
class Update:
    """`update` of an optimizer: gradient, propose, step, judge, count."""

    design: Design

    def __call__(
        self,
        grads: PyTree[Array],
        state: ODEState,
        /,
        params: PyTree[Array] | None = None,
        *others: Any,
        **extra: Any,
    ) -> tuple[PyTree[Array], ODEState]:
        """One step, or one stage in staged mode."""
        if others:
            raise TypeError(
                "update takes gradient, state and parameters by position and all else by name: "
                "`opt.update(grads, state, params, value_fn=loss, batch=batch)`."
            )
        check_state(state, staged=self.design.staged)
        with chosen(self.design.kernel):
            try:
                return _update(self.design, grads, state, params, extra)
            except Exception:
                check_own(Init(self.design), state, grads if params is None else params)
                raise


def _update(
    design: Design,
    grads: PyTree[Array],
    state: ODEState,
    params: PyTree[Array] | None,
    extra: dict[str, Any],
) -> tuple[PyTree[Array], ODEState]:
    flow, solver, rule = design.flow_at(state.steps), design.solver, design.rule
    if params is not None:
        params = as_arrays(params)
        grads = check_gradient(grads, params)
    elif design.needs_params:
        raise ValueError(
            "This optimizer needs the parameters: `opt.update(grads, state, params, ...)`."
        )
    else:
        grads = as_arrays(grads)
    if design.staged:
        return staged_update(design, grads, state, params, extra)

    objective, advanced = transformed(design.stage_transform, grads, state.transform, params, extra)
    # as in optax, a step that needs no parameters takes their structure from the gradient
    z = (objective.given if params is None else params), state.aux
    info = StepInfo(state.steps, z, objective, objective.given_value(), design.flow, solver)
    begun = 1
    if rule.tries > 1:
        solver, setup = solver.prepared(objective, z)
        begun += setup
        if info.value is None and Information.VALUE in rule.needs:
            info, begun = info._replace(value=objective.value(z[0])), begun + 1

    def attempt(rule_state: PyTree[Array], gradients: int | Array | None) -> _Try:
        h, proposed = rule.propose(rule_state, info)
        step = solver.step(flow, objective, z, h, state.memory)
        verdict = rule.judge(proposed, info, h, step)
        # Auxiliary variables kept in another dtype (optax's `mu_dtype`) are wider within the step.
        update, aux = optax.tree.cast_like((step.update, step.aux), (z[0], state.aux))

        accept, after, transform = verdict.accept, verdict.state, advanced
        if design.rejects:
            given, made = (grads, info.value), (update, aux, h)
            ok, after = settled(rule, rule_state, verdict, given, made, step.finite & (h >= 0))
            transform = select(ok, advanced, state.transform)
            accept = ok & accept
        elif step.finite is not True:
            accept = step.finite & accept
        stayed = jax.tree.map(jnp.zeros_like, update) if accept is not True else update
        (update, aux), memory = select(
            accept, ((update, aux), step.memory), ((stayed, state.aux), state.memory)
        )
        used = None
        if gradients is not None and step.gradients is not None:
            used = gradients + step.gradients + verdict.gradients
        new = counted(state, h, accept, used)
        new = new._replace(aux=aux, memory=memory, rule=after, transform=transform)
        return _Try(update, new, accept, verdict.again, used)

    last = attempt(state.rule, begun)
    if rule.tries > 1:
        last = _tried_again(last, attempt, rule.tries, finite((grads, info.value)))
    return last.update, last.state


class _Try(NamedTuple):
    """A judged step, and the state after it."""

    update: PyTree[Array]
    state: ODEState
    accept: bool | Array
    again: bool | Array
    gradients: int | Array | None  # of this call of `update`


def _tried_again(
    first: _Try, attempt: Callable[..., _Try], most: int, sane: Bool[Array, ""]
) -> _Try:
    """Try again from the same point until a step is accepted or `most` tries were made."""

    def unfinished(carry: tuple[_Try, Array]) -> Bool[Array, ""]:
        last, tries = carry
        return ~jnp.asarray(last.accept) & last.again & (tries < most) & sane

    def again(carry: tuple[_Try, Array]) -> tuple[_Try, Array]:
        last, tries = carry
        return attempt(last.state.rule, last.gradients), tries + 1

    return while_loop(unfinished, again, (jax.tree.map(jnp.asarray, first), jnp.int32(1)))[0]
