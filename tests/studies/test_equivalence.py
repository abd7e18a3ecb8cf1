"""Laws of the study: flows against closed forms, verdicts that follow from the figures."""

import functools
import html
import re

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from odeopt import flows, solvers
from odeopt.studies import accuracy
from odeopt.studies.engine.runner import POINTS, Runner
from odeopt.studies.equivalence import claims, figures, methods, page, paths, study
from odeopt.studies.equivalence.deviations import deviations, on_clock, relative
from odeopt.studies.old_cli import app
from odeopt.studies.problems import Problem

EIGENVALUES = np.array([1.0, 0.3, 0.05])


def modes(init=lambda seed: jnp.ones(3)):
    """A quadratic whose flow is known in closed form."""

    def loss(params, batch):
        return 0.5 * jnp.sum(batch[0] * params**2)

    return Problem(loss, init, (EIGENVALUES,), name="modes", quadratic=True)


@pytest.fixture
def swept(x64):
    """Records of `follow` on the quadratic, and what they are expected to say."""
    problem = modes()
    flow = paths.flow_losses(problem)

    def follow(entry):
        return paths.follow(
            Runner(problem, entry, POINTS * entry.gradients_per_step, [0], 20), flow, 1.0
        )

    return follow


def test_the_two_flows_of_a_quadratic_agree_with_its_modes(x64):
    times = np.linspace(0, 20, POINTS + 1)
    exact = 0.5 * (EIGENVALUES * np.exp(-2 * np.outer(times, EIGENVALUES))).sum(1)
    np.testing.assert_allclose(paths.flow_losses(modes())(times), exact, rtol=1e-12)
    points = accuracy.flow_of(modes(), 1e-11)(list(times), 0.0)
    np.testing.assert_allclose(0.5 * (EIGENVALUES * points**2).sum(1), exact, rtol=1e-7)


def test_the_modified_flow_has_the_modified_rate(x64):
    h = 0.1
    points = accuracy.flow_of(modes(), 1e-11, modified=True)([0.0, 3.0], h)
    rates = EIGENVALUES + h / 2 * EIGENVALUES**2
    np.testing.assert_allclose(points[1], np.exp(-3 * rates), rtol=1e-8)


def test_adams_flow_with_equal_moments_at_the_start_moves_like_the_sign(x64):
    # Early on both corrected moments are those of one gradient: every coordinate moves at speed 1.
    times = np.array([0.0, 1e-4, 2e-4])
    losses = paths.adam_flow(modes(), times, tau1=0.01)
    start = np.ones(3)
    exact = [0.5 * (EIGENVALUES * (start - t) ** 2).sum() for t in times]
    np.testing.assert_allclose(losses, exact, rtol=1e-7)


@pytest.mark.parametrize("entry", methods.limited(), ids=lambda entry: entry.name)
def test_stated_limits_are_those_of_the_solvers(entry):
    b = methods.momentum_of(entry)
    if entry.name.startswith("heavy"):
        limit = solvers.stability_limit(flows.HeavyBallFlow(b), solvers.Lie())
    elif entry.name.startswith("nesterov"):
        limit = solvers.stability_limit(flows.NesterovFlow(b), solvers.Lie())
    else:
        limit = entry.limit
    assert entry.limit == pytest.approx(limit, rel=1e-5)


def test_runs_on_flow_time_converge_with_the_order(swept):
    for name, order in {"euler": 1, "heun": 2, "rk4": 4}.items():
        rows = deviations(swept(methods.find(name))).sort_values("step")
        ends = rows.end.abs().to_numpy()[:2]  # the two smallest steps
        assert np.log2(ends[1] / ends[0]) == pytest.approx(order, abs=0.25), name
        above = rows[rows.relative_rate > 1]
        assert len(above) == 1
        assert above.worst.item() > 1


def test_momentum_errs_by_its_factor_on_the_delayed_clock(swept):
    euler = {row.step: row.end for row in deviations(swept(methods.find("euler"))).itertuples()}
    for b in (0.5, 0.9):
        rows = deviations(swept(methods.heavy_ball(b)))
        row = rows[rows.step.isin(list(euler))].sort_values("step").iloc[0]
        factor = np.log1p(row.delayed_end) / np.log1p(euler[row.step])
        assert factor == pytest.approx((1 + b) / (1 - b), rel=claims.NEAR)


def test_a_rate_is_the_share_of_the_step_that_momentum_takes(swept):
    for record in swept(methods.heavy_ball(0.9)):
        assert record["learning_rate"] == pytest.approx(0.1 * record["step"])
        assert record["times"][1] * POINTS == pytest.approx(record["times"][-1])


