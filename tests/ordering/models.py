"""What the tests of orders train: losses of one batch, given by its number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes, load_digits

RATE, DECAY = 0.1, 1.0
SIZE = 16


@functools.cache
def regression():
    """Diabetes: (loss of batch i, parameters, number of batches)."""
    inputs, targets = load_diabetes(return_X_y=True)
    inputs = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    targets = (targets - targets.mean()) / targets.std()

    def loss(params, i):
        x, y = rows(inputs, i), rows(targets, i)
        return 0.5 * jnp.mean((x @ params["w"] - y) ** 2) + decay(params)

    return loss, {"w": np.zeros(10)}, len(inputs) // SIZE


@functools.cache
def softmax():
    """Digits: likewise, softmax regression."""
    pixels, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0).permutation(len(pixels))
    inputs, targets = pixels[random] / 16, labels[random]

    def loss(params, i):
        logits = rows(inputs, i) @ params["w"] + params["b"]
        error = optax.softmax_cross_entropy_with_integer_labels(logits, rows(targets, i))
        return jnp.mean(error) + decay(params)

    return loss, {"w": np.zeros((64, 10)), "b": np.zeros(10)}, len(inputs) // SIZE


def rows(array, i):
    return jax.lax.dynamic_slice_in_dim(jnp.asarray(array), SIZE * i, SIZE)


def decay(params):
    return 0.5 * DECAY * optax.tree.norm(params, squared=True)


def train(opt, loss, params, order, *, given=False):
    """All iterates, first one included, and the last state; gradients handed over if `given`."""
    params = jax.tree.map(jnp.asarray, params)

    def step(carry, i):
        params, state = carry
        grads = jax.grad(loss)(params, i) if given else None
        updates, state = opt.update(grads, state, params, value_fn=loss, i=i)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    (_, state), path = jax.lax.scan(step, (params, opt.init(params)), jnp.asarray(order))
    return jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), params, path), state


def composed(opt, loss, params, order, window, start_after=0):
    """The iterates of backward order, written out in Python."""
    update = jax.jit(lambda grads, state, x, i: opt.update(grads, state, x, value_fn=loss, i=i))
    gradient = jax.jit(jax.grad(loss))
    params = jax.tree.map(jnp.asarray, params)
    path, state = [params], opt.init(params)
    checkpoint = params, state
    begin = 0
    for n in range(1, len(order) + 1):
        if n <= start_after + 1 or (n - 1 - start_after) % window == 0:
            checkpoint, begin = (params, state), n - 1
        params, state = checkpoint
        for i in order[begin:n][::-1]:
            updates, state = update(gradient(params, i), state, params, i)
            params = optax.apply_updates(params, updates)
        path.append(params)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *path), state


def distances(path):
    """Between successive iterates."""
    steps = jax.tree.map(lambda x: jnp.diff(x, axis=0), path)
    return np.asarray(jax.vmap(optax.tree.norm)(steps))


def gap(one, other):
    """The largest difference between two trees."""
    leaves = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), one, other))
    return float(max(leaves))
