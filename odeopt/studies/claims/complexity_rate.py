"""Larger learning rates end at functions of lower geometric complexity, at equal flow time.

SGD in batches of 32 on digits and on breast cancer; the complexity is the mean squared Frobenius
norm of the Jacobian of the logits. It falls from the smallest to the largest rate in every seed.

A first version stopped at flow time 40, five epochs at the largest rate, when the networks had not
yet fitted: there the rates could not be told apart (ratios up to 1.01). Now the time is 300.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ... import diagnostics, euler
from ..claim import Bound, Claim, Lines
from ..experiments import batches, classes, cross_entropy, start, trainer
from ..networks import network

RATES, TIME, BATCH, BLOCK = (0.02, 0.06, 0.2), 300.0, 32, 500
SETS = {"digits": 64, "breast_cancer": 30}


@jax.jit
def complexity(params: Any, inputs: jax.Array) -> jax.Array:
    """Geometric complexity of the logits, exact."""
    return diagnostics.geometric_complexity(network, params, inputs)


def trained(make: Any, arrays: Any, params: Any, rate: float, size: int, seed: int) -> Any:
    """SGD for the flow time, in blocks of steps, so that few batches are in memory."""
    steps = round(TIME / rate)
    for block in range(-(-steps // BLOCK)):
        count = min(BLOCK, steps - block * BLOCK)
        stacked = batches(arrays, size, count, 1000 * seed + block)
        params, _ = trainer(make, cross_entropy)(params, stacked, rate)
    return params


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Complexity at the end for every rate."""
    found: dict[str, Any] = {"rate": RATES}
    for name, inputs in SETS.items():
        arrays = classes(name)
        params, values = start((inputs, 32, arrays[1].shape[1]), seed), []
        for rate in RATES:
            end = trained(euler, arrays, params, rate, BATCH, seed)
            values.append(float(complexity(end, jnp.asarray(arrays[0][:512]))))
        found |= {f"complexity, {name}": values}
        found |= {f"{name}, largest over smallest rate": values[-1] / values[0]}
    return found


CLAIM = Claim(
    __doc__,
    ("occam", "regularizers"),
    experiment,
    tuple(
        Bound(f"{name}, largest over smallest rate", high=1, every=True, null=1) for name in SETS
    ),
    seconds=(40, 80),
    data=tuple(SETS),
    figure=Lines("rate", [f"complexity, {name}" for name in SETS], "geometric complexity", "xy"),
)
