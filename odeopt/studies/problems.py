"""The problems of the stability study: quadratics with a known spectrum, and networks."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.preprocessing import PolynomialFeatures

from ..split import composite
from . import data
from .architectures import (
    LENGTH,
    convolution,
    convolution_init,
    residual,
    residual_init,
    transformer,
    transformer_init,
)
from .engine.load import built
from .engine.problem import Batch, Params, Problem
from .networks import (
    VISCOSITY,
    burgers_error,
    burgers_points,
    cross_entropy_of,
    equation,
    network_init,
    outputs_of,
    poisson_error,
    poisson_points,
    squared_distance_of,
)

SUITE = "quick-1"
"""Version of the problems below. A change of data, initial point or loss needs a new one."""

HIDDEN = 32


least_squares = composite(
    lambda outputs, batch: 0.5 * jnp.mean((outputs - batch[1]) ** 2),
    lambda params, batch: batch[0] @ params,
)
"""Half the mean squared residual, (1/2n) ‖A x - b‖^2."""


squared_error = composite(squared_distance_of, outputs_of)
"""Half the squared distance of the outputs to the one-hot labels, mean over examples."""

cross_entropy = composite(
    lambda logits, batch: jnp.mean(optax.softmax_cross_entropy(logits, batch[1])), outputs_of
)
"""Softmax cross-entropy with the one-hot labels, mean over examples."""


def _normal_init(size: int) -> Callable[[int], jax.Array]:
    return lambda seed: jnp.asarray(np.random.default_rng(seed).standard_normal(size))


def _quadratic(name: str, title: str, matrix: np.ndarray, solution: np.ndarray) -> Problem:
    # The target is A x*, so that the loss is the excess over the optimum and goes to zero.
    data = (matrix, matrix @ solution)
    return Problem(
        least_squares, _normal_init(matrix.shape[1]), data, name=name, title=title, quadratic=True
    )


def _diabetes(degree: int) -> Problem:
    features, target = data.load("diabetes")
    matrix = data.scaled(PolynomialFeatures(degree, include_bias=False).fit_transform(features))
    solution = np.linalg.lstsq(matrix, data.scaled(target), rcond=None)[0]
    suffix = "" if degree == 1 else str(degree)
    title = f"least squares, diabetes, {matrix.shape[1]} features"
    return _quadratic(f"quadratic-diabetes{suffix}", title, matrix, solution)


def synthetic_quadratic(condition: float = 1e6, size: int = 50, minimum: float = 0.0) -> Problem:
    """Least squares with `size` log-spaced eigenvalues 1/condition..1 in a random basis.

    Every parameter is `minimum` where the loss is 0.
    """
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.standard_normal((size, size)))[0]
    eigenvalues = np.logspace(-np.log10(condition), 0, size)
    matrix = np.sqrt(size * eigenvalues)[:, None] * rotation
    title = f"synthetic quadratic, {size} log-spaced eigenvalues, condition {condition:.0e}"
    name = f"quadratic-kappa1e{round(np.log10(condition))}"
    return _quadratic(name, title, matrix, np.full(size, minimum))


def digits_data(dtype: Any, examples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: pixels in [0, 1] of shape (n, 64) and one-hot labels (n, 10)."""
    pixels, labels = data.load("digits")
    return pixels[:examples].astype(dtype), data.one_hot(labels, dtype)[:examples]


def mlp_init(dtype: Any) -> Callable[[int], Params]:
    """The MLP 64-32-10 with tanh."""
    return network_init((64, HIDDEN, 10), dtype)


def _digits(
    name: str,
    title: str,
    loss: Callable[..., jax.Array],
    init: Callable[[int], Params] | None = None,
    size: int | None = None,
) -> Problem:
    suffix, batch = ("", "full batch") if size is None else (f"-{size}", f"batch {size}")
    return Problem(
        loss,
        init or mlp_init(np.float32),
        digits_data(np.float32),
        name=f"digits-{name}{suffix}",
        title=f"digits, {title}, {batch}",
        batch_size=size,
    )


def _squared(size: int | None = None) -> Problem:
    return _digits("mse", f"MLP 64-{HIDDEN}-10 tanh, squared error", squared_error, size=size)