def test_the_rival_clock_of_the_flow_itself_is_exact_only_at_factor_one():
    times = np.linspace(0, 4, POINTS + 1)
    record = {"times": times, "loss": np.exp(-times), "flow_loss": np.exp(-times)}
    assert np.abs(on_clock(record, 1.0)).max() < 1e-12
    np.testing.assert_allclose(on_clock(record, 0.5), np.exp(-times[1:] / 2) - 1, rtol=1e-9)
    assert len(on_clock(record, 2.0)) == POINTS // 2  # later times have no flow to compare with


def test_a_run_that_blew_up_is_infinitely_far():
    assert np.isinf(relative([1.0, None, 2.0], [1.0, 1.0, 1.0])[0])


def path(family, optimizer, relative_rate, off, **more):
    """A path that is off its flow by a constant share."""
    times = 4 * relative_rate * np.arange(POINTS + 1)
    flow = np.exp(-np.linspace(0, 3, POINTS + 1))
    b = more.get("momentum", 0.0)
    return {
        "kind": "path", "family": family, "problem": "digits-path", "optimizer": optimizer,
        "momentum": b, "R": 2.0, "learning_rate": relative_rate * (1 - b), "step": relative_rate,
        "step_sharpness": relative_rate, "relative_rate": relative_rate, "times": times.tolist(),
        "loss": (flow * (1 + off)).tolist(), "flow_loss": flow.tolist(), **more,
    }  # fmt: skip


def verdict(claim, records):
    return claim(records).verdict


@pytest.mark.parametrize(
    ("off", "wanted"),
    [
        ([0.001, 0.009], "held"),
        ([0.001, 0.02], "held only in part"),
        ([0.02, 0.03], "did not hold"),
        ([0.001, np.nan], "held only in part"),
    ],
)
def test_the_verdict_turns_with_the_figures(off, wanted):
    runs = [path("solver", "euler", x, e) for x, e in zip((0.1, 0.5), off, strict=True)]
    claim = claims.flow_time(runs)
    assert claim.verdict == wanted
    assert [check.holds for check in claim.checks] == [e <= claims.SAME for e in off]
    if wanted == "held only in part":
        assert "0.1 (euler)" in claim.range


def test_a_reach_ends_at_the_first_larger_difference():
    runs = [path("solver", "rk4", x, e) for x, e in ((0.1, 0.0), (0.2, 0.5), (0.4, 0.0))]
    assert "0.1 (rk4)" in claims.flow_time(runs).range


def test_runs_above_the_limit_belong_to_the_rival():
    runs = [path("solver", "euler", 0.5, 0.0), path("solver", "euler", 1.5, 0.0)]
    assert len(claims.flow_time(runs).checks) == len(claims.above_limit(runs).checks) == 1
    assert claims.above_limit(runs).verdict == "held"  # a rival can win
    assert "not refuted everywhere: above the limit" in " ".join(
        page.answer([claims.flow_time(runs), claims.above_limit(runs)])
    )


def order(name, seen, nominal):
    return {"kind": "order", "problem": "p", "optimizer": name, "nominal_order": nominal,
            "observed_order": seen, "step_sizes": [0.2, 0.1], "errors": [0.4, 0.2]}  # fmt: skip


def limit(name, measured):
    return {"kind": "limit", "problem": "q", "optimizer": name, "momentum": 0.0, "R": 2.0,
            "measured_limit": measured}  # fmt: skip


def boundary(name, first):
    diverged = [x >= first for x in study.BOUNDARY_RATES]
    return {"kind": "boundary", "problem": "p", "optimizer": name, "momentum": 0.0, "R": 2.0,
            "relative_rates": study.BOUNDARY_RATES.tolist(), "diverged": diverged}  # fmt: skip


def trace(name, late):
    return {"kind": "sharpness", "problem": "p", "optimizer": name, "R": 2.0, "learning_rate": 0.1,
            "gradients": list(range(21)), "sharpness": [10.0] * 12 + [20 * late] * 9}  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "good", "bad"),
    [
        (claims.orders, order("rk4", 4.05, 4), order("rk4", 3.8, 4)),
        (claims.modified, order("euler, own flow", 2.0, 2), order("euler, own flow", 1.0, 2)),
        (claims.boundary, limit("euler", 2.01), limit("euler", 2.1)),
        (claims.boundary, limit("euler", 1.99), limit("euler", None)),
        (claims.network_boundary, boundary("euler", 1.1), boundary("euler", 2.0)),
        (claims.network_boundary, boundary("euler", 1.0), boundary("euler", 0.8)),
        (claims.edge, trace("euler", 1.05), trace("euler", 1.2)),
    ],
)
def test_thresholds_tell_good_from_bad(claim, good, bad):
    assert verdict(claim, [good]) == "held"
    assert verdict(claim, [bad]) == "did not hold"
    assert verdict(claim, [good, bad]) == "held only in part"
    assert verdict(claim, []) == "not measured"


