"""From optax's calling conventions to one objective: value, gradient, Hessian products.

May use: jax, optax. Everything else in the library sees the loss only through an `Objective`.
"""

import dataclasses
import functools
import inspect
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from .sums import inner, scaled

LinearMap = Callable[[PyTree[Array]], PyTree[Array]]
_Objective = TypeVar("_Objective", bound="Objective")

_OWN = frozenset({"value", "grad", "value_fn", "grad_fn", "full_params"})


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """The loss and its gradient, as the keyword arguments of `update` describe them.

    Immutable, and it counts nothing (`spent` does). `here(x)` is the gradient at the point that a
    stage is evaluated at: at the start of a step that is the gradient which the caller of `update`
    has already computed. `gradient(x)` is evaluated always. The difference is explicit, because
    the derivative of a *given* gradient would silently be zero. Complex gradients are the
    conjugate of `jax.grad`'s, as in optax. Nothing is evaluated before it is asked for, so an
    optimizer of one stage needs no arguments.

    Attributes:
      args: the keyword arguments of `update`, of which these have a meaning here:

        - `value_fn`: the loss, `value_fn(params, ...)`, returning a scalar or `(scalar, aux)`.
          Arguments named like its parameters are forwarded to it, others are ignored.
        - `grad_fn`: replaces the gradient of `value_fn`: `grad_fn(params, stage, ...)`, with the
          same forwarding. Stages count from 1: a Python integer unless the stages are scanned.
        - `value`: the loss at the start of the step.
        - `full_params`: the whole parameter tree, for wrappers such as `optax.masked` that hand
          over a tree with masked nodes; these are filled from it.
      given: the gradient at the start of the step, None elsewhere.
      stage: the stage of the step, which `grad_fn` is told.
      transform: `(gradient, params) -> gradient`, applied to every evaluated gradient.
    """

    args: Mapping[str, Any]
    given: PyTree[Array] | None = None
    stage: int | Array = 0
    transform: Callable[[PyTree[Array], PyTree[Array]], PyTree[Array]] | None = None
    _bound: dict[str, Any] = dataclasses.field(default_factory=dict)  # found once, for all stages

    def at(self: _Objective, stage: int | Array) -> _Objective:
        """The objective of another stage, where no gradient is given."""
        return dataclasses.replace(self, stage=stage, given=None)

    def elsewhere(self: _Objective) -> _Objective:
        """The same without the given gradient."""
        return dataclasses.replace(self, given=None)

    def with_given(self: _Objective, gradient: PyTree[Array]) -> _Objective:
        """The same with another given gradient."""
        return dataclasses.replace(self, given=gradient)

    @property
    def by_stage(self) -> bool:
        """Whether evaluations may differ between stages: a `grad_fn` sees their numbers."""
        return self.args.get("grad_fn") is not None

    @property
    def splits(self) -> bool:
        """Whether the loss says where the model ends (`odeopt.composite`)."""
        return hasattr(self.args.get("value_fn"), "split")

    def here(self, params: PyTree[Array]) -> PyTree[Array]:
        """The gradient at the point of the stage: the given one, or evaluated."""
        return self.gradient(params) if self.given is None else self.given

    def gradient(self, params: PyTree[Array]) -> PyTree[Array]:
        """The gradient at `params`, evaluated. Costs 1 gradient."""
        if self.args.get("grad_fn") is None:
            grads = conjugate(jax.grad(self._value)(params))
        else:
            grad_fn, fill = self._bind("grad_fn", params)
            grads = masked_as(grad_fn(fill(params), self.stage), params)
            grads = check_gradient(grads, params, name="grad_fn's result")
        return grads if self.transform is None else self.transform(grads, params)

    def value(self, params: PyTree[Array]) -> Float[Array, ""]:
        """The loss at `params`. Counts as 1 gradient, though it costs about a third of one.

        Raises:
          ValueError: no `value_fn`.
        """
        return self._value(params)

    def value_and_gradient(self, params: PyTree[Array]) -> tuple[Float[Array, ""], PyTree[Array]]:
        """Loss and gradient at `params`, for the cost of 1 gradient."""
        if self.by_stage or self.transform is not None:
            return self.value(params), self.gradient(params)
        value, grads = jax.value_and_grad(self._value)(params)
        return value, conjugate(grads)

    def given_value(self) -> Float[Array, ""] | None:
        """The loss at the start of the step, where the caller of `update` passed `value=`."""
        value = self.args.get("value")
        return None if value is None else jnp.asarray(value)

    def product(self, params: PyTree[Array]) -> LinearMap:
        """`v -> H v` with the Hessian at `params`. Every product counts as 2 gradients."""
        return self.linearized(self.elsewhere().gradient, params, 2)

    def linearized(
        self, gradient: Callable[[PyTree[Array]], PyTree[Array]], params: PyTree[Array], cost: int
    ) -> LinearMap:
        """The derivative of `gradient`; an application of it counts as `cost` gradients."""
        return jax.linearize(gradient, params)[1]

    def _value(self, params: PyTree[Array]) -> Float[Array, ""]:
        value_fn, fill = self._bind("value_fn", params)
        return checked_loss(value_fn(fill(params)))

    def _bind(self, name: str, params: PyTree[Array]) -> tuple[Callable, Callable]:
        """A function with its keyword arguments bound, and what fills masked parameters for it."""
        if name not in self._bound:
            function = self.args.get(name)
            if function is None:
                raise ValueError(_NOTHING)
            positional, called_as = _CALLED[name]
            kwargs = forwarded(function, called_as, positional, self.args)
            full = self.args.get("full_params")
            holes = [p for p in jax.tree.leaves(params, is_leaf=is_masked) if is_masked(p)]
            fill = (lambda p: unmasked(p, full)) if holes or full is not None else (lambda p: p)
            self._bound[name] = functools.partial(function, **kwargs), fill
        return self._bound[name]


