"""Runge-Kutta methods, implicit ones included, and pytree fields to measure drift on."""

from fractions import Fraction

import jax
import jax.numpy as jnp

from odeopt import solvers

METHODS = {
    "euler": solvers.Euler(),
    "midpoint": solvers.Midpoint(),
    "heun": solvers.Heun(),
    "ralston": solvers.Ralston(),
    "rk4": solvers.RK4(),
    "ssprk3": solvers.SSPRK3(),
    "implicit midpoint": ([[Fraction(1, 2)]], [1]),
    "implicit euler": ([[1]], [1]),
}
EXPLICIT = [name for name in METHODS if "implicit" not in name]


def loss(y):
    """A smooth loss of a pytree, without symmetry; its Hessian turns along the flow."""
    u, v, w = *y["pair"], y["single"]
    return jnp.cosh(u) + 0.5 * (v - jnp.sin(u)) ** 2 + 0.25 * w**4 + 0.3 * jnp.cos(v) * w


def descent(y):
    """Minus the gradient of `loss`, written out: what derivatives are taken of compiles faster."""
    u, v, w = *y["pair"], y["single"]
    gap = v - jnp.sin(u)
    pair = jnp.stack([gap * jnp.cos(u) - jnp.sinh(u), 0.3 * jnp.sin(v) * w - gap])
    return {"pair": pair, "single": -(w**3) - 0.3 * jnp.cos(v)}


def rotation(y):
    """Not a gradient: van der Pol's oscillator, driving a third variable."""
    u, v, w = *y["pair"], y["single"]
    return {"pair": jnp.stack([v, (1 - u**2) * v - u]), "single": jnp.sin(2 * u) - w}


FIELDS = {"descent": descent, "rotation": rotation}


def start():
    return {"pair": jnp.array([1.0, -0.7]), "single": jnp.array(0.8)}


def norm(tree):
    return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def difference(a, b):
    return norm(jax.tree.map(jnp.subtract, a, b))


def flow(field, y, time, steps=400):
    """`y` after `time` along a field, by RK4: at 400 steps exact to 1e-12 here."""
    step_size = time / steps

    def step(_, y):
        def moved(slope, factor):
            return jax.tree.map(lambda a, b: a + factor * step_size * b, y, slope)

        k1 = field(y)
        k2 = field(moved(k1, 0.5))
        k3 = field(moved(k2, 0.5))
        k4 = field(moved(k3, 1.0))
        mean = jax.tree.map(lambda a, b, c, d: (a + 2 * b + 2 * c + d) / 6, k1, k2, k3, k4)
        return moved(mean, 1.0)

    return jax.lax.fori_loop(0, steps, step, y)
