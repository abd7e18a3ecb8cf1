"""Two tasks learned together follow E + (h/4)Σ‖g_i‖² + (h/2)⟨g_1, g_2⟩: the last is the conflict.

Gradient descent on the sum of two digit tasks follows this flow with order 2, and the flow without
the conflict term, or with it twice, only with order 1.

A first version took h = 0.2 to 0.05, above the stability limit, where nothing has an order. A
second took 0.02 to 0.005, where it had not settled in every seed: up to 5, so that chance decided.
"""

import functools
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from ..claim import Bound, Claim, Lines, near
from ..experiments import classes, distance, follow, slope, squared_error, start

SIZES, TIME = (0.01, 0.005, 0.0025), 0.4


@functools.cache
def tasks() -> Any:
    """Digits 0 to 4 and 5 to 9, 50 of each, stacked."""
    pixels, labels = classes()
    old = labels[:, :5].sum(axis=1) > 0
    return tuple(np.stack([a[old][:50], a[~old][:50]]) for a in (pixels, labels))


def losses(x: jax.Array) -> jax.Array:
    """Of both tasks."""
    unravel = ravel_pytree(start((64, 6, 10), 0))[1]
    return jax.vmap(lambda *batch: squared_error(unravel(x), batch))(*tasks())


def field(x: jax.Array, args: Any) -> jax.Array:
    """The flow with the penalties times h, and the conflict times h and a factor."""
    h, factor = args

    def modified(x: jax.Array) -> jax.Array:
        first, second = (jax.grad(lambda x, i=i: losses(x)[i])(x) for i in range(2))
        own = first @ first + second @ second
        return losses(x).sum() + h / 4 * own + factor * h / 2 * first @ second

    return -jax.grad(modified)(x)


@jax.jit
def descend(x: jax.Array, h: jax.Array, steps: jax.Array) -> jax.Array:
    """Gradient descent on the sum."""
    gradient = jax.grad(lambda x: losses(x).sum())
    return jax.lax.fori_loop(0, steps, lambda _, x: x - h * gradient(x), x)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Orders of the distance to each flow."""
    begin = ravel_pytree(start((64, 6, 10), seed))[0]
    found: dict[str, Any] = {"h": SIZES}
    for name, factor in (("conflict", 1.0), ("no conflict", 0.0), ("twice the conflict", 2.0)):
        errors = [
            distance(
                descend(begin, h, round(TIME / h)), follow(field, begin, TIME, (h, factor), 1e-9)
            )
            for h in SIZES
        ]
        found |= {f"order, {name}": slope(SIZES, errors), name: errors}
    return found


CLAIM = Claim(
    __doc__,
    ("tasks",),
    experiment,
    (near("order, conflict", 2, 0.15),),
    control=(Bound("order, no conflict", 1.5), Bound("order, twice the conflict", 1.5)),
    seconds=(30, 60),
    data=("digits",),
    figure=Lines("h", ("conflict", "no conflict", "twice the conflict"), "distance", "xy"),
)
