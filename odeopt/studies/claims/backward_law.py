"""If batches are drawn alike, backward and forward iterates have the same distribution.

So backward order has no lower expected loss: the fluctuation vanishes, not the distance from the
minimum. A two-sample test compares the final losses of both orders. The average of forward iterates
has another distribution, and a lower loss.
"""

from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from ..claim import Bound, Claim
from ..order_rest import regression, run

RUNS = (100, 300)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """P-values of the two-sample test against forward order, and ratios of mean excess losses."""

    def last(name: str) -> np.ndarray:
        record = run(regression(), name, RUNS[full], first=seed * RUNS[full])[0]
        return np.asarray(record["last excess"])

    excess = {name: last(name) for name in ("forward", "backward, window 64", "averaged")}
    forward = excess["forward"]
    return {
        "p, backward": float(ks_2samp(excess["backward, window 64"], forward).pvalue),
        "p, average": float(ks_2samp(excess["averaged"], forward).pvalue),
        "loss of backward over forward": float(
            excess["backward, window 64"].mean() / forward.mean()
        ),
        "loss of the average over forward": float(excess["averaged"].mean() / forward.mean()),
    }


CLAIM = Claim(
    __doc__,
    ("reverse",),
    experiment,
    (
        Bound("p, backward", low=0.01),
        Bound("loss of backward over forward", 0.8, 1.25),
        Bound("loss of the average over forward", high=0.8),
    ),
    control=(Bound("p, average", low=0.01),),
    seeds=(1, 1),
    seconds=(20, 60),
)
