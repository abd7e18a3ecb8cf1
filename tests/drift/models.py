"""Losses in parts, and how orders are observed: of iterates against a field that models them."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

BATCHES = np.array([[1.0, 0.7, 1.2, 0.3], [0.4, -1.1, 0.5, -0.2], [1.3, 0.2, 0.8, 0.6]])


def part(x, batch):
    """A smooth loss whose gradients of different batches neither commute nor agree."""
    u, v = x["u"], x["v"]
    a, b, c, d = batch
    return jnp.cosh(a * u) + 0.5 * c * (v - jnp.sin(b * u)) ** 2 + 0.3 * d * u * v**2


def start():
    return {"u": jnp.array(0.8), "v": jnp.array(-0.6)}


def solve(field, y, time, h):
    """Along `dy/dt = field(y, h)` for `time`, far more accurately than any model here."""
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, h: field(y, h)),
        diffrax.Dopri8(),
        0.0,
        time,
        0.01,
        y,
        args=h,
        stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-13),
        max_steps=10_000,
        saveat=diffrax.SaveAt(t1=True),
    ).ys


def last(tree):
    return jax.tree.map(lambda leaf: leaf[-1], tree)


def distance(a, b):
    return optax.tree.norm(jax.tree.map(jnp.subtract, a, b))


def observed(error, steps):
    """The order by which `error(n)` falls when steps are halved, from the last two of `steps`."""
    errors = np.array([float(error(n)) for n in steps])
    assert errors[-1] > 1e-12  # what the reference is good for
    return np.log2(errors[-2] / errors[-1]) / np.log2(steps[-1] / steps[-2])
