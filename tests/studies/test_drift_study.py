"""The drift study: how trends are read, how runs are paired, and what the command leaves."""

import jax
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from odeopt.studies import drift
from odeopt.studies.drift import beyond, paths, study, trends
from odeopt.studies.old_cli import app
from odeopt.studies.problems import build

SLOPES = {
    "gradient descent": -2.0,
    "counter-term": 0.1,
    "counter-term, order 3": 0.0,
    "explicit": -1.8,
}


def known(bend=50.0):
    """Trends with these slopes; the sharpness has the opposite ones and bends beyond .2."""
    return [
        {
            "kind": "trend", "problem": "p", "variant": variant, "rate": rate, "time": 1.0,
            "seed": seed, "first sharpness": 2.0, "loss": 1.0, "drift": 0.1, "test error": 0.1,
            "gradient norm": seed * np.exp(slope * rate),
            "sharpness": seed * np.exp(-slope * rate + bend * max(rate - 0.2, 0)),
        }
        for variant, slope in SLOPES.items()
        for rate in (0.05, 0.1, 0.2, 0.4)
        for seed in (1, 2, 3)
    ]  # fmt: skip


def test_a_trend_that_is_known_is_read_as_it_is():
    verdict = trends.judge(pd.DataFrame(known())).set_index(["quantity", "largest"])
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
    assert verdict.loc["sharpness", 0.4]["slope"] > 3  # beyond the bend it is another


def test_a_trend_turned_around_is_not_removed():
    table = pd.DataFrame(known(0.0))
    other = table["variant"] == "counter-term"
    table.loc[other, "gradient norm"] = np.exp(3.0 * table["rate"][other])
    verdict = trends.judge(table)
    assert np.allclose(verdict[verdict["quantity"] == "gradient norm"]["removed"], -0.5)


def test_the_answer_says_up_to_where_enough_is_removed():
    result = study.Result(known(), {}, 1.0, {"p": "known"})
    norm, sharpness = result.answer
    assert "falls with the rate in 3 of 3" in norm
    assert "removes 95 % of that trend (with its next term 100 %)" in norm
    assert "up to h·sharpness = 0.8" in norm
    assert "0 of 3" in sharpness
    weak = [
        {**r, "gradient norm": np.exp(-r["rate"])} if r["variant"] == "counter-term" else r
        for r in known()
    ]
    answer = study.Result(weak, {}, 1.0, {"p": "known"}).answer[0]
    assert "At no rate here is it 80 %" in answer
    assert "closest is 50 %" in answer


@pytest.fixture(scope="module")
def small():
    problem = trends.held_out(build(["digits-ce"])[0], 1697)
    bench = trends.Bench(problem, trends.Plan((0.1, 0.2), (0.4, 0.8)), 2)
    wanted = [("gradient descent", 0.1), ("gradient descent", 0.2), ("explicit", 0.2)]
    wanted += [("counter-term", 0.2), ("counter-term, order 3", 0.2)]
    runs = {key: pd.DataFrame(bench.run(*key)) for key in wanted}
    return problem, runs


def test_runs_are_paired_and_end_at_equal_flow_times(small):
    problem, runs = small
    assert (len(problem.data[0]), len(problem.validation[0])) == (100, 1697)
    for table in runs.values():
        assert list(zip(table["time"], table["seed"], strict=True)) == [
            (time, seed) for time in (0.4, 0.8) for seed in (1, 2)
        ]
        assert np.all(table["test error"].between(0, 1))
    plain, far = (runs["gradient descent", rate]["loss"] for rate in (0.1, 0.2))
    assert np.all(abs(far - plain) < 0.05 * plain)  # the same flow time: they differ by drift
    near = runs["explicit", 0.2]["loss"]
    assert np.all(abs(far - near) < 0.2 * abs(far - plain))  # which the penalty makes up for


def test_the_counter_terms_meet_beyond_gradient_descent(small):
    # Drift is of order h, so extrapolation from two rates to 0 leads to where counter-terms lead.
    _, runs = small
    slow, fast = (runs["gradient descent", rate]["loss"] for rate in (0.1, 0.2))
    flow = 2 * slow - fast
    for variant in ("counter-term", "counter-term, order 3"):
        assert np.all(abs(runs[variant, 0.2]["loss"] - flow) < 0.2 * abs(fast - flow))


