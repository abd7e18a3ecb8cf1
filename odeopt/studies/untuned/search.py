"""Which learning rates a rival may try on the tuning seed, and when it has tried enough."""

from collections.abc import Callable

import numpy as np

FIRST = (0, 2, -2, 4, -4, 6, -6)
"""Half decades, one and a half to each side of the rival's unit; the likely ones first."""
MOST_EXTENSIONS = 12


def rate_of(unit: float, quarters: int, dtype: type) -> float:
    """The rate so many quarters of a decade from `unit`, rounded to the problem's dtype."""
    return float(dtype(unit * 10 ** (quarters / 4)))


def tune(final: Callable[[int], float]) -> tuple[int, dict[int, float]]:
    """The best rate, in quarters of a decade from the unit.

    Tries half decades, goes on until the best one has been tried with both its neighbors, and
    then tries the quarters beside it: the best is interior, a factor of 1.8 from what it beat.

    Args:
        final: The final loss at so many quarters; infinite for a divergence.

    Returns:
        The best, and the losses of all that were tried. Where every rate diverges, the smallest.
    """
    tried = {quarters: final(quarters) for quarters in FIRST}
    for _ in range(MOST_EXTENSIONS):
        best = _best(tried)
        wanted = (best - 2,) if np.isinf(tried[best]) else (best - 2, best + 2)
        new = [quarters for quarters in wanted if quarters not in tried]
        if not new:
            break
        tried |= {quarters: final(quarters) for quarters in new}
    best = _best(tried)
    tried |= {quarters: final(quarters) for quarters in (best - 1, best + 1)}
    return _best(tried), tried


def _best(tried: dict[int, float]) -> int:
    return min(tried, key=lambda quarters: (tried[quarters], quarters))
