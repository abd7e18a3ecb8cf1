"""Complexity over margin tells networks that generalize from those that have memorized.

Networks that fit 400 digits with true or with random labels, by Adam, full batch: the square root
of the geometric complexity over the mean margin is at least 1.5 times as large for random labels.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import adam, diagnostics
from ..claim import Bound, Claim
from ..experiments import classes, cross_entropy, error_rate, start, trainer
from ..networks import network
from .complexity_rate import complexity

EXAMPLES, STEPS, RATE = 400, 600, 0.01


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Complexity over margin for both labels, their ratio, and errors."""
    pixels, labels = classes()
    order = np.random.default_rng(seed).permutation(EXAMPLES)
    found: dict[str, Any] = {}
    for name, rows in (("true", np.arange(EXAMPLES)), ("random", order)):
        batch = jnp.asarray(pixels[:EXAMPLES]), jnp.asarray(labels[:EXAMPLES][rows])
        params = start((64, 64, 10), seed)
        end, _ = trainer(adam, cross_entropy, steps=STEPS)(params, batch, RATE)
        margin = diagnostics.margin(network(end, batch[0]), batch[1].argmax(axis=1)).mean()
        found[f"complexity over margin, {name}"] = float(
            jnp.sqrt(complexity(end, batch[0])) / margin
        )
        found[f"training error, {name}"] = float(error_rate(end, batch))
    ratio = found["complexity over margin, random"] / found["complexity over margin, true"]
    return found | {"random over true": ratio}


CLAIM = Claim(
    __doc__,
    ("margin",),
    experiment,
    (
        Bound("random over true", low=1.5, every=True, null=1),
        Bound("training error, random", high=0.02),
        Bound("training error, true", high=0.02),
    ),
    seconds=(40, 80),
    data=("digits",),
)
