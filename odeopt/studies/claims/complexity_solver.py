"""What a step size does to geometric complexity follows h/R over solvers, not the solver's order.

R is the stability limit. SGD and RK4 on the same batches of digits at equal flow time and equal
h/R: RK4 takes between half and one and a half times of the complexity away that SGD takes. By its
order alone it would take nothing.

A first version stopped at flow time 36, where SGD took only 0.1 % away and nothing was decided.
"""

from typing import Any

import jax.numpy as jnp

from ... import euler, rk4
from ..claim import Bound, Claim
from ..experiments import classes, start
from .complexity_rate import complexity, trained

SHARE, FINE, BATCH = 0.1, 0.02, 32
LIMITS = {"euler": (euler, 2.0), "rk4": (rk4, 2.785)}


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """What RK4 takes away over what Euler takes, in complexity."""
    params, inputs = start((64, 32, 10), seed), jnp.asarray(classes()[0][:512])

    def last(make: Any, rate: float) -> float:
        return float(complexity(trained(make, classes(), params, rate, BATCH, seed), inputs))

    limit = last(euler, FINE)
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
