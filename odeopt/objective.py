"""From optax's calling conventions to one counted gradient.

May use: jax, optax. Everything else in the library sees the objective only through `Gradient`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

GradientFunction = Callable[[PyTree[Array], int | Array], PyTree[Array]]
LinearMap = Callable[[PyTree[Array]], PyTree[Array]]
Result = TypeVar("Result")

_OWN = frozenset({"value", "grad", "value_fn", "grad_fn", "full_params"})
_CALL = "updates, state = opt.update(grads, state, params, value_fn=loss, batch=batch)"


class Gradient:
    """The gradient as a flow and a method see it: given at the start of a step, counted elsewhere.

    `stage(i)` is the view that stage `i` of a step gets. A flow that wants the gradient at the
    point it was handed calls `here(params)`: in stage 0 that is the gradient which the caller of
    `update` already paid for, later it is evaluated. A flow that wants it anywhere else calls
    `gradient(params)`. The difference is explicit because differentiating through a *given*
    gradient would silently yield zero; `jvp` always evaluates.

    Args:
      at_start: the gradient at the start of the step, a tree like the parameters.
      evaluate: `(params, stage) -> gradient`; an `Objective` where `value` is asked for.
      by_stage: whether that may differ between stages.
    """

    def __init__(
        self, at_start: PyTree[Array], evaluate: GradientFunction, by_stage: bool = True
    ) -> None:
        self._at_start = at_start
        self._by_stage = by_stage
        self._evaluate = evaluate
        self._index: int | Array = 0
        self._root = self
        # Apart, since what a loop or a derivative traces inside must never be a tracer of theirs.
        self._traced = 1
        self._taken: int | Int[Array, ""] = 0

    @property
    def count(self) -> int | Int[Array, ""]:
        """Gradients spent so far, the one at the start included; a Hessian product counts 2.

        A Python integer, known when the step has been traced, unless `cond` was used.
        """
        return self._root._traced + self._root._taken

    def stage(self, index: int | Array) -> "Gradient":
        """The view of this gradient that belongs to stage `index` (a tracer inside a scan)."""
        view = Gradient(self._at_start, self._evaluate)
        view._index = index
        view._root = self._root
        return view

    def here(self, params: PyTree[Array]) -> PyTree[Array]:
        """The gradient at the stage's own point: the given one in stage 0, evaluated later."""
        if isinstance(self._index, int) and self._index == 0:
            return self._at_start
        return self(params)

    def __call__(self, params: PyTree[Array]) -> PyTree[Array]:
        """The gradient at `params`, evaluated. Costs 1 gradient."""
        self._root._traced += 1
        return self._evaluate(params, self._index)

    def jvp(self, params: PyTree[Array], tangent: PyTree[Array]) -> PyTree[Array]:
        """The Hessian product `H(params) tangent`, forward over reverse. Counts as 2 gradients."""
        self._root._traced += 2
        return jax.jvp(lambda p: self._evaluate(p, self._index), (params,), (tangent,))[1]

    @property
    def product_cost(self) -> int:
        """What a Hessian product counts as, in gradients."""
        return 2

    @property
    def by_stage(self) -> bool:
        """Whether the evaluations may differ between stages: a `grad_fn` sees their numbers."""
        return self._root._by_stage

    def linearized(self, params: PyTree[Array]) -> LinearMap:
        """`v -> H(params) v`, for many products at one point; `spend` `product_cost` on each."""
        return jax.linearize(lambda p: self._evaluate(p, self._index), params)[1]

    def objective(self) -> "Objective":
        """What is differentiated, where that is a loss. Nothing of it is counted: `spend`.

        Raises:
          ValueError: a `stage_transform`, of whose gradients the loss is not the potential.
        """
        if not isinstance(self._evaluate, Objective):
            raise ValueError(
                "This optimizer or its step-size rule looks at the loss, which says nothing of "
                "gradients that a `stage_transform` changed: drop `stage_transform=`, or use "
                "another."
            )
        return self._evaluate

    def given_value(self) -> Float[Array, ""] | None:
        """The loss at the start of the step, where the caller of `update` passed `value=`."""
        value = self.objective().extra_args.get("value")
        return None if value is None else jnp.asarray(value)

    def spend(self, gradients: int | Int[Array, ""]) -> None:
        """Count so many gradients more, also a number that is known at run time only."""
        self._root._taken = self._root._taken + gradients

    def value(self, params: PyTree[Array]) -> Float[Array, ""]:
        """The loss at `params`. Counts as 1 gradient, though it costs about a third of one.

        Raises:
          ValueError: no `value_fn`; or a `stage_transform`, see `objective`.
        """
        self._root._traced += 1
        return self.objective().value(params)

    def with_value(self, params: PyTree[Array]) -> tuple[Float[Array, ""], PyTree[Array]]:
        """Loss and gradient at `params`, for the cost of 1 gradient. Raises as `value` does."""
        self._root._traced += 1
        return self.objective().with_value(params, self._index)

    def scan(self, body: Callable, init: PyTree, xs: PyTree[Array], length: int) -> PyTree:
        """`jax.lax.scan` over `body`, its gradients counted once for each of `length` rounds."""
        before = self._root._traced

        def counted(carry: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
            self._root._traced = before  # a scan may trace its body more than once
            return body(carry, x)

        carry, _ = jax.lax.scan(counted, init, xs, length=length)
        self._root._traced = before + length * (self._root._traced - before)
        return carry

    def cond(
        self,
        condition: Bool[Array, ""],
        true_branch: Callable[[], Result],
        false_branch: Callable[[], Result],
    ) -> Result:
        """`jax.lax.cond`; the gradients of the branch that is taken are counted at run time."""
        root = self._root
        before = root._traced, root._taken

        def counted(branch: Callable[[], Result]) -> Callable[[], tuple[Result, Array]]:
            def run() -> tuple[Result, Array]:
                root._traced, root._taken = 0, 0  # nothing traced inside is seen outside
                result = branch()
                return result, jnp.asarray(self.count, jnp.int32)

            return run

        result, spent = jax.lax.cond(condition, counted(true_branch), counted(false_branch))
        root._traced, root._taken = before[0], before[1] + spent
        return result

    def while_loop(
        self,
        goes_on: Callable[[Result], Bool[Array, ""]],
        body: Callable[[Result], Result],
        init: Result,
    ) -> Result:
        """`jax.lax.while_loop`; the gradients of each round are counted at run time."""
        root = self._root
        before = root._traced, root._taken

        def counted(carry: tuple[Result, Array]) -> tuple[Result, Array]:
            root._traced, root._taken = 0, 0  # nothing traced inside is seen outside
            inner = body(carry[0])
            return inner, carry[1] + jnp.asarray(self.count, jnp.int32)

        carry = init, jnp.zeros([], jnp.int32)
        result, spent = jax.lax.while_loop(lambda carry: goes_on(carry[0]), counted, carry)
        root._traced, root._taken = before[0], before[1] + spent
        return result

    def charged(self, gradients: int, run: Callable[[], Result]) -> Result:
        """`run()`, counted as so many gradients: for a loop in code that knows no counts."""
        before = self._root._traced
        result = run()
        self._root._traced = before + gradients
        return result


class Objective:
    """The loss and the gradient that the keyword arguments of `update` describe.

    Called as `(params, stage) -> gradient`, in optax's convention: complex gradients are the
    conjugate of `jax.grad`'s. Nothing is looked at before the first call, so an optimizer of one
    stage needs no arguments.

    Args:
      extra_args: the keyword arguments of `update`, of which these have a meaning here:

        - `value_fn`: the loss, `value_fn(params, ...)`, returning a scalar or `(scalar, aux)`.
          Arguments named like its parameters are forwarded to it, others are ignored.
        - `grad_fn`: replaces the gradient of `value_fn`: `grad_fn(params, stage, ...)`, with the
          same forwarding. Stages count from 1: a Python integer unless the stages are scanned.
        - `full_params`: the whole parameter tree, for wrappers such as `optax.masked` that hand
          over a tree with holes; the holes are filled from it.
    """

    def __init__(self, extra_args: Mapping[str, Any]) -> None:
        self._extra_args = extra_args

    @property
    def extra_args(self) -> Mapping[str, Any]:
        """The keyword arguments of `update`."""
        return self._extra_args

    def __call__(self, params: PyTree[Array], stage: int | Array) -> PyTree[Array]:
        """The gradient at `params`."""
        grad_fn = self._extra_args.get("grad_fn")
        if grad_fn is None:
            return jax.tree.map(jnp.conj, jax.grad(self.value)(params))
        kwargs = forwarded(grad_fn, "grad_fn(params, stage)", 2, self._extra_args)
        grads = grad_fn(filled(params, self._extra_args.get("full_params")), stage, **kwargs)
        return check_gradient(punched(grads, params), params, name="grad_fn's result")

    def with_value(
        self, params: PyTree[Array], stage: int | Array
    ) -> tuple[Float[Array, ""], PyTree[Array]]:
        """Loss and gradient at `params`."""
        if self._extra_args.get("grad_fn") is not None:
            return self.value(params), self(params, stage)
        value, grads = jax.value_and_grad(self.value)(params)
        return value, jax.tree.map(jnp.conj, grads)

    def value(self, params: PyTree[Array]) -> Float[Array, ""]:
        """The loss at `params`."""
        value_fn = self._extra_args.get("value_fn")
        if value_fn is None:
            raise ValueError(
                "This optimizer evaluates the loss or its gradient at further points and was given "
                f"nothing to evaluate. Pass the loss to update:\n    {_CALL}\n(`grad_fn=` for a "
                "gradient function of (params, stage); or build the optimizer with `staged=True`, "
                "which needs no extra argument.)"
            )
        kwargs = forwarded(value_fn, "value_fn(params)", 1, self._extra_args)
        out = value_fn(filled(params, self._extra_args.get("full_params")), **kwargs)
        return checked_loss(out)


def check_gradient(
    grads: PyTree[Array], params: PyTree[Array], name: str = "grads"
) -> PyTree[Array]:
    """Refuse a gradient that does not fit the parameters; cast its leaves to their dtypes.

    Raises:
      ValueError: another tree structure, or a leaf of another shape.
      TypeError: a complex gradient of a real parameter.
    """
    given: Any = jax.tree.structure(grads)
    expected: Any = jax.tree.structure(params)
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
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", None) or jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} has dtype {dtype}, but only floating-point "
                "parameters can follow a flow. Leave it out with `optax.masked` or "
                "`optax.partition`, or keep it outside params."
            )


