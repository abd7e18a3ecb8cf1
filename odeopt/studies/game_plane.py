"""Three games of two numbers, whose trajectories can be drawn and, two of them, calculated."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array

from .. import (
    alternating,
    game_gradient,
    game_implicit_midpoint,
    game_runge_kutta,
    simultaneous,
    solvers,
)
from .engine import Claim, Figure, Results, Table, compared, each
from .engine.drawing import Plot
from .engine.store import Record

Pair = tuple[Array, Array]
DAMPING = 0.09
EXACT = 1e-9
"""How near a linear game must come to the growth that is calculated."""
CIRCLE_MISS = 0.01
DRAWN = 400
"""Points of a trajectory that are kept."""

METHODS: dict[str, Callable[[float], Any]] = {
    "simultaneous": simultaneous,
    "alternating": alternating,
    "interaction": lambda h: simultaneous(h, correction="interaction"),
    "joint": lambda h: simultaneous(h, correction="joint"),
    "rk4": lambda h: game_runge_kutta(h, solvers.RK4()),
    "midpoint": game_implicit_midpoint,
}
"""From the learning rate to an optimizer of the game."""


@dataclasses.dataclass(frozen=True)
class Game:
    """A game of two numbers p and q.

    Attributes:
        title: What it is.
        losses: Of p and of q.
        h: The learning rate.
        steps: Of a run.
        start: Where it starts.
        matrix: Of the field, where that is linear.
    """

    title: str
    losses: tuple[Callable[[Pair], Array], Callable[[Pair], Array]]
    h: float
    steps: int
    start: tuple[float, float]
    matrix: tuple[tuple[float, float], tuple[float, float]] | None = None


GAMES = {
    "bilinear": Game(
        "p' = -q, q' = p",
        (lambda z: z[0] * z[1], lambda z: -z[0] * z[1]),
        0.5,
        200,
        (1.0, 0.0),
        ((0.0, -1.0), (1.0, 0.0)),
    ),
    "damped rotation": Game(
        f"p' = -{DAMPING} p + q, q' = -p - {DAMPING} q",
        (
            lambda z: 0.5 * DAMPING * z[0] ** 2 - z[0] * z[1],
            lambda z: 0.5 * DAMPING * z[1] ** 2 + z[0] * z[1],
        ),
        0.2,
        1000,
        (1.0, 0.0),
        ((-DAMPING, 1.0), (-1.0, -DAMPING)),
    ),
    "Dirac GAN": Game(
        "data at 0, one point at p, discriminator q x, logistic loss",
        (lambda z: -jax.nn.softplus(-z[0] * z[1]), lambda z: jax.nn.softplus(-z[0] * z[1])),
        0.06,
        2000,
        (0.8, 0.0),
    ),
}


def growth(matrix: Any, method: str, h: float) -> float:
    """What a step multiplies a linear game by in the long run: the largest eigenvalue's size."""
    a, one = h * np.asarray(matrix), np.eye(2)
    own, turn = np.diag(np.diag(a)), np.diag([1.0, 0.0])
    steps = {
        "simultaneous": one + a,
        "alternating": (one + (one - turn) @ a) @ (one + turn @ a),
        # each player sees the other half a step ahead
        "interaction": one + a + 0.5 * (a - own) @ a,
        "joint": one + a + 0.5 * a @ a,
        "rk4": sum(
            c * np.linalg.matrix_power(a, k)
            for k, c in enumerate(solvers.RK4().stability_polynomial)
        ),
        "midpoint": np.linalg.solve(one - a / 2, one + a / 2),
    }
    return float(np.max(np.abs(np.linalg.eigvals(steps[method]))))


