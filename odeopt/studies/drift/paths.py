"""Iterates beside the flows that are said to model them: trajectories, and errors against h.

The references are diffrax's Dopri8 at tight tolerance, with fields written out here: they share
nothing with the optimizers.
"""

import dataclasses
import functools
from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ... import drift, flows, ode_optimizer, solvers
from .. import accuracy
from ..records import Record
from .trends import THIRD

TOLERANCE = 1e-12
HALVINGS = 3

Loss = Callable[[Float[Array, " n"]], Float[Array, ""]]


def iterated(factor: float) -> flows.AbstractFlow:
    """Gradient flow of E + factor h ‖grad E‖^2, for Euler's method to follow."""
    return drift.regularized(flows.GradientFlow(), lambda h: factor * h)


METHODS: dict[str, flows.AbstractFlow] = {
    "gradient descent": flows.GradientFlow(),
    "counter-term": iterated(-0.25),
    "counter-term, order 3": THIRD,
    "doubled drift": iterated(0.25),
}
"""All by Euler's method. With the sign of the counter-term wrong, the drift is twice as large."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A method, the order in h of the flow it is compared with, and the order of the error."""

    method: str
    flow: int
    order: int


CLAIMS = (
    Claim("gradient descent", 1, 1),
    Claim("gradient descent", 2, 2),
    Claim("gradient descent", 3, 3),
    Claim("counter-term", 1, 2),
    Claim("counter-term, order 3", 1, 3),
    Claim("doubled drift", 1, 1),
)


@dataclasses.dataclass(frozen=True)
class Path:
    """Where iterates and flows are compared.

    Attributes:
        name: In every record.
        loss: Of flat parameters, float64.
        start: Where all begin.
        time: Flow time at which they are compared.
        steps: The fewest steps to there; then twice as many, and again, `HALVINGS` times.
    """

    name: str
    loss: Loss
    start: Float[Array, " n"]
    time: float
    steps: int


def product() -> Path:
    """The smallest network, (ab - .6)^2 / 2, an example of arXiv:2009.11162.

    Gradient flow keeps a^2 - b^2, and of the minima, ab = .6, the flattest has a = b.
    """

    def loss(x: Array) -> Array:
        return 0.5 * (x[0] * x[1] - 0.6) ** 2

    return Path("product", loss, jnp.array([2.8, 3.5]), 0.4, 64)


def digits() -> Path:
    """The digits network on 400 examples, of `accuracy`."""
    problem = accuracy.path_problem()
    start, unravel = ravel_pytree(problem.init(0))
    data = tuple(jnp.asarray(array) for array in problem.data)
    return Path(
        problem.name, lambda x: problem.loss(unravel(x), data), start, accuracy.FLOW_TIME, 128
    )


PATHS = {"product": product, accuracy.PATH: digits}


def field(loss: Loss, order: int) -> Callable[[Array, Array], Array]:
    r"""`(y, h) -> dy/dt`: what gradient descent follows, to an order from 1 (the flow) to 3.

    $-g - \tfrac h2Hg - h^2\bigl(\tfrac13H^2g + \tfrac1{12}E'''(g, g)\bigr)$
    """
    gradient = jax.grad(loss)

    def modified(y: Array, h: Array) -> Array:
        if order == 1:
            return -gradient(y)

        def product(v: Array) -> Callable[[Array], Array]:
            return lambda x: jax.jvp(gradient, (x,), (v,))[1]

        g = gradient(y)
        if order == 2:
            return -g - h / 2 * product(g)(y)
        bent, third = jax.jvp(product(g), (y,), (g,))
        return -g - h / 2 * bent - h**2 * (product(bent)(y) / 3 + third / 12)

    return modified


def iterate(path: Path, method: str) -> Callable[[int], np.ndarray]:
    """`end(steps)`: where a method is at the path's time; compiled once."""

    @jax.jit
    def end(steps: Array) -> Array:
        advance, carry = _stepping(path, method, path.time / steps)
        return jax.lax.fori_loop(0, steps, lambda _, carry: advance(carry), carry)[0]

    return lambda steps: np.asarray(end(jnp.asarray(steps)))


def trajectory(path: Path, method: str, steps: int) -> np.ndarray:
    """All iterates, the start first."""
    advance, carry = _stepping(path, method, jnp.asarray(path.time / steps))
    points = jax.lax.scan(lambda c, _: (advance(c), c[0]), carry, length=steps + 1)[1]
    return np.asarray(points)


def _stepping(path: Path, method: str, h: Array) -> tuple[Callable[[tuple], tuple], tuple]:
    opt = ode_optimizer(METHODS[method], solvers.Euler(), h)

    def advance(carry: tuple) -> tuple:
        x, state = carry
        updates, state = opt.update(jax.grad(path.loss)(x), state, x, value_fn=path.loss)
        return optax.apply_updates(x, updates), state

    return advance, (path.start, opt.init(path.start))


def follow(path: Path, order: int, points: int = 1) -> Callable[[float], np.ndarray]:
    """`ys(h)`: the flow of that order at so many equal times after the start, the last `time`."""
    dynamics = field(path.loss, order)

    @jax.jit
    def solve(h: Array) -> Array:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, h: dynamics(y, h)),
            diffrax.Dopri8(),
            0.0,
            path.time,
            path.time / 1000,
            path.start,
            args=h,
            stepsize_controller=diffrax.PIDController(rtol=TOLERANCE, atol=TOLERANCE),
            saveat=diffrax.SaveAt(ts=path.time * jnp.arange(1, points + 1) / points),
            max_steps=10_000,
        )
        assert solution.ys is not None
        return solution.ys

    return lambda h: np.asarray(solve(jnp.asarray(h, float)))


def orders(name: str) -> list[Record]:
    """Errors of every claim over four step sizes: relative to the length of the path as it flies.

    Needs x64.
    """
    path = PATHS[name]()
    counts = [path.steps * 2**halving for halving in range(HALVINGS + 1)]
    ends = {
        method: [end(n) for n in counts] for method in METHODS for end in [iterate(path, method)]
    }
    ys = {order: follow(path, order) for order in (1, 2, 3)}
    flow = functools.cache(lambda order, n: ys[order](path.time / n)[-1])
    length = np.linalg.norm(flow(1, counts[0]) - np.asarray(path.start))
    records = []
    for claim in CLAIMS:
        errors = [
            float(np.linalg.norm(end - flow(claim.flow, n)) / length)
            for n, end in zip(counts, ends[claim.method], strict=True)
        ]
        records.append(
            {
                "kind": "order",
                "path": name,
                **dataclasses.asdict(claim),
                "step_sizes": [path.time / n for n in counts],
                "errors": errors,
                "observed": float(np.log2(errors[-2] / errors[-1])),
            }
        )
    return records


PLANE = (16, 8)
"""Steps to the end of the drawn trajectories: h is .025 and .05."""


def plane() -> list[Record]:
    """Trajectories of two numbers, for a picture. Needs x64."""
    path = product()
    records = []
    flow, modified = follow(path, 1, 200), follow(path, 2, 200)
    for steps in PLANE:
        h = path.time / steps
        drawn = {method: trajectory(path, method, steps) for method in METHODS}
        drawn |= {"flow": flow(h), "modified flow": modified(h)}
        records += [
            {"kind": "trajectory", "name": name, "h": h, "points": points}
            for name, points in drawn.items()
        ]
    return records
