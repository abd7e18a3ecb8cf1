"""In backward order, where the newest batch acts first, the iterates converge to a point.

In forward order they keep fluctuating. Least squares with weight decay on diabetes, batches drawn
alike; in directions in which the loss of the data is flat, a step contracts by 1 - h·decay.
"""

from typing import Any

import numpy as np

from ..claim import Bound, Claim
from ..order_rest import CONTRACTION, regression, run

RUNS = 20


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The last distances of successive iterates, worst of the runs."""
    backward, forward = (
        run(regression(), name, RUNS, first=seed * RUNS)[0]
        for name in ("backward, full", "forward")
    )
    return {
        "factor a step, backward": backward["rate"],
        "last distance, backward": float(np.max(backward["last distance"])),
        "last distance, forward": float(np.min(forward["last distance"])),
    }


CLAIM = Claim(
    __doc__,
    ("reverse",),
    experiment,
    (
        Bound("factor a step, backward", high=CONTRACTION),
        Bound("last distance, backward", high=1e-10),
        Bound("last distance, forward", low=1e-3),
    ),
    control=(Bound("last distance, forward", high=1e-10),),
    seeds=(1, 1),
    seconds=(15, 15),
)
