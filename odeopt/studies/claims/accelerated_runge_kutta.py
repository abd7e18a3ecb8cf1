"""Runge-Kutta of order s on the accelerated flow converges like N^(-2s/(s+1)), descent like 1/N.

x'' + (5/t)x' + 4 grad E = 0 with steps C·N^(-1/(s+1)); a quadratic with eigenvalues evenly spaced
in their logarithm, on which gradient descent has its worst rate, 1/N.

A first version let exponents miss by 0.15, within which one exponent for all orders passed as well;
now it is 0.05.
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from ... import solvers
from ..claim import Bound, Claim, Lines, near
from ..experiments import slope

COUNTS = (128, 256, 512, 1024, 2048)
METHODS = {2: solvers.Heun(), 3: solvers.SSPRK3(), 4: solvers.RK4()}
SIZE = 200


def field(t: Any, z: Any, eigenvalues: jax.Array) -> Any:
    """Position and velocity."""
    x, v = z
    return v, -5 / t * v - 4 * eigenvalues * x


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Exponents of the last loss in the number of steps."""
    eigenvalues = jnp.logspace(-8, 0, SIZE)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], SIZE)
    begin = jnp.asarray(signs), jnp.zeros(SIZE)

    def loss(x: jax.Array) -> float:
        return float(0.5 * eigenvalues @ x**2)

    found: dict[str, Any] = {"steps": COUNTS}
    for order, method in METHODS.items():
        losses = []
        for count in COUNTS:
            h = count ** (-1 / (order + 1))
            steps = diffrax.StepTo(ts=1 + h * jnp.arange(count + 1))
            term = diffrax.ODETerm(field)
            end = diffrax.diffeqsolve(
                term, method, 1.0, 1 + h * count, None, begin, eigenvalues,
                stepsize_controller=steps, max_steps=count,
            ).ys[0][-1]  # fmt: skip
            losses.append(loss(end))
        found |= {f"exponent, order {order}": slope(COUNTS, losses), f"order {order}": losses}
    descent = [loss(begin[0] * (1 - eigenvalues) ** count) for count in COUNTS]
    return found | {"exponent, descent": slope(COUNTS, descent), "descent": descent}


CLAIM = Claim(
    __doc__,
    ("acceleration",),
    experiment,
    tuple(near(f"exponent, order {s}", -2 * s / (s + 1), 0.05) for s in METHODS),
    control=(Bound("exponent, descent", high=-4 / 3 + 0.05),),
    seeds=(1, 1),
    seconds=(20, 20),
    figure=Lines("steps", [*(f"order {s}" for s in METHODS), "descent"], "loss", "xy"),
)
