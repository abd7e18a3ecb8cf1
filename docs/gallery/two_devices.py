"""# Two devices

**Lesson**: each device updates its own part of the parameters. A step on two devices equals the
step on one up to rounding, and each device holds half of the state.

A matrix is split by rows over two devices of the CPU, and trained with a heavy ball. The figure
shows the difference from one device, relative to the parameters.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from jax.sharding import NamedSharding, PartitionSpec

import odeopt

jax.config.update("jax_num_cpu_devices", 2)
mesh = jax.make_mesh((2,), ("model",))
split = NamedSharding(mesh, PartitionSpec("model", None))
inputs = jax.random.normal(jax.random.key(0), (64, 16))
targets = jnp.sin(inputs[:, :4])
opt = odeopt.rk_momentum(0.05, 0.9, odeopt.solvers.Heun())


def loss(weights):
    return jnp.mean((jnp.tanh(inputs @ weights) - targets) ** 2)


@jax.jit
def step(weights, state):
    updates, state = opt.update(jax.grad(loss)(weights), state, weights, value_fn=loss)
    return optax.apply_updates(weights, updates), state


one = 0.1 * jax.random.normal(jax.random.key(1), (16, 4))
two = jax.device_put(one, split)
state_of_one, state_of_two = opt.init(one), opt.init(two)
differences = []
for _ in range(100):
    one, state_of_one = step(one, state_of_one)
    two, state_of_two = step(two, state_of_two)
    differences.append(float(jnp.linalg.norm(one - two) / jnp.linalg.norm(one)))

momentum = state_of_two.aux.momentum
assert {shard.data.shape for shard in momentum.addressable_shards} == {(8, 4)}
assert max(differences) < 1e-4

figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
axes.semilogy(range(1, 101), [max(d, 1e-9) for d in differences], color="#0072B2")
axes.axhline(jnp.finfo(jnp.float32).eps, color="#6b7280", linestyle=":", label="machine epsilon")
axes.set(xlabel="step", ylabel="relative difference")
axes.legend()
