"""Errors of iterates against h: gradient descent and its counter-terms beside the flows."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .. import drift, flows, ode_optimizer, solvers
from . import accuracy
from .engine import Claim, compared
from .engine.store import Record
from .experiments import walk
from .reference import field, solve

TOLERANCE = 1e-12

Loss = Callable[[Float[Array, " n"]], Float[Array, ""]]


THIRD = drift.corrected(flows.GradientFlow(), solvers.Euler(), 3, form="derivatives", clip=None)
"""Gradient flow with the counter-terms of Euler's method to order 3, from derivatives as that of
order 2 is: from differences of gradients they would be Heun's method, with another error."""
METHODS: dict[str, flows.AbstractFlow] = {
    "gradient descent": flows.GradientFlow(),
    "counter-term": drift.regularized(flows.GradientFlow(), lambda h: -0.25 * h),
    "counter-term, order 3": THIRD,
    "doubled drift": drift.regularized(flows.GradientFlow(), lambda h: 0.25 * h),
}
"""All by Euler's method. With the sign of the counter-term wrong, the drift is twice as large."""
COMPARED = (
    ("gradient descent", 1, 1),
    ("gradient descent", 2, 2),
    ("gradient descent", 3, 3),
    ("counter-term", 1, 2),
    ("counter-term, order 3", 1, 3),
    ("doubled drift", 1, 1),
)
"""A method, the order in h of the flow it is compared with, and the order of the error."""
NEAR = 0.1
"""How near an observed order is to theory's."""


@dataclasses.dataclass(frozen=True)
class Path:
    """Where iterates and flows are compared: flat parameters in float64, over a flow time `time`.

    The fewest steps are `steps`; then come twice as many, and again, three times.
    """

    name: str
    loss: Loss
    start: Float[Array, " n"]
    time: float
    steps: int


def product() -> Path:
    """The smallest network, (ab - 0.6)^2 / 2, an example of arXiv:2009.11162.

    Gradient flow keeps a^2 - b^2, and of the minima, ab = 0.6, the flattest has a = b.
    """
    loss = lambda x: 0.5 * (x[0] * x[1] - 0.6) ** 2  # noqa: E731
    return Path("product", loss, jnp.array([2.8, 3.5]), 0.4, 64)


def digits() -> Path:
    """The digits network on 400 examples, of `accuracy`."""
    start, loss = accuracy.flat(accuracy.path_problem())
    return Path(accuracy.PATH, loss, start, accuracy.FLOW_TIME, 128)


PATHS = {"product": product, accuracy.PATH: digits}


def iterate(path: Path, method: str) -> Callable[[int], np.ndarray]:
    """`end(steps)`: where a method is at the path's time; compiled once."""

    @jax.jit
    def end(steps: Array) -> Array:
        step_size = jnp.asarray(path.time / steps)
        opt = ode_optimizer(METHODS[method], solvers.Euler(), step_size)
        return walk(opt, path.loss, path.start, steps)

    return lambda steps: np.asarray(end(jnp.asarray(steps)))


def follow(path: Path, order: int) -> Callable[[float], np.ndarray]:
    """`end(h)`: where the flow of that order is at the path's time; compiled once."""
    dynamics = field(path.loss, order)

    @jax.jit
    def end(h: Array) -> Array:
        along, first = lambda t, y, h: dynamics(y, h), path.time / 1000
        return solve(along, path.start, path.time, h, first=first, rtol=TOLERANCE)[-1]

    return lambda h: np.asarray(end(jnp.asarray(h, float)))


def orders(name: str) -> list[Record]:
    """Errors of every comparison over the distance from start to end; needs x64."""
    path = PATHS[name]()
    ends = {method: functools.cache(iterate(path, method)) for method in METHODS}
    flows = {order: functools.cache(follow(path, order)) for order in (1, 2, 3)}
    length = np.linalg.norm(flows[1](path.time / path.steps) - np.asarray(path.start))

    def error(method: str, modified: int, steps: int) -> Any:
        return np.linalg.norm(ends[method](steps) - flows[modified](path.time / steps)) / length

    return [
        {
            **{"kind": "order", "path": name, "method": method, "flow": modified, "order": order},
            **accuracy.halved(functools.partial(error, method, modified), path.steps, path.time),
        }
        for method, modified, order in COMPARED
    ]


ORDERS_HOLD = Claim(
    "orders",
    "Gradient descent follows gradient flow with order 1 and its modified flows with orders 2 "
    "and 3; with the counter-term it follows gradient flow with order 2, with the next term too "
    "with order 3, and with the wrong sign only with order 1.",
    f"observed order within {NEAR:g} of theory's, as h is halved for the third time",
    compared(
        "order",
        "{path}, {method} to the flow of order {flow}",
        "observed",
        f"{{order}} ± {NEAR:g}",
        lambda r: abs(r["observed"] - r["order"]) < NEAR,
    ),
)
