"""# Backward and averaged runs

**Lesson**: in backward order, where the newest batch acts first, stochastic gradient descent
converges to a point; in forward order it does not. That point is no better than another iterate. An
average is better, at no cost.

A noisy least-squares problem with weight decay, batches of 4. The figure shows the distance from
the minimum of all data.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import odeopt

inputs = jax.random.normal(jax.random.key(0), (32, 4, 3))  # 32 batches
noise = jax.random.normal(jax.random.key(1), (32, 4))
targets = inputs @ jnp.array([1.0, -1.0, 0.5]) + 2 * noise
rate, steps = 0.05, 160
order = jax.random.randint(jax.random.key(2), (steps,), 0, 32)


def loss(x, i):
    return 0.5 * jnp.mean((inputs[i] @ x - targets[i]) ** 2) + 0.5 * jnp.sum(x**2)


flat = inputs.reshape(-1, 3)
minimum = jnp.linalg.solve(flat.T @ flat / 128 + jnp.eye(3), flat.T @ targets.reshape(-1) / 128)


def points(opt):
    """The parameters after every step."""

    def step(carry, i):
        x, state = carry
        updates, state = opt.update(jax.grad(loss)(x, i), state, x, value_fn=loss, i=i)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.zeros(3)
    return jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), order)[1])()


forward = points(odeopt.euler(rate))
backward = points(odeopt.ordering.backward(odeopt.euler(rate), steps=steps, example={"i": 0}))
averaged = jnp.cumsum(forward[40:], axis=0) / jnp.arange(1, steps - 39)[:, None]
late = jnp.linalg.norm(jnp.diff(backward, axis=0), axis=1)[-1]
assert late < 0.01 * jnp.linalg.norm(jnp.diff(forward, axis=0), axis=1)[-20:].mean()

figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
for label, run, first, color in (
    ("forward", forward, 0, "#D55E00"),
    ("backward", backward, 0, "#0072B2"),
    ("average of forward, from step 40", averaged, 40, "#009E73"),
):
    distance = jnp.linalg.norm(run - minimum, axis=1)
    axes.semilogy(first + jnp.arange(len(run)), distance, color=color, label=label)
axes.set(xlabel="step", ylabel="distance from the minimum")
axes.legend()
