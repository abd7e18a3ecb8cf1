"""Heavy ball is conformally symplectic: every step shrinks the symplectic form by exactly b.

So do relativistic descent and the conformal leapfrog, whatever the loss and the step size: with M
the Jacobian of a step in (x, v), MᵀΩM = bΩ. Nesterov's step, which takes its gradient at another
point, does not.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..claim import Bound, Claim

RATE, MOMENTUM, DELTA = 0.3, 0.8, 0.5
Step = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


def loss(x: jax.Array) -> jax.Array:
    """Neither quadratic nor separable."""
    return jnp.sum(jnp.cos(x)) + 0.3 * jnp.sum(x**4) + x[0] * x[1] ** 2


def heavy_ball(x: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Conformal symplectic Euler."""
    v = MOMENTUM * v - RATE * jax.grad(loss)(x)
    return x + v, v


def relativistic(x: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same with a speed limit."""
    v = MOMENTUM * v - RATE * jax.grad(loss)(x)
    return x + v / jnp.sqrt(1 + DELTA * v @ v), v


def leapfrog(x: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Half a drift, a kick, half a drift."""
    half = jnp.sqrt(MOMENTUM)
    middle = x + 0.5 * half * v
    v = half * v - RATE * jax.grad(loss)(middle)
    return middle + 0.5 * v, half * v


def nesterov(x: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradient where momentum leads."""
    v = MOMENTUM * v - RATE * jax.grad(loss)(x + MOMENTUM * v)
    return x + v, v


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The defect of each step, relative."""
    x, v = jnp.asarray(np.random.default_rng(seed).normal(size=(2, 3)))
    zero, one = jnp.zeros((3, 3)), jnp.eye(3)
    form = jnp.block([[zero, one], [-one, zero]])

    def defect(step: Step) -> float:
        jacobian = jax.jacobian(lambda z: jnp.concatenate(step(z[:3], z[3:])))
        m = jacobian(jnp.concatenate([x, v]))
        return float(jnp.linalg.norm(m.T @ form @ m - MOMENTUM * form) / jnp.linalg.norm(form))

    return {step.__name__: defect(step) for step in (heavy_ball, relativistic, leapfrog, nesterov)}


CLAIM = Claim(
    __doc__,
    ("micro2", "conformal"),
    experiment,
    tuple(Bound(n, high=1e-10, every=True) for n in ("heavy_ball", "relativistic", "leapfrog")),
    control=(Bound("nesterov", high=1e-3),),
    seconds=(4, 8),
)
