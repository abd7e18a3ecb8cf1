"""The state of every odeopt optimizer, and functions that read it."""

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from .arguments import as_arrays, is_absent
from .arrays import Scalar
from .flows import State


class Progress(NamedTuple):
    """The step in progress in staged mode.

    Attributes:
      stage: the stage that the next call of `update` will be, 0 between steps.
      step_size: size of the step in progress.
      start: `z` at the start of the step.
      slopes: the slopes of the stages done, `stages - 1` trees like `start`.
      transform: state of `stage_transform` at the start of the step.
      rule: state of the step-size rule when it proposed the step.
    """

    stage: Int[Array, ""]
    step_size: Scalar
    start: State
    slopes: tuple[State, ...]
    transform: PyTree[Array]
    rule: PyTree[Array]


class ODEState(NamedTuple):
    """State of every odeopt optimizer: arrays, in NamedTuples.

    Attributes:
      steps: steps taken, rejected ones included; schedules are a function of it.
      time: flow time, the sum of the accepted step sizes (in the default float dtype).
      gradients: gradients used, those handed to `update` included; -1 where it cannot be known.
      rejected: steps that were rejected (zero update; in staged mode back to the step's start).
      step_size: size of the last accepted step; 0 before the first.
      aux: auxiliary variables of the flow.
      memory: memory of the method.
      rule: state of the step-size rule.
      transform: state of `stage_transform`.
      progress: the step in progress in staged mode, `()` in closure mode.
    """

    steps: Int[Array, ""]
    time: Scalar
    gradients: Int[Array, ""]
    rejected: Int[Array, ""]
    step_size: Scalar
    aux: PyTree[Array]
    memory: PyTree[Array]
    rule: PyTree[Array]
    transform: PyTree[Array]
    progress: Progress | tuple[()]


class Checkpoint(NamedTuple):
    """A point that a wrapper of optimizers can go back to; `step_params` ignores it."""

    params: PyTree[Array]
    state: PyTree[Array]


def select(accept: bool | Bool[Array, ""], moved: PyTree, stayed: PyTree) -> PyTree:
    """`moved` if the step is accepted, else `stayed`; a Python True costs nothing."""
    return moved if accept is True else optax.tree.where(accept, moved, stayed)


def add_count(count: Int[Array, ""], more: int | Int[Array, ""]) -> Int[Array, ""]:
    """`count + more`, saturating at the largest int32, as in optax's counters."""
    limit = jnp.iinfo(jnp.int32).max
    more = jnp.asarray(more, count.dtype)
    return jnp.where(count > limit - more, limit, count + more)


def counted(
    state: ODEState, h: Scalar, accept: bool | Bool[Array, ""], gradients: int | Array | None
) -> ODEState:
    """The state with one more step of size `h` counted; `gradients` is None if not known."""
    if gradients is None:
        used = jnp.full_like(state.gradients, -1)
    else:
        used = add_count(state.gradients, gradients)
    steps = optax.safe_increment(state.steps)
    if accept is True:
        return state._replace(steps=steps, time=state.time + h, gradients=used, step_size=h)
    return state._replace(
        steps=steps,
        time=state.time + jnp.where(accept, h, 0.0),
        gradients=used,
        rejected=state.rejected + jnp.where(accept, 0, 1),
        step_size=jnp.where(accept, h, state.step_size),
    )


def summary(state: PyTree[Array]) -> dict[str, Any]:
    """The progress of an optimizer so far, as scalars for any logger.

    Args:
      state: the optimizer's state, also nested in the state of `chain`, `partition`,
        `inject_hyperparams`, `MultiSteps`, ...

    Returns:
      A dict with `step_size` (of the last accepted step, in flow time), `time` (flow time, the sum
      of the accepted step sizes), `steps` (calls that completed a step, rejected ones included),
      `accepted`, `rejected` and `gradients` (used; -1 where it cannot be known). Where the state
      holds several odeopt optimizers: a dict of such dicts, by their paths in the state.

    Raises:
      ValueError: no odeopt optimizer in `state`.

    Examples:
      >>> import jax.numpy as jnp, optax, odeopt
      >>> opt = optax.chain(optax.clip(1.0), odeopt.euler(0.5))
      >>> _, state = opt.update(jnp.ones(2), opt.init(jnp.ones(2)), jnp.ones(2))
      >>> {name: float(value) for name, value in list(odeopt.summary(state).items())[:4]}
      {'step_size': 0.5, 'time': 0.5, 'steps': 1.0, 'accepted': 1.0}
    """
    found = {
        path: {
            "step_size": ode.step_size,
            "time": ode.time,
            "steps": ode.steps,
            "accepted": ode.steps - ode.rejected,
            "rejected": ode.rejected,
            "gradients": ode.gradients,
        }
        for path, ode in states(state)
    }
    if not found:
        raise ValueError(_NONE)
    return next(iter(found.values())) if len(found) == 1 else dict(found)


