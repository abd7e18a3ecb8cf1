"""Comparisons that a study may state: corrected pairs, equivalence, ratios of brackets."""

from collections.abc import Iterable, Sequence
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
    """Two samples against each other: in which share of pairs the first is lower; ties are half.

    `p` is two-sided, of Mann and Whitney's test that neither tends to be lower, exact where there
    are no ties. With 5 and 5 it cannot be below 0.008.
    """

    share: float
    p: float


def pairs(first: Sequence[float], second: Sequence[float]) -> Pairs:
    """Compare two samples of losses; infinity is a miss."""
    if not (len(first) and len(second)):
        return Pairs(np.nan, np.nan)
    test = stats.mannwhitneyu(*_ranks(first, second))
    return Pairs(float(1 - test.statistic / (len(first) * len(second))), float(test.pvalue))


def _ranks(first: Sequence[float], second: Sequence[float]) -> list[np.ndarray]:
    """Two samples by their ranks among all, so that infinities can be tied."""
    return np.split(stats.rankdata(np.array([*first, *second], float)), [len(first)])


def lower(samples: Iterable[tuple[Sequence[float], Sequence[float]]]) -> list[float]:
    """P-values of the first samples not being lower on at least 1, 2, ... of several problems.

    The first combines Mann and Whitney's one-sided tests by Fisher's method: with 3 and 3 seeds the
    p-value of one problem cannot be below 0.05, but that of seven can be 0.00013. That of n leaves
    out the n - 1 clearest problems (Benjamini and Heller, Biometrics 64, 2008). Infinity is a miss;
    problems on which there is nothing to compare are left out, and p is 1 for as many.
    """
    samples = list(samples)
    found = sorted(
        float(stats.mannwhitneyu(*_ranks(first, second), alternative="less").pvalue)
        for first, second in samples
        if len(first) and len(second) and len({*first, *second}) > 1
    )
    combined = [float(stats.combine_pvalues(found[n:]).pvalue) for n in range(len(found))]
    return [*np.maximum.accumulate(combined).tolist(), *[1.0] * (len(samples) - len(found))]


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The 90 % interval of the ratio of geometric means, of positive numbers in pairs.

    From 0 to infinity where it is not known: for a single pair, or numbers not finite or positive.
    """
    both = np.array([first, second], float)
    if both.shape[1] < 2 or not (np.isfinite(both) & (both > 0)).all():
        return 0.0, np.inf
    logs = np.log(both[0]) - np.log(both[1])
    half = stats.t.ppf(0.95, len(logs) - 1) * stats.sem(logs)
    return float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))


def ratio(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """The bracket of a ratio of two positive numbers that are known to brackets."""
    return first[0] / second[1], first[1] / second[0]


def performance_profile(cost: pd.DataFrame) -> pd.DataFrame:
    """The share of rows in which a column is within a factor of that row's best.

    `cost` is instances x optimizers, where infinity is a miss. Returns factors (index, from 1) x
    optimizers; every column is non-decreasing and at most 1.
    """
    ratio = _over_best(cost)
    values = ratio.to_numpy()
    factors = np.unique(np.append(values[np.isfinite(values)], 1.0))
    shares = {name: [(ratio[name] <= f).mean() for f in factors] for name in ratio}
    return pd.DataFrame(shares, index=factors)


def profile_score(cost: pd.DataFrame, largest: float = 4.0) -> pd.Series:
    """The mean of each performance profile over factors from 1 to `largest`: AlgoPerf's score.

    From 0 (always a miss, or `largest` times the best) to 1 (always the best); every cost is
    positive. Dahl et al., arXiv:2306.07179.
    """
    # A row adds to the integral from its own factor on.
    return ((largest - _over_best(cost)) / (largest - 1)).clip(lower=0).mean()


def _over_best(cost: pd.DataFrame) -> pd.DataFrame:
    # A row that everybody misses is infinity over infinity: a miss for everybody.
    return cost.div(cost.min(axis=1), axis=0).fillna(np.inf)
