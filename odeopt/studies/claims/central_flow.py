"""The central flow is the time average of gradient descent at the edge of stability.

On the loss S x²/2 - S - x⁴/20, whose curvature S grows along gradient flow: where descent settles,
curvature and mean square of the oscillation are those of the central flow within 10 and 25 %.
Gradient flow has left 2/h far behind: the figure ends it at 1.5 times descent's largest curvature.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import drift
from ..claim import Claim, Lines, near
from ..reference import solve

STEP, STEPS = 0.1, 400
DRIVE, SOFTNESS = 1.0, 0.2


def loss(y: jax.Array) -> jax.Array:
    """A loss whose curvature S along x grows under gradient flow, at the rate `DRIVE`.

    Its third term grows less steeply far out, so that an oscillation finds a size and keeps it;
    without it gradient descent circles around that size in bursts.
    """
    x, s = y
    return 0.5 * s * x**2 - DRIVE * s - 0.25 * SOFTNESS * x**4


def traces() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Iterates; curvature along central flow and gradient flow; variance every 20 steps."""
    start, times = jnp.array([0.05, 0.95 * 2 / STEP]), STEP * np.arange(STEPS + 1)

    def step(y: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        y = y - STEP * jax.grad(loss)(y)
        return y, y

    def follow(field: Callable[[jax.Array], jax.Array]) -> np.ndarray:
        along = lambda t, y, _: field(y)  # noqa: E731
        return np.asarray(solve(along, start, times, first=0.05, rtol=1e-8, atol=1e-10))

    iterates = np.vstack([start, jax.lax.scan(step, start, length=STEPS)[1]])
    central = drift.central_flow(loss)
    path, plain = follow(lambda y: central(y, STEP)), follow(lambda y: -jax.grad(loss)(y))
    variance = [float(central.oscillation(y, STEP).covariance[0, 0]) for y in path[::20]]
    return iterates, path[:, 1], plain[:, 1], np.asarray(variance)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Ratios of descent to both flows in the last quarter."""
    iterates, central, plain, variance = traces()
    (x, curvature), late = iterates.T, slice(3 * STEPS // 4, None)
    variance = np.repeat(variance, 20)[: len(x)]
    return {
        "curvature over the central flow's": float(np.mean(curvature[late] / central[late])),
        "square of x over its variance": float(np.mean(x[late] ** 2 / variance[late])),
        "curvature over gradient flow's": float(np.mean(curvature[late] / plain[late])),
        "step": np.arange(len(x)),
        "gradient descent": curvature,
        "central flow": central,
        "gradient flow": np.where(plain < 1.5 * curvature.max(), plain, np.nan),
    }


CLAIM = Claim(
    __doc__,
    ("central",),
    experiment,
    (
        near("curvature over the central flow's", 1, 0.1),
        near("square of x over its variance", 1, 0.25),
    ),
    control=(near("curvature over gradient flow's", 1, 0.1),),
    seeds=(1, 1),
    seconds=(10, 10),
    figure=Lines("step", ("gradient descent", "central flow", "gradient flow"), "curvature"),
)
