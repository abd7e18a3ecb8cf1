"""Pictures of iterates beside the flows that model them, on problems small enough to draw.

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

from .. import drift
from .drift_orders import METHODS, follow, product, trajectory
from .engine import Figure, Results, each, groups
from .engine.drawing import INK, Plot
from .engine.store import Record
from .reference import solve

PLANE = (16, 8)
"""Steps to the end of the trajectories in the plane: h is 0.025 and 0.05."""

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


def plane() -> list[Record]:
    """Trajectories of two numbers under every method, and two flows."""
    path = product()
    records = []
    flow, modified = follow(path, 1, 200), follow(path, 2, 200)
    for steps in PLANE:
        h = path.time / steps
        drawn = {"flow": flow(h), "modified flow": modified(h)}
        drawn |= {method: trajectory(path, method, steps) for method in METHODS}
        records += [
            {"kind": "trajectory", "name": name, "h": h, "points": points}
            for name, points in drawn.items()
        ]
    return records


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

    Its third term grows less steeply far out, so that an oscillation finds a size and keeps it;
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
        tolerances = {"first": 1 / SEEN, "rtol": 1e-8, "atol": 1e-10}
        along = lambda t, y, args: field(y, 1.0)  # noqa: E731
        return np.asarray(solve(along, start, times, solver=diffrax.Tsit5(), **tolerances))


def _plane(results: Results) -> Plot:
    plot = Plot(height=4.2)
    a, b = np.meshgrid(np.linspace(-0.1, 3, 200), np.linspace(1.0, 3.7, 200))
    height = np.log10(0.5 * (a * b - 0.6) ** 2 + 1e-4)
    for h, found in sorted(groups(results.of("trajectory"), "h")):
        axes = plot.panel(f"h = {h:g}", "a", "b")
        axes.contour(a, b, height, levels=12, colors=[INK], linewidths=0.7, alpha=0.2)
        axes.plot(0.6 / b[:, 0], b[:, 0], color=INK, linewidth=0.8, linestyle="--")
        for r in found.itertuples():
            flow = {"linewidth": 2.5, "marker": ""} if "flow" in r.name else {"linewidth": 1}
            plot.line(f"h = {h:g}", r.name, *np.transpose(r.points), markevery=1, **flow)
        axes.set(xlim=(0.1, 3), ylim=(1.0, 3.7))
    plot.key("minima, ab = 0.6", linestyle="--")
    return plot


def _principal(results: Results) -> Plot:
    plot, labels = Plot(["gradient descent", "principal flow", "its envelope"]), ("step", "x")
    for r in results.of("principal").itertuples():
        title = f"h·curvature = {r.curvature:g}"
        plot.line(title, "principal flow", r.times, r.flow, labels, marker="")
        for sign in (1, -1):
            envelope = sign * np.abs(r.envelope)
            plot.line(title, "its envelope", r.times, envelope, marker="", linestyle="--")
        steps = np.arange(len(r.iterates))
        plot.line(title, "gradient descent", steps, r.iterates, linestyle="", markevery=1)
    return plot


def _edge(results: Results) -> Plot:
    plot, flow = Plot(), "central flow and its variance"
    dots: Any = {"marker": ".", "linestyle": "", "markersize": 2, "markevery": 1}
    for r in results.kind("edge"):
        x, curvature = np.transpose(r["iterates"])
        for title, iterates, central in (
            ("curvature", curvature, r["flow"]),
            ("square of x", x**2, r["variance"]),
        ):
            steps, labels = np.arange(len(x)), ("step", "")
            plot.line(title, "gradient descent", steps, iterates, labels, **dots)
            plot.line(title, flow, steps, central, marker="")
        gradient = r["gradient flow"]
        axes = plot.line("curvature", "gradient flow", steps, gradient, marker="", linestyle=":")
        axes.set_ylim(curvature.min() - 0.2, 1.02 * curvature.max())
    return plot


def _settles(results: Results) -> str:
    found = results.of("edge").iloc[0]
    x, curvature = np.transpose(found.iterates)
    return (
        f"Curvature settles at {curvature[-1] * EDGE_STEP:.3g} / h, that of the central flow at "
        f"{found.flow[-1] * EDGE_STEP:.3g} / h; the square of x at {x[-1] ** 2:.3g}, the central "
        f"flow's variance at {found.variance[-1]:.3g}."
    )


def _epoch(results: Results) -> Plot:
    plot = Plot(width=6.5)
    for r in results.of("epoch").itertuples():
        epochs, labels = np.arange(1, len(r.distance)), ("epoch", "")
        plot.line("distance from the iterates", r.flow, epochs, r.distance[1:], labels, log="y")
    return plot


PICTURES = (
    Figure(
        "plane",
        _plane,
        "The loss (ab - 0.6)²/2 of two numbers. Gradient flow keeps a² - b²; with the counter-term "
        "descent comes back to it, and with that term's sign wrong it leaves it twice as far. The "
        "larger step is too large for the first term, which overshoots; the next one mends it.",
        lambda r: "Gradient descent turns towards flatter minima, along its modified flow.",
    ),
    Figure(
        "principal",
        _principal,
        "A quadratic, one direction a panel: gradient descent (dots) beside the principal flow in "
        "complex numbers, of which the real part is drawn, and its envelope, the flow in real "
        "ones. Beyond h·curvature = 1 the iterates oscillate, beyond 2 they diverge. Gradient flow "
        "would decay in all three.",
        each(
            "Largest distance of an iterate from the principal flow, by h·curvature",
            "principal",
            "{curvature:g}: {distance:.1g}",
        ),
    ),
    Figure(
        "edge",
        _edge,
        "A loss whose curvature grows at a steady rate along gradient flow (dotted). Gradient "
        "descent follows it up to 2/h, begins to oscillate, and so holds the curvature there. The "
        "central flow is the average. The iterates settle beyond it: the central flow knows the "
        "third derivatives of the loss, not the fourth.",
        _settles,
    ),
    Figure(
        "epoch",
        _epoch,
        "Gradient descent on three batches in turn, always in the same order: its distance, after "
        "every epoch, from the gradient flow of their mean, from the flow with the penalty that "
        "remains in the mean over all orders, and from the one with the bracket of this order.",
        each(
            f"Distance from the iterates after {EPOCHS} epochs",
            "epoch",
            f"{{flow}} {{distance[{EPOCHS}]:.2g}}",
        ),
    ),
)
