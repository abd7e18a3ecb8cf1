"""# The drift in the plane

**Lesson**: gradient descent follows the flow of another loss more closely than gradient flow.
`drift.modified_field` computes that flow, which predicts where the iterates go.

The modified field of third order has two terms beyond the gradient. Its curve runs through the
iterates, while the curve of gradient flow leaves them.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import odeopt
from odeopt import drift

rate, steps, substeps = 0.25, 16, 10


def loss(x):
    return jnp.cosh(x[0]) + 0.5 * (x[1] - jnp.sin(x[0])) ** 2


def field(x):
    return -jax.grad(loss)(x)


def curve(of, h, start, number):
    """Points of RK4 along a field."""
    step = drift.step_map(odeopt.solvers.RK4(), of)

    def move(x, _):
        return step(x, h), x

    return jax.jit(lambda: jax.lax.scan(move, start, length=number)[1])()


start = jnp.array([1.6, -0.9])
modified = drift.modified_field(odeopt.solvers.Euler(), field, 3)
flow = curve(field, rate / substeps, start, steps * substeps)
predicted = curve(lambda x: modified(x, rate), rate / substeps, start, steps * substeps)
iterates = [start]
for _ in range(steps - 1):
    iterates.append(iterates[-1] + rate * field(iterates[-1]))
iterates = jnp.stack(iterates)

off = jnp.abs(iterates - flow[::substeps]).max()
assert jnp.abs(iterates - predicted[::substeps]).max() < 0.2 * off

x, y = np.meshgrid(np.linspace(-0.1, 1.8, 50), np.linspace(-1.1, 0.9, 50))
height = jax.vmap(jax.vmap(loss))(jnp.stack([x, y], axis=-1))
figure, axes = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
axes.contour(x, y, height, levels=12, colors="#9aa3ad", linewidths=0.6)
axes.plot(*flow.T, color="#6b7280", linewidth=3, alpha=0.6, label="gradient flow")
axes.plot(*predicted.T, color="#0072B2", label="modified field, order 3")
axes.plot(*iterates.T, "o", color="#D55E00", markersize=4, label="gradient descent")
axes.set(xlabel="$x_1$", ylabel="$x_2$")
axes.legend()
