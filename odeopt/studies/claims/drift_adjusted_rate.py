"""The capped drift-adjusted rate needs no sweep: it trains with a cap far too large for descent.

h = c/(1 + (c/2)‖Hg‖/‖g‖) on digits in batches of 8. With c = 10 the final loss is within a factor
of 3 of that of the best fixed rate in a sweep; plain descent at rate 10 does not train.
"""

from typing import Any

import jax.numpy as jnp

from ... import euler, stepsize
from ..claim import Bound, Claim
from ..experiments import batches, classes, cross_entropy, start, trainer

RATES, CAP, STEPS, BATCH = (0.03, 0.1, 0.3, 1.0), 10.0, 1500, 8
LOST = 1e9
"""What a loss that is not finite counts as."""


def adjusted(cap: Any) -> Any:
    """Gradient descent with the capped rate."""
    return euler(stepsize.drift_adjusted(cap=CAP, smooth=True))


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Last losses of all data over the best of the sweep."""
    data = tuple(map(jnp.asarray, classes()))
    stacked = batches(classes(), BATCH, STEPS, seed)
    params = start((64, 32, 10), seed)

    def last(make: Any, rate: float) -> float:
        end = trainer(make, cross_entropy)(params, stacked, rate)[0]
        return float(jnp.nan_to_num(cross_entropy(end, data), nan=LOST, posinf=LOST))

    sweep = {rate: last(euler, rate) for rate in RATES}
    best = min(sweep.values())
    return {
        "adjusted over the best fixed": last(adjusted, CAP) / best,
        "plain descent at the cap over the best": last(euler, CAP) / best,
        "best fixed": best,
    }


CLAIM = Claim(
    __doc__,
    ("solving", "principal"),
    experiment,
    (
        Bound("adjusted over the best fixed", high=3),
        Bound("plain descent at the cap over the best", low=10, null=1),
    ),
    seconds=(30, 60),
    data=("digits",),
)