_CALLED = {"value_fn": (1, "value_fn(params)"), "grad_fn": (2, "grad_fn(params, stage)")}
_NOTHING = (
    "This optimizer evaluates the loss or its gradient at further points and was given nothing to "
    "evaluate. Pass the loss to update:\n    updates, state = opt.update(grads, state, params, "
    "value_fn=loss, batch=batch)\n(`grad_fn=` for a gradient function of (params, stage); or build "
    "the optimizer with `staged=True`, which needs no extra argument. A Flax TrainState does not "
    "forward extra arguments to update: call `state.tx.update` yourself, or use `staged=True`.)"
)


def transformed(
    stage_transform: optax.GradientTransformation | None,
    grads: PyTree[Array],
    frozen: PyTree[Array],
    params: PyTree[Array] | None,
    args: Mapping[str, Any],
) -> tuple[Objective, PyTree[Array]]:
    """The objective with every gradient transformed in the state `frozen`, and the state after."""
    if stage_transform is None:
        return Objective(args, grads), frozen
    # optax hands these on by position: arguments of the loss of the same name are its alone
    others = {name: x for name, x in args.items() if name not in ("updates", "state")}
    update = functools.partial(optax.with_extra_args_support(stage_transform).update, **others)
    grads, advanced = update(grads, frozen, params)

    def transform(grads: PyTree[Array], point: PyTree[Array]) -> PyTree[Array]:
        return update(grads, frozen, point)[0]

    return Objective(args, grads, 0, transform), advanced


