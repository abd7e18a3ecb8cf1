"""In small batches plain RK4 ends at a lower loss than Adam, per step and per gradient.

Digits in batches of 8, rates of both chosen on validation data, losses on further held-out data.
Per step, both make 450 steps; per gradient, Adam makes 1,800 steps, as many as RK4 has gradients.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import adam, rk4
from ..claim import Bound, Claim
from ..experiments import batches, classes, cross_entropy, error_rate, start, trainer

BATCH, STEPS, TRAINED, VALIDATED = 8, 450, 1200, 300
RK4_RATES, ADAM_RATES = (0.1, 0.3, 1.0), (1e-3, 3e-3, 1e-2)


def held_out(make: Any, rates: Any, size: int, steps: int, seed: int) -> tuple[float, float]:
    """Loss and error on test data, at the rate with the lowest loss on validation data."""
    arrays = classes()
    stacked = batches([a[:TRAINED] for a in arrays], size, steps, seed)
    parts = np.split(np.arange(len(arrays[0])), [TRAINED, TRAINED + VALIDATED])[1:]
    valid, test = (tuple(jnp.asarray(a[rows]) for a in arrays) for rows in parts)
    params = start((64, 32, 10), seed)
    ends = [trainer(make, cross_entropy)(params, stacked, rate)[0] for rate in rates]
    losses = [float(jnp.nan_to_num(cross_entropy(end, valid), nan=jnp.inf)) for end in ends]
    best = ends[int(np.argmin(losses))]
    return float(cross_entropy(best, test)), float(error_rate(best, test))


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Held-out losses of RK4 over Adam's."""
    rk4_loss, rk4_error = held_out(rk4, RK4_RATES, BATCH, STEPS, seed)
    step_loss, step_error = held_out(adam, ADAM_RATES, BATCH, STEPS, seed)
    gradient_loss, _ = held_out(adam, ADAM_RATES, BATCH, 4 * STEPS, seed)
    return {
        "loss, RK4 over Adam, per step": rk4_loss / step_loss,
        "loss, RK4 over Adam, per gradient": rk4_loss / gradient_loss,
        "error, RK4 less Adam, per step": rk4_error - step_error,
    }


CLAIM = Claim(
    __doc__,
    ("solving",),
    experiment,
    (
        Bound("loss, RK4 over Adam, per step", high=1, null=1),
        Bound("loss, RK4 over Adam, per gradient", high=1, null=1),
    ),
    seeds=(6, 12),
    seconds=(60, 120),
    data=("digits",),
)
