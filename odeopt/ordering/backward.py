"""Backward order: the newest batch acts first, from a checkpoint."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from ..arguments import check_gradient
from ..checks import check, check_counts, is_transformation, is_whole, known_design
from ..state import Checkpoint, states
from .methods import METHODS, Step, Window, both

Method: TypeAlias = Literal["replay", "bracket", "linearized"]


class BackwardState(NamedTuple):
    """State of `backward`.

    Attributes:
      steps: calls of `update`.
      gradients: gradients used, those handed to `update` included; -1 where it cannot be known.
      inner: state of the wrapped optimizer at the current parameters. Its counts, and so
        `odeopt.summary`, are those of the steps from x_0 to these parameters.
      checkpoint: parameters and state at the start of the window, `()` for windows of one step.
      stored: the stored arguments of the window's steps, by name, one row each; `()` for windows
        of one step.
    """

    steps: Int[Array, ""]
    gradients: Int[Array, ""]
    inner: PyTree[Array]
    checkpoint: Checkpoint | tuple[()]
    stored: dict[str, PyTree[Array]] | tuple[()]


def backward(
    optimizer: optax.GradientTransformation,
    window: int | None = None,
    start_after: int = 0,
    *,
    steps: int | None = None,
    example: Mapping[str, PyTree] | None = None,
    method: Method = "replay",
) -> optax.GradientTransformationExtraArgs:
    r"""Backward order: after n steps $x_n = T_1T_2\cdots T_n(x_0)$, the newest batch acts first.

    $T_k$ is one step of `optimizer` on the k-th batch; forward order is $T_n\cdots T_1(x_0)$
    (arXiv:2502.01557). If every $T_k$ contracts by a factor c,
    $\|x_{n+1} - x_n\| \le c^n\|T_{n+1}(x_0) - x_0\|$: the iterates converge. For batches drawn
    independently from one distribution, forward and backward $x_n$ have *the same distribution* at
    every n. So the expected loss is not lower, and the first few batches determine the limit.
    Without contraction, begin with forward steps, `start_after`. Averaging
    (`optax.contrib.schedule_free`) lowers the loss too, and is cheaper.

    A window begins at a checkpoint of parameters *and* optimizer state, from which each replay
    starts. After `window` steps the next window begins at the current point. The steps of older
    batches use the moments left by the newer ones, and a schedule counts the steps of the replay. A
    window of 1 is `optimizer` itself. The full form is one window as long as the run, given by
    `steps=`.

        opt = ordering.backward(odeopt.euler(0.1), window=8, example={"batch": 0})
        updates, state = opt.update(grads, state, params, value_fn=loss, batch=i)

    `example` names the arguments of `update` that differ between steps, and shows their shapes;
    these are stored. If `value_fn` gathers its batch from data on the device, such an argument is
    an integer. All other arguments (`value_fn`, the data itself) are those of the last call, also
    for stored steps; `value=` is ignored. A `grad_fn` is also called with stage 0. Transformations
    go inside, `backward(optax.chain(clip, opt), ...)`: before it in a chain they would change only
    `grads`, and so only the first step of each window.

    Gradients of one batch, for an optimizer with one gradient a step, if j steps of the window
    precede this one:

    | method | gradients, the given one included | given `grads` | local error |
    | --- | --- | --- | --- |
    | `"replay"` | j + 1 | used where j = 0 | none |
    | `"bracket"` | 2j + 3, 1 where j = 0 | used | $O(h^3)$ |
    | `"linearized"` | 2j + 1 | used where j = 0 | $O(h^3)$, none for linear gradients |

    So replay takes (window + 1)/2 a step in the mean, and a full run of n steps $n(n+1)/2$. Unused
    `grads` count too; pass `None` as `grads` to avoid this. An s-stage optimizer
    costs s times as much. Memory, beyond that of `optimizer`: one copy of the parameters and of its
    state, the arguments of window - 1 steps, two integers.

    The two other methods move the newest step before the earlier ones to leading order. They are
    for optimizers that keep nothing from step to step (`euler`, Runge-Kutta, `optax.sgd` without
    momentum). The products of the bracket are not sequential; linearized is accurate in float32,
    since a small update is not the difference of two points. Bracket, for $T_k(x) = x - hg_k(x)$,
    everything at $x_{n-1}$, with $x_0 - x_{n-1}$ for $h\sum_ig_i$:
    $x_n = x_{n-1} - hg_n + h^2(\sum_iH_ig_n - H_n\sum_ig_i)$. Linearized:
    $x_n = x_{n-1} - h\,D(T_1\cdots T_{n-1})(x_0)\,g_n(x_0)$, one JVP of the replay.

    Args:
      optimizer: any optax optimizer, or an odeopt optimizer in closure mode.
      window: steps from checkpoint to checkpoint; None for the full form.
      start_after: number of forward steps before the first window, a warm-up.
      steps: number of steps of the whole run, warm-up included, for the full form.
      example: arguments of `update` to store, by name: arrays, or `jax.ShapeDtypeStruct`s.
      method: `"replay"`, `"bracket"` or `"linearized"`.

    Returns:
      An optax transformation with `BackwardState`. `odeopt.step_params` works on it.

    Raises:
      ValueError: a window that is not positive, or neither or both of `window` and `steps`; no
        `example` for a window longer than 1; an unknown method. From `init`: a staged optimizer; an
        optimizer with memory if `method` is not `"replay"`. From `update`: no `value_fn`; a stored
        argument that is missing or unlike its example; the state of another window.
      TypeError: something that is not an optimizer, or an `example` that is not a mapping; from
        `update`, the state of another optimizer.

    Examples:
      >>> import jax.numpy as jnp, odeopt, optax
      >>> loss = lambda x, target: 0.5 * (x - target) ** 2
      >>> opt = odeopt.ordering.backward(odeopt.euler(0.5), steps=3, example={"target": 0.0})
      >>> x = jnp.array(0.0)
      >>> state = opt.init(x)
      >>> for target in [8.0, 0.0, 4.0]:
      ...     updates, state = opt.update(None, state, x, value_fn=loss, target=target)
      ...     x = optax.apply_updates(x, updates)
      >>> float(x), int(state.gradients)  # halfway to 4, then to 0, then to 8
      (4.5, 6)
    """
    if not is_transformation(optimizer):
        raise TypeError(f"optimizer is {optimizer!r:.80}; pass e.g. odeopt.euler(0.1).")
    if (window is None) == (steps is None):
        raise ValueError(
            "Pass either `window=`, the steps between checkpoints, or `steps=`, the length of the "
            "run, for one window of that length: the stored arguments need a size."
        )
    check_counts(**({"steps": steps} if window is None else {"window": window}))
    must = "a whole number of steps, 0 for no warm-up"
    check(lambda number: is_whole(number) and number >= 0, "start_after", start_after, must)
    window = (steps or 0) - start_after if window is None else window
    if window < 1:
        raise ValueError(
            f"steps is {steps} and start_after is {start_after}: a run must be longer than its "
            "warm-up."
        )
    if not isinstance(example, Mapping | None):
        raise TypeError(
            f"example is {example!r:.80}; pass a dict of arguments of update by name, "
            '`example={"batch": batch}`.'
        )
    if window > 1 and not example:
        raise ValueError(
            "Backward order takes earlier steps again and must know which arguments of update to "
            'store: `ordering.backward(opt, window, example={"batch": batch})` for '
            "`opt.update(grads, state, params, value_fn=loss, batch=batch)`."
        )
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; pass one of {', '.join(map(repr, METHODS))}.")
    full = optax.with_extra_args_support(optimizer)
    made = _Backward(full, window, start_after, dict(example or {}), method)
    return optax.GradientTransformationExtraArgs(made.init, made.update)


class _Backward(NamedTuple):
    optimizer: optax.GradientTransformationExtraArgs
    window: int
    start_after: int
    example: dict[str, PyTree]
    method: Method

    def init(self, params: PyTree[Array]) -> BackwardState:
        inner = self.optimizer.init(params)
        if any(ode.progress != () for _, ode in states(inner)):
            raise ValueError(
                "Backward order composes whole steps: drop `staged=True` from its optimizer."
            )
        if self.method != "replay" and (_remembers(inner) or _counts(self.optimizer, inner)):
            raise ValueError(
                f"method={self.method!r} is defined for optimizers whose steps are all alike, and "
                "that keep nothing from one to the next, such as odeopt.euler(0.1) at a fixed "
                'rate: use method="replay" with this one.'
            )
        count = jnp.zeros([], jnp.int32)
        if self.window == 1:
            return BackwardState(count, jnp.zeros([], jnp.int32), inner, (), ())
        checkpoint = jax.tree.map(jnp.zeros_like, Checkpoint(params, inner))
        rows = self.window - 1  # the last step of a window is never replayed
        stored = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape), x.dtype), _shapes(self.example))
        return BackwardState(count, jnp.zeros([], jnp.int32), inner, checkpoint, stored)

    def update(
        self,
        grads: PyTree[Array] | None,
        state: BackwardState,
        /,
        params: PyTree[Array] | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree[Array], BackwardState]:
        if params is None:
            raise ValueError(
                "Backward order needs the parameters: `opt.update(grads, state, params, ...)`."
            )
        self._check(state)
        if grads is not None:
            grads = check_gradient(grads, params)
        newest = self._to_store(extra_args)
        rest = {n: v for n, v in extra_args.items() if n not in {*newest, "value", "grad"}}
        step = Step(self.optimizer, rest)
        if self.window == 1:
            updates, inner, used = step(params, state.inner, newest, grads)
            checkpoint, stored = state.checkpoint, state.stored
        elif not {"value_fn", "grad_fn"} & {*rest}:
            raise ValueError(
                "Backward order evaluates stored batches at new points. Pass the loss to update:\n"
                "    updates, state = opt.update(grads, state, params, value_fn=loss, batch=batch)"
            )
        else:
            position = jnp.maximum(state.steps - self.start_after, 0) % self.window
            now = Checkpoint(params, state.inner)
            checkpoint = optax.tree.where(position == 0, now, state.checkpoint)
            window = Window(step, position, checkpoint, state.stored, newest)
            updates, inner, used = METHODS[self.method](window, grads, params, state.inner)
            stored = jax.tree.map(
                lambda rows, row: jnp.asarray(rows).at[position].set(row, mode="drop"),
                *(state.stored, newest),
            )
        count, gradients = optax.safe_increment(state.steps), both(state.gradients, used)
        return updates, BackwardState(count, gradients, inner, checkpoint, stored)

    def _check(self, state: BackwardState) -> None:
        """Refuse a state of another kind, or of another window, whose rows would not do."""
        if not isinstance(state, BackwardState):
            raise TypeError(
                f"The state is a {type(state).__name__}, not that of `ordering.backward`: pass the "
                "state that its `init(params)` or its last `update` returned."
            )
        windows = {1 + len(rows) for rows in jax.tree.leaves(state.stored)}
        if windows - {self.window} or (state.checkpoint == ()) != (self.window == 1):
            raise ValueError(
                f"The state is of another window than {self.window} steps: build the optimizer "
                "with the old one, or begin a window here by "
                "`opt.init(params)._replace(inner=state.inner)`."
            )

    def _to_store(self, extra_args: Mapping[str, Any]) -> dict[str, PyTree[Any]]:
        missing = [name for name in self.example if name not in extra_args]
        if missing:
            passed = ", ".join(f"{name}={name}" for name in missing)
            raise ValueError(f"Pass to update what `example` names: `{passed}`.")
        given = {name: extra_args[name] for name in self.example}
        expected, found = _shapes(self.example), _shapes(given)
        structure: Any = jax.tree.structure(expected)
        if structure == jax.tree.structure(found):
            given = jax.tree.map(_index, given, expected)
            found = _shapes(given)
        if expected != found:
            raise ValueError(
                f"Stored arguments must look like their example. Example: {expected}; passed to "
                f"update: {found}. Every batch needs the same shapes and dtypes: drop the last, "
                "shorter one of an epoch."
            )
        return given


def _shapes(arguments: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Structure, shapes and JAX dtypes, also of Python and NumPy numbers."""
    shapes = jax.eval_shape(lambda tree: tree, dict(arguments))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), shapes)


