"""Adam is a splitting of a flow: with betas exp(-h/τ) its steps converge to it with order 1.

The moments are solved exactly, then the parameters make an Euler step; in this sense Adam is an
implicit-explicit method. Evaluated in the middle of steps it is Strang's splitting, of order 2.
With fixed betas the steps converge to another flow.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import adam, strang_adam
from ..claim import Bound, Claim, Lines, near
from ..experiments import follow, slope, walk

TAU1, TAU2, EPS, TIME = 0.3, 1.0, 0.1, 1.0
COUNTS = (64, 128, 256, 512)


def loss(x: jax.Array) -> jax.Array:
    """A smooth loss of three numbers."""
    return jnp.sum(jnp.cos(x)) + 0.1 * jnp.sum(x**4) + 0.5 * x[0] * x[1] * x[2]


def field(z: jax.Array, _: Any) -> jax.Array:
    """Parameters, both moments, and the clock of the bias correction."""
    x, m, v, t = z[:3], z[3:6], z[6:9], z[9]
    g = jax.grad(loss)(x)
    hat = m / -jnp.expm1(-t / TAU1), v / -jnp.expm1(-t / TAU2)
    drift = -hat[0] / (jnp.sqrt(hat[1]) + EPS)
    return jnp.concatenate([drift, (g - m) / TAU1, (g * g - v) / TAU2, jnp.ones(1)])


def clocked(make: Callable[..., Any], h: jax.Array) -> Any:
    """With a memory of fixed flow time."""
    return make(h, jnp.exp(-h / TAU1), jnp.exp(-h / TAU2), EPS)


METHODS: dict[str, Callable[[Any], Any]] = {
    "adam": functools.partial(clocked, adam),
    "in the middle": functools.partial(clocked, strang_adam),
    "fixed betas": lambda h: adam(h, 0.9, 0.97, EPS),
}


@functools.partial(jax.jit, static_argnums=0)
def end(name: str, x: jax.Array, h: jax.Array, count: jax.Array) -> jax.Array:
    """Where so many steps lead."""
    return walk(METHODS[name](h), loss, x, count)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Orders of the distance to the flow, which begins where its moments are known."""
    begin = jnp.asarray(np.random.default_rng(seed).normal(size=3))
    g, small = jax.grad(loss)(begin), 1e-7  # the moments after a moment, by their first terms
    z = [begin, g * small / TAU1, g * g * small / TAU2, jnp.full(1, small)]
    exact = follow(field, jnp.concatenate(z), TIME)[:3]
    sizes = [TIME / count for count in COUNTS]
    found: dict[str, Any] = {"h": sizes}
    for name in METHODS:
        errors = [
            float(jnp.linalg.norm(end(name, begin, TIME / count, count) - exact))
            for count in COUNTS
        ]
        found |= {f"order, {name}": slope(sizes[1:], errors[1:]), name: errors}
    return found


CLAIM = Claim(
    __doc__,
    ("imex",),
    experiment,
    (near("order, adam", 1, 0.15), Bound("order, in the middle", 1.5)),
    control=(Bound("order, fixed betas", 0.7),),
    seconds=(20, 40),
    figure=Lines("h", tuple(METHODS), "distance", "xy"),
)
