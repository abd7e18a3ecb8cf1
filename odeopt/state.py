"""The state of every odeopt optimizer, and the parts that its two modes share.

May use: `odeopt.stepsize`, `odeopt.solvers`, `odeopt.flows`, `odeopt.objective`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from .flows import AbstractFlow, State
from .objective import (
    GradientFunction,
    check_gradient,
    check_params,
    filled,
    is_hole,
    punched,
)
from .solvers import AbstractMethod
from .stepsize import AbstractRule


class Progress(NamedTuple):
    """The step in progress in staged mode.

    Attributes:
      stage: the stage that the next call of `update` will be, 0 between steps.
      step_size: size of the step in progress.
      start: `z` at the start of the step.
      slopes: the slopes of the stages done, `stages - 1` trees like `start`.
      transform: state of `stage_transform` at the start of the step.
    """

    stage: Int[Array, ""]
    step_size: Float[Array, ""]
    start: State
    slopes: tuple[State, ...]
    transform: PyTree[Array]


class Readout(eqx.Module):
    """How to get from where the parameters rest to what the last step led to.

    Attributes:
      step_size: size of the last step, 0 before the first.
      traced: flow and method, what of them is known at run time only.
      known: the rest of them.
    """

    step_size: Float[Array, ""]
    traced: PyTree
    known: PyTree = eqx.field(static=True)

    @classmethod
    def of(cls, parts: "Parts", step_size: Float[Array, ""]) -> "Readout | tuple[()]":
        """The read-out of an optimizer; `()` where parameters rest at the end of the step."""
        flow, method = parts.flow, parts.method
        if not flow.has_readout and type(method).readout is AbstractMethod.readout:
            return ()
        traced, known = eqx.partition((flow, method), eqx.is_array)
        return cls(step_size, traced, known)

    def __call__(self, aux: PyTree[Array], params: PyTree[Array]) -> PyTree[Array]:
        """The parameters that the last step led to; holes of a mask stay as they are."""
        flow, method = eqx.combine(self.traced, self.known)
        own = punched(params, aux[0])
        end = optax.tree.cast_like(method.readout(flow, (own, aux), self.step_size), own)
        return filled(end, params)


class ODEState(NamedTuple):
    """State of every odeopt optimizer.

    Attributes:
      steps: steps taken, rejected ones included; schedules are a function of it.
      time: flow time, the sum of the accepted step sizes (in the default float dtype).
      gradients: gradients spent, those handed to `update` included; -1 where it cannot be known.
      rejected: steps that were rejected (zero update).
      aux: auxiliary variables of the flow.
      memory: memory of the method.
      rule: state of the step-size rule.
      transform: state of `stage_transform`.
      progress: the step in progress in staged mode, `()` in closure mode.
      readout: how to get from the parameters to those of the last step, `()` where they are it.
    """

    steps: Int[Array, ""]
    time: Float[Array, ""]
    gradients: Int[Array, ""]
    rejected: Int[Array, ""]
    aux: PyTree[Array]
    memory: PyTree[Array]
    rule: PyTree[Array]
    transform: PyTree[Array]
    progress: Progress | tuple[()]
    readout: Readout | tuple[()]


class Checkpoint(NamedTuple):
    """Where a wrapper of optimizers goes back to; `step_params` does not look into it.

    Attributes:
      params: the parameters.
      state: the optimizer's state.
    """

    params: PyTree[Array]
    state: PyTree[Array]


class Parts(NamedTuple):
    """What an optimizer is made of."""

    flow: AbstractFlow
    method: AbstractMethod
    rule: AbstractRule
    stage_transform: optax.GradientTransformation | None

    def init(self, params: PyTree[Array]) -> ODEState:
        """The state before the first step; of `params` only shapes and dtypes are read."""
        check_params(params)
        aux = self.flow.init(params)
        return ODEState(  # every scalar its own buffer: a shared one could not be donated
            steps=jnp.zeros([], jnp.int32),
            time=jnp.zeros([], float),
            gradients=jnp.zeros([], jnp.int32),
            rejected=jnp.zeros([], jnp.int32),
            aux=aux,
            memory=self.method.init((params, aux)),
            rule=self.rule.init(params),
            transform=self.init_transform(params),
            progress=(),
            readout=Readout.of(self, jnp.zeros([], float)),
        )

    def init_transform(self, params: PyTree[Array]) -> PyTree[Array]:
        """The state of `stage_transform` before the first step, in buffers of its own."""
        return () if self.stage_transform is None else self.stage_transform.init(params)

    def check(
        self, grads: PyTree[Array], params: PyTree[Array] | None
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """Gradient and point of the step; as in optax, a one-stage step may lack parameters."""
        if params is not None:
            return check_gradient(grads, params), params
        if self.method.gradients_per_step == 1 and not self.flow.needs_params:
            return grads, grads  # only the tree structure of the point is used
        raise ValueError(
            "This optimizer needs the parameters: `opt.update(grads, state, params, ...)`."
        )

    def transformed(
        self,
        grads: PyTree[Array],
        evaluate: GradientFunction,
        state: PyTree[Array],
        params: PyTree[Array] | None,
        extra_args: Mapping[str, Any],
    ) -> tuple[PyTree[Array], GradientFunction, PyTree[Array]]:
        """Both gradients with `stage_transform` applied in `state`, and the next state of it."""
        if self.stage_transform is None:
            return grads, evaluate, state
        update = optax.with_extra_args_support(self.stage_transform).update
        grads, advanced = update(grads, state, params, **extra_args)

        def evaluate_and_transform(point: PyTree[Array], stage: int | Array) -> PyTree[Array]:
            return update(evaluate(point, stage), state, point, **extra_args)[0]

        return grads, evaluate_and_transform, advanced


def select(accept: bool | Bool[Array, ""], moved: PyTree, stayed: PyTree) -> PyTree:
    """`moved` where the step is accepted; a Python True costs nothing."""
    if accept is True:
        return moved
    return jax.tree.map(lambda new, old: jnp.where(accept, new, old), moved, stayed)


def add_count(count: Int[Array, ""], more: int | Int[Array, ""]) -> Int[Array, ""]:
    """`count + more`, which saturates, as optax's counters do."""
    limit = jnp.iinfo(jnp.int32).max
    return jnp.where(count > limit - more, limit, count + more)


