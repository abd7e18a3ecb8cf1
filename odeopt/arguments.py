"""The arguments of `update`: checks, forwarding to the loss, unmasking of parameters."""

import inspect
import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from .arrays import Scalar

_ON_HOST = frozenset({float, np.ndarray})
_OWN = frozenset({"value", "grad", "value_fn", "grad_fn", "full_params"})


def _kinds(leaves: list[Any]) -> list[tuple] | None:
    """The shape and dtype of every leaf; None if one is not an array."""
    try:
        return [*map(operator.attrgetter("shape", "dtype"), leaves)]
    except AttributeError:
        return None


def check_gradient(
    grads: PyTree[Array], params: PyTree[Array], name: str = "grads"
) -> PyTree[Array]:
    """Check a gradient against the parameters, and cast its leaves to their dtypes.

    Raises `ValueError` if structure or shapes differ, `TypeError` if a dtype cannot be cast.
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
            f"params: {expected}. Take both from the same tree: `grads = jax.grad(loss)(params)`. "
            "For an Equinox model pass `eqx.filter(model, eqx.is_inexact_array)` as params, and "
            "`full_params=model`."
        )

    def leaf(path: tuple, g: Array, p: Array) -> Array:
        where = f"{name}{jax.tree_util.keystr(path)}"
        if jnp.shape(g) != jnp.shape(p):
            raise ValueError(f"{where} has shape {jnp.shape(g)}, its parameter {jnp.shape(p)}.")
        dtype = jnp.result_type(p)
        if jax.typeof(g).dtype == jax.dtypes.float0:
            raise TypeError(
                f"{where} has dtype float0, as the gradient of an integer has, but its parameter "
                f"is {dtype}: take it from `jax.grad(loss)(params)` at these parameters."
            )
        if jnp.iscomplexobj(g) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(f"{where} is complex, its parameter is {dtype}: take the real part.")
        if dtype == jnp.float16 and jnp.result_type(g) != dtype:
            raise TypeError(
                f"{where} is {jnp.result_type(g)}, its parameter {dtype}; a cast would round small "
                "entries to 0 and large ones to infinity: keep parameters in float32 and cast them "
                "in the loss, or cast the gradient yourself."
            )
        return jnp.asarray(g, dtype)

    return jax.tree_util.tree_map_with_path(leaf, grads, params)


def check_params(params: PyTree[Array]) -> None:
    """Raise a `TypeError` that names a leaf that is not floating point (real or complex)."""
    for path, leaf in jax.tree.leaves_with_path(as_arrays(params)):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
            kind = f"is a {type(leaf).__name__}" if dtype is None else f"has dtype {dtype}"
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} {kind}, but only floating-point "
                "parameters can follow a flow. Leave it out with `optax.masked` or "
                "`optax.partition`, or keep it outside params (for an Equinox model pass "
                "`eqx.filter(model, eqx.is_inexact_array)`)."
            )


def checked_loss(out: Any, said: str = "value_fn returned", must: str = "return") -> Scalar:
    """The loss, from a result of a loss function: `loss` or `(loss, aux)`."""
    value = out[0] if isinstance(out, tuple) and len(out) == 2 else out
    if not isinstance(value, jax.Array | np.ndarray | np.generic | int | float | complex):
        raise TypeError(
            f"{said} a {type(value).__name__}; it must {must} a scalar loss, or the pair "
            "(loss, aux)."
        )
    if jnp.shape(value) != ():
        raise ValueError(
            f"{said} an array of shape {jnp.shape(value)}; it must {must} a scalar loss: write "
            "`jnp.mean(...)`."
        )
    if jnp.iscomplexobj(value):
        raise TypeError(f"{said} a complex number; it must {must} a real loss.")
    return jnp.asarray(value)


def check_grad_fn(grad_fn: Callable, extra_args: Mapping[str, Any]) -> None:
    """Raise a `TypeError` if the second argument of `grad_fn` is not the stage number."""
    parameters = inspect.signature(grad_fn).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return
    says, names = "takes the parameters alone", ""
    for second in [p for p in parameters if p.kind < p.KEYWORD_ONLY][1:2]:
        other = second.default is not second.empty or second.name in extra_args
        if second.name == "stage" or not other:
            return
        says, names = f"has {second.name!r} in second place", f", {second.name}"
    raise TypeError(
        "grad_fn is called with the parameters and the number of the stage, and this one "
        f"{says}: pass `value_fn=loss`, or `grad_fn=lambda params, stage{names}: "
        f"jax.grad(loss)(params{names})`."
    )


def check_function(function: Any, called_as: str) -> None:
    """Raise a `TypeError` that names what is not a function."""
    if not callable(function):
        raise TypeError(
            f"{called_as.partition('(')[0]} is a {type(function).__name__}, not a function: pass "
            f"the function itself, called as {called_as}."
        )


def forwarded(
    function: Callable,
    called_as: str,
    positional: int,
    extra_args: Mapping[str, Any],
    *,
    alone: bool = True,
) -> dict[str, Any]:
    """The extra arguments that `function` names, after its `positional` leading parameters.

    Warns if a parameter keeps its default while an unknown name was passed: optax asks optimizers
    to ignore unknown names, so a misspelt random key would silently switch dropout off. It does not
    warn if `alone` is False, since unknown names may then be meant for another function.
    """
    parameters = list(inspect.signature(function).parameters.values())
    nameless = [p.name for p in parameters[positional:] if p.kind is p.POSITIONAL_ONLY]
    if nameless:
        raise TypeError(
            f"{called_as} takes {', '.join(nameless)} by position only, and arguments are passed "
            "on by name: move the `/` of its signature to behind the first argument."
        )
    named = {
        p.name: p
        for p in parameters[positional:]
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        return {name: value for name, value in extra_args.items() if name not in _OWN}
    kwargs = {name: value for name, value in extra_args.items() if name in named}
    missing = [n for n, p in named.items() if p.default is p.empty and n not in kwargs]
    if "params" in missing:  # the caller of `update` cannot pass it by name
        first = ", ".join(p.name for p in parameters[:positional])
        raise TypeError(
            f"{called_as} is called with the parameters in first place, and this one has {first} "
            f"there and params later: write `lambda params, {first}: "
            f"{called_as.partition('(')[0]}({first}, params)`."
        )
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


def as_arrays(tree: PyTree[Any]) -> PyTree[Array]:
    """`tree` with Python floats and inexact NumPy arrays converted to JAX arrays."""
    if _ON_HOST.isdisjoint(map(type, jax.tree.leaves(tree))):
        return tree

    def leaf(x: Any) -> Any:
        if type(x) is float:
            return jnp.asarray(x, float)
        known = type(x) is np.ndarray and jnp.issubdtype(x.dtype, jnp.inexact)
        return jnp.asarray(x) if known else x

    return jax.tree.map(leaf, tree)


def floating(params: PyTree[Any]) -> PyTree[Array]:
    """`params` as arrays; a `TypeError` that names a leaf that is not floating point."""
    check_params(params)
    return as_arrays(params)


_ABSENT = type(None), optax.MaskedNode


def is_masked(node: Any) -> bool:
    """Whether `node` stands for parameters that a wrapper hides from the optimizer."""
    return isinstance(node, optax.MaskedNode)


def is_absent(node: Any) -> bool:
    """Whether `node` is absent: masked, or None as `eqx.filter` leaves it."""
    return isinstance(node, _ABSENT)


def unmasked(params: PyTree[Array], full_params: PyTree[Any] | None) -> PyTree[Any]:
    """`params` with absent leaves (`optax.MaskedNode` or None) filled from `full_params`."""
    if full_params is not None:
        try:
            return jax.tree.map(
                lambda p, full: full if is_absent(p) else p, params, full_params, is_leaf=is_absent
            )
        except (ValueError, TypeError) as error:
            raise ValueError(
                "full_params must be the whole tree of which params are a part: pass the parameters"
                f" of the loop. full_params: {jax.tree.structure(full_params)!s:.200}; params: "
                f"{jax.tree.structure(params)!s:.200}."
            ) from error
    if any(map(is_masked, jax.tree.leaves(params, is_leaf=is_masked))):
        raise ValueError(
            "This optimizer runs inside optax.masked, partition or multi_transform and sees only "
            "its part of the parameters, but the loss needs all of them. Hand them over: "
            "`opt.update(grads, state, params, value_fn=loss, full_params=params)`."
        )
    return params


def noting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function of a filtered tree: its errors note that it may need the whole tree."""

    def called(*args: Any) -> Any:
        try:
            return function(*args)
        except Exception as error:
            error.add_note(
                "Parameters that are None, as `eqx.filter` leaves them, were handed to the loss. "
                "If it needs the whole model pass `full_params=model` to update."
            )
            raise

    return called