_NONE = "There is no odeopt optimizer in this state: pass the state that `opt.init` returned."


def check_state(state: Any, *, staged: bool) -> None:
    """Refuse a state of another kind, or a staged state in an optimizer that is not staged."""
    if not isinstance(state, ODEState):
        raise TypeError(
            f"The state is a {type(state).__name__}, not that of an odeopt optimizer: pass the "
            "state that `opt.init(params)` or the last `opt.update` returned."
        )
    if not staged and state.progress != ():
        raise ValueError(
            "The state is from an optimizer with staged=True, whose parameters are a point "
            "within a step. Write `params = odeopt.step_params(state, params)`, then "
            "`state = opt.init(params)`, or `state = state._replace(progress=())` to keep the rest."
        )


def check_own(
    init: Callable[[PyTree[Array]], ODEState], state: ODEState, params: PyTree[Array]
) -> None:
    """Raise a `ValueError` if the state is of another optimizer than that of `init`."""
    try:
        own = jax.eval_shape(init, params)
    except Exception:  # the parameters are at fault
        return
    for name, given, expected in zip(ODEState._fields, state, own, strict=True):
        kinds: list[Any] = [
            (jax.tree.structure(tree), [*map(jnp.shape, jax.tree.leaves(tree))])
            for tree in (given, expected)
        ]
        if kinds[0] != kinds[1]:
            raise ValueError(
                f"The state is not one of this optimizer at these parameters, as its {name!r} has "
                "another structure or shape: pass the state that `init(params)` of the same "
                "optimizer, or its last `update`, returned."
            )


def states(state: PyTree[Array]) -> Iterator[tuple[str, ODEState]]:
    """Every odeopt optimizer in a state, with its path."""
    for path, node in jax.tree.leaves_with_path(state, is_leaf=_is_end):
        if isinstance(node, ODEState):
            yield jax.tree_util.keystr(path), unwrapped(node)


def step_params(state: PyTree[Array], params: PyTree[Array]) -> PyTree[Array]:
    """The parameters of the last completed step: for evaluation and checkpoints.

    In closure mode these are `params`, unless `params` are the point of the next gradient: a point
    inside the step (`conformal_leapfrog`, `relativistic(leapfrog=True)`, `suzuki_yoshida`,
    `strang_adam`, any with `solver=solvers.Strang()`), or a point that differs from the averaged
    parameters (`untuned`, `log_time_adam`, `log_time_soap`). In staged mode `params` are a stage
    point after all but one of every `s` calls; the state keeps the parameters of the step.

    Args:
      state: the optimizer's state, also nested in the state of `chain`, `partition`,
        `inject_hyperparams`, `MultiSteps`, ..., or the `opt_state` of an `nnx.Optimizer`.
      params: the parameters that the loop holds; for an nnx model `nnx.state(model, nnx.Param)`.

    Raises:
      ValueError: no odeopt optimizer in `state`; states of several runs, which need
        `jax.vmap(odeopt.step_params)`; an optimizer whose `params` are not the end of a step, if
        another transformation in a chain follows it, or if a wrapper moves the parameters itself
        (`lookahead`, `schedule_free`, `mechanize`); parameters that are not those of the optimizer,
        as with `optax.flatten`.
    """
    wrapped, params = params, as_arrays(unwrapped(params))
    _check_chains(state)
    found = list(states(state))
    if not found:
        raise ValueError(_NONE)
    for path, ode in found:
        if jnp.ndim(ode.steps):
            raise ValueError(
                f"state{path} holds the states of {jnp.size(ode.steps)} runs: write "
                "`jax.vmap(odeopt.step_params)(state, params)`."
            )
        try:
            params = _read(ode, params)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"params do not look like the parameters of state{path}: pass the parameters "
                "of the loop. With `optax.flatten` that is one vector: `flat, unravel = "
                "jax.flatten_util.ravel_pytree(params)`, then "
                "`unravel(odeopt.step_params(state, flat))`."
            ) from error
    return rewrapped(params, wrapped)


