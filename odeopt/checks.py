"""Checks of arguments that are known when an object is built."""

import itertools
import math
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

KNOWN = (int, float, np.number)
"""Types of numbers that are not traced, for `isinstance` in code that runs once a leaf."""

_NO_NUMBERS = (type(None), bool, np.bool_, str, bytes, list, tuple, dict, FunctionType)


def is_known(number: Any) -> bool:
    """Whether a hyper-parameter is a Python or NumPy number, not one that is traced."""
    return isinstance(number, KNOWN)


def is_traced(tree: Any) -> bool:
    """Whether an array among the leaves is traced, so that its values cannot be seen."""
    return any(map(isinstance, jax.tree.leaves(tree), itertools.repeat(jax.core.Tracer)))


def is_transformation(node: Any) -> bool:
    """Whether `node` is an optax transformation, not a function that returns one."""
    return isinstance(node, optax.GradientTransformation | optax.MultiSteps)


def known_design(opt: Any) -> Any:
    """The design of an odeopt optimizer; None for anything else."""
    return getattr(getattr(opt, "update", None), "design", None)


def design_of(opt: Any, instead: str = "") -> Any:
    """The design of an odeopt optimizer; a `TypeError` for anything else."""
    design = known_design(opt)
    if design is None:
        raise TypeError(
            f"This is a {type(opt).__name__}, whose design is hidden: pass the odeopt optimizer "
            "itself, before it goes into a chain or `inject_hyperparams`." + instead
        )
    return design


def check_kind(kind: type, such_as: str, **given: Any) -> None:
    """Raise a `TypeError` that names an argument that is not a `kind`, with one to pass."""
    for name, piece in given.items():
        if not isinstance(piece, kind):
            raise TypeError(f"{name} is {piece!r:.80}; pass e.g. odeopt.{such_as}.")


def is_flag(value: Any) -> bool:
    """Whether a value is True or False, of Python or NumPy."""
    return type(value) in (bool, np.bool_)


def is_whole(number: Any) -> bool:
    """Whether a number is known and an integer."""
    return isinstance(number, int | np.integer) and not is_flag(number)


def is_zero(number: Any) -> bool:
    """Whether a hyper-parameter is known to be 0."""
    return is_known(number) and number == 0


def check(ok: Any, name: str, number: Any, must: str) -> None:
    """Raise a `ValueError` if a known number fails `ok(number)`.

    None, a boolean, a string, a collection, a function and an array with axes fail too. One
    without passes, since its value may be traced, and so does a schedule that a flow holds.
    """
    other = isinstance(number, _NO_NUMBERS) or np.ndim(number) > 0
    if other or (is_known(number) and not ok(number)):
        shown = repr(number)[:80] if other else number
        raise ValueError(f"{name} is {shown}; it must be {must}.")


def whole_from(least: int) -> Callable[[Any], bool]:
    """For `check`: whether a number, integer or float, is whole and at least `least`."""
    return lambda number: number >= least and number % 1 == 0


def check_flags(**flags: Any) -> None:
    """Raise a `TypeError` that names an argument that is not True or False."""
    for name, flag in flags.items():
        if not is_flag(flag):
            raise TypeError(f"{name} is {flag!r:.60}; it must be True or False.")


def check_counts(**numbers: Any) -> None:
    """Raise a `ValueError` that names a number that is not an integer of at least 1."""
    for name, number in numbers.items():
        if not is_whole(number) or number < 1:
            raise ValueError(f"{name} is {number!r}; it must be a whole number of at least 1.")


def fraction_dtype(of: str, dtype: Any) -> Any:
    """`dtype` if it is inexact, or None for None; otherwise a `ValueError` that names `of`."""
    if dtype is None:
        return None
    try:
        dtype = jnp.dtype(dtype)
    except TypeError:
        raise ValueError(f"No {of} has dtype {dtype!r}: write float32, say.") from None
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"A {of} of dtype {dtype} drops fractions: write float32, say.")
    return dtype


def check_static(wholes: Mapping[str, Any], **others: Any) -> None:
    """Raise a `TypeError` that names a number that sets loops or shapes and is not known.

    The numbers in `wholes` must be integers.
    """
    numbers = {**wholes, **others}
    for name, number in numbers.items():
        fits = is_whole(number) if name in wholes else is_known(number)
        if not fits or is_flag(number):
            wanted = "an integer, a Python number" if name in wholes else "a Python number"
            names = str(tuple(numbers)).replace("'", '"')
            raise TypeError(
                f"{name} is a {type(number).__name__}; it must be {wanted} known when the "
                "optimizer is built. Inside `optax.inject_hyperparams` name it in "
                f"`static_args={names}`."
            )


def check_steps(**numbers: Any) -> None:
    """Raise a `ValueError` for a number of steps that is known and not whole or below 1."""
    must = "the number of steps that the run will take, a whole number from 1 on"
    for name, number in numbers.items():
        check(whole_from(1), name, number, must)


def check_ascending(**numbers: Any) -> None:
    """Raise a `ValueError` unless known numbers are positive and ascend; the last may be inf."""
    *others, last = numbers
    check_positive(**{name: numbers[name] for name in others})
    check_cap(**{last: numbers[last]})
    known = [(name, number) for name, number in numbers.items() if is_known(number)]
    for (name, low), (above, high) in itertools.pairwise(known):
        check(lambda x, high=high: x <= high, name, low, f"at most {high}, which is {above}")


def check_least(least: float, **numbers: Any) -> None:
    """Raise a `ValueError` for a known number that is not finite or is below `least`."""
    for name, number in numbers.items():
        check(lambda x: least <= x < math.inf, name, number, f"at least {least}, and finite")


def check_positive(**numbers: Any) -> None:
    """Raise a `ValueError` for a known number that is not positive and finite."""
    for name, number in numbers.items():
        check(lambda x: 0 < x < math.inf, name, number, "positive and finite")


def check_finite(**numbers: Any) -> None:
    """Raise a `ValueError` for a known number that is not finite."""
    for name, number in numbers.items():
        check(math.isfinite, name, number, "a finite number")


def check_cap(**numbers: Any) -> None:
    """Raise a `ValueError` for a known number that is not positive; infinity means no cap."""
    for name, number in numbers.items():
        check(lambda x: x > 0, name, number, "positive")
