"""What a step size does to geometric complexity follows h/R over solvers, not the solver's order.

R is the stability limit. SGD and RK4 on the same batches of digits at equal flow time and equal
h/R: RK4 takes between half and one and a half times of the complexity away that SGD takes. By its
order alone it would take nothing.
"""

from typing import Any

import jax.numpy as jnp

from ... import euler, rk4
from ..claim import Bound, Claim
from ..experiments import batches, classes, cross_entropy, start, trainer
from .complexity_rate import complexity

SHARE, FINE, TIME, BATCH = 0.15, 0.00625, 36.0, 32
LIMITS = {"euler": (euler, 2.0), "rk4": (rk4, 2.785)}


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """What RK4 takes away over what Euler takes, in complexity."""
    params, inputs = start((64, 32, 10), seed), jnp.asarray(classes()[0][:512])

    def last(make: Any, rate: float) -> float:
        stacked = batches(classes(), BATCH, round(TIME / rate), seed)
        return float(complexity(trainer(make, cross_entropy)(params, stacked, rate)[0], inputs))

    limit = last(euler, FINE * 2)
    taken = {name: limit - last(make, SHARE * r) for name, (make, r) in LIMITS.items()}
    return {
        "euler takes, of the limit": taken["euler"] / limit,
        "rk4 over euler": taken["rk4"] / taken["euler"],
    }


CLAIM = Claim(
    __doc__,
    ("regularizers", "igr"),
    experiment,
    (Bound("rk4 over euler", 0.5, 1.5), Bound("euler takes, of the limit", low=0.02)),
    control=(Bound("rk4 over euler", -0.25, 0.25),),
    seconds=(40, 80),
    data=("digits",),
)