def _index(given: Any, expected: jax.ShapeDtypeStruct) -> Any:
    """`given`, cast to the dtype of its example if both are integers, such as a batch number."""
    whole = (expected.dtype, jnp.result_type(given))
    if jnp.shape(given) or not all(jnp.issubdtype(dtype, jnp.integer) for dtype in whole):
        return given
    return jnp.asarray(given, expected.dtype)


def _remembers(state: PyTree[Array]) -> bool:
    """Whether a state holds real numbers other than those that every state has."""
    nothing: dict[str, Any] = {"aux": (), "memory": (), "rule": (), "transform": ()}
    counters = [ode._replace(**nothing) for _, ode in states(state)]
    return _number(state, jnp.inexact) > _number(counters, jnp.inexact)


def _counts(optimizer: optax.GradientTransformation, state: PyTree[Array]) -> bool:
    """Whether a step may depend on its number, as with a schedule of odeopt or of optax."""
    design = known_design(optimizer)
    if design is not None:
        return design.counts
    own = [ode for _, ode in states(state)]
    return _number(state, jnp.integer) > _number(own, jnp.integer)


def _number(tree: PyTree[Array], kind: Any) -> int:
    """The number of leaves whose dtype is of that kind."""
    return sum(jnp.issubdtype(jnp.result_type(x), kind) for x in jax.tree.leaves(tree))
