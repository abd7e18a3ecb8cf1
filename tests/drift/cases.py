"""Runge-Kutta methods, implicit ones included, and pytree fields to measure drift on."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
    return 0.5 * u**2 + 0.5 * (v - 0.5 * u**2) ** 2 + 0.25 * w**4 + 0.3 * v**2 * w


def descent(y):
    """Minus the gradient of `loss`, written out: what derivatives are taken of compiles faster."""
    u, v, w = *y["pair"], y["single"]
    gap = v - 0.5 * u * u
    pair = jnp.stack([gap * u - u, -gap - 0.6 * v * w])
    return {"pair": pair, "single": -w * w * w - 0.3 * v * v}


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
    """`y` after `time` along a field, by RK4; the field is compiled once."""
    h = time / steps
    nodes, weights = jnp.array([0.0, 0.5, 0.5, 1.0]), jnp.array([1.0, 2.0, 2.0, 1.0]) / 6

    def moved(y, slope, factor):
        return jax.tree.map(lambda a, b: a + factor * h * b, y, slope)

    def step(_, y):
        def stage(carry, row):
            slope, end = carry
            slope = field(moved(y, slope, row[0]))
            return (slope, moved(end, slope, row[1])), None

        zero = jax.tree.map(jnp.zeros_like, y)
        (_, end), _ = jax.lax.scan(stage, (zero, y), (nodes, weights))
        return end

    return jax.lax.fori_loop(0, steps, step, y)


def follow(opt, field, y, n, state=None):
    """`n` steps of an optimizer along a field; returns the end and the optimizer's state."""

    def gradient(y, stage=0):
        return jax.tree.map(jnp.negative, field(y))

    def step(_, carry):
        y, state = carry
        updates, state = opt.update(gradient(y), state, y, grad_fn=gradient)
        return optax.apply_updates(y, updates), state

    return jax.lax.fori_loop(0, n, step, (y, opt.init(y) if state is None else state))


def rates(errors):
    """Observed orders of errors at step sizes that halve."""
    errors = np.asarray(errors)
    assert np.all(errors > 1e-12)  # the references are good to 1e-14: below it is noise
    return np.log2(errors[:-1] / errors[1:])
