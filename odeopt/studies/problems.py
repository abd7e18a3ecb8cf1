"""The problems of the stability study: quadratics with a known spectrum, and digits networks.

Uses scikit-learn for data, JAX and optax for losses; knows nothing of optimizers.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import PolynomialFeatures

from .names import lookup

Params = Any
Batch = tuple[Any, ...]

SUITE = "quick-1"
"""Version of the problems below. A change of data, initial point or loss needs a new one."""

HIDDEN = 32


@dataclasses.dataclass(frozen=True)
class Problem:
    """A loss, its data, its random initial point and how it is batched.

    Attributes:
        name: The name on the command line and in every record.
        title: One line for people.
        loss: `loss(params, batch) -> scalar`, the mean over the examples of `batch`.
        init: `init(seed) -> params`, leaves of dtype `dtype`.
        data: Arrays with one example a row; the full batch.
        dtype: The dtype of parameters, data and learning rates.
        batch_size: Examples a step sees; `None` is all of them.
        quadratic: Whether the Hessian is constant, so that its spectrum is computed densely and
            the stability limit is exact.
        validation: Arrays like `data`, held out; empty where the problem has none.
    """

    name: str
    title: str
    loss: Callable[[Params, Batch], jax.Array]
    init: Callable[[int], Params]
    data: tuple[np.ndarray, ...]
    dtype: Any
    batch_size: int | None = None
    quadratic: bool = False
    validation: tuple[np.ndarray, ...] = ()

    @property
    def checksum(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the data."""
        digest = hashlib.sha256()
        for array in self.data:
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]

    def batches(self, seed: int, steps: int) -> np.ndarray | None:
        """The examples of each step: shuffled epochs as int32 of shape (steps, batch_size).

        `None` for full-batch problems.
        """
        if self.batch_size is None:
            return None
        examples = len(self.data[0])
        per_epoch = examples // self.batch_size
        random = np.random.default_rng(seed)
        epochs = [
            random.permutation(examples)[: per_epoch * self.batch_size]
            for _ in range(-(-steps // per_epoch))
        ]
        return np.concatenate(epochs).reshape(-1, self.batch_size)[:steps].astype(np.int32)


def least_squares(params: jax.Array, batch: Batch) -> jax.Array:
    """Half the mean squared residual, (1/2n) ‖A x - b‖^2."""
    matrix, target = batch
    return 0.5 * jnp.mean((matrix @ params - target) ** 2)


def predict(params: Params, inputs: jax.Array) -> jax.Array:
    """The MLP 64-32-10 with tanh: logits of shape (examples, 10)."""
    hidden = jnp.tanh(inputs @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def squared_error(params: Params, batch: Batch) -> jax.Array:
    """Half the squared distance of the outputs to the one-hot labels, mean over examples."""
    inputs, labels = batch
    return 0.5 * jnp.mean(jnp.sum((predict(params, inputs) - labels) ** 2, axis=-1))


def cross_entropy(params: Params, batch: Batch) -> jax.Array:
    """Softmax cross-entropy with the one-hot labels, mean over examples."""
    inputs, labels = batch
    return jnp.mean(optax.softmax_cross_entropy(predict(params, inputs), labels))


def _quadratic(name: str, title: str, matrix: np.ndarray, solution: np.ndarray) -> Problem:
    def init(seed: int) -> jax.Array:
        return jnp.asarray(np.random.default_rng(seed).standard_normal(matrix.shape[1]))

    # The target is A x*, so that the loss is the excess over the optimum and goes to zero.
    data = (matrix, matrix @ solution)
    return Problem(name, title, least_squares, init, data, np.float64, quadratic=True)


def _diabetes(degree: int) -> Problem:
    features, target = load_diabetes(return_X_y=True)
    features = PolynomialFeatures(degree, include_bias=False).fit_transform(features)
    matrix = (features - features.mean(axis=0)) / features.std(axis=0)
    target = (target - target.mean()) / target.std()
    solution = np.linalg.lstsq(matrix, target, rcond=None)[0]
    suffix = "" if degree == 1 else str(degree)
    title = f"least squares, diabetes, {matrix.shape[1]} features"
    return _quadratic(f"quadratic-diabetes{suffix}", title, matrix, solution)


def synthetic_quadratic(condition: float = 1e6, size: int = 50) -> Problem:
    """Least squares with log-spaced eigenvalues 1/condition..1 in a random basis, optimum 0."""
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.standard_normal((size, size)))[0]
    eigenvalues = np.logspace(-np.log10(condition), 0, size)
    matrix = np.sqrt(size * eigenvalues)[:, None] * rotation
    title = f"synthetic quadratic, {size} log-spaced eigenvalues, condition {condition:.0e}"
    name = f"quadratic-kappa1e{round(np.log10(condition))}"
    return _quadratic(name, title, matrix, np.zeros(size))


def digits_data(dtype: Any, examples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits: pixels in [0, 1] of shape (n, 64) and one-hot labels (n, 10)."""
    pixels, labels = load_digits(return_X_y=True)
    return (pixels[:examples] / 16).astype(dtype), np.eye(10, dtype=dtype)[labels[:examples]]


def mlp_init(seed: int, dtype: Any) -> Params:
    """Weights normal with variance 1 / inputs, biases zero."""
    random = np.random.default_rng(seed)

    def layer(inputs: int, outputs: int) -> jax.Array:
        weights = random.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        return jnp.asarray(weights, dtype)

    return {
        "w1": layer(64, HIDDEN),
        "b1": jnp.zeros(HIDDEN, dtype),
        "w2": layer(HIDDEN, 10),
        "b2": jnp.zeros(10, dtype),
    }


def _digits(loss: str, batch_size: int | None) -> Problem:
    function, words = {
        "mse": (squared_error, "squared error"),
        "ce": (cross_entropy, "cross-entropy"),
    }[loss]
    suffix = "" if batch_size is None else f"-{batch_size}"
    batch = "full batch" if batch_size is None else f"batch {batch_size}"
    return Problem(
        name=f"digits-{loss}{suffix}",
        title=f"digits, MLP 64-{HIDDEN}-10 tanh, {words}, {batch}",
        loss=function,
        init=lambda seed: mlp_init(seed, np.float32),
        data=digits_data(np.float32),
        dtype=np.float32,
        batch_size=batch_size,
    )


# The argument is the size of a mini-batch where the problem has mini-batches.
PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "quadratic-diabetes": lambda _: _diabetes(1),
    "quadratic-diabetes2": lambda _: _diabetes(2),
    "quadratic-kappa1e6": lambda _: synthetic_quadratic(),
    "digits-mse": lambda _: _digits("mse", None),
    "digits-ce": lambda _: _digits("ce", None),
    "digits-mse-64": lambda size: _digits("mse", size),
    "digits-ce-64": lambda size: _digits("ce", size),
}
"""Every problem by name."""


def build(names: Sequence[str], batch_size: int | None = None) -> list[Problem]:
    """Build problems by name; call it with x64 enabled, or the quadratics come out in float32.

    Args:
        names: Keys of `PROBLEMS`.
        batch_size: Size of the mini-batches of the problems that have them (default 64);
            such a problem is then named after its size, as in `digits-mse-16`.

    Raises:
        ValueError: For a name that is not there, with the nearest ones, or a mini-batch larger
            than the data.
    """
    problems = [lookup("problem", name, PROBLEMS)(batch_size or 64) for name in names]
    for problem in problems:
        if problem.batch_size and problem.batch_size > len(problem.data[0]):
            raise ValueError(
                f"--batch-size {problem.batch_size} is more than the {len(problem.data[0])} "
                f"examples of {problem.name}; take the full-batch problem instead."
            )
    return problems
