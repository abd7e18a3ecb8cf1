"""At a small rate training runs in corridors, where its flow is nearly straight; at the edge not.

On digits, squared error, full batch, small weights: the corridor measure ‖Hg‖/‖g‖ divided by the
sharpness is at most 0.2 in the last two thirds of a run at rate 0.08/λ, λ being the initial
sharpness. It is at least 0.5 in a run at 0.8/λ, which reaches the edge of stability. Along the run
at the small rate, the distance of a step of h from gradient flow is h²‖Hg‖/2 within 10 % for h =
0.1/sharpness, not h²‖Hg‖.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ... import diagnostics, euler
from ..claim import Bound, Claim, Lines, near
from ..experiments import classes, distance, follow, small_start, squared_error, trainer
from .edge_of_stability import EXAMPLES, LOOKS, SIZES, STEPS, sharpness

RATES = {"small rate": (0.08, 10 * STEPS), "edge": (0.8, STEPS)}


@functools.cache
def unravel() -> Any:
    """A vector as a network."""
    return ravel_pytree(small_start(SIZES, 0))[1]


def velocity(x: jax.Array, batch: Any) -> jax.Array:
    """Gradient flow."""
    return -jax.grad(lambda x: squared_error(unravel()(x), batch))(x)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The measure over the sharpness along both runs; how far a step leaves the flow."""
    batch = tuple(jnp.asarray(array[:EXAMPLES]) for array in classes())
    found: dict[str, Any] = {"look": np.arange(1, LOOKS + 1)}
    deviations = []
    for name, (share, steps) in RATES.items():
        params, ratios = small_start(SIZES, seed), []
        rate, run = (
            share / float(sharpness(params, batch)),
            trainer(euler, squared_error, steps=steps),
        )
        for _ in range(LOOKS):
            params, _ = run(params, batch, rate)
            measure = float(diagnostics.corridor(squared_error, params, batch=batch))
            sharp, x = float(sharpness(params, batch)), ravel_pytree(params)[0]
            ratios.append(measure / sharp)
            if name == "small rate":
                h, ahead = 0.1 / sharp, velocity(x, batch)
                apart = distance(x + h * ahead, follow(velocity, x, h, batch))
                deviations.append(apart / (h**2 * measure * float(jnp.linalg.norm(ahead))))
        late = ratios[LOOKS // 3 :]
        found |= {f"measure over sharpness, {name}": float(np.median(late)), name: ratios}
    half = 2 * float(np.median(deviations))
    return found | {"distance over h²‖Hg‖/2": half, "distance over h²‖Hg‖": half / 2}


CLAIM = Claim(
    __doc__,
    ("corridor",),
    experiment,
    (
        Bound("measure over sharpness, small rate", high=0.2, every=True),
        Bound("measure over sharpness, edge", low=0.5),
        near("distance over h²‖Hg‖/2", 1, 0.1),
    ),
    control=(near("distance over h²‖Hg‖", 1, 0.1),),
    seconds=(60, 120),
    data=("digits",),
    figure=Lines("look", ("small rate", "edge"), "‖Hg‖/(‖g‖·sharpness)", "y"),
)