def add_counts(
    state: ODEState,
    *,
    h: Float[Array, ""],
    accept: bool | Bool[Array, ""],
    gradients: int | Array | None,
) -> ODEState:
    """The state with one more step of size `h` counted; `gradients=None`: not known."""
    if gradients is None:
        spent = jnp.full_like(state.gradients, -1)
    else:
        spent = add_count(state.gradients, gradients)
    return state._replace(
        steps=optax.safe_increment(state.steps),
        time=state.time + select(accept, h, jnp.zeros_like(h)),
        gradients=spent,
        rejected=state.rejected + select(accept, jnp.int32(0), jnp.int32(1)),
    )


def step_params(state: PyTree[Array], params: PyTree[Array]) -> PyTree[Array]:
    """The parameters of the last completed step: for evaluation and checkpoints.

    In closure mode these are `params`, unless the optimizer rests elsewhere between calls: the
    leapfrogs and `strang_adam` where the next gradient is taken, half a step ahead. In staged mode
    `params` are a stage point for all but one of every `s` calls; the step's own parameters are
    kept in the state.

    Args:
      state: the optimizer's state, also nested in the state of `chain`, `partition`,
        `inject_hyperparams`, `MultiSteps`, ...
      params: the parameters that the loop holds.

    Raises:
      ValueError: no odeopt optimizer in `state`, or a staged one with another transformation
        after it in a chain, which rescales its updates and so moves its stage points.
    """
    found: list[ODEState] = []

    def visit(node: Any) -> bool:
        if isinstance(node, ODEState):
            found.append(node)
        elif type(node) is tuple and any(has_staged(earlier) for earlier in node[:-1]):
            raise ValueError(
                "A staged optimizer must be the last transformation of its chain: what follows it "
                "changes its updates, and so the points at which its stages are evaluated. Put it "
                "last, or pass the transformation as `stage_transform=`."
            )
        return isinstance(node, ODEState | Checkpoint)

    jax.tree.leaves(state, is_leaf=visit)
    if not found:
        raise ValueError("There is no odeopt optimizer in this state.")
    for ode in found:
        if isinstance(ode.readout, Readout):
            params = ode.readout(ode.aux, params)
        if isinstance(ode.progress, Progress):
            between = ode.progress.stage == 0
            params = jax.tree.map(
                lambda start, p, between=between: (
                    p if is_hole(start) else jnp.where(between, p, start)
                ),
                ode.progress.start[0],
                params,
                is_leaf=is_hole,
            )
    return params


def has_staged(node: Any) -> bool:
    """Whether there is a staged optimizer in a state."""
    leaves = jax.tree.leaves(node, is_leaf=lambda n: isinstance(n, Progress))
    return any(isinstance(leaf, Progress) for leaf in leaves)
