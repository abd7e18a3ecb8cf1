"""With momentum b, training in small batches brings the batch sharpness to 2(1-b)/h.

With full batches the sharpness goes to 2(1+b)/h instead, (1+b)/(1-b) times as much. Heavy ball with
0.9 on digits, squared error, from small weights with 2(1-b)/h twice the initial batch sharpness. In
the last third of the measurements the ratio is between 0.7 and 1.4 for batches of 8. By the law of
full batches it would be 19 times as large.
"""

import functools
from typing import Any

import jax
import numpy as np

from ... import diagnostics, heavy_ball
from ..claim import Bound, Claim, Lines
from ..experiments import batches, classes, small_start, squared_error, trainer

B, BATCH, STEPS, LOOKS, SHARE = 0.9, 8, 200, 12, 0.5
MAKE = functools.partial(heavy_ball, momentum=B)


@jax.jit
def batch_sharpness(params: Any, stacked: Any) -> jax.Array:
    """Of 100 batches."""
    return diagnostics.batch_sharpness(squared_error, params, batch=stacked)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Batch sharpness over 2(1-b)/h along training."""
    arrays = [array[:400] for array in classes()]
    params, probe = small_start((64, 16, 10), seed), batches(arrays, BATCH, 100, seed + 1000)
    rate = SHARE * 2 * (1 - B) / float(batch_sharpness(params, probe))
    stacked = batches(arrays, BATCH, STEPS * LOOKS, seed)
    looks = []
    for look in range(LOOKS):
        rows = slice(look * STEPS, (look + 1) * STEPS)
        params, _ = trainer(MAKE, squared_error)(params, [a[rows] for a in stacked], rate)
        looks.append(float(batch_sharpness(params, probe)) * rate / (2 * (1 - B)))
    late = float(np.median(looks[-LOOKS // 3 :]))
    return {
        "over 2(1-b)/h": late,
        "over 2(1+b)/h": late * (1 - B) / (1 + B),
        "step": STEPS * np.arange(1, LOOKS + 1),
        "batch sharpness · h / 2(1-b)": looks,
    }


CLAIM = Claim(
    __doc__,
    ("stochastic-edge",),
    experiment,
    (Bound("over 2(1-b)/h", 0.7, 1.4),),
    control=(Bound("over 2(1+b)/h", 0.7, 1.4),),
    seconds=(30, 60),
    data=("digits",),
    figure=Lines("step", ("batch sharpness · h / 2(1-b)",), "ratio to the stochastic edge"),
)
