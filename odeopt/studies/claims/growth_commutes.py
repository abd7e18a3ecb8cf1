"""Runge-Kutta steps commute with growth: growing before or after a step gives the same result.

Growth is an affine map that divides the rates of some parameters. RK4 with these rates in every
stage agrees to 1e-10 in float64; with the plain rates it does not.
"""

from typing import Any

import jax.numpy as jnp

from ... import growth, rk4
from ..claim import Bound, Claim
from ..experiments import classes, distance, squared_error, start, train

LAYER = growth.Units(lambda p: p[0], lambda p: p[1][0], copies=3)
RATE, STEPS = 0.3, 20


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Distance of both ways, over the length of the path."""
    batch = tuple(jnp.asarray(array[:200]) for array in classes())
    params = start((64, 8, 10), seed)
    first = growth.grow(params, (), LAYER)
    mapped = rk4(RATE, stage_transform=first.rates(normalized=False))
    last = growth.grow(train(rk4(RATE), squared_error, params, batch, steps=STEPS)[0], (), LAYER)
    length = distance(first.params, last.params)

    def gap(opt: Any) -> float:
        end = train(opt, squared_error, first.params, batch, steps=STEPS)[0]
        return distance(end, last.params) / length

    return {"mapped rates": gap(mapped), "plain rates": gap(rk4(RATE))}


CLAIM = Claim(
    __doc__,
    ("fusion", "grow", "operad"),
    experiment,
    (Bound("mapped rates", high=1e-10, every=True),),
    control=(Bound("plain rates", high=1e-3),),
    seconds=(12, 24),
    data=("digits",),
)
