"""The drift study: how trends are read, how runs are paired, and what the study leaves."""

import dataclasses
import html

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from odeopt.studies import Problem, drift, drift_orders
from odeopt.studies.claims import central_flow
from odeopt.studies.drift_trends import Bench, held_out, judge
from odeopt.studies.engine import Results, page
from odeopt.studies.problems import build

from .engine import accessible

SLOPES = {
    "gradient descent": -2.0,
    "counter-term": 0.1,
    "counter-term, order 3": 0.0,
    "explicit": -1.8,
}


def known(curvature=50.0):
    """Trends with these slopes; the sharpness has the opposite ones and is curved beyond 0.2."""
    return [
        {
            "kind": "trend", "problem": "p", "variant": variant, "rate": rate, "time": 1.0,
            "seed": seed, "first sharpness": 2.0, "loss": 1.0, "drift": 0.1, "validation": 0.1,
            "gradient norm": seed * np.exp(slope * rate),
            "sharpness": seed * np.exp(-slope * rate + curvature * max(rate - 0.2, 0)),
        }
        for variant, slope in SLOPES.items()
        for rate in (0.05, 0.1, 0.2, 0.4)
        for seed in (1, 2, 3)
    ]  # fmt: skip


def test_a_trend_that_is_known_is_read_as_it_is():
    verdict = judge(pd.DataFrame(known())).set_index(["quantity", "largest"])
    assert len(verdict) == 2 * 3
    for largest in (0.1, 0.2):
        for quantity, sign in [("gradient norm", 1), ("sharpness", -1)]:
            row = verdict.loc[quantity, largest]
            assert row["edge"] == pytest.approx(2 * largest)
            assert row["slope"] == pytest.approx(-2.0 * sign)
            assert row["change"] == pytest.approx(np.expm1(-2.0 * sign * largest))
            assert (row["falling"], row["seeds"]) == ((3 if sign > 0 else 0), 3)
            assert row["removed"] == pytest.approx(0.95)
            assert row["by order 3"] == pytest.approx(1.0)
            assert row["restored"] == pytest.approx(0.9)
    assert verdict.loc["sharpness", 0.4]["slope"] > 3  # beyond 0.2 it is another


def test_a_trend_turned_around_is_not_removed():
    table = pd.DataFrame(known(0.0))
    other = table["variant"] == "counter-term"
    table.loc[other, "gradient norm"] = np.exp(3.0 * table["rate"][other])
    verdict = judge(table)
    assert np.allclose(verdict[verdict["quantity"] == "gradient norm"]["removed"], -0.5)


def results(records):
    return Results(drift.STUDY, drift.Settings(), records)


def test_a_claim_says_between_which_rates_enough_is_removed():
    def said(records):
        return next(v.finding for v in results(records).claims if v.claim.name == "removed")

    row = results(known()).table("shares").query("edge == 0.8").set_index("quantity").iloc[0]
    assert (row.removed, row["by order 3"]) == ("95", "100")
    assert "p gradient norm at every rate tried, up to h·sharpness = 0.8" in said(known())
    weak = [
        {**r, "gradient norm": np.exp(-r["rate"])} if r["variant"] == "counter-term" else r
        for r in known()
    ]
    assert "p gradient norm at no rate (smallest tried: h·sharpness = 0.2)" in said(weak)
    trends = pd.DataFrame(
        {"edge": [0.1, 0.1, 0.2, 0.2, 0.4, 0.4], "removed": [0.9, 0.9, 0.9, 0.7, 0.9, 0.9]}
    )
    assert drift.reach(trends) == (0.1, 0.2)


def test_claims_turn_with_what_was_measured():
    words = {verdict.claim.name: verdict.word for verdict in results(known(0.0)).claims}
    assert words == {
        "orders": "not measured",
        "falls": "holds in part",  # the sharpness of `known` rises
        "removed": "holds",
        "by order 3": "holds",
        "restored": "holds",
    }