def by_leaf(
    name: str, given: Any, params: PyTree[Array], is_leaf: Callable[[Any], bool] | None = None
) -> PyTree[Any]:
    """A tree of settings, or a function `params -> tree`, broadcast to one setting for each leaf.

    One value may stand for a whole branch. As in optax, `given` is called only if all its leaves
    are callable: a mask with the structure of an Equinox model is callable too, but is a tree.
    """
    leaves = jax.tree.leaves(given, is_leaf=is_leaf)
    tree = given(params) if leaves and all(map(callable, leaves)) else given
    try:
        return jax.tree.broadcast(tree, params, is_leaf=is_leaf)
    except ValueError as error:
        raise ValueError(
            f"{name} must be a tree like the parameters, {jax.tree.structure(params)!s:.200}, with "
            f"one value for each leaf, and is {' '.join(repr(tree).split()):.200}."
        ) from error


def mask_of(given: Any, params: PyTree[Array]) -> PyTree[bool]:
    """A mask with one truth value for each leaf; a `ValueError` for strings and non-scalars."""
    mask = by_leaf("mask", given, params)
    for keep in jax.tree.leaves(mask):
        if isinstance(keep, str) or np.ndim(keep):
            has = f"an array of shape {np.shape(keep)}" if np.ndim(keep) else repr(keep)
            raise ValueError(f"mask has {has} for a leaf: write True or False for each leaf.")
    return mask


def masked_as(tree: PyTree[Array], like: PyTree[Array]) -> PyTree[Array]:
    """`tree` with the absent leaves of `like` (masked or None) in their places."""
    if not any(map(is_absent, jax.tree.leaves(like, is_leaf=is_absent))):
        return tree
    return jax.tree.map(lambda p, t: p if is_absent(p) else t, like, tree, is_leaf=is_absent)


def over_own(
    leaf: Callable[..., Array], params: PyTree[Array], *trees: PyTree[Array]
) -> PyTree[Array]:
    """`leaf(p, *leaves)` for each parameter that the trees hold; other parameters unchanged."""
    own = masked_as(params, trees[0])
    return unmasked(jax.tree.map(leaf, own, *trees), params)
