"""A large network grown from a small one is ahead of one from scratch at equal cost.

Digits, Adam at rate 3e-3 in batches of 32: 300 steps of the small network, which cost half, growth
with units set apart, 300 steps of the large one; against 450 steps of the large one from its own
start. The last training loss is lower.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ... import adam, growth
from ..claim import Bound, Claim
from ..experiments import batches, classes, cross_entropy, start, trainer

LAYER = growth.Units(lambda p: p[0], lambda p: p[1][0])
STEPS, BATCH, RATE, HIDDEN = 300, 32, 3e-3, 32


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The last loss of all data, grown over from scratch."""
    stacked = batches(classes(), BATCH, 2 * STEPS, seed)
    data, run = tuple(map(jnp.asarray, classes())), trainer(adam, cross_entropy)
    first, second = ([a[rows] for a in stacked] for rows in (slice(STEPS), slice(STEPS, None)))
    small, _ = run(start((64, HIDDEN, 10), seed), first, RATE)
    grown = growth.grow(small, (), LAYER, split=0.5, key=jax.random.key(seed)).params
    end, _ = run(grown, second, RATE)
    scratch, _ = run(
        start((64, 2 * HIDDEN, 10), seed), [a[: 3 * STEPS // 2] for a in stacked], RATE
    )
    ratio = cross_entropy(end, data) / cross_entropy(scratch, data)
    return {"loss, grown over from scratch": float(ratio)}


CLAIM = Claim(
    __doc__,
    ("fusion",),
    experiment,
    (Bound("loss, grown over from scratch", high=1, every=True, null=1),),
    seconds=(25, 50),
    data=("digits",),
)
