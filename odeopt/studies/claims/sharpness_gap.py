"""In small batches the sharpness settles below 2/h, the more so the smaller the batch.

SGD on digits, squared error, from small weights, 2/h twice the first sharpness: after 2,000 steps
h·sharpness is smaller for batches of 8 than of 40, and there smaller than for the full batch, in
every seed. By the law of full batches all three would be equal.
"""

from typing import Any

import jax.numpy as jnp

from ... import euler
from ..claim import Bound, Claim
from ..experiments import batches, classes, small_start, squared_error, trainer
from .edge_of_stability import sharpness

SIZES, STEPS, SHARE, EXAMPLES = (8, 40, 400), 2000, 0.5, 400


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The last h·sharpness/2, a mean over four looks, for each size of batch."""
    arrays = [array[:EXAMPLES] for array in classes()]
    data, begin = tuple(map(jnp.asarray, arrays)), small_start((64, 16, 10), seed)
    rate = SHARE * 2 / float(sharpness(begin, data))
    found: dict[str, Any] = {}
    for size in SIZES:
        params, looks = begin, []
        for block in range(8):
            stacked = batches(arrays, size, STEPS // 8, 100 * seed + block)
            params, _ = trainer(euler, squared_error)(params, stacked, rate)
            looks.append(float(sharpness(params, data)) * rate / 2)
        found[f"batch {size}"] = sum(looks[4:]) / 4
    return found | {
        "batch 8 over 40": found["batch 8"] / found["batch 40"],
        "batch 40 over full": found["batch 40"] / found["batch 400"],
    }


CLAIM = Claim(
    __doc__,
    ("gap",),
    experiment,
    (
        Bound("batch 8 over 40", high=0.98, every=True),
        Bound("batch 40 over full", high=0.98, every=True),
    ),
    control=(Bound("batch 8 over 40", 0.98, 1.02),),
    seconds=(40, 80),
    data=("digits",),
)
