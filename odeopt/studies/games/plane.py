"""Three games of two numbers, whose trajectories can be drawn and, two of them, calculated."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ... import (
    alternating,
    game_gradient,
    game_implicit_midpoint,
    game_runge_kutta,
    simultaneous,
    solvers,
)
from ..records import Record

Pair = tuple[Array, Array]
DAMPING = 0.09
DRAWN = 400
"""Points of a trajectory that are kept."""

METHODS: dict[str, tuple[Callable[[float], Any], int | None]] = {
    "simultaneous": (simultaneous, 1),
    "alternating": (alternating, 1),
    "interaction": (lambda h: simultaneous(h, correction="interaction"), 2),
    "joint": (lambda h: simultaneous(h, correction="joint"), 2),
    "rk4": (lambda h: game_runge_kutta(h, solvers.RK4()), 4),
    "midpoint": (game_implicit_midpoint, None),
}
"""Optimizers, and rounds of gradients a step; None where the solver does not say."""


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
    own = np.diag(np.diag(a))
    first, second = one.copy(), one.copy()
    first[0] += a[0]
    second[1] += a[1]
    steps = {
        "simultaneous": one + a,
        "alternating": second @ first,
        # each player sees the other half a step ahead
        "interaction": one + a + 0.5 * (a - own) @ a,
        "joint": one + a + 0.5 * a @ a,
        "rk4": one + a + a @ a / 2 + a @ a @ a / 6 + a @ a @ a @ a / 24,
        "midpoint": np.linalg.solve(one - a / 2, one + a / 2),
    }
    return float(np.max(np.abs(np.linalg.eigvals(steps[method]))))


def trajectory(name: str, method: str) -> list[Record]:
    """One run; the caller enables x64."""
    game, (make, cost) = GAMES[name], METHODS[method]
    opt, grad_fn = make(game.h), game_gradient(game.losses)
    players = tuple(jnp.asarray(x, float) for x in game.start)

    def step(carry: tuple, _: None) -> tuple[tuple, Array]:
        z, state = carry
        updates, state = opt.update(grad_fn(z), state, z, grad_fn=grad_fn)
        z = optax.apply_updates(z, updates)
        return (z, state), jnp.stack(z)

    run = jax.jit(lambda z: jax.lax.scan(step, (z, opt.init(z)), None, game.steps)[1])
    points = np.concatenate([[game.start], run(players)])
    radii = np.linalg.norm(points, axis=1)
    every = max(1, game.steps // DRAWN)
    return [
        {
            "kind": "plane",
            "game": name,
            "method": method,
            "h": game.h,
            "steps": game.steps,
            "cost": cost,
            "growth": float(radii[-1] / radii[0]),
            "lowest": float(radii.min() / radii[0]),
            "highest": float(radii.max() / radii[0]),
            "predicted": None
            if game.matrix is None
            else growth(game.matrix, method, game.h) ** game.steps,
            "points": points[::every],
            "radii": radii[::every],
            "every": every,
        }
    ]
