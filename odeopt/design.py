"""What an optimizer is, frozen, and its two functions `init` and `update`."""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .arguments import as_arrays, check_gradient, check_params
from .flows import AbstractFlow
from .information import Information
from .kernels.choice import chosen
from .objective import Objective, transformed
from .solvers import AbstractMethod
from .staged import init_progress, staged_update
from .state import ODEState, counted, select
from .stepsize import AbstractRule, StepInfo
from .stepsize.rule import settled

LearningRate: TypeAlias = optax.ScalarOrSchedule | AbstractRule
"""A number, an optax schedule (of the number of steps), or a step-size rule."""

_PROBE = 2**16  # entries of the parameter on which memory is measured


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """What an optimizer is made of.

    Equal where all of it is equal by value; arrays among the hyper-parameters by identity.

    Attributes:
      flow: the flow, with its counter-terms if it is corrected.
      solver: the method that steps it.
      rule: its step size.
      stage_transform: what every stage's gradient goes through, or None.
      staged: whether every call of `update` is one stage.
      correction: the order that the counter-terms reach, or None.
      guarded: whether a step that is not finite is rejected, whatever the rule.
      kernel: what runs the fused formulas (`odeopt.kernels.using`).
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
        return self.guarded or self.rule.rejects

    @property
    def order(self) -> int | None:
        """Order of accuracy."""
        order = self.solver.order
        return order if self.correction is None or order is None else max(order, self.correction)

    @property
    def gradients_per_step(self) -> int | None:
        """Gradients of one step on one scalar parameter, which are those on any."""
        used: Any = None
        zero, h = jnp.zeros([]), jnp.ones([], float)

        def step(x: Array, h: Array) -> PyTree:
            nonlocal used
            z = x, self.flow.init(x)
            objective = Objective({"value_fn": lambda x: jnp.sum(x**2)}, given=x)
            taken = self.solver.step(self.flow, objective, z, h, self.solver.init(self.flow, z))
            used = taken.gradients
            return taken.update

        try:
            jax.eval_shape(step, zero, h)
        except (ValueError, TypeError, LookupError):  # a game needs players
            return self.solver.gradients_per_step
        return 1 + used if isinstance(used, int) else self.solver.gradients_per_step

    @property
    def memory(self) -> float | None:
        """Entries of the state over those of one large parameter; None where that is refused."""
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
        """The state before the first step; of `params` only shapes and dtypes are read."""
        check_params(params)
        params, design = as_arrays(params), self.design
        aux = design.flow.init(params)
        z = params, aux
        return ODEState(  # every scalar its own buffer: a shared one could not be donated
            steps=jnp.zeros([], jnp.int32),
            time=jnp.zeros([], float),
            gradients=jnp.zeros([], jnp.int32),
            rejected=jnp.zeros([], jnp.int32),
            step_size=jnp.zeros([], float),
            aux=aux,
            memory=design.solver.init(design.flow, z),
            rule=design.rule.init(params),
            transform=_init_transform(design, params),
            progress=init_progress(design.flow, design.solver, z, _init_transform(design, params))
            if design.staged
            else (),
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
        **extra: Any,
    ) -> tuple[PyTree[Array], ODEState]:
        """One step, or one stage in staged mode."""
        with chosen(self.design.kernel):
            return _update(self.design, grads, state, params, extra)


def _update(
    design: Design,
    grads: PyTree[Array],
    state: ODEState,
    params: PyTree[Array] | None,
    extra: dict[str, Any],
) -> tuple[PyTree[Array], ODEState]:
    flow, solver, rule = design.flow, design.solver, design.rule
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
    info = StepInfo(state.steps, z, objective, objective.given_value(), flow, solver)
    h, proposed = rule.propose(state.rule, info)
    step = solver.step(flow, objective, z, h, state.memory)
    verdict = rule.judge(proposed, info, h, step)
    # What a flow keeps in another dtype (optax's `mu_dtype`) is wider within the step.
    update, aux = optax.tree.cast_like((step.update, step.aux), (z[0], state.aux))

    accept, rule_state, transform = verdict.accept, verdict.state, advanced
    if design.rejects:
        given, made = (grads, info.value), (h, update, aux)
        ok, rule_state = settled(rule, state.rule, verdict, given, made, step.finite & (h >= 0))
        transform = select(ok, advanced, state.transform)
        # XLA on CPU would work out a cheap scalar again in every leaf that it enters, sums over all
        # leaves included: compile time goes as the square of their number. It repeats no root.
        accept = jnp.sqrt((ok & accept).astype(float)) > 0
    elif step.finite is not True:
        accept = step.finite & accept
    stayed = jax.tree.map(jnp.zeros_like, update) if accept is not True else update
    (update, aux), memory = select(
        accept, ((update, aux), step.memory), ((stayed, state.aux), state.memory)
    )
    gradients = None if step.gradients is None else 1 + step.gradients + verdict.gradients
    return update, counted(state, h, accept, gradients)._replace(
        aux=aux, memory=memory, rule=rule_state, transform=transform
    )


def _init_transform(design: Design, params: PyTree[Array]) -> PyTree[Array]:
    """In buffers of its own."""
    return () if design.stage_transform is None else design.stage_transform.init(params)