def _entropy(size: int | None = None) -> Problem:
    return _digits("ce", f"MLP 64-{HIDDEN}-10 tanh, cross-entropy", cross_entropy, size=size)


def logistic_error_of(margins: jax.Array, batch: Batch) -> jax.Array:
    """Mean of log(1 + exp(-margin)), the margin counted from the right label (-1 or 1)."""
    return jnp.mean(jax.nn.softplus(-batch[1] * margins))


def _logistic() -> Problem:
    features, target = data.load("breast_cancer")
    # With all 30 features the classes can be separated, and the loss has no minimum.
    matrix = np.column_stack([data.scaled(features[:, :10]), np.ones(len(features))])
    return Problem(
        composite(logistic_error_of, lambda params, batch: batch[0] @ params),
        _normal_init(matrix.shape[1]),
        (matrix, 2.0 * target - 1),
        name="logistic",
        title="logistic regression, breast cancer, its 10 mean features and a constant",
    )


def poisson() -> Problem:
    """A network that solves Poisson's equation."""
    title = "Poisson's equation, network 1-24-24-1 tanh, 64 points"
    return equation("poisson", title, poisson_error, (1, 24, 24, 1), poisson_points(0.5))


def _burgers() -> Problem:
    title = (
        f"Burgers' equation, viscosity {VISCOSITY}, network 2-20-20-1 tanh, 256 points inside, 96 "
        "at the border"
    )
    return equation("burgers", title, burgers_error, (2, 20, 20, 1), burgers_points(0.5))


def _mnist() -> Problem:
    pixels, labels = data.load("mnist-5k")
    return Problem(
        composite(cross_entropy_of, outputs_of),
        network_init((784, 128, 10), np.float32),
        (pixels.astype(np.float32), data.one_hot(labels, np.float32)),
        name="mnist-5k",
        title="MNIST, 5,000 images, MLP 784-128-10 tanh, cross-entropy, full batch",
    )


def _structured(
    name: str, title: str, model: Callable[..., jax.Array], init: Callable[[int], Params]
) -> Problem:
    loss = composite(cross_entropy_of, lambda params, batch: model(params, batch[0]))
    return _digits(name, f"{title}, cross-entropy", loss, init, 64)


def next_character_error(logits: jax.Array, batch: Batch) -> jax.Array:
    """Cross-entropy of the characters that follow, the second array of the batch; their mean."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]))


def windows_of_text(count: int) -> tuple[Batch, int]:
    """Windows of text, and the same one character on; and how many characters there are."""
    text, characters = data.load("kjv")
    rows = text[: count * LENGTH + 1]
    return (rows[:-1].reshape(count, LENGTH), rows[1:].reshape(count, LENGTH)), len(characters)


def _transformer(windows: int = 250) -> Problem:
    texts, characters = windows_of_text(windows)
    return Problem(
        composite(next_character_error, lambda params, batch: transformer(params, batch[0])),
        lambda seed: transformer_init(seed, characters),
        texts,
        name="kjv-64",
        title=f"{windows * LENGTH:,} characters of the King James Bible, the next one from up to "
        f"{LENGTH}, transformer of two layers, cross-entropy, batch 64",
        batch_size=64,
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "quadratic-diabetes": lambda: _diabetes(1),
    "quadratic-diabetes2": lambda: _diabetes(2),
    "quadratic-kappa1e6": synthetic_quadratic,
    "digits-mse": _squared,
    "digits-ce": _entropy,
    "digits-mse-64": lambda: _squared(64),
    "digits-ce-64": lambda: _entropy(64),
    "logistic": _logistic,
    "poisson": poisson,
    "burgers": _burgers,
    "mnist-5k": _mnist,
    "digits-cnn-64": lambda: _structured("cnn", "two convolutions", convolution, convolution_init),
    "digits-residual-64": lambda: _structured(
        "residual", "residual MLP of 8 blocks", residual, residual_init
    ),
    "kjv-64": _transformer,
}
"""Every problem by name."""

QUICK_PROBLEMS = tuple(PROBLEMS)[:7]
"""The problems of a quick study: quadratics and digits."""


def build(names: Sequence[str | Problem]) -> list[Problem]:
    """Problems by name; call it with x64 enabled, or the quadratics come out in float32."""
    return built(names, PROBLEMS)
