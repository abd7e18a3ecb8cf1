import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from odeopt.studies.engine.statistics import equivalent, holm, pairs, ratio


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


@given(st.integers(0, 10_000), st.floats(1.05, 3.0), st.booleans())
def test_the_same_needs_an_interval_within_the_margin(seed, factor, paired):
    random = np.random.default_rng(seed)
    a = np.exp(0.05 * random.standard_normal(6))
    b = np.exp(0.05 * random.standard_normal(6) + random.choice([0.0, 0.5]))
    found = equivalent(a, b, factor, paired=paired)
    assert found.low <= found.high
    assert found.same == (1 / factor < found.low and found.high < factor)
    back = equivalent(b, a, factor, paired=paired)
    assert (back.low, back.high) == pytest.approx((1 / found.high, 1 / found.low))


def test_equal_samples_are_the_same_and_a_miss_never_is():
    assert equivalent([2.0, 2.0], [2.0, 2.0], 1.1).same
    assert not equivalent([2.0, 2.0], [3.0, 3.0], 1.1).same
    assert not equivalent([2.0, np.inf], [2.0, 2.0], 10.0).same
    assert not equivalent([2.0], [2.0], 10.0).same


def test_the_test_is_scipys():
    a, b = np.exp([0.1, 0.2, 0.0]), np.exp([0.15, 0.1, 0.05])
    upper = stats.ttest_ind(np.log(a) - np.log(1.5), np.log(b), equal_var=False,
                            alternative="less")  # fmt: skip
    assert equivalent(a, b, 1.5).p >= upper.pvalue


@given(*[st.floats(1e-3, 1e3)] * 4)
def test_a_ratio_of_brackets_holds_every_ratio(a, b, c, d):
    first, second = sorted((a, b)), sorted((c, d))
    low, high = ratio(tuple(first), tuple(second))
    for x in first:
        for y in second:
            assert low <= x / y <= high
