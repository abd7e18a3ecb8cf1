"""Conformal leapfrog has order 2 in its time step on the damped flow, heavy ball order 1.

Both take one gradient a step; Suzuki and Yoshida's composition of three leapfrogs has order 4. The
time step is the square root of the learning rate at fixed friction: b = exp(-γ sqrt h).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import conformal_leapfrog, heavy_ball, suzuki_yoshida
from ..claim import Bound, Claim, Lines, near
from ..experiments import follow, slope, walk

FRICTION, TIME, COUNTS = 1.0, 2.0, (32, 64, 128, 256)
METHODS: dict[str, tuple[Callable[..., Any], int]] = {
    "heavy ball": (heavy_ball, 1),
    "leapfrog": (conformal_leapfrog, 2),
    "suzuki-yoshida": (suzuki_yoshida, 4),
}


def loss(x: jax.Array) -> jax.Array:
    """A smooth loss of three numbers."""
    return jnp.sum(jnp.cos(x)) + 0.1 * jnp.sum(x**4) + 0.5 * x[0] * x[1] * x[2]


def field(z: jax.Array, _: Any) -> jax.Array:
    """Position and velocity of the damped flow."""
    x, v = z[:3], z[3:]
    return jnp.concatenate([v, -jax.grad(loss)(x) - FRICTION * v])


@functools.partial(jax.jit, static_argnums=0)
def end(name: str, x: jax.Array, count: jax.Array) -> jax.Array:
    """Where so many steps lead, from rest."""
    own = TIME / count
    opt = METHODS[name][0](own**2, jnp.exp(-FRICTION * own))
    return walk(opt, loss, x, count)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Orders in the own step."""
    begin = jnp.asarray(np.random.default_rng(seed).normal(size=3))
    exact = follow(field, jnp.concatenate([begin, jnp.zeros(3)]), TIME)[:3]
    sizes = [TIME / count for count in COUNTS]
    found: dict[str, Any] = {"own step": sizes}
    for name in METHODS:
        errors = [float(jnp.linalg.norm(end(name, begin, count) - exact)) for count in COUNTS]
        found |= {f"order, {name}": slope(sizes[1:], errors[1:]), name: errors}
    return found


CLAIM = Claim(
    __doc__,
    ("conformal", "micro2"),
    experiment,
    tuple(near(f"order, {name}", order, 0.2) for name, (_, order) in METHODS.items()),
    control=(Bound("order, heavy ball", 1.5),),
    seconds=(15, 30),
    figure=Lines("own step", tuple(METHODS), "error", "xy"),
)
