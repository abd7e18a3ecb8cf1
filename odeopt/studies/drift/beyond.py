"""Iterates beside the flows that model more than one small full-batch step: pictures.

Uses diffrax; needs x64.
"""

import warnings
from collections.abc import Callable
from typing import Any

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

EDGE_STEP, EDGE_STEPS = 0.1, 400
DRIVE, SOFTNESS = 1.0, 0.2
EPOCHS, EPOCH_STEP = 60, 0.05
BATCHES = {
    "inputs": ((1.0, 0.2), (-0.3, 1.2), (0.8, -1.0)),
    "target": (1.0, -0.5, 0.3),
}


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


def sharpening(y: Float[Array, "2"]) -> Float[Array, ""]:
    """A loss whose curvature S along x grows under gradient flow, at the rate `DRIVE`.

    Its third term bends less steeply far out, so that an oscillation finds a size and keeps it;
    without it gradient descent circles around that size in bursts.
    """
    x, s = y
    return 0.5 * s * x**2 - DRIVE * s - 0.25 * SOFTNESS * x**4


def edge() -> list[Record]:
    """Gradient descent at the edge of stability, beside the central flow."""
    start = jnp.array([0.05, 0.95 * 2 / EDGE_STEP])
    found = _iterates(lambda y, _: jax.grad(sharpening)(y), start, EDGE_STEP, EDGE_STEPS)
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


def epochs() -> list[Record]:
    """Three batches in a given order: how far three flows are from the end of every epoch."""
    rows: dict[str, Any] = {name: jnp.asarray(values) for name, values in BATCHES.items()}
    number, start = len(rows["target"]), jnp.array([2.0, -1.0])

    def turn(x: Array, n: Array) -> Array:
        row = {name: values[n % number] for name, values in rows.items()}
        return jax.grad(batch_loss)(x, **row)

    found = _iterates(turn, start, EPOCH_STEP, EPOCHS * number)[::number]
    times = EPOCH_STEP * number * np.arange(EPOCHS + 1)
    flows = {
        "gradient flow": lambda y, _: drift.epoch_flow(batch_loss, ordered=False, **rows)(y, 0.0),
        "epoch flow, any order": drift.epoch_flow(batch_loss, ordered=False, **rows),
        "epoch flow, this order": drift.epoch_flow(batch_loss, **rows),
    }
    return [
        {
            "kind": "epoch",
            "flow": name,
            "distance": np.linalg.norm(
                found - _follow(lambda y, _, field=field: field(y, EPOCH_STEP), start, times),
                axis=1,
            ),
        }
        for name, field in flows.items()
    ]


def _iterates(gradient: Callable, start: Array, h: float, steps: int) -> np.ndarray:
    def step(y: Array, n: Array) -> tuple[Array, Array]:
        y = y - h * gradient(y, n)
        return y, y

    return np.vstack([start, jax.lax.scan(step, start, jnp.arange(steps))[1]])


def _follow(field: Callable, start: Num[Array, " n"], times: np.ndarray) -> np.ndarray:
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
