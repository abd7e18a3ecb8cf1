"""Iterates of a quadratic where h·curvature is not small, beside the principal flow.

Uses diffrax; needs x64.
"""

import warnings
from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from ... import drift
from ..records import Record

CURVATURES = (0.8, 1.8, 2.1)
"""Times h = 1: between them the iterates begin to oscillate, and to diverge."""
STEPS = 8
SEEN = 20
"""Points of the flow for each step."""


def bowl(x: Float[Array, "3"]) -> Float[Array, ""]:
    """A quadratic of these curvatures."""
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES) * x**2)


def directions() -> list[Record]:
    """Iterates, principal flow and its envelope in each eigendirection.

    `distance` is the largest between an iterate and the real part of the flow at its time.
    """
    start = jnp.ones(3)
    iterates = [start]
    for _ in range(STEPS):
        iterates.append(iterates[-1] - jax.grad(bowl)(iterates[-1]))
    found = np.stack(iterates)
    times = np.arange(STEPS * SEEN + 1) / SEEN
    field = drift.principal_flow(bowl)
    path = _follow(field, start.astype(complex), times).real
    envelope = _follow(field, start, times)
    return [
        {
            "kind": "principal",
            "curvature": curvature,
            "iterates": found[:, i],
            "times": times,
            "flow": path[:, i],
            "envelope": envelope[:, i],
            "distance": float(np.abs(found[:, i] - path[::SEEN, i]).max()),
        }
        for i, curvature in enumerate(CURVATURES)
    ]


def _follow(field: Callable, start: Num[Array, "3"], times: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Complex dtype")  # held to 1e-8 by test_principal.py
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: field(y, 1.0)),
            diffrax.Tsit5(),
            0.0,
            float(times[-1]),
            1 / SEEN,
            start,
            saveat=diffrax.SaveAt(ts=jnp.asarray(times)),
            stepsize_controller=diffrax.PIDController(rtol=1e-8, atol=1e-10),
            max_steps=100_000,
        )
    assert solution.ys is not None
    return np.asarray(solution.ys)