def test_a_trace_that_broke_off_is_not_at_the_edge():
    broken = trace("euler", 1.0)
    broken["gradients"], broken["sharpness"] = [0, 1, 2], [20.0, 20.0, 20.0]
    assert verdict(claims.edge, [broken]) == "did not hold"


def everything():
    """A record of every kind, such that every claim has something to judge."""
    records = [path("solver", name, x, 0.02 * x) for name in ("euler", "rk4") for x in (0.5, 1.5)]
    for b in (0.5, 0.9):
        delayed = np.exp(-np.linspace(0, 3, POINTS + 1)) / (1 + 0.01 * (1 + b) / (1 - b))
        more = {"momentum": b, "delayed_flow_loss": delayed.tolist()}
        records.append(path("momentum", f"heavy ball {b}", 0.5, 0.02, **more))
    steps = list(range(POINTS + 1))
    records += [path("relative", name, 0.8, 0.0, steps=steps) for name in study.RELATIVE]
    records += [path("adam rate", "adam", 1e-3, 0.0, b1=b1) for b1 in paths.ADAM_B1]
    for family in ("adam constants", "adam betas"):
        records += [path(family, "adam", x, 5 * x) for x in (1e-3, 2e-3)]
    records += [limit("euler", 2.0), boundary("euler", 2.0), trace("euler", 1.0)]
    return [*records, order("euler", 1.0, 1), order("euler, own flow", 2.0, 2)]


@pytest.fixture
def short(monkeypatch):
    """The study with two small tasks, which count how often they are done."""
    calls = []

    def task(name):
        calls.append(name)
        return everything()[:6] if name == "paths" else everything()[6:]

    names = ("paths", "rest")
    work = [(name, functools.partial(task, name)) for name in names]
    monkeypatch.setattr(study, "tasks", lambda problems: work)
    return calls


def test_a_study_writes_its_tables_and_is_not_made_again(short, tmp_path):
    found = study.run(out=tmp_path / "out")
    assert all(claim.checks for claim in found.claims)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    tables = {"claims.csv", "checks.csv", "deviations.csv"}
    assert names == {"runs.jsonl", "settings.json", *tables}
    assert len(found.checks) == sum(len(claim.checks) for claim in found.claims)
    assert short == ["paths", "rest"]
    before = {name: (tmp_path / "out" / name).read_bytes() for name in tables}
    again = study.run(out=tmp_path / "out", resume=True)
    assert short == ["paths", "rest"]
    assert again.records == found.records
    assert before == {name: (tmp_path / "out" / name).read_bytes() for name in tables}


def test_a_task_that_was_cut_off_is_made_again(short, tmp_path):
    study.run(out=tmp_path)
    whole = (tmp_path / "claims.csv").read_bytes()
    data = (tmp_path / "runs.jsonl").read_bytes()
    (tmp_path / "runs.jsonl").write_bytes(data[:-100])
    study.run(out=tmp_path, resume=True)
    assert short == ["paths", "rest", "rest"]
    assert (tmp_path / "claims.csv").read_bytes() == whole


def test_one_program_measures_a_method_on_a_quadratic(x64):
    records = study._Bench(modes()).measure(methods.find("euler"))
    kinds = [(record["kind"], record.get("family")) for record in records]
    assert kinds.count(("limit", None)) == 1
    assert kinds.count(("path", "solver")) == len(paths.SOLVER_STEPS["euler"])
    assert kinds.count(("path", "relative")) == len(paths.RELATIVE_STEPS)
    assert claims.boundary(records).verdict == "held"


def test_the_page_needs_nothing_outside_and_says_every_verdict(short, tmp_path):
    found = study.run()
    files = figures.draw(found.records, tmp_path)
    assert list(files) == list(figures.DRAWINGS) == list(figures.CAPTIONS)
    text = html.unescape(page.write(found, tmp_path, files).read_text())
    assert text.count("data:image/png;base64,") == len(files)
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)
    for claim in found.claims:
        assert claim.says in text
        assert claim.sentence in text
    for sentence in page.answer(found.claims):
        assert sentence in text


def test_figures_leave_out_what_was_not_measured(tmp_path):
    assert set(figures.draw([order("euler", 1.0, 1)], tmp_path)) == {"order"}
    assert figures.draw([], tmp_path) == {}


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    called = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["equivalence", "--out", "full"])
    assert called.exit_code == 2
    assert "full is not empty" in called.stderr
    assert len(called.stderr.splitlines()) == 1
