"""What is no problem for a study, in one line that says what to write instead."""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ...checks import is_flag, is_known, is_whole
from ...sums import add, multiple, noise, norm

_KINDS = (np.number, np.bool_, jax.dtypes.extended)  # the last one of random keys


def line(error: BaseException) -> str:
    """An exception in one line, without the stop at its end."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200].rstrip('.')}"


def refuse(problem: Any, words: str, cause: BaseException | None = None) -> NoReturn:
    """Raise a `ValueError` that names the problem."""
    raise ValueError(f"Problem {problem.name!r}: {words}") from cause


def is_name(name: Any) -> bool:
    """Whether tables can show it, and records of a store be told apart by it."""
    return isinstance(name, str) and bool(name.strip()) and "/" not in name


def wrong_fields(problem: Any) -> Iterator[str]:
    """What is wrong with fields of a problem, before its functions are called."""
    data, size = jax.tree.leaves(problem.data), problem.batch_size
    if not is_name(problem.name):
        yield "its name stands in tables: write a text without /, name='my problem'."
    if not callable(problem.loss) or not callable(problem.init):
        yield "loss= and init= are functions: loss(params, batch) and init(seed)."
    if not (is_known(problem.weight_decay) and problem.weight_decay >= 0):
        yield f"weight_decay is {problem.weight_decay!r}, which is a number of at least 0."
    if not is_flag(problem.x64):
        yield f"x64 is {problem.x64!r}: write True, or False."
    for leaf in (*data, *jax.tree.leaves(problem.validation)):
        if not isinstance(leaf, np.ndarray | np.generic | jax.Array):
            yield f"data hold a {type(leaf).__name__}: give arrays, np.asarray(...)."
        if not any(jax.dtypes.issubdtype(leaf.dtype, kind) for kind in _KINDS):
            yield (
                f"data hold values of type {leaf.dtype}, which are no numbers: of class labels "
                "write np.unique(y, return_inverse=True)[1]."
            )
    if size is None:
        return
    if not is_whole(size):
        yield f"batch_size is {size!r}: write a whole number, or None."
    if not data:
        yield "batch_size is of examples, but data= holds none: give data, or drop it."
    rows = sorted({leaf.shape[0] if leaf.shape else 0 for leaf in data})
    if len(rows) != 1:
        yield (
            f"its arrays have {' and '.join(map(str, rows))} rows, but a mini-batch takes the same "
            "rows of each: give every array one row an example."
        )
    if not 1 <= size <= rows[0]:
        yield (
            f"batch_size is {size}, which must be 1 to {rows[0]}, the number of examples; None "
            "takes all of them."
        )


def refuse_lost(problem: Any) -> None:
    """Raise a `ValueError` where the loss at the initial point is not finite."""
    for name, data, where in (
        ("loss", problem.data, "data="),
        ("validation", problem.validation, "validation="),
    ):
        value = problem.initial.get(name, 0.0)
        if math.isfinite(value):
            continue
        leaves = jax.tree.leaves(data)
        words = f"change init= or {where}; classes are numbered from 0."
        if not all(leaf.size for leaf in leaves):
            words = f"{where} has an array without numbers: give one row an example."
        elif not all(np.isfinite(leaf).all() for leaf in leaves if is_inexact(leaf)):
            words = f"{where} has NaN or infinity in it: leave those rows out, or fill them."
        raise ValueError(
            f"problem {problem.name!r} has a loss of {value} at the initial point of seed 0, on "
            f"{where}, and no optimizer can start there: {words}"
        )


def refuse_curved(problem: Any) -> None:
    """Raise a `ValueError` where the gradient of a problem that is `quadratic` is not linear."""
    if not problem.quadratic:
        return
    with jax.enable_x64(problem.x64):
        start, data = problem.start(0), jax.tree.map(jnp.asarray, problem.data)
        move = noise(start)
        points = [add(start, multiple(times, move)) for times in range(3)]
        first, middle, last = (jax.grad(problem.full_loss)(point, data) for point in points)
        second = norm(add(add(first, last), multiple(-2.0, middle)))
        change, size = norm(add(last, multiple(-1.0, first))), norm(first) + norm(last)
    if not second <= 1e-2 * change + 1e-4 * size:  # rounding aside
        raise ValueError(
            f"problem {problem.name!r} says quadratic=True, but the Hessian of its loss is not "
            "constant: leave quadratic= out."
        )


def is_inexact(x: Any) -> bool:
    """Whether it is a float, or an array of floats or of complex numbers."""
    return isinstance(x, float) or jnp.issubdtype(getattr(x, "dtype", bool), jnp.inexact)


def mend(error: Exception, words: str) -> str:
    """What to write where a function of the user's fails: `words`, or what can be compiled."""
    if isinstance(error, jax.errors.JAXTypeError):
        return (
            "It is compiled: write it with jax.numpy, and with no float(), if, or function of "
            "NumPy or scikit-learn on what is computed from params."
        )
    return words


def said(tree: PyTree, of: Callable[[Any], Any]) -> str:
    """The place of every array in the tree, and what is said `of` it."""
    leaves = jax.tree.leaves_with_path(tree)
    return ", ".join(f"{jax.tree_util.keystr(path)} {of(leaf)}".strip() for path, leaf in leaves)


def kinds(tree: PyTree) -> str:
    """The place, type and shape of every array."""
    return said(tree, lambda leaf: f"{leaf.dtype}{list(leaf.shape)}")


def needed(function: Callable[..., Any], given: int) -> set[str]:
    """Names of the arguments without a default, after the first ones, which are given."""
    parameters = list(inspect.signature(function).parameters.values())
    return {
        one.name
        for number, one in enumerate(parameters)
        if one.default is one.empty
        and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        and (number >= given or one.kind is one.KEYWORD_ONLY)
    }


def whole_numbers(start: PyTree) -> Iterator[str]:
    """What to write instead of each parameter that is an integer."""
    in_model = holds_module(start)
    for path, leaf in jax.tree.leaves_with_path(start):
        whole = isinstance(leaf, int) or jnp.issubdtype(getattr(leaf, "dtype", float), jnp.integer)
        if whole and not (in_model and isinstance(leaf, int)):
            where = jax.tree_util.keystr(path)
            yield (
                f"init gives whole numbers{' at ' + where if where else ''}, which have no "
                "gradient: write 0.0 for 0, or jnp.zeros(shape), which is floating-point. Counters "
                "of a model are no parameters: of Flax nnx return nnx.state(model, nnx.Param)."
            )


def holds_module(tree: PyTree) -> bool:
    """Whether there is an Equinox model in it, whose own numbers are settings."""
    is_module = lambda node: isinstance(node, eqx.Module)  # noqa: E731
    return any(map(is_module, jax.tree.leaves(tree, is_leaf=is_module)))
