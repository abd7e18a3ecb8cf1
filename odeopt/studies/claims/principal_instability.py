"""The stability coefficient log|1 - hλ|/(hλ) says whether the top direction grows in the next step.

Along training at the edge of stability: the component of the gradient in the Hessian's top
eigendirection grows where the coefficient is positive and shrinks where it is negative. Gradient
flow would have it shrink always, which is right only part of the time.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ...diagnostics import stability_coefficients
from ..claim import Bound, Claim, Lines
from ..experiments import classes, squared_error, start

SIZES, EXAMPLES, STEPS, RATE = (64, 4, 10), 200, 400, 0.6


@jax.jit
def run(params: Any, batch: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Top eigenvalue, and |component| of the gradient before and after each step."""
    begin, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda x: squared_error(unravel(x), batch))

    def step(x: jax.Array, _: None) -> tuple[jax.Array, tuple]:
        values, vectors = jnp.linalg.eigh(jax.jacfwd(gradient)(x))
        new, top = x - RATE * gradient(x), vectors[:, -1]
        return new, (values[-1], abs(top @ gradient(x)), abs(top @ gradient(new)))

    return jax.lax.scan(step, begin, None, STEPS)[1]


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The share of steps that each flow foretells, at the edge (hλ within 0.3 of 2)."""
    batch = tuple(jnp.asarray(array[:EXAMPLES]) for array in classes())
    values, before, after = map(np.asarray, run(start(SIZES, seed), batch))
    edge = abs(RATE * values - 2) < 0.3
    grows = after > before
    coefficient = np.asarray(stability_coefficients(RATE, jnp.asarray(values)))
    return {
        "steps at the edge": int(edge.sum()),
        "foretold by the principal flow": float((grows == (coefficient > 0))[edge].mean()),
        "foretold by gradient flow": float((~grows)[edge].mean()),
        "step": np.arange(STEPS),
        "h·sharpness": RATE * values,
    }


CLAIM = Claim(
    __doc__,
    ("principal",),
    experiment,
    (
        Bound("steps at the edge", low=50),
        Bound("foretold by the principal flow", low=0.9),
    ),
    control=(Bound("foretold by gradient flow", low=0.9),),
    seconds=(25, 50),
    data=("digits",),
    figure=Lines("step", ("h·sharpness",), "h·sharpness"),
)
