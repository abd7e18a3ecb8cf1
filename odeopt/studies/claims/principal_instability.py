"""The stability coefficient log|1 - hλ|/(hλ) says whether the top direction grows in the next step.

Along training at the edge of stability: the component of the gradient in the Hessian's top
eigendirection grows where the coefficient is positive and shrinks where it is negative. Gradient
flow would have it shrink always, which is right only part of the time.

A first version took the rate 0.6 at weights of the usual size, which never reach the edge; now
weights are small, and 2/h is twice the initial sharpness. In a second version steps at the edge, 50
of which are needed to decide anything, counted as a part of the claim.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ... import diagnostics
from ..claim import Bound, Claim, Lines
from ..experiments import classes, small_start, squared_error

SIZES, EXAMPLES, STEPS, SHARE = (64, 8, 10), 200, 600, 0.5


@jax.jit
def run(params: Any, batch: Any) -> tuple[jax.Array, ...]:
    """The rate; of each step the top eigenvalue, and |component| of the gradient around it."""
    begin, unravel = ravel_pytree(params)

    def loss(x: jax.Array) -> jax.Array:
        return squared_error(unravel(x), batch)

    rate = SHARE * 2 / diagnostics.sharpness(loss, begin).value

    def step(x: jax.Array, _: None) -> tuple[jax.Array, tuple]:
        top = diagnostics.sharpness(loss, x)
        g = jax.grad(loss)(x)
        new = x - rate * g
        return new, (top.value, abs(top.vector @ g), abs(top.vector @ jax.grad(loss)(new)))

    return rate, *jax.lax.scan(step, begin, None, STEPS)[1]


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The share of steps that each flow foretells, at the edge (hλ within 0.3 of 2)."""
    batch = tuple(jnp.asarray(array[:EXAMPLES]) for array in classes())
    rate, values, before, after = map(np.asarray, run(small_start(SIZES, seed), batch))
    edge = abs(rate * values - 2) < 0.3
    grows = after > before
    coefficient = diagnostics.stability_coefficients(float(rate), jnp.asarray(values))
    principal = grows == (np.asarray(coefficient) > 0)
    found = max(int(edge.sum()), 1)
    return {
        "steps at the edge": int(edge.sum()),
        "foretold by the principal flow": principal[edge].sum() / found,
        "foretold by gradient flow": (~grows)[edge].sum() / found,
        "step": np.arange(STEPS),
        "h·sharpness": rate * values,
    }


CLAIM = Claim(
    __doc__,
    ("principal",),
    experiment,
    (Bound("foretold by the principal flow", low=0.9),),
    control=(Bound("foretold by gradient flow", low=0.9), Bound("steps at the edge", high=50)),
    seconds=(25, 50),
    data=("digits",),
    figure=Lines("step", ("h·sharpness",), "h·sharpness"),
)
