"""The eleven problems of the study of learning rates that need no tuning.

Nine are the usual small ones: quadratics of condition 1e4 and 1e6; digits with squared error
and cross-entropy in full batches, and with cross-entropy in batches of 64 and of 8; an autoencoder
of digits; a network for diabetes; a network that solves Poisson's equation. The other two were
written down here before any optimizer was run on them: a network for breast cancer in batches of
32, and a network that solves Burgers' equation. Nothing here knows of optimizers.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split

from ..names import lookup
from ..problems import (
    HIDDEN,
    Batch,
    Params,
    Problem,
    digits_data,
    mlp_init,
    predict,
    squared_error,
    synthetic_quadratic,
)

SUITE = "untuned-1"
"""Version of the problems below. A change of data, initial point or loss needs a new one."""

VISCOSITY = 0.05
"""Of Burgers' equation: the front stays wide enough for 16 x 16 points."""


def network(params: Params, inputs: jax.Array) -> jax.Array:
    """A tanh network, the last layer linear; `params` is a list of (weights, biases)."""
    for weights, biases in params[:-1]:
        inputs = jnp.tanh(inputs @ weights + biases)
    weights, biases = params[-1]
    return inputs @ weights + biases


def network_init(sizes: Sequence[int], dtype: Any) -> Callable[[int], Params]:
    """`init(seed)`: weights normal with variance 1 / inputs, biases zero."""

    def init(seed: int) -> Params:
        random = np.random.default_rng(seed)
        return [
            (
                jnp.asarray(random.standard_normal((n, m)) / np.sqrt(n), dtype),
                jnp.zeros(m, dtype),
            )
            for n, m in itertools.pairwise(sizes)
        ]

    return init


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy with one-hot labels, mean over examples, exact also where it is tiny.

    As log(1 + sum_j exp(x_j - x_y)) over the wrong classes j: taken from log-softmax it would be
    rounded to multiples of 1e-7 in float32, and separable data take it far below.
    """
    right = jnp.sum(logits * labels, axis=-1)
    wrong = jax.nn.logsumexp(jnp.where(labels > 0, -jnp.inf, logits), axis=-1)
    return jnp.mean(jax.nn.softplus(wrong - right))


def network_error(params: Params, batch: Batch) -> jax.Array:
    """Half the squared distance of the outputs to the targets, mean over examples."""
    inputs, targets = batch
    return 0.5 * jnp.mean(jnp.sum((network(params, inputs) - targets) ** 2, axis=-1))


def poisson_error(params: Params, batch: Batch) -> jax.Array:
    """Mean squared residual of u'' = f over the mean square of f.

    u(x) = x (1 - x) network(x) on [0, 1], so that it is zero at both ends.
    """
    points, source = batch

    def solution(x: jax.Array) -> jax.Array:
        return x * (1 - x) * network(params, (2 * x - 1)[None])[0]

    residual = jax.vmap(jax.grad(jax.grad(solution)))(points) - source
    return jnp.mean(residual**2) / jnp.mean(source**2)


def burgers_error(params: Params, batch: Batch) -> jax.Array:
    """Mean squared residual of u_t + u u_x = nu u_xx, plus that of initial and boundary values."""
    interior, border, values = batch

    def solution(time: jax.Array, place: jax.Array) -> jax.Array:
        return network(params, jnp.stack([2 * time - 1, place]))[0]

    def residual(point: jax.Array) -> jax.Array:
        time, place = point
        u = solution(time, place)
        in_time, in_place = jax.grad(solution, argnums=(0, 1))(time, place)
        curvature = jax.grad(jax.grad(solution, argnums=1), argnums=1)(time, place)
        return in_time + u * in_place - VISCOSITY * curvature

    at_border = jax.vmap(lambda point: solution(point[0], point[1]))(border)
    return jnp.mean(jax.vmap(residual)(interior) ** 2) + jnp.mean((at_border - values) ** 2)


def _split(*arrays: np.ndarray, labels: np.ndarray | None = None) -> tuple[Batch, Batch]:
    """Four fifths for training, one for validation; the same for every seed of a run."""
    halves = train_test_split(*arrays, test_size=0.2, random_state=0, stratify=labels)
    return tuple(halves[::2]), tuple(halves[1::2])


def _digits(
    name: str,
    loss: Callable[[Params, Batch], jax.Array],
    words: str,
    batch_size: int | None = None,
) -> Problem:
    pixels, labels = digits_data(np.float32)
    data, validation = _split(pixels, labels, labels=labels)
    return Problem(
        name=name,
        title=f"digits, MLP 64-{HIDDEN}-10 tanh, {words}, "
        + ("full batch" if batch_size is None else f"batch {batch_size}"),
        loss=loss,
        init=lambda seed: mlp_init(seed, np.float32),
        data=data,
        dtype=np.float32,
        batch_size=batch_size,
        validation=validation,
    )


def _digits_cross_entropy(batch_size: int | None) -> Problem:
    suffix = "" if batch_size is None else f"-{batch_size}"

    def loss(params: Params, examples: Batch) -> jax.Array:
        return cross_entropy(predict(params, examples[0]), examples[1])

    return _digits(f"digits-ce{suffix}", loss, "cross-entropy", batch_size)


def _autoencoder() -> Problem:
    sizes = (64, 32, 8, 32, 64)
    pixels, labels = digits_data(np.float32)
    (train, _), (held, _) = _split(pixels, labels, labels=labels)
    return Problem(
        name="digits-autoencoder",
        title=f"digits, autoencoder {'-'.join(map(str, sizes))} tanh, squared error, full batch",
        loss=network_error,
        init=network_init(sizes, np.float32),
        data=(train, train),
        dtype=np.float32,
        validation=(held, held),
    )


def _diabetes() -> Problem:
    features, target = load_diabetes(return_X_y=True)
    data, validation = _split(features, target[:, None])
    data, validation = _standardized(data, validation, columns=(0, 1))
    return Problem(
        name="diabetes-mlp",
        title="diabetes, MLP 10-32-1 tanh, squared error, full batch",
        loss=network_error,
        init=network_init((10, 32, 1), np.float32),
        data=data,
        dtype=np.float32,
        validation=validation,
    )


def _breast_cancer(batch_size: int = 32) -> Problem:
    features, target = load_breast_cancer(return_X_y=True)
    labels = np.eye(2, dtype=np.float32)[target]
    data, validation = _split(features, labels, labels=labels)
    data, validation = _standardized(data, validation, columns=(0,))
    return Problem(
        name=f"breast-cancer-{batch_size}",
        title=f"breast cancer, MLP 30-16-2 tanh, cross-entropy, batch {batch_size}",
        loss=lambda params, batch: cross_entropy(network(params, batch[0]), batch[1]),
        init=network_init((30, 16, 2), np.float32),
        data=data,
        dtype=np.float32,
        batch_size=batch_size,
        validation=validation,
    )


def _standardized(data: Batch, validation: Batch, columns: Sequence[int]) -> tuple[Batch, Batch]:
    """The arrays of these numbers with mean 0 and deviation 1 on the training examples."""
    means = [array.mean(axis=0) if i in columns else 0 for i, array in enumerate(data)]
    widths = [array.std(axis=0) if i in columns else 1 for i, array in enumerate(data)]

    def of(arrays: Batch) -> Batch:
        scaled = zip(arrays, means, widths, strict=True)
        return tuple(((array - mean) / width).astype(np.float32) for array, mean, width in scaled)

    return of(data), of(validation)


def _poisson() -> Problem:
    def points(shift: float) -> Batch:
        x = (np.arange(64) + shift) / 64
        return x, -((2 * np.pi) ** 2) * np.sin(2 * np.pi * x)

    return Problem(
        name="poisson",
        title="Poisson's equation, network 1-24-24-1 tanh, 64 points, full batch",
        loss=poisson_error,
        init=network_init((1, 24, 24, 1), np.float64),
        data=points(0.5),
        dtype=np.float64,
        validation=points(0.0),
    )


def _burgers() -> Problem:
    def points(shift: float, count: int = 16) -> Batch:
        unit = (np.arange(count) + shift) / count
        interior = np.stack(np.meshgrid(unit, 2 * unit - 1, indexing="ij"), axis=-1).reshape(-1, 2)
        place = 2 * (np.arange(4 * count) + shift) / (4 * count) - 1
        start = np.stack([0 * place, place], axis=-1)
        walls = np.stack([np.tile(unit, 2), np.repeat([-1.0, 1.0], count)], axis=-1)
        values = np.concatenate([-np.sin(np.pi * place), np.zeros(2 * count)])
        return interior, np.concatenate([start, walls]), values

    return Problem(
        name="burgers",
        title=f"Burgers' equation, viscosity {VISCOSITY}, network 2-20-20-1 tanh, 256 points, "
        "full batch",
        loss=burgers_error,
        init=network_init((2, 20, 20, 1), np.float64),
        data=points(0.5),
        dtype=np.float64,
        validation=points(0.0),
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "quadratic-kappa1e4": lambda: synthetic_quadratic(1e4),
    "quadratic-kappa1e6": lambda: synthetic_quadratic(1e6),
    "digits-mse": lambda: _digits("digits-mse", squared_error, "squared error"),
    "digits-ce": lambda: _digits_cross_entropy(None),
    "digits-ce-64": lambda: _digits_cross_entropy(64),
    "digits-ce-8": lambda: _digits_cross_entropy(8),
    "digits-autoencoder": _autoencoder,
    "diabetes-mlp": _diabetes,
    "poisson": _poisson,
    "breast-cancer-32": _breast_cancer,
    "burgers": _burgers,
}
"""Every problem by name, in the order of the tables."""


def build(names: Sequence[str]) -> list[Problem]:
    """Build problems by name; call it with x64 enabled, or three of them come out in float32.

    Raises:
        ValueError: For a name that is not there, with the nearest ones.
    """
    return [lookup("problem", name, PROBLEMS)() for name in names]