def test_a_variant_that_is_not_finished_is_not_judged():
    stopped = [r for r in known() if r["variant"] == "gradient descent"]
    stopped += [r for r in known() if r["variant"] == "counter-term" and r["rate"] < 0.4]
    words = {verdict.claim.name: verdict.word for verdict in results(stopped).claims}
    assert words["falls"] != "not measured"
    assert {words[name] for name in ("removed", "by order 3", "restored")} == {"open"}
    assert results(stopped).verdict.endswith("at the largest rate.")
    (figure,) = drift.FIGURES
    one = [r for r in stopped if r["rate"] == 0.05]
    assert figure.draw(results(one))
    assert figure.finding(results(one)).startswith("No variant is finished at two rates")
    assert not figure.draw(results([r for r in one if r["variant"] == "gradient descent"]))


def test_what_is_not_finite_is_no_trend():
    broken = [{**r, "sharpness": None} if r["rate"] == 0.4 else r for r in known()]
    found = judge(drift.runs_of(results(broken))).set_index(["quantity", "largest"])
    assert np.isnan(found.loc["sharpness", 0.4]["slope"])
    assert found.loc["sharpness", 0.4]["falling"] == 0
    assert found.loc["sharpness", 0.4]["open"] == 3
    assert found.loc["sharpness", 0.2]["slope"] == pytest.approx(2.0)


def test_rounding_is_no_trend():
    """A loss whose gradient norm and sharpness are the same at every rate, but for rounding."""
    level = {"gradient norm": 1.0, "sharpness": 1.0, "rounding": 2e-16}
    quiet = [{**r, **level, "sharpness": 1 - 1e-15 * r["rate"]} for r in known()]
    found = results(quiet)
    words = {verdict.claim.name: verdict.word for verdict in found.claims}
    words.pop("orders")
    assert set(words.values()) == {"open"}
    assert "have no trend with the rate" in found.verdict
    (removed,) = [v.finding for v in found.claims if v.claim.name == "removed"]
    assert "no trend to remove" in removed
    assert set(found.table("shares").removed) == {"–"}
    one = [{**r, **level, "sharpness": r["sharpness"]} for r in known()]
    assert "sharpness falls in 0 of 3 comparisons (3 more are open: not" in results(one).verdict
    assert "% (a negative number is a rise) at the largest rate." in results(one).verdict
    small = [{**r, **level, "sharpness": 1 - 1e-7 * r["rate"]} for r in known()]
    found = results(small).verdict  # in double precision a trend
    assert "grows, sharpness falls in 3 of 3 comparisons" in found


@pytest.fixture(scope="module")
def small():
    problem = dataclasses.replace(held_out(build(["digits-ce"])[0], 1697), name="100 digits")
    bench = Bench(problem, seeds=2, halvings=1, times=2)
    bench.plan = 0.2, (2, 4)
    wanted = [("gradient descent", 1), ("gradient descent", 0), ("explicit", 0)]
    wanted += [("counter-term", 0), ("counter-term, order 3", 0)]
    runs = {(name, 0.2 / 2**k): pd.DataFrame(bench.run(name, k)) for name, k in wanted}
    return problem, runs


@pytest.mark.slow
def test_runs_are_paired_and_end_at_equal_flow_times(small):
    problem, runs = small
    assert (len(problem.data[0]), len(problem.validation[0])) == (100, 1697)
    for table in runs.values():
        assert list(zip(table["time"], table["seed"], strict=True)) == [
            (time, seed) for time in (0.4, 0.8) for seed in (1, 2)
        ]
        assert np.all(table["validation"].between(0, 1))
    plain, far = (runs["gradient descent", rate]["loss"] for rate in (0.1, 0.2))
    assert np.all(abs(far - plain) < 0.05 * plain)  # the same flow time: they differ by drift
    near = runs["explicit", 0.2]["loss"]
    assert np.all(abs(far - near) < 0.2 * abs(far - plain))  # which the penalty makes up for


