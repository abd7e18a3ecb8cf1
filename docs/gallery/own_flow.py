"""# A flow of your own

**Lesson**: a flow is a vector field in ten lines, and every solver can step it. Here gradients are
normalized, so the parameters move at constant speed.

The speed of gradient flow falls with the gradient. Normalized flow crosses the flat part of the
loss at full speed. Any tableau integrates it.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import odeopt


class NormalizedFlow(odeopt.flows.AbstractFlow):
    """Gradient flow at a speed of nearly 1, where the gradient is longer than `floor`."""

    floor: float = 0.01

    def init(self, params):
        return ()

    def increment(self, z, objective, h):
        params, aux = z
        grads = objective.here(params)
        scale = -h / (optax.tree.norm(grads) + self.floor)
        return jax.tree.map(lambda g: scale * g, grads), aux


def loss(x):
    return jnp.sum(jnp.log1p(x**2))  # flat far from its minimum


def losses(flow, rate, steps):
    opt = odeopt.ode_optimizer(flow, odeopt.solvers.Heun(), rate)

    def step(carry, _):
        x, state = carry
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        return (optax.apply_updates(x, updates), state), (state.time, loss(x))

    start = jnp.array([6.0, -3.0])
    return jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), length=steps)[1])()


normalized = losses(NormalizedFlow(), 0.1, 80)
gradient = losses(odeopt.flows.GradientFlow(), 0.1, 200)
assert normalized[1][-1] < 0.01

figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
axes.plot(*gradient, color="#6b7280", label="GradientFlow")
axes.plot(*normalized, color="#0072B2", label="NormalizedFlow, 0.1")
axes.set(xlabel="flow time", ylabel="loss")
axes.legend()
