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
from .engine.drawing import INK, Plot
from .engine.store import Record
from .engine.study import Figure, Results

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


def _plane(results: Results) -> Plot | None:
    found = [r for r in results.records if r["kind"] == "trajectory"]
    if not found:
        return None
    plot = Plot([r["name"] for r in found], height=4.2)
    a, b = np.meshgrid(np.linspace(-0.1, 3, 200), np.linspace(1.0, 3.7, 200))
    height = np.log10(0.5 * (a * b - 0.6) ** 2 + 1e-4)
    for h in sorted({r["h"] for r in found}):
        axes = plot.panel(f"h = {h:g}", "a", "b")
        axes.contour(a, b, height, levels=12, colors=[INK], linewidths=0.7, alpha=0.2)
        axes.plot(0.6 / b[:, 0], b[:, 0], color=INK, linewidth=0.8, linestyle="--")
        for r in found:
            if r["h"] == h:
                flow = {"linewidth": 2.5, "marker": ""} if "flow" in r["name"] else {"linewidth": 1}
                axes.plot(*np.transpose(r["points"]), **plot.style(r["name"], **flow))
        axes.set(xlim=(0.1, 3), ylim=(1.0, 3.7))
    plot.key("minima, ab = 0.6", linestyle="--")
    return plot


def _principal(results: Results) -> Plot | None:
    found = [r for r in results.records if r["kind"] == "principal"]
    if not found:
        return None
    plot = Plot(["gradient descent", "principal flow", "its envelope"])
    for r in found:
        axes = plot.panel(f"h·curvature = {r['curvature']:g}", "step", "x")
        axes.plot(r["times"], r["flow"], **plot.style("principal flow", marker=""))
        for sign in (1, -1):
            style = plot.style("its envelope", marker="", linestyle="--")
            axes.plot(r["times"], sign * np.abs(r["envelope"]), **style)
        axes.plot(r["iterates"], **plot.style("gradient descent", linestyle=""))
    return plot


def _meets(results: Results) -> str:
    worst = results.of("principal").distance.max()
    return f"The principal flow meets every iterate within {worst:.1g}."


def _edge(results: Results) -> Plot | None:
    found = [r for r in results.records if r["kind"] == "edge"]
    if not found:
        return None
    names = ["gradient descent", "central flow and its variance", "gradient flow"]
    plot = Plot(names)
    descent = plot.style(names[0], marker=".", linestyle="", markersize=2)
    flow = plot.style(names[1], marker="")
    x, curvature = np.transpose(found[0]["iterates"])
    axes = plot.panel("curvature", "step", "")
    axes.plot(curvature, **descent)
    axes.plot(found[0]["flow"], **flow)
    axes.plot(found[0]["gradient flow"], **plot.style(names[2], marker="", linestyle=":"))
    axes.set_ylim(curvature.min() - 0.2, 1.02 * curvature.max())
    axes = plot.panel("square of x", "step", "")
    axes.plot(x**2, **descent)
    axes.plot(found[0]["variance"], **flow)
    return plot


def _settles(results: Results) -> str:
    found = results.of("edge").iloc[0]
    x, curvature = np.transpose(found.iterates)
    return (
        f"Curvature settles at {curvature[-1] * EDGE_STEP:.3g} / h, that of the central flow at "
        f"{found.flow[-1] * EDGE_STEP:.3g} / h; the square of x at {x[-1] ** 2:.3g}, the central "
        f"flow's variance at {found.variance[-1]:.3g}."
    )


def _epoch(results: Results) -> Plot | None:
    found = [r for r in results.records if r["kind"] == "epoch"]
    if not found:
        return None
    plot = Plot([r["flow"] for r in found], width=6.5)
    axes = plot.panel("distance from the iterates", "epoch", "")
    for r in found:
        epochs = np.arange(1, len(r["distance"]))
        axes.semilogy(epochs, r["distance"][1:], **plot.style(r["flow"], markevery=5))
    return plot


def _closest(results: Results) -> str:
    last = {r.flow: r.distance[-1] for r in results.of("epoch").itertuples()}
    each = ", ".join(f"{name} {distance:.2g}" for name, distance in last.items())
    return f"Distance from the iterates after {EPOCHS} epochs: {each}."


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
        _meets,
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
        _closest,
    ),
)