def _read(ode: ODEState, params: PyTree[Array]) -> PyTree[Array]:
    """The parameters at the end of the last step of one optimizer."""
    for node in _readouts(ode.memory):
        params = node.readout(params, ode.aux)
    for node in _readouts(ode.aux):
        params = node.readout(params)
    progress: Any = ode.progress
    if progress == ():
        return params
    between = progress.stage == 0
    return jax.tree.map(
        lambda start, p: p if is_absent(start) else jnp.where(between, p, start),
        progress.start[0],
        params,
        is_leaf=is_absent,
    )


def _readouts(tree: PyTree) -> list[Any]:
    """The nodes with a method `readout`, which maps `params` to the end of the step."""

    def has(node: Any) -> bool:  # only NamedTuples: a layer of the model may have a `readout` too
        return isinstance(node, tuple) and callable(getattr(type(node), "readout", None))

    return [node for node in jax.tree.leaves(tree, is_leaf=has) if has(node)]


def _check_chains(state: PyTree) -> None:
    """Refuse a chain or wrapper that moves `params` that are not the end of a step."""

    def rests(node: Any) -> bool:
        return any(
            ode.progress != () or _readouts((ode.memory, ode.aux)) for _, ode in states(node)
        )

    def visit(node: Any) -> bool:
        kind = type(node)  # a chain's state is a tuple, a named chain's an ordered dict
        links = [*node.values()] if kind is OrderedDict else [*node] if kind is tuple else []
        if isinstance(node, _MOVERS) and rests(node):
            raise ValueError(
                f"The state is within a {kind.__name__}, whose wrapper moves the parameters by "
                "itself. The optimizer inside does not know, and its parameters rest elsewhere "
                "than at the end of a step (staged, an average, a leapfrog). Wrap one whose "
                "parameters are the end of a step, such as `odeopt.adam` or `odeopt.rk4`."
            )
        if any(map(rests, links[:-1])):
            raise ValueError(
                "An optimizer whose parameters rest elsewhere than at the end of a step (staged, "
                "an average, a leapfrog) must be the last transformation of its chain: a later one "
                "would change its updates, and so these parameters. Put it last, or pass the "
                "transformation as `stage_transform=`."
            )
        return _is_end(node)

    jax.tree.leaves(state, is_leaf=visit)


_MOVERS = (
    optax.LookaheadState,
    optax.contrib.MechanicState,
    optax.contrib.ScheduleFreeState,
)
"""States of wrappers that change the parameters by more than the updates of their optimizer."""


def _is_end(node: Any) -> bool:
    """Whether a search for optimizers stops at this node."""
    return isinstance(node, ODEState | Checkpoint)


def unwrapped(tree: PyTree[Any]) -> PyTree[Array]:
    """The tree with Flax nnx variables replaced by their arrays."""

    def leaf(node: Any) -> Any:
        return node.get_value() if _is_variable(node) else node

    return jax.tree.map(leaf, tree, is_leaf=_is_variable)


def rewrapped(arrays: PyTree[Array], like: PyTree[Any]) -> PyTree[Any]:
    """The arrays, in nnx variables where `like` has them."""

    def leaf(before: Any, array: Any) -> Any:
        return before.replace(array) if _is_variable(before) else array

    return jax.tree.map(leaf, like, arrays, is_leaf=_is_variable)


def of_arrays(function: Callable[..., Any], like: PyTree[Any]) -> Callable[..., Any]:
    """Turn a function of a tree like `like` into one that takes arrays for nnx variables."""
    if not any(map(_is_variable, jax.tree.leaves(like, is_leaf=_is_variable))):
        return function
    return lambda arrays, *args, **kwargs: function(rewrapped(arrays, like), *args, **kwargs)


def _is_variable(node: Any) -> bool:
    """Whether a leaf is a variable of Flax's nnx, which wraps every array of a state."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(node, nnx.Variable)