def trajectory(name: str, method: str) -> list[Record]:
    """One run; the caller enables x64."""
    game = GAMES[name]
    opt, grad_fn = METHODS[method](game.h), game_gradient(game.losses)
    players = tuple(jnp.asarray(x, float) for x in game.start)

    def step(carry: tuple, _: None) -> tuple[tuple, Array]:
        z, state = carry
        updates, state = opt.update(grad_fn(z), state, z, grad_fn=grad_fn)
        z = optax.apply_updates(z, updates)
        return (z, state), jnp.stack(z)

    run = jax.jit(lambda z: jax.lax.scan(step, (z, opt.init(z)), None, game.steps)[1])
    points = np.concatenate([[game.start], run(players)])
    radii = np.linalg.norm(points, axis=1)
    every, predicted = max(1, game.steps // DRAWN), None
    if game.matrix is not None:
        predicted = growth(game.matrix, method, game.h) ** game.steps
    about = {"kind": "plane", "game": name, "method": method, "h": game.h, "steps": game.steps}
    return [
        {
            **about,
            "cost": opt.gradients_per_step,
            "growth": float(radii[-1] / radii[0]),
            "lowest": float(radii.min() / radii[0]),
            "highest": float(radii.max() / radii[0]),
            "predicted": predicted,
            "points": points[::every],
            "radii": radii[::every],
            "every": every,
        }
    ]


def damped(results: Results) -> pd.DataFrame:
    """The runs of the game whose flow spirals inwards."""
    planes = results.table("planes")
    return planes[planes.game == "damped rotation"] if len(planes) else planes


def verdict(results: Results) -> list[str]:
    """Which methods settle where the flow does."""
    ends = damped(results)
    if ends.empty:
        return []
    out = ", ".join(ends[ends.growth > 1].method)
    settle = ", ".join(ends[ends.growth < 1].method) or "no method"
    if not out:
        return [f"In the damped rotation no method spirals outwards. These converge: {settle}."]
    return [
        "The error decides whether a game converges. In the damped rotation, whose flow spirals "
        f"inwards, these spiral outwards: {out}; these converge: {settle}."
    ]


def _linear(results: Results) -> pd.DataFrame:
    # Where eigenvectors are orthogonal, which in turn they are not.
    planes = results.table("planes")
    return (
        planes[planes.method != "alternating"].dropna(subset="predicted") if len(planes) else planes
    )


def _circle(results: Results) -> pd.DataFrame:
    planes = results.table("planes")
    if planes.empty:
        return planes
    mine = planes[
        planes.game.eq("Dirac GAN") & ~planes.method.isin(["simultaneous", "alternating"])
    ]
    return mine.assign(miss=np.maximum(mine.highest**2 - 1, 1 - mine.lowest**2))


CALCULATED = Claim(
    "calculated",
    "In a linear game |z| grows by the largest eigenvalue of the step's matrix a step, where its "
    "eigenvectors are orthogonal: for all methods but alternating.",
    f"|z| at the end within {EXACT:g} (relative) of the calculated value",
    compared(
        _linear,
        "{game}, {method}",
        "growth",
        "{predicted:.6g}",
        lambda r: abs(r["growth"] / r["predicted"] - 1) < EXACT,
    ),
)
CIRCLE = Claim(
    "circle",
    "Methods without the drift of Euler's method stay on the circle of the Dirac GAN.",
    "|z|² within 1 % of its start at every step",
    compared(
        _circle,
        "{game}, {method}",
        "miss",
        f"below {CIRCLE_MISS}",
        lambda r: r["miss"] < CIRCLE_MISS,
    ),
)


def _plane(results: Results) -> Plot:
    plot = Plot(width=3.4, height=3.2)
    style: Any = {"alpha": 0.8, "linewidth": 1.2, "marker": ""}
    for r in results.kind("plane"):
        points = np.array(r["points"], float)
        x, y = points.T
        axes = plot.line(r["game"], r["method"], x, y, ("p", "q"), **style)
        size = 2.2 * np.hypot(*points[0])
        axes.set(xlim=(-size, size), ylim=(-size, size), aspect="equal")
    return plot


PLANE = Figure(
    "plane",
    _plane,
    "Trajectories from the same start, as lines through the steps. The flow is a circle "
    "(bilinear, Dirac GAN) or spirals inwards (damped rotation). The drift of a method makes it "
    "leave the flow outwards. In the bilinear game a player has no drift of its own, so "
    "interaction and joint are the same line; h is large there, and the terms of the next order "
    "let them drift outwards too.",
    each(
        "|z| at the end more than 1 % above the start",
        lambda results: results.table("planes").query(f"growth > {1 + CIRCLE_MISS}"),
        "{game} {method}",
    ),
)
SETTLED = each(
    "|z| at the end of the damped rotation, divided by the start",
    damped,
    "{method} {growth:.3g}",
)
TABLE = Table(
    "planes",
    "Games of two numbers",
    lambda r: r.of("plane").drop(columns=["kind", "points", "radii", "every"], errors="ignore"),
    {
        "game": ("game", "its name"),
        "method": ("method", "its name"),
        "cost": ("rounds", "rounds of gradients a step; none if the solver counts none"),
        "growth": ("growth", "|z| at the end, divided by |z| at the start"),
        "predicted": ("calculated", "if linear: from the largest eigenvalue of the step"),
        "lowest": ("lowest", "of |z| over all steps, relative to the start"),
        "highest": ("highest", "of |z| over all steps, relative to the start"),
    },
    ("game", "method", "growth", "predicted"),
)
