"""The eleven problems of the study of learning rates that need no tuning.

Nine are the usual small ones: quadratics of condition 1e4 and 1e6; digits with squared error
and cross-entropy in full batches, and with cross-entropy in batches of 64 and of 8; an autoencoder
of digits; a network for diabetes; a network that solves Poisson's equation. The other two were
written down here before any optimizer was run on them: a network for breast cancer in batches of
32, and a network that solves Burgers' equation. Nothing here knows of optimizers.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import train_test_split

from .engine.problem import Batch, BatchLoss, Params, Problem
from .names import lookup
from .networks import (
    VISCOSITY,
    burgers_error,
    burgers_points,
    cross_entropy_of,
    network_init,
    outputs_of,
    poisson_points,
    squared_distance_of,
)
from .problems import (
    HIDDEN,
    digits_data,
    logits_of,
    mlp_init,
    poisson,
    squared_error,
    synthetic_quadratic,
)

SUITE = "untuned-1"
"""Version of the problems below. A change of data, initial point or loss needs a new one."""

network_error = BatchLoss(squared_distance_of, outputs_of)
"""Half the squared distance of the outputs to the targets, mean over examples."""

digits_cross_entropy = BatchLoss(cross_entropy_of, logits_of)
"""Softmax cross-entropy of the digits network."""


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
        batch_size=batch_size,
        validation=validation,
    )


def _digits_cross_entropy(batch_size: int | None) -> Problem:
    suffix = "" if batch_size is None else f"-{batch_size}"

    return _digits(f"digits-ce{suffix}", digits_cross_entropy, "cross-entropy", batch_size)


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
        loss=BatchLoss(cross_entropy_of, outputs_of),
        init=network_init((30, 16, 2), np.float32),
        data=data,
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


def _burgers() -> Problem:
    return Problem(
        name="burgers",
        title=f"Burgers' equation, viscosity {VISCOSITY}, network 2-20-20-1 tanh, 256 points, "
        "full batch",
        loss=burgers_error,
        init=network_init((2, 20, 20, 1), np.float64),
        data=burgers_points(0.5),
        validation=burgers_points(0.0),
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
    "poisson": lambda: dataclasses.replace(poisson(), validation=poisson_points(0.0)),
    "breast-cancer-32": _breast_cancer,
    "burgers": _burgers,
}
"""Every problem by name, in the order of the tables."""
QUICK_PROBLEMS = ("quadratic-kappa1e4", "digits-ce-64", "digits-ce-8", "diabetes-mlp")


def build(names: Sequence[str | Problem]) -> list[Problem]:
    """Build problems by name; call it with x64 enabled, or three of them come out in float32.

    A problem is taken as it is.

    Raises:
        ValueError: For a name that is not there, with the nearest ones.
    """
    return [
        name if isinstance(name, Problem) else lookup("problem", name, PROBLEMS)() for name in names
    ]
