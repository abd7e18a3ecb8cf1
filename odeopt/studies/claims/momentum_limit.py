"""Momentum on the mean gradient of RK4 does not widen its stability limit, as it does Euler's.

On a quadratic with momentum 0.9 the largest stable h·λ is 3.8 for Euler's method, 2(1 + b), and
2.785 for RK4, the same as without momentum.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import chained_momentum, solvers
from ..claim import Claim, near
from ..experiments import walk

MOMENTUM, STEPS = 0.9, 3000
GRID = np.arange(2.0, 4.2, 0.01) + 0.003


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The first unstable value on a grid of 0.01."""
    found: dict[str, Any] = {}
    for name, method in (("euler", solvers.Euler()), ("rk4", solvers.RK4())):

        @jax.jit
        @jax.vmap
        def end(h: jax.Array, method: Any = method) -> jax.Array:
            opt = chained_momentum(h, MOMENTUM, method)

            def loss(x: jax.Array) -> jax.Array:
                return 0.5 * x**2

            return walk(opt, loss, jnp.ones(()), STEPS)

        unstable = ~(np.abs(np.asarray(end(jnp.asarray(GRID)))) < 1)
        found[name] = float(GRID[int(np.argmax(unstable))])
    return found


CLAIM = Claim(
    __doc__,
    ("solving", "momentum-bias"),
    experiment,
    (near("euler", 3.8, 0.03), near("rk4", 2.785, 0.03)),
    control=(near("rk4", 3.8, 0.03),),
    seeds=(1, 1),
    seconds=(10, 10),
)
