"""Comparisons that a study may state: corrected pairs, equivalence, ratios of brackets."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values corrected for their number (Holm 1979); NaN stays and does not count."""
    values = np.asarray(p, float)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected = values.copy()
    corrected[order] = np.minimum(1, np.maximum.accumulate(values[order] * factors))
    return corrected


class Pairs(NamedTuple):
    """Two samples against each other.

    Attributes:
        share: The share of pairs, one of each sample, in which the first is lower; ties are half.
        p: Two-sided p-value of Mann and Whitney's test that neither tends to be lower, exact where
            there are no ties. With 5 and 5 it cannot be below 0.008.
    """

    share: float
    p: float


def pairs(first: Sequence[float], second: Sequence[float]) -> Pairs:
    """Compare two samples of losses; infinity is a miss."""
    a, b = np.asarray(first, float), np.asarray(second, float)
    if not (len(a) and len(b)):
        return Pairs(np.nan, np.nan)
    # By rank, so that infinities can be tied.
    ranks = stats.rankdata(np.concatenate([a, b]))
    test = stats.mannwhitneyu(ranks[: len(a)], ranks[len(a) :])
    return Pairs(float(1 - test.statistic / (len(a) * len(b))), float(test.pvalue))


class Equivalence(NamedTuple):
    """Whether two samples are the same to a factor.

    Attributes:
        low: Lower end of the 90 % interval of the ratio of means of logarithms.
        high: Upper end.
        p: The larger p-value of two one-sided tests at the margin.
        same: Whether p is below 0.05: the interval lies within the margin.
    """

    low: float
    high: float
    p: float
    same: bool


def equivalent(
    first: Sequence[float], second: Sequence[float], factor: float, paired: bool = False
) -> Equivalence:
    """Two one-sided t-tests (Schuirmann 1987) on logarithms, with a margin of `factor` either way.

    Args:
        first: A sample of positive numbers.
        second: Another one; of the same seeds where `paired`.
        factor: The largest ratio that still counts as the same.
        paired: Whether equal places belong together.
    """
    a, b = np.log(np.asarray(first, float)), np.log(np.asarray(second, float))
    margin = np.log(factor)
    if min(len(a), len(b)) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Equivalence(0.0, np.inf, 1.0, False)
    if np.ptp(a) == np.ptp(b) == 0:  # no spread to test against
        gap = float(a[0] - b[0])
        same = abs(gap) < margin
        return Equivalence(np.exp(gap), np.exp(gap), float(not same), same)
    if paired:
        tests = [
            stats.ttest_1samp(a - b, bound, alternative=side)
            for bound, side in ((-margin, "greater"), (margin, "less"))
        ]
        interval = stats.ttest_1samp(a - b, 0).confidence_interval(0.9)
    else:
        tests = [
            stats.ttest_ind(a + shift, b, equal_var=False, alternative=side)
            for shift, side in ((margin, "greater"), (-margin, "less"))
        ]
        interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    p = float(max(test.pvalue for test in tests))
    return Equivalence(float(np.exp(interval.low)), float(np.exp(interval.high)), p, p < 0.05)


def ratio(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """The bracket of a ratio of two positive numbers that are known to brackets."""
    return first[0] / second[1], first[1] / second[0]


def performance_profile(cost: pd.DataFrame) -> pd.DataFrame:
    """The share of rows in which a column is within a factor of that row's best.

    Args:
        cost: Instances x optimizers; infinity is a miss.

    Returns:
        Factors (index, from 1) x optimizers; every column is non-decreasing and at most 1.
    """
    # A row that everybody misses is infinity over infinity: a miss for everybody.
    ratio = cost.div(cost.min(axis=1), axis=0).fillna(np.inf)
    values = ratio.to_numpy()
    factors = np.unique(np.append(values[np.isfinite(values)], 1.0))
    shares = {name: [(ratio[name] <= f).mean() for f in factors] for name in ratio}
    return pd.DataFrame(shares, index=factors)
