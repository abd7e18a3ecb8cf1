"""Training with step size h brings the sharpness to R/h, R being the solver's stability limit.

Five solvers on digits, squared error, full batch: Euler and Heun (R = 2), SSPRK3 (2.51), RK4 (2.79)
and the heavy ball with momentum 0.9 (3.8), h = R/(2.5 first sharpness), small weights. In the last
third of the measurements h·sharpness/R is 1 within 10 %; with Euler's limit for RK4 it is not.

A first version began at weights of the usual size with 1.3 times the limit: there gradient flow
does not sharpen on this network, so that there was no edge to come to (0.74 to 0.87).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import diagnostics, euler, heavy_ball, heun, rk4, ssprk3
from ..claim import Claim, Lines, near
from ..experiments import classes, small_start, squared_error, trainer

EXAMPLES, SIZES, LOOKS, STEPS, SHARE = 400, (64, 16, 10), 12, 100, 0.4
SOLVERS = {
    "euler": (euler, 2.0),
    "heun": (heun, 2.0),
    "ssprk3": (ssprk3, 2.513),
    "rk4": (rk4, 2.785),
    "heavy ball": (functools.partial(heavy_ball, momentum=0.9), 3.8),
}


@jax.jit
def sharpness(params: Any, batch: Any) -> jax.Array:
    """The largest eigenvalue of the Hessian."""
    return diagnostics.sharpness(squared_error, params, batch=batch).value


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """h·sharpness/R along training, and its median over the last third."""
    batch = tuple(jnp.asarray(array[:EXAMPLES]) for array in classes())
    found: dict[str, Any] = {"step": STEPS * np.arange(1, LOOKS + 1)}
    for name, (make, limit) in SOLVERS.items():
        params = small_start(SIZES, seed)
        rate = SHARE * limit / float(sharpness(params, batch))
        run, looks = trainer(make, squared_error, steps=STEPS), []
        for _ in range(LOOKS):
            params, _ = run(params, batch, rate)
            looks.append(float(sharpness(params, batch)) * rate / limit)
        found |= {name: float(np.median(looks[-LOOKS // 3 :])), f"{name}, on the way": looks}
    return found | {"rk4, Euler's limit": found["rk4"] * SOLVERS["rk4"][1] / 2}


CLAIM = Claim(
    __doc__,
    ("edge",),
    experiment,
    tuple(near(name, 1, 0.1) for name in SOLVERS),
    control=(near("rk4, Euler's limit", 1, 0.1),),
    seconds=(60, 120),
    data=("digits",),
    figure=Lines("step", [f"{name}, on the way" for name in SOLVERS], "h·sharpness/R"),
)
