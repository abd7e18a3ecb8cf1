"""What a problem of a study is: a loss, its data, a random initial point. Knows no optimizer."""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from ..split import Composite

Params = Any
Batch = tuple[Any, ...]


class BatchLoss(Composite):
    """A loss of one argument, the batch: `loss(params, batch)`, with the model kept apart.

    An `odeopt.composite` whose samples are the rows of every array of the batch, so that
    Gauss-Newton methods can run on it; other than one it takes the batch by position too.

    Args:
        loss: `loss(outputs, batch) -> scalar`, a mean over the leading axis of the outputs.
        predict: `predict(params, batch) -> outputs`, those of a sample from its own row only.

    Both name their argument `batch`.
    """

    def __init__(
        self,
        loss: Callable[[Any, Batch], jax.Array],
        predict: Callable[[Params, Batch], Any],
    ) -> None:
        super().__init__(loss, predict, ("batch",))
        self.__signature__ = inspect.signature(self.__call__)

    def __call__(self, params: Params, batch: Batch) -> jax.Array:  # type: ignore[override]
        """The loss of the whole batch."""
        return super().__call__(params, batch=batch)


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
