"""Which learning rates a sweep tries, and when it has tried enough."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from .entries import Entry

BLOCK = 3
"""Rates added at a time when the best one is at an end of the grid."""
MOST_BLOCKS = 4
"""Most extensions; a best rate that is still at an end is then reported as such."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Learning rates `unit * ratio**k` for k = low..high, or a fixed list.

    Attributes:
        unit: The rate at k = 0.
        ratio: Between neighbours: 2 in units of R/sharpness, sqrt(10) for decades.
        low: The first exponent.
        high: The last exponent, included.
        dtype: Rates are rounded to it, so that a record holds the rate that was run.
        fixed: Rates given by the user; such a grid is never extended.
    """

    unit: float
    ratio: float
    low: int
    high: int
    dtype: type
    fixed: tuple[float, ...] = ()

    @property
    def rates(self) -> list[float]:
        """The rates in ascending order."""
        values = self.fixed or self.unit * self.ratio ** np.arange(self.low, self.high + 1.0)
        return [float(self.dtype(value)) for value in sorted(values)]

    @property
    def blocks(self) -> int:
        """How many blocks were added to the first seven rates."""
        return (self.high - self.low - 6) // BLOCK

    def next(self, tuning: Mapping[float, float]) -> "Grid | None":
        """The grid with one block more where the best rate asks for it, else `None`.

        Args:
            tuning: Final loss of each of `rates` on the tuning seed, infinity for a miss.
        """
        if self.fixed or self.blocks >= MOST_BLOCKS:
            return None
        where = place(self.rates, tuning)
        if where == "lower end":
            return dataclasses.replace(self, low=self.low - BLOCK)
        if where == "upper end":
            return dataclasses.replace(self, high=self.high + BLOCK)
        return None


def first_grid(entry: Entry, sharpness: float, dtype: type, fixed: Sequence[float]) -> Grid:
    """Seven rates: octaves, 0.044 to 2.8 in units of R/sharpness; half decades to 1 without R."""
    if fixed:
        return Grid(1.0, 1.0, 0, 0, dtype, tuple(fixed))
    if entry.limit is None:
        return Grid(1.0, float(np.sqrt(10)), -6, 0, dtype)
    # Half octaves, because a rate exactly at the limit is decided by rounding errors.
    return Grid(entry.limit / sharpness * 0.5**0.5, 2.0, -4, 2, dtype)


def place(rates: Sequence[float], loss: Mapping[float, float]) -> str:
    """Where the best rate lies.

    Returns:
        "interior", "next to divergence", "lower end", "upper end", or "none" if all fixed
        rates missed. A grid on which every rate missed wants lower rates: "lower end".
    """
    losses = np.array([loss[rate] for rate in rates])
    if not np.isfinite(losses).any():
        return "lower end"
    best = int(np.argmin(losses))
    if best + 1 < len(rates) and not np.isfinite(losses[best + 1]):
        return "next to divergence"
    if best == 0:
        return "lower end"
    return "upper end" if best == len(rates) - 1 else "interior"