def checked_loss(out: Any) -> Float[Array, ""]:
    """The loss in what a loss function returned: itself, or the first of `(loss, aux)`."""
    return jnp.asarray(_scalar(out[0] if isinstance(out, tuple) and len(out) == 2 else out))


def _scalar(value: Any) -> Array:
    if not hasattr(value, "dtype") and not isinstance(value, int | float | complex):
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
    return value


def forwarded(
    function: Callable, called_as: str, positional: int, extra_args: Mapping[str, Any]
) -> dict[str, Any]:
    """The extra arguments that `function` names, after its `positional` leading ones."""
    parameters = list(inspect.signature(function).parameters.values())
    named = {
        p.name: p
        for p in parameters[positional:]
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {name: value for name, value in extra_args.items() if name not in _OWN}
    kwargs = {name: value for name, value in extra_args.items() if name in named}
    missing = [n for n, p in named.items() if p.default is p.empty and n not in kwargs]
    if missing:
        passed = ", ".join(f"{name}={name}" for name in missing)
        raise TypeError(
            f"{called_as} also needs {', '.join(map(repr, missing))}: pass it by name, "
            f"`{passed}` (to update: `opt.update(grads, state, params, ..., {passed})`)."
        )
    return kwargs


def is_hole(node: Any) -> bool:
    """Whether `node` stands for parameters that a masking wrapper keeps from the optimizer."""
    return isinstance(node, optax.MaskedNode)


def filled(params: PyTree[Array], full_params: PyTree[Array] | None) -> PyTree[Array]:
    """`params` with its holes (`optax.MaskedNode`) filled from `full_params`."""
    if not any(map(is_hole, jax.tree.leaves(params, is_leaf=is_hole))):
        return params
    if full_params is None:
        raise ValueError(
            "This optimizer runs inside optax.masked, partition or multi_transform and sees only "
            "its part of the parameters, but the loss needs all of them. Hand them over: "
            "`opt.update(grads, state, params, value_fn=loss, full_params=params)`."
        )
    return jax.tree.map(
        lambda p, full: full if is_hole(p) else p, params, full_params, is_leaf=is_hole
    )


def punched(tree: PyTree[Array], like: PyTree[Array]) -> PyTree[Array]:
    """`tree` with the holes of `like`."""
    if not any(map(is_hole, jax.tree.leaves(like, is_leaf=is_hole))):
        return tree
    return jax.tree.map(lambda p, t: p if is_hole(p) else t, like, tree, is_leaf=is_hole)
