"""The trends with the learning rate: their setting, and how they are read."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from odeopt.studies.drift import trends
from odeopt.studies.problems import build


@pytest.fixture(scope="module")
def small():
    problem = trends.held_out(build(["digits-ce"])[0], 1697)
    runs = trends.run(problem, rates=[0.1, 0.2], times=[0.4, 0.8], seeds=2)
    return problem, runs


def test_runs_are_paired_and_end_at_equal_flow_times(small):
    problem, runs = small
    assert (len(problem.data[0]), len(problem.validation[0])) == (100, 1697)
    assert len(runs) == 3 * 2 * 2 * 2
    at = runs.set_index(["variant", "rate", "time", "seed"]).sort_index()
    # at the smallest rate the explicit term has nothing to add
    plain, explicit = (at.loc[v, 0.1] for v in ("gradient descent", "explicit"))
    np.testing.assert_allclose(plain["loss"], explicit["loss"], rtol=1e-6)
    # the same flow time: rates differ by their drift, and the explicit term makes up for it
    far, near = at.loc["gradient descent", 0.2]["loss"], at.loc["explicit", 0.2]["loss"]
    assert np.all(abs(far - near) < 0.2 * abs(far - plain["loss"]))
    assert np.all(abs(far - plain["loss"]) < 0.05 * plain["loss"])
    assert np.all(runs["test error"].between(0, 1))


def test_a_trend_that_is_known_is_read_as_it_is():
    slopes = {"gradient descent": -2.0, "counter-term": 0.1, "explicit": -1.8}
    runs = pd.DataFrame(
        {
            "problem": "p", "variant": variant, "rate": rate, "time": 1.0, "seed": seed,
            "gradient norm": seed * np.exp(slope * rate),
            "sharpness": seed * np.exp(-slope * rate + 50 * max(rate - 0.2, 0)),
        }
        for variant, slope in slopes.items()
        for rate in (0.05, 0.1, 0.2, 0.4)
        for seed in (1, 2, 3)
    )  # fmt: skip
    norm, sharpness = trends.judge(runs, largest=0.2).to_dict("records")
    for row, sign in [(norm, 1), (sharpness, -1)]:
        assert row["slope"] == pytest.approx(-2.0 * sign)
        assert (row["falling"], row["seeds"]) == ((3 if sign > 0 else 0), 3)
        assert row["removed"] == pytest.approx(0.95)
        assert row["restored"] == pytest.approx(0.9)
    assert trends.judge(runs).to_dict("records")[1]["slope"] != pytest.approx(2.0)


def test_what_cannot_be_compared_is_refused(small):
    problem, _ = small
    with pytest.raises(ValueError, match=r"no multiple of the rate 0\.3"):
        trends.run(problem, rates=[0.1, 0.3], times=[1.0])
    with pytest.raises(ValueError, match="has no rates here"):
        trends.run(dataclasses.replace(problem, name="other"))