def test_a_time_that_is_no_multiple_of_a_rate_is_refused():
    with pytest.raises(ValueError, match=r"no multiple of the rate 0\.3"):
        trends.Plan((0.1, 0.3), (1.0,))


@pytest.fixture
def tiny(monkeypatch):
    """Everything that the study does, in a few steps and from few examples."""
    monkeypatch.setattr(trends, "HELD_OUT", 1697)
    plan = trends.Plan((0.1, 0.2), (0.4,))
    monkeypatch.setattr(trends, "QUICK", {"digits-ce": plan})
    monkeypatch.setattr(paths, "PATHS", {"product": paths.product})
    monkeypatch.setattr(trends.held_out, "__defaults__", (1697,))


@pytest.mark.slow
def test_the_command_ends_with_files_and_a_page_and_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = lambda *words: CliRunner(env={"COLUMNS": "200"}).invoke(app, ["drift", *words])
    first = call("--seeds", "1")
    assert first.exit_code == 0, first.output
    folder = tmp_path / "drift-report"
    names = {path.name for path in folder.iterdir()}
    tables = {"orders.csv", "trends.csv", "runs.csv"}
    figures = {f"{name}.png" for name in drift.figures.CAPTIONS}
    assert {"runs.jsonl", "settings.json", "report.html"} | tables | figures == names
    orders = pd.read_csv(folder / "orders.csv")
    assert len(orders) == len(paths.CLAIMS)
    assert np.all(abs(orders["observed"] - orders["order"]) < 0.1)
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(figures)
    assert "http://" not in page
    assert "https://" not in page
    assert "orders in h, 6 were observed within 0.1" in page.replace("\n", " ")
    assert not jax.config.jax_enable_x64  # as it was

    # a kill in the middle: what is there is kept, the rest is made again
    lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    (folder / "runs.jsonl").write_text("".join(lines[:-1]))
    again = drift.run(seeds=1, out=folder, resume=True)
    assert (folder / "runs.jsonl").read_text().splitlines(keepends=True)[:-1] == lines[:-1]
    assert len(again.runs) == 4 * 2

    with pytest.raises(ValueError, match="other settings"):
        drift.run(seeds=2, out=folder, resume=True)
    for words, message in [
        (["--problems", "digits-c"], "unknown problem 'digits-c': did you mean digits-ce?"),
        (["--seeds", "0"], "--seeds must be at least 1, not 0."),
    ]:
        wrong = call(*words)
        assert wrong.exit_code == 2
        assert message in wrong.stderr


def test_the_principal_flow_that_is_drawn_meets_every_iterate(x64):
    records = beyond.directions()
    for r in records:
        factor = 1 - r["curvature"]
        np.testing.assert_allclose(
            r["iterates"], factor ** np.arange(beyond.STEPS + 1), rtol=1e-12, atol=1e-15
        )
        assert r["distance"] < 1e-6  # of solving to 1e-8, and growing
        np.testing.assert_allclose(
            np.abs(r["envelope"][:: beyond.SEEN]), np.abs(r["iterates"]), rtol=1e-5, atol=1e-8
        )


def test_the_iterates_that_are_drawn_settle_where_the_central_flow_says(x64):
    [record] = beyond.edge()
    x, curvature = np.transpose(record["iterates"])
    edge = 2 / beyond.EDGE_STEP
    np.testing.assert_allclose(record["flow"][-100:], edge, rtol=1e-6)
    np.testing.assert_allclose(record["variance"][-1], 2 * beyond.DRIVE, rtol=1e-6)
    np.testing.assert_allclose(x[-100:] ** 2, 2 * beyond.DRIVE, rtol=1e-3)
    # by the fourth derivative, which the central flow does not see
    settled = edge + 2 * beyond.SOFTNESS * beyond.DRIVE
    np.testing.assert_allclose(curvature[-100:], settled, rtol=1e-4)
    assert record["gradient flow"][-1] > 2 * edge


def test_the_epoch_flow_of_the_order_is_the_closest_to_its_iterates(x64):
    plain, any_order, this_order = (record["distance"][1:] for record in beyond.epochs())
    assert np.all(this_order < 0.5 * any_order)
    assert np.all(this_order < 0.5 * plain)
