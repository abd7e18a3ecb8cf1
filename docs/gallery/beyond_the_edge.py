"""# What gradient descent follows at the edge of stability

**Lesson**: gradient flow does not see the edge of stability at curvature 2/h. There gradient
descent oscillates, and its curvature goes around 2/h. The edge flow goes around with it at first,
and the central flow stays at the mean.

The curvature of a valley grows at a constant rate until the iterates jump from one side to the
other, which lowers it again. The edge flow follows the middle of two iterates, and half of their
distance.
"""

import diffrax
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import odeopt
from odeopt import drift

rate, steps, start = 0.1, 100, jnp.array([1.0, 19.5])
times = rate * jnp.arange(steps)


def loss(y):
    """A valley along y[1], which is its curvature."""
    return 0.5 * y[1] * y[0] ** 2 - y[1]


def field(y):
    """Of gradient flow."""
    return -jax.grad(loss)(y)


def follow(field, start):
    """The solution of a field at every step."""
    term = diffrax.ODETerm(lambda t, y, h: field(y, h))
    at, control = diffrax.SaveAt(ts=times), diffrax.PIDController(rtol=1e-5, atol=1e-7)
    end, solver = float(times[-1]), diffrax.Tsit5()
    return diffrax.diffeqsolve(
        term, solver, 0.0, end, 0.01, start, rate, saveat=at, stepsize_controller=control
    ).ys


flow = follow(lambda y, h: field(y), start)
central = follow(drift.central_flow(loss), start)
edge_flow = drift.edge_flow(drift.step_map(odeopt.solvers.Euler(), field))
edge = follow(edge_flow, edge_flow.start(start, rate))
iterates = [start]
for _ in range(steps - 1):
    iterates.append(iterates[-1] + rate * field(iterates[-1]))
iterates = jnp.stack(iterates)

assert flow[-1, 1] > 29
assert 22 > iterates[:, 1].max() > 2 / rate
assert jnp.abs(edge.centre[:, 1] - iterates[:, 1])[:40].max() < 0.5
assert jnp.abs(central[-1, 1] - 2 / rate) < 0.1

figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2), layout="constrained")
left.plot(times, jnp.abs(iterates[:, 0]), ".", color="#D55E00", markersize=3)
left.plot(times, jnp.abs(flow[:, 0]), color="#6b7280", linewidth=3, alpha=0.6)
left.plot(times, jnp.abs(edge.amplitude[:, 0]), "k--")
left.set(xlabel="flow time", ylabel="distance from the valley's floor")
right.plot(times, flow[:, 1], color="#6b7280", linewidth=3, alpha=0.6, label="gradient flow")
right.plot(times, iterates[:, 1], ".", color="#D55E00", markersize=3, label="gradient descent")
right.plot(times, edge.centre[:, 1], "k--", label="edge flow")
right.plot(times, central[:, 1], color="#0072B2", label="central flow")
right.set(xlabel="flow time", ylabel="curvature")
right.legend()
