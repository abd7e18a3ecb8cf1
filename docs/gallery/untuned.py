"""# Untuned against tuned and scheduled

**Lesson**: one run of `log_time_adam()`, with nothing to tune, ends within a factor of 2 of Adam
at the best of 17 learning rates. On noisy labels, as here, tuned Adam is ahead, with and
without a schedule.

A small network on 256 noisy examples, batches of 32, 600 steps. Each point is the error on
held-out examples. [The benchmark](../benchmark.md) has more problems.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import odeopt

keys = jax.random.split(jax.random.key(0), 5)
inputs = jax.random.normal(keys[0], (1280, 6))
truth = jnp.sin(2 * inputs[:, 0]) * inputs[:, 1] + inputs[:, 2] ** 2
targets = truth + 0.5 * jax.random.normal(keys[3], (1280,))
start = {
    "w1": jax.random.normal(keys[1], (6, 32)) / 6**0.5,
    "b1": jnp.zeros(32),
    "w2": jax.random.normal(keys[2], (32,)) / 32**0.5,
}
steps = 600
batches = jax.random.randint(keys[4], (steps, 32), 0, 256)  # 256 examples, the rest are held out


def predicted(params, rows):
    return jnp.tanh(inputs[rows] @ params["w1"] + params["b1"]) @ params["w2"]


def loss(params, rows):
    return jnp.mean((predicted(params, rows) - targets[rows]) ** 2)


def error(params):
    """Mean squared error on the examples held out, without the noise of their labels."""
    return jnp.mean((predicted(params, slice(256, None)) - truth[256:]) ** 2)


def final(opt):
    """Parameters and state at the end of a run."""

    def step(carry, rows):
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params, rows), state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (start, opt.init(start)), batches)
    return params, state


def tuned(schedule):
    run = jax.jit(jax.vmap(lambda h: error(final(optax.adam(schedule(h)))[0])))
    return run(rates)


rates = jnp.logspace(-4, 0, 17)
constant = tuned(lambda h: h)
cosine = tuned(lambda h: lambda n: h * 0.5 * (1 + jnp.cos(jnp.pi * n / steps)))
params, state = jax.jit(lambda: final(odeopt.log_time_adam()))()
untuned = error(odeopt.step_params(state, params))
assert jnp.min(cosine) < jnp.min(constant) < untuned < 2 * jnp.min(cosine)

figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
axes.loglog(rates, constant, "o-", color="#D55E00", label="Adam, constant rate")
axes.loglog(rates, cosine, "s-", color="#009E73", label="Adam, cosine decay")
axes.axhline(untuned, color="#0072B2", label="log_time_adam()")
axes.set(xlabel="learning rate of Adam", ylabel="error on held-out examples")
axes.legend()
