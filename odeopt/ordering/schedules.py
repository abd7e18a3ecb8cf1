"""Batch orders: which batch each step of an epoch sees."""

import dataclasses
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from ..checks import check, check_counts, is_whole


@dataclasses.dataclass(frozen=True)
class BatchOrder:
    """The order in which batches 0 to `batches - 1` act, epoch by epoch.

    Called with the number of an epoch, it returns that epoch's order, under `jit` and `scan` too.
    Iterated over, it yields batch numbers without end, for a loader in Python; it depends on
    nothing but its fields, so a run resumed in epoch e goes on with `order(e)`.

    Attributes:
      batches: batches an epoch, numbered from 0.
      seed: of the random orders; `None`: the batches' own order.
      period: so many epochs in a row share one order.
      backwards: which epochs of a period go through it backwards.

    Raises:
      ValueError: less than one batch or epoch, epochs that are not in the period, a seed that is
        no integer.
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
      batches: n, how many batches an epoch has.

    Examples:
      >>> import itertools, odeopt
      >>> list(itertools.islice(odeopt.ordering.forward(3), 6))
      [0, 1, 2, 0, 1, 2]
    """
    return BatchOrder(batches)


def reversed(batches: int) -> BatchOrder:
    r"""Every epoch b_n, ..., b_1.

    n steps of size h backwards end $h^2\sum_{i<j}(Df_if_j - Df_jf_i)$ away from the same n
    forwards, plus terms of order 3.

    Args:
      batches: n, how many batches an epoch has.

    Examples:
      >>> import odeopt
      >>> odeopt.ordering.reversed(3)(0)
      Array([2, 1, 0], dtype=int32)
    """
    return BatchOrder(batches, backwards=(0,))


def reshuffled(batches: int, seed: int = 0) -> BatchOrder:
    """A fresh random order every epoch: random reshuffling, what most loaders do.

    Args:
      batches: n, how many batches an epoch has.
      seed: of the random orders.

    Examples:
      >>> import odeopt
      >>> sorted(odeopt.ordering.reshuffled(3)(5).tolist())
      [0, 1, 2]
    """
    check(is_whole, "seed", seed, "an integer; the batches' own order is `forward(batches)`")
    return BatchOrder(batches, seed)


def palindromic(batches: int, seed: int | None = 0) -> BatchOrder:
    r"""b_1, ..., b_n, then b_n, ..., b_1, in a fresh random order every double epoch.

    Strang's splitting of the flow of all data: the Lie brackets between batches, in which an epoch
    of another order differs from its mean over all orders, cancel, at no cost. What is left of
    second order is the symmetric part (`drift.epoch_flow(..., ordered=False)`), which comes from
    each step and not from their order: with a step on each batch that follows its flow to order 2
    (`odeopt.heun`) a double epoch follows the flow of all data with order 2, where `forward` has 1;
    with Euler's method it has the order of Euler's method.

    Args:
      batches: n, how many batches an epoch has.
      seed: of the random orders; `None` keeps b_1, ..., b_n.

    Examples:
      >>> import itertools, odeopt
      >>> list(itertools.islice(odeopt.ordering.palindromic(3, seed=None), 7))
      [0, 1, 2, 2, 1, 0, 0]
    """
    return BatchOrder(batches, seed, period=2, backwards=(1,))
