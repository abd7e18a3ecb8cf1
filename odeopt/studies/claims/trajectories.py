"""The strength of implicit regularization can be read off a trajectory by matching gradients.

Velocities of the iterates, by central differences, are fitted with -grad E - k·grad‖grad E‖² over a
piece of training: k comes out as h/4 for gradient descent within 5 %; for RK4, which has no drift
of that order, it is below a twentieth of that.

A first version took ten times the rate, h·curvature 0.28, where the next terms of the drift count:
1.29 and 0.07.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ... import euler, rk4
from ..claim import Claim, near
from ..experiments import classes, squared_error, start, trainer

EXAMPLES, STEPS, RATE = 200, 100, 0.001


def flat(params: Any) -> jax.Array:
    """All parameters in a row."""
    return ravel_pytree(params)[0]


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The fitted strength over h/4, by least squares."""
    batch = tuple(jnp.asarray(array[:EXAMPLES]) for array in classes())
    params = start((64, 16, 10), seed)
    unravel = ravel_pytree(params)[1]
    gradient = jax.grad(lambda x: squared_error(unravel(x), batch))
    h = RATE

    @jax.jit
    def matched(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        g, push = jax.jvp(gradient, (x,), (gradient(x),))
        return g, 2 * push

    found: dict[str, Any] = {}
    for name, make in (("euler", euler), ("rk4", rk4)):
        points = trainer(make, squared_error, flat, STEPS)(params, batch, h)[1]
        g, push = jax.lax.map(matched, points[1:-1])
        velocity = (points[2:] - points[:-2]) / (2 * h)
        strength = -jnp.vdot(velocity + g, push) / jnp.vdot(push, push)
        found[f"k over h/4, {name}"] = float(np.asarray(strength) / (h / 4))
    return found


CLAIM = Claim(
    __doc__,
    ("trajectories", "igr"),
    experiment,
    (near("k over h/4, euler", 1, 0.05), near("k over h/4, rk4", 0, 0.05)),
    control=(near("k over h/4, rk4", 1, 0.05),),
    seconds=(15, 30),
    data=("digits",),
)
