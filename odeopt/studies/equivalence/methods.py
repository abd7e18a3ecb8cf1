"""Who takes part: solvers of gradient flow, momentum, Adam. May use: `odeopt.zoo`, `..entries`."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import zoo
from ..engine.optimizers import Entry, find

SOLVERS = ("euler", "heun", "rk4")
MOMENTA = (0.5, 0.9, 0.99)

TAU1, TAU2 = (float(-1e-3 / np.log(b)) for b in (0.9, 0.999))
"""Adam's time constants: its default betas at a learning rate of 0.001, by tau = -h / ln(b)."""


def heavy_ball(momentum: float) -> Entry:
    """Heavy ball, `v+ = b v + g, x+ = x - h v+`: it stays stable to h * lambda = 2 (1 + b)."""
    return Entry(
        f"heavy ball {momentum:g}",
        lambda learning_rate: zoo.heavy_ball(learning_rate, momentum),
        2 * (1 + momentum),
        None,
        hyperparameters={"momentum": momentum},
    )


def nesterov(momentum: float) -> Entry:
    """Nesterov's momentum; stable to h * lambda = 2 (1 + b) / (1 + 2b)."""
    return Entry(
        f"nesterov {momentum:g}",
        lambda learning_rate: zoo.nesterov(learning_rate, momentum),
        2 * (1 + momentum) / (1 + 2 * momentum),
        None,
        hyperparameters={"momentum": momentum},
    )


def limited() -> list[Entry]:
    """Everything that has a stability limit in h * lambda."""
    return [*(find(name) for name in SOLVERS), *map(heavy_ball, MOMENTA), nesterov(0.9)]


def momentum_of(entry: Entry) -> float:
    """b, zero for a solver of gradient flow."""
    return entry.hyperparameters.get("momentum", 0.0)


def on_flow_time(entry: Entry) -> Entry:
    """The same optimizer with the flow time of a step, h / (1 - b), as its learning rate."""
    share = 1 - momentum_of(entry)
    return Entry(entry.name, lambda step: entry.make(step * share), None, 1)


def adam(b1: Callable[[Any], Any], b2: Callable[[Any], Any]) -> Entry:
    """Adam whose betas are functions of its learning rate."""
    return Entry("adam", lambda h: zoo.adam(h, b1(h), b2(h)), None, None)


def decay(time_constant: float) -> Callable[[Any], Any]:
    """The beta of a moving average with that time constant, exp(-h / tau)."""
    return lambda h: jnp.exp(-h / time_constant)
