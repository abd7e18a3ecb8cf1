"""The stability coefficient log|1 - hλ|/(hλ) says whether the top direction grows in the next step.

Along training at the edge of stability: the component of the gradient in the Hessian's top
eigendirection grows where the coefficient is positive and shrinks where it is negative. Gradient
flow would have it shrink always, which is right only part of the time.

A first version took the rate 0.6, at which this network never comes to the edge; now it is 2.5
times the limit of the first sharpness.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ...diagnostics import stability_coefficients
from ..claim import Bound, Claim, Lines
from ..experiments import classes, squared_error, start

SIZES, EXAMPLES, STEPS, EXCESS = (64, 4, 10), 200, 400, 2.5


@jax.jit
def run(params: Any, batch: Any) -> tuple[jax.Array, ...]:
    """The rate; of each step the top eigenvalue, and |component| of the gradient around it."""
    begin, unravel = ravel_pytree(params)
    gradient = jax.grad(lambda x: squared_error(unravel(x), batch))

    rate = EXCESS * 2 / jnp.linalg.eigvalsh(jax.jacfwd(gradient)(begin))[-1]

    def step(x: jax.Array, _: None) -> tuple[jax.Array, tuple]:
        values, vectors = jnp.linalg.eigh(jax.jacfwd(gradient)(x))
        new, top = x - rate * gradient(x), vectors[:, -1]
        return new, (values[-1], abs(top @ gradient(x)), abs(top @ gradient(new)))

    return rate, *jax.lax.scan(step, begin, None, STEPS)[1]


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The share of steps that each flow foretells, at the edge (hλ within 0.3 of 2)."""
    batch = tuple(jnp.asarray(array[:EXAMPLES]) for array in classes())
    rate, values, before, after = map(np.asarray, run(start(SIZES, seed), batch))
    edge = abs(rate * values - 2) < 0.3
    grows = after > before
    coefficient = np.asarray(stability_coefficients(float(rate), jnp.asarray(values)))
    return {
        "steps at the edge": int(edge.sum()),
        "foretold by the principal flow": float((grows == (coefficient > 0))[edge].mean()),
        "foretold by gradient flow": float((~grows)[edge].mean()),
        "step": np.arange(STEPS),
        "h·sharpness": rate * values,
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
