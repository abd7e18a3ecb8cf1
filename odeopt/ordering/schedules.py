"""Batch orders: which batch each step of an epoch sees."""

import dataclasses
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..checks import check, check_counts, is_whole, whole_from


@dataclasses.dataclass(frozen=True)
class BatchOrder:
    """The order in which batches 0 to `batches - 1` act, epoch by epoch.

    A call with the number of an epoch returns that epoch's order, also under `jit` and `scan`.
    Iteration yields batch numbers without end, for a loader in Python. An order depends only on its
    fields, so a run resumed in epoch e continues with `order(e)`.

    Attributes:
      batches: number of batches in an epoch, numbered from 0.
      seed: seed of the random orders; None for the batches' own order.
      period: number of successive epochs that share one order.
      backwards: the epochs of a period that use the order backwards.

    Raises:
      ValueError: less than one batch or epoch, epochs that are not in the period, a seed that is
        not an integer.
    """

    batches: int
    seed: int | None = None
    period: int = 1
    backwards: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_counts(batches=self.batches, period=self.period)
        if self.seed is not None:
            check(is_whole, "seed", self.seed, "an integer, or None for no shuffling")
        known = isinstance(self.backwards, tuple)
        if not known or not {*self.backwards} <= {*range(self.period)}:
            raise ValueError(
                f"backwards is {self.backwards!r}; it must be a tuple of epochs of the period, "
                f"from 0 to {self.period - 1}."
            )

    def __call__(self, epoch: int | Int[Array, ""]) -> Int[Array, " batches"]:
        """The batches of one epoch in the order in which they act."""
        check(whole_from(0), "epoch", epoch, "the number of an epoch, a whole number from 0 on")
        order = jnp.arange(self.batches, dtype=jnp.int32)
        if self.seed is not None:
            key = jax.random.fold_in(jax.random.key(self.seed), epoch // self.period)
            order = jax.random.permutation(key, order)
        turned = jnp.isin(epoch % self.period, jnp.asarray(self.backwards, jnp.int32))
        return jnp.where(turned, order[::-1], order)

    def __iter__(self) -> Iterator[int]:
        """Batch numbers without end."""
        for epoch in itertools.count():
            yield from self(epoch).tolist()


def forward(batches: int) -> BatchOrder:
    """Every epoch b_1, ..., b_n: a Lie-Trotter splitting of the flow of all data, order 1.

    Args:
      batches: n, the number of batches in an epoch.

    Examples:
      >>> import itertools, odeopt
      >>> list(itertools.islice(odeopt.ordering.forward(3), 6))
      [0, 1, 2, 0, 1, 2]
    """
    return BatchOrder(batches)


def reversed(batches: int) -> BatchOrder:
    r"""Every epoch b_n, ..., b_1.

    n steps of size h in this order end $h^2\sum_{i<j}(Df_if_j - Df_jf_i)$ away from the same n
    steps in forward order, up to terms of order 3.

    Args:
      batches: n, the number of batches in an epoch.

    Examples:
      >>> import odeopt
      >>> odeopt.ordering.reversed(3)(0)
      Array([2, 1, 0], dtype=int32)
    """
    return BatchOrder(batches, backwards=(0,))


def reshuffled(batches: int, seed: int = 0) -> BatchOrder:
    """A new random order every epoch: random reshuffling, as in most data loaders.

    Args:
      batches: n, the number of batches in an epoch.
      seed: seed of the random orders.

    Examples:
      >>> import odeopt
      >>> sorted(odeopt.ordering.reshuffled(3)(5).tolist())
      [0, 1, 2]
    """
    check(is_whole, "seed", seed, "an integer; the batches' own order is `forward(batches)`")
    return BatchOrder(batches, seed)


def palindromic(batches: int, seed: int | None = 0) -> BatchOrder:
    r"""b_1, ..., b_n, then b_n, ..., b_1, in a new random order every double epoch.

    This is Strang's splitting of the flow of all data. The Lie brackets between batches, by which
    an epoch in any order differs from the mean over all orders, cancel at no cost. The remaining
    error of second order is the symmetric part (`drift.epoch_flow(..., ordered=False)`), which
    comes from each step and not from their order. If the step on each batch follows its flow to
    order 2 (`odeopt.heun`), a double epoch follows the flow of all data with order 2, where
    `forward` has order 1. With Euler's method the order is 1, that of Euler's method itself.

    Args:
      batches: n, the number of batches in an epoch.
      seed: seed of the random orders; None keeps b_1, ..., b_n.

    Examples:
      >>> import itertools, odeopt
      >>> list(itertools.islice(odeopt.ordering.palindromic(3, seed=None), 7))
      [0, 1, 2, 2, 1, 0, 0]
    """
    return BatchOrder(batches, seed, period=2, backwards=(1,))
