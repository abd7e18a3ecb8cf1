"""On a network that interpolates, the corridor rate E/‖g‖² beats every fixed rate of a sweep.

Digits, 300 examples, squared error, full batch, 400 steps: the last losses are compared.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import euler, stepsize
from ..claim import Bound, Claim
from ..experiments import classes, squared_error, start, trainer

RATES, STEPS, EXAMPLES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6), 400, 300


def corridor(_: Any) -> Any:
    """Gradient descent with the corridor rate."""
    return euler(stepsize.corridor())


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Last loss over the best of the sweep."""
    batch = tuple(jnp.asarray(array[:EXAMPLES]) for array in classes())
    params = start((64, 64, 10), seed)

    def last(make: Any, rate: float) -> float:
        end = trainer(make, squared_error, steps=STEPS)(params, batch, rate)[0]
        return float(jnp.nan_to_num(squared_error(end, batch), nan=jnp.inf))

    sweep = [last(euler, rate) for rate in RATES]
    return {
        "corridor over the best fixed": last(corridor, 0.0) / min(sweep),
        "best fixed rate": RATES[int(np.argmin(sweep))],
    }


CLAIM = Claim(
    __doc__,
    ("corridor",),
    experiment,
    (Bound("corridor over the best fixed", high=1, every=True, null=1),),
    seconds=(20, 40),
    data=("digits",),
)
