"""Loops and branches of JAX that run in Python where nothing is traced.

There JAX would compile them in every call: their bodies are new functions each time.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from .arrays import wide_dtype
from .checks import is_traced

Carry = TypeVar("Carry", bound=PyTree)
Out = TypeVar("Out")


def while_loop(
    unfinished: Callable[[Carry], Bool[Array, ""]], body: Callable[[Carry], Carry], carry: Carry
) -> Carry:
    """`lax.while_loop`; also where a leaf has 16 bits, which a compiled loop rounds less often."""
    if not is_traced(carry) and not any(map(_narrow, jax.tree.leaves(carry))):
        while not is_traced((carry, more := unfinished(carry))):
            if not more:
                return carry
            carry = body(carry)
    return jax.lax.while_loop(unfinished, body, carry)


def _narrow(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact) and x.dtype != wide_dtype(x.dtype)


def fori_loop(
    first: Any, last: Any, body: Callable[[Int[Array, ""], Carry], Carry], carry: Carry
) -> Carry:
    """`lax.fori_loop`."""
    if is_traced((last, carry)):
        return jax.lax.fori_loop(first, last, body, carry)
    for k in range(first, int(last)):
        carry = body(jnp.int32(k), carry)
    return carry


def cond(
    yes: Bool[Array, ""], true: Callable[..., Out], false: Callable[..., Out], *operands: Any
) -> Out:
    """`lax.cond`."""
    if is_traced(yes):
        return jax.lax.cond(yes, true, false, *operands)
    return true(*operands) if yes else false(*operands)


def switch(index: Int[Array, ""], branches: Sequence[Callable[..., Out]], *operands: Any) -> Out:
    """`lax.switch`, of an index within the branches."""
    if is_traced(index):
        return jax.lax.switch(index, branches, *operands)
    return branches[int(index)](*operands)