@dataclasses.dataclass(frozen=True, eq=False)
class Penalized:
    r"""The objective $E + \mu\|\nabla E\|^2$ of another one, with `factor` $= 2\mu$.

    Its gradient is $g + 2\mu Hg$: 1 gradient and 1 Hessian product.
    """

    base: Any
    factor: Float[Array, ""]
    given: PyTree[Array] | None = None

    args = property(lambda self: self.base.args)
    by_stage = property(lambda self: self.base.by_stage)
    splits = property(lambda self: self.base.splits)
    at = lambda self, stage: Penalized(self.base.at(stage), self.factor)  # noqa: E731
    elsewhere = lambda self: Penalized(self.base.elsewhere(), self.factor)  # noqa: E731
    with_given = Objective.with_given
    product = Objective.product

    def linearized(
        self, gradient: Callable[[PyTree[Array]], PyTree[Array]], params: PyTree[Array], cost: int
    ) -> LinearMap:
        """As of `base`, for 3 times as much: every gradient is one with a product."""
        return self.base.linearized(gradient, params, 3 * cost)

    def here(self, params: PyTree[Array]) -> PyTree[Array]:
        """The gradient at the point of the stage."""
        if self.given is not None:
            return self.given
        return self._add(self.base.here(params), params)

    def gradient(self, params: PyTree[Array]) -> PyTree[Array]:
        """`g + 2 mu H g`, evaluated."""
        return self._add(self.base.gradient(params), params)

    def value(self, params: PyTree[Array]) -> Float[Array, ""]:
        """The loss with its penalty."""
        return self.value_and_gradient(params)[0]

    def value_and_gradient(self, params: PyTree[Array]) -> tuple[Float[Array, ""], PyTree[Array]]:
        """Both."""
        value, g = self.base.value_and_gradient(params)
        penalty = 0.5 * self.factor.astype(value.dtype) * inner(g, g).astype(value.dtype)
        return value + penalty, self._add(g, params)

    def given_value(self) -> None:
        """None: what the caller gave has no penalty."""

    def _add(self, g: PyTree[Array], params: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(
            lambda g, b: g + scaled(self.factor, b), g, self.base.product(params)(g)
        )


class Tally:
    """An objective that counts what is asked of it and evaluates nothing; `spent` reads it."""

    args: Mapping[str, Any] = {}
    by_stage = splits = False

    def __init__(self, count: list[int], given: bool) -> None:
        self._count, self._given = count, given

    def at(self, stage: int | Array) -> "Tally":
        """Nothing is given at another stage."""
        return Tally(self._count, False)

    def elsewhere(self) -> "Tally":
        """Nothing is given elsewhere."""
        return Tally(self._count, False)

    def with_given(self, gradient: PyTree[Array]) -> "Tally":
        """The next `here` is free."""
        return Tally(self._count, True)

    def here(self, params: PyTree[Array]) -> PyTree[Array]:
        """Free where a gradient is given."""
        return params if self._given else self.gradient(params)

    def gradient(self, params: PyTree[Array]) -> PyTree[Array]:
        """1, and 1 more where it is differentiated: a Hessian product counts as 2."""
        self._count[0] += 1
        identity = jax.custom_jvp(lambda x: x)

        @identity.defjvp
        def derivative(x: tuple, tangents: tuple) -> tuple:
            self._count[0] += 1
            return identity(x[0]), identity(tangents[0])  # which the next derivative counts

        return identity(params)

    def value(self, params: PyTree[Array]) -> Float[Array, ""]:
        """1."""
        self._count[0] += 1
        return inner(params, params)

    def value_and_gradient(self, params: PyTree[Array]) -> tuple[Float[Array, ""], PyTree[Array]]:
        """1."""
        return inner(params, params), self.gradient(params)

    def given_value(self) -> None:
        """None."""

    def product(self, params: PyTree[Array]) -> LinearMap:
        """2 for every product."""
        return self.linearized(self.gradient, params, 2)

    def linearized(
        self, gradient: Callable[[PyTree[Array]], PyTree[Array]], params: PyTree[Array], cost: int
    ) -> LinearMap:
        """`cost` for every application."""

        def product(tangent: PyTree[Array]) -> PyTree[Array]:
            self._count[0] += cost
            return tangent

        return product


def spent(function: Callable[..., Any], *args: Any, given: bool = False) -> int:
    """The gradients that `function(objective, *args)` evaluates; a Hessian product counts as 2.

    The function is traced once on abstract values with an objective that only counts, so the
    number is known before anything is evaluated. It must not loop over the objective with
    `lax.scan` or `lax.while_loop`, of which one round would be seen: count a round and multiply.

    Args:
      function: `(objective, *args) -> anything`.
      args: trees of arrays.
      given: whether the first `here` is free, as at the start of a step.
    """
    count = [0]
    jax.eval_shape(lambda *args: function(Tally(count, given), *args), *args)
    return count[0]


def _kinds(leaves: list[Any]) -> list[tuple] | None:
    """Shapes and dtypes, where all leaves are arrays."""
    try:
        return [*map(operator.attrgetter("shape", "dtype"), leaves)]
    except AttributeError:
        return None


def check_gradient(
    grads: PyTree[Array], params: PyTree[Array], name: str = "grads"
) -> PyTree[Array]:
    """Refuse a gradient that does not fit the parameters; cast its leaves to their dtypes.

    Raises:
      ValueError: another tree structure, or a leaf of another shape.
      TypeError: a complex gradient of a real parameter.
    """
    given: Any
    expected: Any
    leaves, given = jax.tree.flatten(grads)
    own, expected = jax.tree.flatten(params)
    if given == expected and _kinds(leaves) == _kinds(own) is not None:
        return grads
    if given != expected:
        raise ValueError(
            f"{name} and params must have the same tree structure. {name}: {given}; "
            f"params: {expected}. Take both from "
            "the same tree: `grads = jax.grad(loss)(params)`."
        )

    def leaf(path: tuple, g: Array, p: Array) -> Array:
        where = f"{name}{jax.tree_util.keystr(path)}"
        if jnp.shape(g) != jnp.shape(p):
            raise ValueError(f"{where} has shape {jnp.shape(g)}, its parameter {jnp.shape(p)}.")
        dtype = jnp.result_type(p)
        if jnp.iscomplexobj(g) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{where} is complex, its parameter is {dtype}: take the real part.")
        return jnp.asarray(g, dtype)

    return jax.tree_util.tree_map_with_path(leaf, grads, params)


def check_params(params: PyTree[Array]) -> None:
    """Refuse parameters that cannot follow a flow, naming the leaf.

    Raises:
      TypeError: a leaf that is neither real nor complex floating point.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(as_arrays(params)):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            kind = f"is a {type(leaf).__name__}" if dtype is None else f"has dtype {dtype}"
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} {kind}, but only floating-point "
                "parameters can follow a flow. Leave it out with `optax.masked` or "
                "`optax.partition`, or keep it outside params (of an Equinox model pass "
                "`eqx.filter(model, eqx.is_inexact_array)`)."
            )


def checked_loss(out: Any) -> Float[Array, ""]:
    """The loss in what a loss function returned: itself, or the first of `(loss, aux)`."""
    value = out[0] if isinstance(out, tuple) and len(out) == 2 else out
    if not isinstance(value, jax.Array | np.ndarray | np.generic | int | float | complex):
        raise TypeError(
            f"value_fn returned a {type(value).__name__}; it must return a scalar loss, or the "
            "pair (loss, aux)."
        )
    if jnp.shape(value) != ():
        raise ValueError(
            f"value_fn returned an array of shape {jnp.shape(value)}; it must return a scalar "
            "loss: write `return jnp.mean(...)`."
        )
    if jnp.iscomplexobj(value):
        raise TypeError("value_fn returned a complex number; return a real loss.")
    return jnp.asarray(value)


def forwarded(
    function: Callable,
    called_as: str,
    positional: int,
    extra_args: Mapping[str, Any],
    *,
    alone: bool = True,
) -> dict[str, Any]:
    """The extra arguments that `function` names, after its `positional` leading ones.

    Warns where an argument keeps its default while a name that it does not know was passed: optax
    asks us to ignore such names, and a misspelt random key would switch dropout off in silence.

    Args:
      function: whose arguments they are.
      called_as: how it is called, for the message.
      positional: its leading arguments.
      extra_args: what the caller of `update` passed by name.
      alone: whether it is the only function that they are meant for.
    """
    parameters = list(inspect.signature(function).parameters.values())
    named = {
        p.name: p
        for p in parameters[positional:]
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        return {name: value for name, value in extra_args.items() if name not in _OWN}
    kwargs = {name: value for name, value in extra_args.items() if name in named}
    missing = [n for n, p in named.items() if p.default is p.empty and n not in kwargs]
    if missing:
        passed = ", ".join(f"{name}={name}" for name in missing)
        raise TypeError(
            f"{called_as} also needs {', '.join(map(repr, missing))}: pass it by name, "
            f"`{passed}` (to update: `opt.update(grads, state, params, ..., {passed})`)."
        )
    unknown = [name for name in extra_args if name not in named and name not in _OWN]
    defaults = [name for name in named if name not in kwargs]
    if alone and unknown and defaults:
        warnings.warn(
            f"update was given {', '.join(unknown)}, which the loss does not name, and its own "
            f"{', '.join(defaults)} keeps the default. If one is meant for the other, bind it: "
            f"`value_fn=lambda params: loss(params, {defaults[0]}={unknown[0]})`.",
            stacklevel=2,
        )
    return kwargs


def conjugate(tree: PyTree[Array]) -> PyTree[Array]:
    """Complex gradients as optax wants them: the conjugate of `jax.grad`'s."""
    return jax.tree.map(jnp.conj, tree)


def as_arrays(tree: PyTree[Any]) -> PyTree[Array]:
    """`tree` with its Python floats as arrays of the default float dtype; the rest as it is."""
    if float not in map(type, jax.tree.leaves(tree)):
        return tree
    return jax.tree.map(lambda x: jnp.asarray(x, float) if type(x) is float else x, tree)


def is_masked(node: Any) -> bool:
    """Whether `node` stands for parameters that a wrapper keeps from the optimizer."""
    return isinstance(node, optax.MaskedNode)


def _is_absent(node: Any) -> bool:
    return node is None or is_masked(node)


def unmasked(params: PyTree[Array], full_params: PyTree[Array] | None) -> PyTree[Array]:
    """`params`, what is masked (`optax.MaskedNode`, or None) filled from `full_params`."""
    if full_params is not None:
        return jax.tree.map(
            lambda p, full: full if _is_absent(p) else p, params, full_params, is_leaf=_is_absent
        )
    if any(map(is_masked, jax.tree.leaves(params, is_leaf=is_masked))):
        raise ValueError(
            "This optimizer runs inside optax.masked, partition or multi_transform and sees only "
            "its part of the parameters, but the loss needs all of them. Hand them over: "
            "`opt.update(grads, state, params, value_fn=loss, full_params=params)`."
        )
    return params


def masked_as(tree: PyTree[Array], like: PyTree[Array]) -> PyTree[Array]:
    """`tree`, masked where `like` is."""
    if not any(map(_is_absent, jax.tree.leaves(like, is_leaf=_is_absent))):
        return tree
    return jax.tree.map(lambda p, t: p if _is_absent(p) else t, like, tree, is_leaf=_is_absent)


def over_own(
    leaf: Callable[..., Array], params: PyTree[Array], *trees: PyTree[Array]
) -> PyTree[Array]:
    """`leaf(p, *leaves)` for the parameters that the trees hold; the others as they are."""
    own = masked_as(params, trees[0])
    return unmasked(jax.tree.map(leaf, own, *trees), params)
