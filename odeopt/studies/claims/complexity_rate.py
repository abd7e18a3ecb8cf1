"""Larger learning rates end at functions of lower geometric complexity, at equal flow time.

SGD in batches of 32 on digits and on breast cancer; the complexity is the mean squared Frobenius
norm of the Jacobian of the logits. It falls from the smallest to the largest rate in every seed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import diagnostics, euler
from ..claim import Bound, Claim, Lines
from ..experiments import batches, classes, cross_entropy, start, trainer
from ..networks import network

RATES, TIME, BATCH = (0.0125, 0.05, 0.2), 40.0, 32
SETS = {"digits": 64, "breast_cancer": 30}


@jax.jit
def complexity(params: Any, inputs: jax.Array) -> jax.Array:
    """Geometric complexity of the logits, exact."""
    return diagnostics.geometric_complexity(network, params, inputs)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Complexity at the end for every rate."""
    found: dict[str, Any] = {"rate": RATES}
    for name, inputs in SETS.items():
        arrays = classes(name)
        params, values = start((inputs, 32, arrays[1].shape[1]), seed), []
        for rate in RATES:
            stacked = batches(arrays, BATCH, round(TIME / rate), seed)
            end, _ = trainer(euler, cross_entropy)(params, stacked, rate)
            values.append(float(complexity(end, jnp.asarray(arrays[0][:512]))))
        found |= {f"complexity, {name}": values}
        found |= {f"{name}, largest over smallest rate": values[-1] / values[0]}
    slopes = [np.polyfit(np.log(RATES), np.log(found[f"complexity, {n}"]), 1)[0] for n in SETS]
    return found | {"slope, digits": slopes[0]}


CLAIM = Claim(
    __doc__,
    ("occam", "regularizers"),
    experiment,
    tuple(Bound(f"{name}, largest over smallest rate", high=1, every=True) for name in SETS),
    seconds=(40, 80),
    data=tuple(SETS),
    figure=Lines("rate", [f"complexity, {name}" for name in SETS], "geometric complexity", "xy"),
)
