"""Iterates beside the flows that model them, on problems small enough to draw; needs x64."""

import warnings
from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from .. import drift
from .engine.store import Record
from .reference import solve

CURVATURES = (0.8, 1.8, 2.1)
"""Times h = 1: between them the iterates begin to oscillate, and to diverge."""
STEPS = 8
SEEN = 20
"""Points of the flow for each step."""

EDGE_STEP, EDGE_STEPS = 0.1, 400
DRIVE, SOFTNESS = 1.0, 0.2
BATCHES = {"inputs": ((1.0, 0.2), (-0.3, 1.2), (0.8, -1.0)), "target": (1.0, -0.5, 0.3)}


def bowl(x: Float[Array, "3"]) -> Float[Array, ""]:
    """A quadratic of these curvatures."""
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES) * x**2)


def directions() -> list[Record]:
    """Iterates, principal flow and its envelope in each eigendirection.

    `distance` is the largest between an iterate and the real part of the flow at its time.
    """
    start, field = jnp.ones(3), drift.principal_flow(bowl)
    iterates = [start]
    for _ in range(STEPS):
        iterates.append(iterates[-1] - jax.grad(bowl)(iterates[-1]))
    found, times = np.stack(iterates), np.arange(STEPS * SEEN + 1) / SEEN
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


def sharpening(y: Float[Array, "2"]) -> Float[Array, ""]:
    """A loss whose curvature S along x grows under gradient flow, at the rate `DRIVE`.

    Its third term grows less steeply far out, so that an oscillation finds a size and keeps it;
    without it gradient descent circles around that size in bursts.
    """
    x, s = y
    return 0.5 * s * x**2 - DRIVE * s - 0.25 * SOFTNESS * x**4


def edge() -> list[Record]:
    """Gradient descent at the edge of stability, beside the central flow."""
    start = jnp.array([0.05, 0.95 * 2 / EDGE_STEP])

    def step(y: Array, _: None) -> tuple[Array, Array]:
        y = y - EDGE_STEP * jax.grad(sharpening)(y)
        return y, y

    found = np.vstack([start, jax.lax.scan(step, start, length=EDGE_STEPS)[1]])
    times = EDGE_STEP * np.arange(EDGE_STEPS + 1)
    central = drift.central_flow(sharpening)
    path = _follow(lambda y, _: central(y, EDGE_STEP), start, times)
    variance = [float(central.oscillation(y, EDGE_STEP).covariance[0, 0]) for y in path[::20]]
    return [
        {
            "kind": "edge",
            "iterates": found,
            "flow": path[:, 1],
            "gradient flow": _follow(lambda y, _: -jax.grad(sharpening)(y), start, times)[:, 1],
            "variance": np.repeat(variance, 20)[: len(path)],
        }
    ]


def batch_loss(
    x: Float[Array, "2"], inputs: Float[Array, "2"], target: Float[Array, ""]
) -> Float[Array, ""]:
    """A neuron on one sample."""
    return 1.5 * (jnp.tanh(inputs @ x) - target) ** 2


def _follow(field: Callable, start: Num[Array, " n"], times: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Complex dtype")  # held to 1e-8 by test_principal.py
        tolerances = {"first": 1 / SEEN, "rtol": 1e-8, "atol": 1e-10}
        along = lambda t, y, args: field(y, 1.0)  # noqa: E731
        return np.asarray(solve(along, start, times, solver=diffrax.Tsit5(), **tolerances))
