"""Lower complexity of the embedding goes with more neural collapse.

Networks on digits trained with five rates at equal flow time: the geometric complexity of the last
hidden layer and the distance from collapse of its classes have a rank correlation of at least 0.6.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from ... import diagnostics, euler
from ..claim import Bound, Claim
from ..experiments import batches, classes, cross_entropy, start, trainer

RATES, TIME, BATCH = (0.0125, 0.025, 0.05, 0.1, 0.2), 20.0, 32


def embedding(params: Any, inputs: jax.Array) -> jax.Array:
    """The hidden layer before the last."""
    for weights, biases in params[:-1]:
        inputs = jnp.tanh(inputs @ weights + biases)
    return inputs


@jax.jit
def measured(params: Any, inputs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Complexity of the embedding and distance from collapse."""
    found = embedding(params, inputs)
    return (
        diagnostics.geometric_complexity(embedding, params, inputs),
        diagnostics.class_distance(found, labels, 10),
    )


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Rank correlation over the rates."""
    params, (pixels, labels) = start((64, 32, 10), seed), classes()
    inputs, numbers = jnp.asarray(pixels[:512]), jnp.asarray(labels[:512].argmax(axis=1))
    pairs = []
    for rate in RATES:
        stacked = batches(classes(), BATCH, round(TIME / rate), seed)
        end, _ = trainer(euler, cross_entropy)(params, stacked, rate)
        pairs.append([float(x) for x in measured(end, inputs, numbers)])
    complexity, distance = np.transpose(pairs)
    return {
        "rank correlation": float(spearmanr(complexity, distance).statistic),
        "rate": RATES,
        "complexity over the first": complexity / complexity[0],
        "distance over the first": distance / distance[0],
    }


CLAIM = Claim(
    __doc__,
    ("collapse",),
    experiment,
    (Bound("rank correlation", low=0.6),),
    seconds=(40, 80),
    data=("digits",),
)
