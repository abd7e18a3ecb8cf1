"""The arguments of optax's `update` as one objective: value, gradient, Hessian products.

Everything else in the library sees the loss only through an `Objective`.
"""

import abc
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeVar

import jax
import optax
from jaxtyping import Array, PyTree

from .arguments import (
    check_function,
    check_grad_fn,
    check_gradient,
    checked_loss,
    forwarded,
    is_absent,
    masked_as,
    noting,
    unmasked,
)
from .arrays import Scalar
from .sums import inner, scaled, varying

LinearMap = Callable[[PyTree[Array]], PyTree[Array]]
_Objective = TypeVar("_Objective", bound="Objective")


@dataclasses.dataclass(frozen=True, eq=False)
class Objective(abc.ABC):
    """The loss and its gradient, as the keyword arguments of `update` describe them.

    Immutable; it counts nothing, `count_gradients` does. `here(x)` is the gradient at the point of
    a stage; at the start of a step it is the gradient that the caller of `update` computed.
    `gradient(x)` is always evaluated: the derivative of a *given* gradient would silently be zero.
    Complex gradients are the conjugate of `jax.grad`'s, as in optax. Nothing is evaluated before it
    is needed, so an optimizer with one stage needs no arguments.

    Attributes:
      args: the keyword arguments of `update`; these have a meaning here:

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
    _bound: dict[str, Any] = dataclasses.field(default_factory=dict)  # once, for all stages

    @classmethod
    def of(cls, value_fn: Callable[..., Any], arguments: Mapping[str, Any]) -> "Objective":
        """The objective of a loss and its named arguments; none may be called `value_fn`."""
        if "value_fn" in arguments:
            raise TypeError(_TAKEN.format(name="value_fn", what="the loss itself"))
        check_function(value_fn, _CALLED["value_fn"][1])
        return cls({**arguments, "value_fn": value_fn})

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
        """Whether evaluations may depend on the stage: a `grad_fn` receives its number."""
        return self.args.get("grad_fn") is not None

    @property
    def splits(self) -> bool:
        """Whether the loss says where the model ends (`odeopt.composite`)."""
        return getattr(self.args.get("value_fn"), "is_composite", False) is True

    def here(self, params: PyTree[Array]) -> PyTree[Array]:
        """The gradient at the point of the stage: the given one, or evaluated."""
        return self.gradient(params) if self.given is None else self.given

    def gradient(self, params: PyTree[Array]) -> PyTree[Array]:
        """The gradient at `params`, evaluated. Costs 1 gradient."""
        if self.args.get("grad_fn") is None:
            grads = optax.tree.conj(jax.grad(self.value)(params))
        else:
            grad_fn, fill = self._bind("grad_fn", params)
            grads = masked_as(grad_fn(fill(params), self.stage), params)
            grads = check_gradient(grads, params, name="grad_fn's result")
        return grads if self.transform is None else self.transform(grads, params)

    def value(self, params: PyTree[Array]) -> Scalar:
        """The loss at `params`; a `ValueError` without a loss, or if it is of one device alone.

        Counts as 1 gradient, though it costs about a third of one.
        """
        value_fn, fill = self._bind("value_fn", params)
        value = checked_loss(value_fn(fill(params)))
        check_whole(value, params)
        return value

    def value_and_gradient(self, params: PyTree[Array]) -> tuple[Scalar, PyTree[Array]]:
        """Loss and gradient at `params`, for the cost of 1 gradient."""
        if self.by_stage or self.transform is not None:
            return self.value(params), self.gradient(params)
        value, grads = jax.value_and_grad(self.value)(params)
        return value, optax.tree.conj(grads)

    def given_value(self) -> Scalar | None:
        """The loss at the start of the step, where the caller of `update` passed `value=`."""
        value_fn, passed = self.args.get("value_fn"), _START.keys() & self.args.keys()
        if passed and callable(value_fn):
            for name in passed.intersection([*inspect.signature(value_fn).parameters][1:]):
                raise TypeError(_TAKEN.format(name=name, what=_START[name]))
        value = self.args.get("value")
        if value is None:
            return None
        return checked_loss(value, "value is", "be")

    def product(self, params: PyTree[Array]) -> LinearMap:
        """`v -> H v` with the Hessian at `params`. Every product counts as 2 gradients."""
        return self.linearized(self.elsewhere().gradient, params, 2)

    def linearized(
        self, gradient: Callable[[PyTree[Array]], PyTree[Array]], params: PyTree[Array], cost: int
    ) -> LinearMap:
        """The derivative of `gradient`; an application of it counts as `cost` gradients."""
        return jax.linearize(gradient, params)[1]

    def _bind(self, name: str, params: PyTree[Array]) -> tuple[Callable, Callable]:
        """A function with its keyword arguments bound, and one that fills masked parameters."""
        if name not in self._bound:
            function = self.args.get(name)
            if function is None:
                raise ValueError(_NO_LOSS if self.by_stage else _NOTHING)
            positional, called_as = _CALLED[name]
            check_function(function, called_as)
            if "value_fn" in [*inspect.signature(function).parameters][positional:]:
                raise TypeError(_TAKEN.format(name="value_fn", what="the loss itself"))
            if name == "grad_fn":
                check_grad_fn(function, self.args)
            kwargs = forwarded(function, called_as, positional, self.args)
            full = self.args.get("full_params")
            absent = [p for p in jax.tree.leaves(params, is_leaf=is_absent) if is_absent(p)]
            whole = full is None and absent.count(None) == len(absent)
            fill = (lambda p: p) if whole else (lambda p: unmasked(p, full))
            bound = functools.partial(function, **kwargs)
            filtered = full is None and None in absent
            self._bound[name] = noting(bound) if filtered else bound, fill
        return self._bound[name]


def check_whole(value: Scalar, params: PyTree[Array]) -> None:
    """Inside `shard_map`, refuse a loss that differs between devices with the same parameters.

    Its gradient would be the sum over devices.
    """
    own = varying(value)
    own = own and own.difference(*map(varying, jax.tree.leaves(params)))
    if own:
        axes = ", ".join(map(repr, own))
        raise ValueError(
            f"value_fn returns another loss on every device along {axes}, but the parameters are "
            f"the same there. Return its mean over devices, `jax.lax.pmean(loss, {axes})`."
        )


_CALLED = {"value_fn": (1, "value_fn(params)"), "grad_fn": (2, "grad_fn(params, stage)")}
_START = {
    "value": "its value at the start of the step",
    "grad": "its gradient at the start of the step",
}
_TAKEN = (
    "An argument of the loss is called `{name}`, which is the name of {what}: rename it, or bind "
    "it, `lambda params, batch: loss(params, batch, {name}=...)`."
)
_NO_LOSS = (
    "This optimizer looks at the loss itself, and `grad_fn=` gives it gradients only. Pass the "
    "loss to update too:\n    updates, state = opt.update(grads, state, params, value_fn=loss, "
    "grad_fn=grad_fn, batch=batch)"
)
_NOTHING = (
    "This optimizer evaluates the loss or its gradient at further points and was given nothing to "
    "evaluate. Pass the loss to update:\n    updates, state = opt.update(grads, state, params, "
    "value_fn=loss, batch=batch)\n(`grad_fn=` for a gradient function of (params, stage), for a "
    "game `grad_fn=odeopt.game_gradient(losses)`; or build the optimizer with `staged=True`, which "
    "needs no extra argument. A Flax TrainState does not forward extra arguments to update: call "
    "`state.tx.update` yourself, or use `staged=True`.)"
)


def transformed(
    stage_transform: optax.GradientTransformation | None,
    grads: PyTree[Array],
    frozen: PyTree[Array],
    params: PyTree[Array] | None,
    args: Mapping[str, Any],
) -> tuple[Objective, PyTree[Array]]:
    """The objective with gradients transformed in the state `frozen`, and the next state."""
    if stage_transform is None:
        return Objective(args, grads), frozen
    # optax passes these two by position: arguments with their names are for the loss only
    others = {name: x for name, x in args.items() if name not in ("updates", "state")}
    update = functools.partial(optax.with_extra_args_support(stage_transform).update, **others)
    grads, advanced = update(grads, frozen, params)

    def transform(grads: PyTree[Array], point: PyTree[Array]) -> PyTree[Array]:
        return update(grads, frozen, point)[0]

    return Objective(args, grads, 0, transform), advanced


@Objective.register  # it has the methods of an objective, not its fields
@dataclasses.dataclass(frozen=True, eq=False)
class Penalized:
    r"""The objective $E + \mu\|\nabla E\|^2$ of a given objective E, with `factor` $= 2\mu$.

    Its gradient is $g + 2\mu Hg$: 1 gradient and 1 Hessian product.
    """

    base: Any
    factor: Scalar
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
        """As for `base`, at 3 times the cost: every gradient includes a Hessian product."""
        return self.base.linearized(gradient, params, 3 * cost)

    def here(self, params: PyTree[Array]) -> PyTree[Array]:
        if self.given is not None:
            return self.given
        return self._add(self.base.here(params), params)

    def gradient(self, params: PyTree[Array]) -> PyTree[Array]:
        return self._add(self.base.gradient(params), params)

    def value(self, params: PyTree[Array]) -> Scalar:
        return self.value_and_gradient(params)[0]

    def value_and_gradient(self, params: PyTree[Array]) -> tuple[Scalar, PyTree[Array]]:
        value, g = self.base.value_and_gradient(params)
        penalty = 0.5 * self.factor.astype(value.dtype) * inner(g, g).astype(value.dtype)
        return value + penalty, self._add(g, params)

    given_value = lambda self: None  # noqa: E731 - the caller's value has no penalty

    def _add(self, g: PyTree[Array], params: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(
            lambda g, b: g + scaled(self.factor, b), g, self.base.product(params)(g)
        )


@Objective.register
@dataclasses.dataclass(frozen=True, eq=False)
class Tally:
    """An objective that counts the requested gradients and evaluates none."""

    count: list[int]
    given: Any = None

    args: ClassVar[Mapping[str, Any]] = {}
    by_stage = splits = False
    at = lambda self, stage: Tally(self.count)  # noqa: E731
    elsewhere = Objective.elsewhere
    with_given = Objective.with_given
    product = Objective.product
    given_value = lambda self: None  # noqa: E731

    def here(self, params: PyTree[Array]) -> PyTree[Array]:
        """Not counted if a gradient is given."""
        return self.gradient(params) if self.given is None else params

    def gradient(self, params: PyTree[Array]) -> PyTree[Array]:
        """Count 1, and 1 more for each differentiation: a Hessian product counts as 2.

        A k-fold derivative counts as k + 1, its cost along equal directions; along k different
        directions it may cost up to 2^k.
        """
        self.count[0] += 1
        identity = jax.custom_jvp(lambda x: x)

        @identity.defjvp
        def derivative(x: tuple, tangents: tuple) -> tuple:
            self.count[0] += 1
            return identity(x[0]), identity(tangents[0])  # to count the next derivative

        return identity(params)

    def value(self, params: PyTree[Array]) -> Scalar:
        """Count 1 gradient."""
        self.count[0] += 1
        return inner(params, params)

    def value_and_gradient(self, params: PyTree[Array]) -> tuple[Scalar, PyTree[Array]]:
        """Count 1 gradient."""
        return inner(params, params), self.gradient(params)

    def linearized(
        self, gradient: Callable[[PyTree[Array]], PyTree[Array]], params: PyTree[Array], cost: int
    ) -> LinearMap:
        """Count `cost` for every application."""

        def product(tangent: PyTree[Array]) -> PyTree[Array]:
            self.count[0] += cost
            return tangent

        return product


def count_gradients(function: Callable[..., Any], *args: Any, given: bool = False) -> int:
    """The gradients that `function(objective, *args)` evaluates; a Hessian product counts as 2.

    The function is traced once on abstract values with an objective that only counts, so the
    number is known before anything is evaluated. It must not use the objective in `lax.scan` or
    `lax.while_loop`, since tracing sees only one round: count one round and multiply.
    With `given` the first `here` is free, as at the start of a step.
    """
    count = [0]
    jax.eval_shape(lambda *args: function(Tally(count, given or None), *args), *args)
    return count[0]
