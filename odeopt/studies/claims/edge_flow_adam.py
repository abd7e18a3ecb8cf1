"""Adam too has a flow that resolves its oscillation at its own edge of stability.

`drift.edge_flow` of Adam's step map, moments included, on digits, full batch, 500 steps: training
comes to the edge, preconditioned sharpness 38/h, within 15 %; there the preconditioned sharpness at
the centre of the flow equals that at the middle of two successive iterates within 5 % (largest
difference in the last third). Without the amplitude, the flow of Adam's smooth increments leaves
the edge behind.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ... import diagnostics, drift
from ..claim import Bound, Claim, Lines, near
from ..experiments import small_start
from .edge_flow import LOOKS, SIZES, STEPS, loss, solved, velocity

RATE, B1, B2, EPS = 5e-3, 0.9, 0.99, 1e-7
EDGE = 2 * (1 + B1) / (1 - B1)


def step(y: Any, h: Any) -> Any:
    """Adam without bias correction, its moments part of y."""
    x, m, v = y
    g = -velocity(x)
    m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g * g
    return x - h * m / (jnp.sqrt(jnp.maximum(v, 0)) + EPS), m, v


def preconditioned(y: Any) -> jax.Array:
    """The largest eigenvalue of the Hessian in Adam's metric, times h over the edge."""
    x, _, v = y
    root = jnp.sqrt(jnp.sqrt(jnp.maximum(v, 0)) + EPS)
    return RATE / EDGE * diagnostics.sharpness(lambda z: loss(x + z / root), 0 * x).value


@jax.jit
def traces(x: jax.Array) -> tuple[jax.Array, ...]:
    """Of iterates, edge flow and the flow without amplitude."""
    g = velocity(x)
    first, flow = (x, -g, g * g), drift.edge_flow(step)

    def block(y: Any, _: None) -> tuple[Any, Any]:
        y = jax.lax.fori_loop(0, STEPS // LOOKS, lambda _, y: step(y, RATE), y)
        return y, jax.tree.map(lambda a, b: 0.5 * (a + b), y, step(y, RATE))

    points = jax.lax.scan(block, first, None, LOOKS)[1]
    begin = flow.start(first, RATE)
    smooth = drift.Edge(first, jax.tree.map(jnp.zeros_like, first))
    centres = (solved(flow, start, jnp.asarray(RATE)).centre for start in (begin, smooth))
    return tuple(jax.lax.map(preconditioned, found) for found in (points, *centres))


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Traces, and the largest relative differences over their last third."""
    seen, edge, smooth = map(np.asarray, traces(ravel_pytree(small_start(SIZES, seed))[0]))
    late = slice(-LOOKS // 3, None)
    return {
        "sharpness over the edge": float(np.median(seen[late])),
        "edge flow": float(np.abs(edge / seen - 1)[late].max()),
        "without amplitude": float(np.abs(smooth / seen - 1)[late].max()),
        "step": STEPS // LOOKS * np.arange(1, LOOKS + 1),
        "iterates": seen,
        "centre": edge,
        "smooth": smooth,
    }


CLAIM = Claim(
    __doc__,
    ("rod-flow",),
    experiment,
    (near("sharpness over the edge", 1, 0.15), Bound("edge flow", high=0.05)),
    control=(Bound("without amplitude", high=0.05),),
    seconds=(60, 120),
    data=("digits",),
    figure=Lines("step", ("iterates", "centre", "smooth"), "h·preconditioned sharpness/38"),
)