@pytest.mark.slow
def test_the_counter_terms_meet_beyond_gradient_descent(small):
    # Drift is of order h, so extrapolation from two rates to 0 leads to where counter-terms lead.
    _, runs = small
    slow, fast = (runs["gradient descent", rate]["loss"] for rate in (0.1, 0.2))
    flow = 2 * slow - fast
    for variant in ("counter-term", "counter-term, order 3"):
        assert np.all(abs(runs[variant, 0.2]["loss"] - flow) < 0.2 * abs(fast - flow))


def cubic():
    """A model of a user's own, in mini-batches, with data that are held out."""
    x = np.linspace(-1, 1, 64)

    def loss(params, batch):
        hidden = jnp.tanh(batch[0][:, None] * params["w"] + params["b"])
        return jnp.mean((hidden @ params["v"] - batch[1]) ** 2)

    def init(seed):
        draw = np.random.default_rng(seed).standard_normal
        return {name: jnp.asarray(draw(4)) for name in "wbv"}

    data, kept = (x[::2], x[::2] ** 3), (x[1::2], x[1::2] ** 3)
    return Problem(loss, init, data, name="cubic", batch_size=8, validation=kept)


@pytest.mark.slow
def test_a_study_of_ones_own_problem_leaves_tables_and_a_page(tmp_path, monkeypatch):
    monkeypatch.setattr(drift_orders, "PATHS", {"product": drift_orders.product})
    settings = {"problems": cubic(), "seeds": 2, "halvings": 3, "times": 1}
    found = drift.run(**settings, out=tmp_path)
    orders = pd.read_csv(tmp_path / "orders.csv")
    assert len(orders) == len(drift_orders.COMPARED)
    assert np.all(abs(orders["observed"] - orders["order"]) < 0.1)
    runs = drift.runs_of(found)
    assert len(runs) == 4 * 4 * 2
    assert runs["validation"].gt(0).all()
    assert runs["rate"].max() * runs["first sharpness"][0] == pytest.approx(1, rel=0.06)
    ends = runs.pivot(index=["variant", "seed"], columns="rate", values="loss").diff(axis=1)
    moved = abs(ends.iloc[:, 1]).groupby("variant").sum()  # by small rates: by their drift
    assert moved["counter-term, order 3"] < 0.3 * moved["counter-term"]
    assert moved["counter-term"] < 0.6 * moved["gradient descent"]
    written = page.write(found, tmp_path).read_text()
    text = html.unescape(written)
    for figure in drift.FIGURES:
        assert f'id="{figure.name}"' in text
        assert list((tmp_path / "figures").glob(f"{figure.name}-*.svg"))
    assert accessible.faults(written) == []
    assert found.verdict in text
    again = drift.run(**settings, out=tmp_path, resume=True)
    assert again.records == found.records


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"problems": "digits-c"}, "unknown problem 'digits-c': did you mean digits-ce"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0."),
        ({"times": 4}, "--times must be at most 3, not 4."),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        drift.run(**settings)


@pytest.mark.slow
def test_descent_settles_where_the_central_flow_says(x64):
    iterates, central, plain, variance = central_flow.traces()
    x, curvature = iterates.T
    edge, drive = 2 / central_flow.STEP, central_flow.DRIVE
    np.testing.assert_allclose(central[-100:], edge, rtol=1e-6)
    np.testing.assert_allclose(variance[-1], 2 * drive, rtol=1e-6)
    np.testing.assert_allclose(x[-100:] ** 2, 2 * drive, rtol=1e-3)
    # by the fourth derivative, which the central flow does not see
    settled = edge + 2 * central_flow.SOFTNESS * drive
    np.testing.assert_allclose(curvature[-100:], settled, rtol=1e-4)
    assert plain[-1] > 2 * edge
