"""A flow of centre and amplitude follows training along the edge of stability, for any solver.

`drift.edge_flow` (two steps an evaluation) beside Euler, Heun, RK4 and the heavy ball on digits,
500 steps from small weights at R/(2 times the first sharpness): the sharpness at its centre is that
at the middle of two successive iterates within 5 % (largest difference from step 50 on).
Gradient flow at the same times is not.

No flow can predict when the oscillation starts: below the edge it decays to the size of rounding
errors, from which it grows again. In double precision the sharpness rises further before it does.

A first version began beyond the edge, at weights of the usual size: largest differences of 7 to 12
% in the first 200 steps, 0.1 % at the end; the heavy ball itself diverged.
"""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ... import diagnostics, drift, solvers
from ..claim import Bound, Claim, Lines
from ..experiments import classes, small_start, squared_error, start

EXAMPLES, SIZES, STEPS, SHARE, MOMENTUM, LOOKS = 200, (64, 8, 10), 500, 0.5, 0.9, 20
LIMITS = {"euler": 2.0, "heun": 2.0, "rk4": 2.785, "heavy ball": 3.8}
METHODS = {"euler": solvers.Euler(), "heun": solvers.Heun(), "rk4": solvers.RK4()}


@functools.cache
def batch() -> Any:
    """The examples."""
    return tuple(array[:EXAMPLES] for array in classes())


def loss(x: jax.Array) -> jax.Array:
    """Of flat parameters."""
    return squared_error(ravel_pytree(start(SIZES, 0))[1](x), batch())


def velocity(x: jax.Array) -> jax.Array:
    """Gradient flow."""
    return -jax.grad(loss)(x)


def ball(y: Any, h: Any) -> Any:
    """Heavy ball, its momentum part of y."""
    x, momentum = y
    momentum = MOMENTUM * momentum + velocity(x)
    return x + h * momentum, momentum


@functools.cache
def steps(name: str) -> Callable[[Any, Any], Any]:
    """The step map of a method."""
    return ball if name == "heavy ball" else drift.step_map(METHODS[name], velocity)


@jax.jit
def sharpness(points: jax.Array) -> jax.Array:
    """The largest eigenvalue of the Hessian at each of them; compiled once for all methods."""
    return jax.lax.map(lambda x: diagnostics.sharpness(loss, x).value, points)


def solved(field: Any, begin: Any, h: jax.Array) -> Any:
    """The points of a flow at the times that are looked at."""
    times = h * jnp.arange(1, LOOKS + 1) * (STEPS // LOOKS)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, h: field(y, h)), diffrax.Tsit5(), 0.0, times[-1], h / 4, begin,
        args=h, saveat=diffrax.SaveAt(ts=times), max_steps=100_000,
        stepsize_controller=diffrax.PIDController(rtol=1e-5, atol=1e-7),
    ).ys  # fmt: skip


@functools.partial(jax.jit, static_argnums=0)
def traces(name: str, x: jax.Array, h: jax.Array) -> tuple[jax.Array, ...]:
    """Iterates, edge flow and gradient flow at equal times."""
    first = (x, jnp.zeros_like(x)) if name == "heavy ball" else x
    flow, step = drift.edge_flow(steps(name)), steps(name)

    def block(y: Any, _: None) -> tuple[Any, jax.Array]:
        y = jax.lax.fori_loop(0, STEPS // LOOKS, lambda _, y: step(y, h), y)
        both = (y[0], step(y, h)[0]) if name == "heavy ball" else (y, step(y, h))
        return y, 0.5 * (both[0] + both[1])

    points = jax.lax.scan(block, first, None, LOOKS)[1]
    centre = solved(flow, flow.start(first, h), h).centre
    plain = solved(lambda y, h: velocity(y), x, h / (1 - MOMENTUM) if name == "heavy ball" else h)
    centre = centre[0] if name == "heavy ball" else centre
    return points, centre, plain


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The largest relative differences of sharpness, and the traces."""
    x = ravel_pytree(small_start(SIZES, seed))[0]
    first, found = float(sharpness(jnp.stack([x] * LOOKS))[0]), dict[str, Any]()
    for name, limit in LIMITS.items():
        points = traces(name, x, jnp.asarray(SHARE * limit / first))
        seen, edge, plain = (np.asarray(sharpness(each)) for each in points)
        late = slice(1, None)
        found[f"{name}, edge flow"] = float(np.abs(edge / seen - 1)[late].max())
        found[f"{name}, gradient flow"] = float(np.abs(plain / seen - 1)[late].max())
        found |= {name: seen, f"{name}'s edge flow": edge}
    return found | {"step": (STEPS // LOOKS) * np.arange(1, LOOKS + 1)}


CLAIM = Claim(
    __doc__,
    ("edge-flow",),
    experiment,
    tuple(Bound(f"{name}, edge flow", high=0.05) for name in LIMITS),
    control=tuple(Bound(f"{name}, gradient flow", high=0.05) for name in LIMITS),
    seconds=(60, 120),
    data=("digits",),
    figure=Lines("step", ("euler", "euler's edge flow", "rk4", "rk4's edge flow"), "sharpness"),
)
