"""The mean over all shuffles of an epoch of SGD follows the loss E + (h/4m) Σ‖grad E_k‖².

Three batches of a neuron, all six orders: the mean end of an epoch approaches this flow with local
order 3, and the flow of E alone, or with twice the penalty, only with order 2.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import drift
from ..claim import Bound, Claim, Lines, near
from ..experiments import distance, follow, neuron_loss, slope

SIZES = (0.04, 0.02, 0.01, 0.005)
BATCHES = {"inputs": ((1.0, 0.2), (-0.3, 1.2), (0.8, -1.0)), "target": (1.0, -0.5, 0.3)}


@functools.cache
def flow() -> Any:
    """The field with the penalty, `field(y, h)`."""
    rows = {name: jnp.asarray(values) for name, values in BATCHES.items()}
    return drift.epoch_flow(neuron_loss, ordered=False, **rows)


@jax.jit
def mean_end(x: jax.Array, h: jax.Array) -> jax.Array:
    """The end of an epoch, mean over all orders."""
    rows = {name: jnp.asarray(values) for name, values in BATCHES.items()}

    def step(x: jax.Array, k: jax.Array) -> tuple[jax.Array, None]:
        return x - h * jax.grad(neuron_loss)(x, rows["inputs"][k], rows["target"][k]), None

    orders = jnp.asarray(list(itertools.permutations(range(3))))
    return jax.vmap(lambda order: jax.lax.scan(step, x, order)[0])(orders).mean(axis=0)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Distance of the mean end of an epoch from three flows, over step sizes."""
    begin = jnp.asarray(np.random.default_rng(seed).normal(size=2))
    found: dict[str, Any] = {"h": SIZES}
    for name, factor in (("penalty", 1.0), ("no penalty", 0.0), ("twice the penalty", 2.0)):
        ends = [follow(flow(), begin, 3 * h, factor * h) for h in SIZES]
        errors = [distance(mean_end(begin, h), end) for h, end in zip(SIZES, ends, strict=True)]
        found |= {f"order, {name}": slope(SIZES[1:], errors[1:]), name: errors}
    return found


CLAIM = Claim(
    __doc__,
    ("sgd",),
    experiment,
    (near("order, penalty", 3, 0.15),),
    control=(Bound("order, no penalty", 2.5), Bound("order, twice the penalty", 2.5)),
    figure=Lines("h", ("penalty", "no penalty", "twice the penalty"), "distance", "xy"),
)
