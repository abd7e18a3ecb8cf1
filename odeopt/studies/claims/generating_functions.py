"""A generating function S = hH at the midpoint gives the implicit midpoint rule, of order 2.

With the next term, (h³/24) H''(J grad H, J grad H), the generated map has order 4 and is still
symplectic. A pendulum coupled to a quartic oscillator; with the wrong sign of this term the order
stays 2.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix

from ..claim import Bound, Claim, Lines, near
from ..experiments import follow, slope

SIZES = (0.4, 0.2, 0.1, 0.05)
TIME = 2.0
J = jnp.array([[0.0, 0, 1, 0], [0, 0, 0, 1], [-1, 0, 0, 0], [0, -1, 0, 0]])


def energy(z: jax.Array) -> jax.Array:
    """Of positions z[:2] and momenta z[2:]."""
    q, p = z[:2], z[2:]
    return 0.5 * p @ p - jnp.cos(q[0]) + 0.25 * q[1] ** 4 + 0.3 * q[0] * q[1]


def step(z: jax.Array, h: Any, sign: Any) -> jax.Array:
    """The map that S generates at the midpoint: z+ = z + J grad S((z + z+)/2)."""

    def generating(y: jax.Array) -> jax.Array:
        flow = J @ jax.grad(energy)(y)
        curvature = flow @ jax.jvp(jax.grad(energy), (y,), (flow,))[1]
        return h * energy(y) + sign * h**3 / 24 * curvature

    def equation(new: jax.Array, _: Any) -> jax.Array:
        return new - z - J @ jax.grad(generating)(0.5 * (z + new))

    return optimistix.root_find(equation, optimistix.Newton(1e-13, 1e-13), z).value


def pendulum(z: jax.Array, _: Any) -> jax.Array:
    """The flow of that energy."""
    return J @ jax.grad(energy)(z)


@jax.jit
def run(z: jax.Array, h: jax.Array, sign: jax.Array, steps: jax.Array) -> jax.Array:
    """So many steps."""
    return jax.lax.fori_loop(0, steps, lambda _, z: step(z, h, sign), z)


@jax.jit
def jacobian(z: jax.Array) -> jax.Array:
    """Of the step with the next term."""
    return jax.jacobian(lambda z: step(z, 0.4, 1.0))(z)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Errors at a fixed time with the term, without it, and with its sign turned."""
    begin = jnp.asarray(np.random.default_rng(seed).normal(size=4))
    end = follow(pendulum, begin, TIME)
    found: dict[str, Any] = {"h": SIZES}
    for name, sign in (("next term", 1.0), ("first term", 0.0), ("sign turned", -1.0)):
        errors = [float(jnp.linalg.norm(run(begin, h, sign, round(TIME / h)) - end)) for h in SIZES]
        found |= {f"order, {name}": slope(SIZES[1:], errors[1:]), name: errors}
    m = jacobian(begin)
    return found | {"symplectic defect": float(jnp.linalg.norm(m.T @ J @ m - J))}


CLAIM = Claim(
    __doc__,
    ("micro2",),
    experiment,
    (
        near("order, next term", 4, 0.25),
        near("order, first term", 2, 0.15),
        Bound("symplectic defect", high=1e-9, every=True),
    ),
    control=(Bound("order, sign turned", 3.0),),
    seconds=(15, 30),
    figure=Lines("h", ("next term", "first term", "sign turned"), "error", "xy"),
)
