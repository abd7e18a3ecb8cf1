"""The named explicit methods and the fields that they are measured on."""

import jax
import jax.numpy as jnp
import optax

import odeopt
from odeopt import solvers

from ..table import EXPLICIT

CLASSES = {
    "euler": solvers.Euler,
    "heun": solvers.Heun,
    "midpoint": solvers.Midpoint,
    "ralston": solvers.Ralston,
    "bosh3": solvers.Bosh3,
    "ssprk3": solvers.SSPRK3,
    "rk4": solvers.RK4,
    "low_storage4": solvers.LowStorage4,
    "dopri5": solvers.Dopri5,
    "tsit5": solvers.Tsit5,
}
STAGES = {name: EXPLICIT[name][1] for name in CLASSES}  # of a step of fixed size
ORDERS = {name: EXPLICIT[name][2] for name in CLASSES}
PAIRS = ["heun", "midpoint", "ralston", "bosh3", "dopri5", "tsit5"]  # those with an estimate


def make(name, learning_rate, **kwargs):
    return getattr(odeopt, name)(learning_rate, **kwargs)


def loss(x):
    """A smooth loss without symmetry, whose Hessian turns along the flow."""
    u, v, w = x
    return jnp.cosh(u) + 0.5 * (v - jnp.sin(u)) ** 2 + 0.25 * w**4 + 0.3 * jnp.cos(v) * w


def gradient_field(x):
    return -jax.grad(loss)(x)


def rotating_field(x):
    """Not a gradient: van der Pol's oscillator, driving a third variable."""
    u, v, w = x
    return jnp.array([v, 2 * (1 - u**2) * v - u, jnp.sin(2 * u) - w])


FIELDS = {"gradient": gradient_field, "rotating": rotating_field}


def start():
    return jnp.array([1.0, -0.7, 0.8])


def follow(opt, field, x, n, **objective):
    """`n` optimizer steps along `dx/dt = field(x)`; returns the end and the optimizer's state.

    The inner stages' gradients come from `objective` (`value_fn=`), by default from `field`.
    """
    objective = objective or {"grad_fn": lambda y, stage: -field(y)}

    def step(_, carry):
        x, state = carry
        updates, state = opt.update(-field(x), state, x, **objective)
        return optax.apply_updates(x, updates), state

    return jax.lax.fori_loop(0, n, step, (x, opt.init(x)))
