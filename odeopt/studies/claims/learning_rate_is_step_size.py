"""Follow the gradient flow: below the stability limit the loss is a function of flow time.

A digits network, full batch: with h times the initial sharpness at 0.2, 0.1 and 0.05, the losses at
equal h·n agree within 2 % with those at 0.0125. At equal numbers of steps they do not.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import diagnostics, euler
from ..claim import Bound, Claim
from ..experiments import classes, squared_error, start, trainer

EXAMPLES, SHARES, FINE, STEPS = 300, (0.2, 0.1, 0.05), 0.0125, 50


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The largest relative difference of losses, at four times and at as many numbers of steps."""
    batch = tuple(jnp.asarray(array[:EXAMPLES]) for array in classes())
    begin = start((64, 16, 10), seed)
    sharpness = float(diagnostics.sharpness(squared_error, begin, batch=batch).value)
    run = trainer(euler, squared_error, steps=STEPS)

    def losses(share: float, blocks: int) -> np.ndarray:
        params, found = begin, []
        for _ in range(blocks):
            params, _ = run(params, batch, share / sharpness)
            found.append(float(squared_error(params, batch)))
        return np.array(found)

    # Blocks of STEPS steps: the share of the rate says how many of them make one unit of time.
    reference = losses(FINE, 64)[15::16]
    coarse = {share: losses(share, round(0.8 / share)) for share in SHARES}
    ends = [found[round(0.2 / share) - 1 :: round(0.2 / share)] for share, found in coarse.items()]
    first = [found[0] for found in coarse.values()]
    return {
        "at equal flow time": max(float(np.abs(end / reference - 1).max()) for end in ends),
        "at equal steps": float(max(first) / min(first) - 1),
    }


CLAIM = Claim(
    __doc__,
    ("follow",),
    experiment,
    (Bound("at equal flow time", high=0.02),),
    control=(Bound("at equal steps", high=0.02),),
    seconds=(15, 30),
    data=("digits",),
)
