"""Which learning rates are tried on the tuning seed, and when enough have been."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .optimizers import Entry

TUNING_SEED = 0
"""The seed that chooses rates; it is never reported."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """Learning rates `unit * ratio**k`.

    Attributes:
        unit: The rate at k = 0.
        ratio: Of the rates of exponents 1 and 0.
        first: The exponents to begin with, in this order, `stride` apart.
        block: How many rates are added at a time beyond an end at which the best one lies.
        most: Most blocks; a best rate that is still at an end is then reported as such.
        stride: The distance of exponents while the grid grows.
        refine: How far in exponents from the best rate two more are tried last; 0 for none.
        dtype: Rates are rounded to it, as they are run.
    """

    unit: float
    ratio: float
    first: tuple[float, ...]
    block: int = 3
    most: int = 4
    stride: float = 1
    refine: float = 0
    dtype: Any = np.float64

    def rates(self, exponents: Sequence[float]) -> list[float]:
        """The rates of these exponents; each once, though they round."""
        scaled = (self.unit * self.ratio ** float(k) for k in exponents)
        return list(dict.fromkeys(float(self.dtype(rate)) for rate in scaled))

    @classmethod
    def octaves(cls, unit: float, **options: Any) -> "Grid":
        """Seven octaves, 0.044 to 2.8 of `unit`, a stability limit."""
        # Half octaves off, because a rate exactly at the limit is decided by rounding errors.
        return cls(unit * 0.5**0.5, 2.0, tuple(range(-4, 3)), **options)

    @classmethod
    def half_decades(cls, top: float = 1.0, **options: Any) -> "Grid":
        """Seven half decades that end at `top`."""
        return cls(top, float(np.sqrt(10)), tuple(range(-6, 1)), **options)

    @classmethod
    def quarter_decades(cls, unit: float, **options: Any) -> "Grid":
        """Half decades around `unit`, likely ones first, then the quarters beside the best."""
        first = (0, 0.5, -0.5, 1, -1, 1.5, -1.5)
        return cls(unit, 10.0, first, 1, 12, stride=0.5, refine=0.25, **options)


def first_grid(entry: Entry, sharpness: float, dtype: Any) -> Grid:
    """Octaves around R/sharpness; half decades to 1 without R, or where nothing curves upwards."""
    if entry.limit is None or not np.isfinite(entry.limit) or not sharpness > 0:
        return Grid.half_decades(entry.unit, dtype=dtype)
    return Grid.octaves(entry.limit / sharpness, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What tuning found: the rate of the lowest score, and where it lies, as `place` says.

    `scores` are by rate, ascending, infinite for a miss; where all missed the best is the smallest.
    """

    best: float
    scores: dict[float, float]
    place: str


def tune(evaluate: Callable[[list[float]], Sequence[float]], grid: Grid) -> Tuned:
    """Try rates of a grid until the best one has been tried with both its neighbours.

    `evaluate` gives the scores of rates that were not tried before, lower is better; infinity is a
    miss, with which only smaller rates are tried on.
    """
    scores: dict[float, float] = {}
    low, high = min(grid.first), max(grid.first)

    def attempt(exponents: Sequence[float]) -> None:
        new = [rate for rate in grid.rates(exponents) if rate not in scores]
        scores.update(zip(new, map(float, evaluate(new)), strict=True) if new else ())

    attempt(grid.first)
    for _ in range(grid.most):
        beyond = [grid.stride * k for k in range(1, grid.block + 1)]
        at = place(scores)
        if at in ("lower end", "none"):
            attempt([low - k for k in beyond])
            low -= beyond[-1]
        elif at == "upper end":
            attempt([high + k for k in beyond])
            high += beyond[-1]
        else:
            break
    if grid.refine:
        middle = np.log(_best(scores) / grid.unit) / np.log(grid.ratio)
        middle = round(middle / grid.refine) * grid.refine
        attempt([middle - grid.refine, middle + grid.refine])
    return Tuned(_best(scores), dict(sorted(scores.items())), place(scores))


def _best(scores: Mapping[float, float]) -> float:
    return min(scores, key=lambda rate: (scores[rate], rate))


def place(scores: Mapping[float, float]) -> str:
    """Where the best of these rates lies: "interior", "next to divergence", "lower end", or "upper
    end" of them; "none" where every rate missed.
    """
    rates = sorted(scores)
    losses = np.array([scores[rate] for rate in rates])
    if not np.isfinite(losses).any():
        return "none"
    best = int(np.argmin(losses))
    if best == 0:
        return "lower end"
    if best == len(rates) - 1:
        return "upper end"
    return "interior" if np.isfinite(losses[best + 1]) else "next to divergence"


def bracket(diverged: Mapping[float, bool]) -> tuple[float, float]:
    """The largest rate up to which none diverged and the smallest that did.

    NaN where the smallest rate diverged, infinity where none did: the limit lies between.
    """
    stable = np.nan
    for rate in sorted(diverged):
        if diverged[rate]:
            return stable, rate
        stable = rate
    return stable, np.inf
