"""Reversing the order of n steps changes the result by h² times the sum of their Lie brackets.

The expansion of a residual tower over its paths, for optimizer steps: x + h f_1 + ... + h f_n plus
products of pairs, in which only the order of a pair matters. Steps of gradient descent on batches
of digits; the error is of order 3, with the wrong sign of order 2.

A first version had steps twice as large, where the order was still 2.9, close to what misses.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ... import drift
from ..claim import Bound, Claim, Lines, near
from ..experiments import batches, classes, slope, squared_error, start

SIZES = (0.01, 0.005, 0.0025, 0.00125)
LAYERS, BATCH = 6, 16


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """What is left of the difference of both orders beyond the brackets."""
    stacked = batches(classes(), BATCH, LAYERS, seed)
    begin, unravel = ravel_pytree(start((64, 8, 10), seed))

    def field(k: int) -> Any:
        batch = tuple(array[k] for array in stacked)
        return lambda x: -jax.grad(lambda x: squared_error(unravel(x), batch))(x)

    fields = [field(k) for k in range(LAYERS)]
    brackets = jnp.zeros_like(begin)
    for i in range(LAYERS):
        for j in range(i + 1, LAYERS):
            brackets += drift.lie_bracket(fields[i], fields[j])(begin)
    found: dict[str, Any] = {"h": SIZES}
    for name, sign in (("brackets", 1), ("brackets, sign turned", -1)):
        errors = []
        for h in SIZES:
            forward = backward = begin
            for k in range(LAYERS):
                forward = forward + h * fields[k](forward)
                backward = backward + h * fields[LAYERS - 1 - k](backward)
            errors.append(float(jnp.linalg.norm(forward - backward - sign * h**2 * brackets)))
        found |= {f"order, {name}": slope(SIZES[1:], errors[1:]), name: errors}
    return found


CLAIM = Claim(
    __doc__,
    ("depth", "reverse"),
    experiment,
    (near("order, brackets", 3, 0.15),),
    control=(Bound("order, brackets, sign turned", 2.5),),
    figure=Lines("h", ("brackets", "brackets, sign turned"), "what is left", "xy"),
)
