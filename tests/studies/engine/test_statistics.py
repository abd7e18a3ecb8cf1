import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from odeopt.studies.engine.statistics import (
    holm,
    lower,
    paired_ratio,
    pairs,
    performance_profile,
    profile_score,
    ratio,
)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_the_plain_and_bonferronis(p):
    corrected = holm(p)
    plain = np.array(p)
    assert (corrected >= plain).all()
    assert (corrected <= np.minimum(1, len(p) * plain) + 1e-15).all()
    assert (np.diff(corrected[np.argsort(plain, kind="stable")]) >= 0).all()


def test_holm_of_a_worked_example_and_of_what_is_not_known():
    found = holm([0.01, np.nan, 0.04, 0.03])
    np.testing.assert_allclose(found, [0.03, np.nan, 0.06, 0.06])


@pytest.mark.parametrize(("lower", "p"), [(25, 0.0079), (24, 0.0159), (21, 0.0952), (19, 0.2222)])
def test_five_against_five_seeds(lower, p):
    """The p-values of shares of pairs: 100 %, 96 %, 84 %, 76 %."""
    first = np.arange(5.0)
    second = first + 10
    second[0] -= 10.5 + 0 * lower
    second = {25: first + 10, 24: [3.5, 11, 12, 13, 14], 21: [0.5, 11, 12, 13, 14],
              19: [-1, 3.5, 12, 13, 14]}[lower]  # fmt: skip
    found = pairs(first, second)
    assert found.share == pytest.approx(lower / 25)
    assert found.p == pytest.approx(p, abs=1e-4)


def test_misses_are_the_highest_and_tie_with_each_other():
    found = pairs([1.0, 2.0, np.inf], [3.0, np.inf, np.inf])
    assert found.share == pytest.approx((3 + 3 + 0.5 * 2) / 9)


@given(st.integers(0, 10_000), st.floats(0.1, 10.0))
def test_the_interval_of_paired_ratios_is_that_of_scipys_test(seed, factor):
    random = np.random.default_rng(seed)
    a, b = np.exp(0.05 * random.standard_normal((2, 6)))
    low, high = paired_ratio(a, b)
    known = stats.ttest_1samp(np.log(a / b), 0).confidence_interval(0.9)
    assert (low, high) == pytest.approx(tuple(np.exp(known)))
    assert paired_ratio(factor * a, b) == pytest.approx((factor * low, factor * high))
    assert paired_ratio(b, a) == pytest.approx((1 / high, 1 / low))


def test_a_ratio_without_spread_is_itself_and_one_with_a_miss_is_not_known():
    assert paired_ratio([3.0, 6.0], [2.0, 4.0]) == pytest.approx((1.5, 1.5))
    assert paired_ratio([2.0, np.inf], [2.0, 2.0]) == (0.0, np.inf)
    assert paired_ratio([2.0], [2.0]) == (0.0, np.inf)
    for unknown in ([-1.0, 2.0], [0.0, 2.0], [np.nan, 2.0]):
        with warnings.catch_warnings(action="error"):
            assert paired_ratio(unknown, [2.0, 2.0]) == (0.0, np.inf)


def test_the_profile_score_of_a_worked_example():
    """Over the best: a 1, 1, miss, miss; b 2, miss, 1, miss; c 5, 3.25, 4, miss."""
    rows = [[10, 20, 50], [4, np.inf, 13], [np.inf, 8, 32], [np.inf] * 3]
    found = profile_score(pd.DataFrame(rows, columns=["a", "b", "c"]))
    np.testing.assert_allclose(found, [2 / 4, (2 / 3 + 1) / 4, (0.75 / 3) / 4])


@given(st.lists(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=3), min_size=1, max_size=6))
def test_the_profile_score_is_the_mean_of_the_profile(rows):
    cost = pd.DataFrame(rows)
    profile = performance_profile(cost)
    factors = np.linspace(1, 4, 3001)
    heights = profile.reindex(np.union1d(factors, profile.index)).ffill().loc[factors]
    np.testing.assert_allclose(profile_score(cost), heights.mean(), atol=1e-3)


@given(*[st.floats(1e-3, 1e3)] * 4)
def test_a_ratio_of_brackets_holds_every_ratio(a, b, c, d):
    first, second = sorted((a, b)), sorted((c, d))
    low, high = ratio(tuple(first), tuple(second))
    for x in first:
        for y in second:
            assert low <= x / y <= high


def test_a_lower_sample_is_told_over_several_problems():
    first, second = [1.0, 2.0, 3.0], [4.0, 5.0, np.inf]
    assert lower([(first, second)]) == [pytest.approx(1 / 20)]
    assert lower([(first, second)] * 7)[0] < 2e-4
    assert lower([(second, first)] * 7)[0] > 0.9
    assert lower([([np.inf] * 3, [np.inf] * 3)]) == [1.0]
    assert lower([([], [1.0]), ([1.0], [])]) == [1.0, 1.0]


def test_on_how_many_problems_a_sample_is_lower():
    clear, level = ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), ([1.0, 3.0], [2.0, 2.5])
    found = lower([level, clear, level])
    assert found == sorted(found)
    assert found[0] < found[1] == lower([level, level])[0]
    assert lower([clear] * 7)[3] < 0.01 < 0.05 <= lower([clear] * 7)[6]
    assert lower([([], [1.0]), clear]) == [*lower([clear]), 1.0]
