"""The classical Runge-Kutta method, written down once more: nothing of odeopt is in it."""

import jax


def classical(field, start, time, steps=2000):
    """Where `dx/dt = field(x)` leads from `start` in that time."""
    h = time / steps

    def step(w, _):
        k1 = field(w)
        k2 = field(w + h / 2 * k1)
        k3 = field(w + h / 2 * k2)
        k4 = field(w + h * k3)
        return w + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return jax.jit(lambda: jax.lax.scan(step, start, length=steps))()[0]
