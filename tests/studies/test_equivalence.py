"""Laws of the study: flows against closed forms, verdicts that follow from the figures."""

import dataclasses
import html

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odeopt.studies import accuracy, equivalence
from odeopt.studies import equivalence_claims as claims
from odeopt.studies import equivalence_paths as paths
from odeopt.studies.engine import Problem, Results, page
from odeopt.studies.engine.optimizers import find
from odeopt.studies.engine.runner import POINTS, Runner
from odeopt.studies.equivalence_paths import deviations, on_clock, relative

from .engine import accessible

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
            Runner(problem, entry, POINTS * entry.gradients_per_step, [0]), flow, 1.0
        )

    return follow


@pytest.mark.slow
def test_the_two_flows_of_a_quadratic_agree_with_its_modes(x64):
    times = np.linspace(0, 20, POINTS + 1)
    exact = 0.5 * (EIGENVALUES * np.exp(-2 * np.outer(times, EIGENVALUES))).sum(1)
    np.testing.assert_allclose(paths.flow_losses(modes())(times), exact, rtol=1e-12)
    points = accuracy.flow_of(modes(), 1e-11)(list(times))
    np.testing.assert_allclose(0.5 * (EIGENVALUES * points**2).sum(1), exact, rtol=1e-7)


@pytest.mark.slow
def test_adams_flow_with_equal_moments_at_the_start_moves_like_the_sign(x64):
    # Early on both corrected moments are those of one gradient: every coordinate moves at speed 1.
    times = np.array([0.0, 1e-4, 2e-4])
    losses = paths.adam_flow(modes(), times, tau1=0.01)
    start = np.ones(3)
    exact = [0.5 * (EIGENVALUES * (start - t) ** 2).sum() for t in times]
    np.testing.assert_allclose(losses, exact, rtol=1e-7)


def test_limits_are_those_of_theory():
    limits = {entry.name: entry.limit for entry in paths.limited()}
    for b in (0.5, 0.9, 0.99):
        assert limits[f"heavy ball {b:g}"] == pytest.approx(2 * (1 + b), rel=1e-6)
    assert limits["nesterov 0.9"] == pytest.approx(2 * 1.9 / 2.8, rel=1e-6)
    assert limits["heun"] == pytest.approx(2)


def test_the_flow_of_a_quadratic_with_another_minimum_is_solved(x64):
    shifted = Problem(
        lambda params, batch: modes().loss(params, batch) + 1.0,
        lambda seed: jnp.ones(3),
        (EIGENVALUES,),
        quadratic=True,
    )
    times = np.linspace(0, 20, POINTS + 1)
    there, here = paths.flow_losses(shifted)(times), paths.flow_losses(modes())(times)
    np.testing.assert_allclose(there, here + 1, rtol=1e-8)


def test_a_loss_with_a_kink_is_refused(x64):
    def loss(params, batch):
        return jnp.sum(jnp.abs(params) + batch[0] * params**2)

    kink = Problem(loss, lambda seed: jnp.ones(3), (EIGENVALUES,), name="kink")
    with pytest.raises(ValueError, match=r"'kink': its gradient flow takes too many steps\. Is"):
        paths.flow_losses(kink)([0.0, 2.0])


def test_runs_on_flow_time_converge_with_the_order(swept):
    for name, order in {"euler": 1, "heun": 2, "rk4": 4}.items():
        rows = deviations(swept(find(name))).sort_values("step")
        ends = rows.end.abs().to_numpy()[:2]  # the two smallest steps
        assert np.log2(ends[1] / ends[0]) == pytest.approx(order, abs=0.25), name
        above = rows[rows.relative_rate > 1]
        assert len(above) == 1
        assert above.worst.item() > 1


@pytest.mark.slow
def test_momentum_errs_by_its_factor_on_the_delayed_clock(swept):
    euler = {row.step: row.end for row in deviations(swept(find("euler"))).itertuples()}
    for b in (0.5, 0.9):
        rows = deviations(swept(paths.heavy_ball(b)))
        row = rows[rows.step.isin(list(euler))].sort_values("step").iloc[0]
        factor = np.log1p(row.delayed_end) / np.log1p(euler[row.step])
        assert factor == pytest.approx((1 + b) / (1 - b), rel=claims.NEAR)


def test_a_rate_is_the_share_of_the_step_that_momentum_takes(swept):
    for record in swept(paths.heavy_ball(0.9)):
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


def judged(records):
    """The verdicts by the name of their claim."""
    found = Results(equivalence.STUDY, equivalence.Settings(), records)
    return {verdict.claim.name: verdict for verdict in found.claims}


@pytest.mark.parametrize(
    ("off", "wanted"),
    [
        ([0.001, 0.009], "holds"),
        ([0.001, 0.02], "holds in part"),
        ([0.02, 0.03], "does not hold"),
        ([0.001, np.nan], "holds in part"),
    ],
)
def test_the_verdict_turns_with_the_figures(off, wanted):
    runs = [path("solver", "euler", x, e) for x, e in zip((0.1, 0.5), off, strict=True)]
    verdict = judged(runs)["flow time"]
    assert verdict.word == wanted
    assert [check.holds for check in verdict.checks] == [e <= claims.SAME for e in off]
    if wanted == "holds in part":
        assert "euler: 0.1 to 0.5" in verdict.finding


def test_what_has_come_down_to_rounding_is_the_same():
    assert paths.relative([1.0, 1e-30, 0.0], [1.0, 1e-28, 0.0]).tolist() == [0, 0]
    assert paths.relative([1.0, 1e-9, np.inf], [1.0, 1e-28, 1e-28]).tolist()[1] == np.inf
    assert paths.relative([1.0, 1e-9], [1.0, 1e-28])[0] > 1e18


def test_a_reach_ends_at_the_first_larger_difference():
    runs = [path("solver", "rk4", x, e) for x, e in ((0.1, 0.0), (0.2, 0.5), (0.4, 0.0))]
    assert claims.reach(deviations(runs), "relative_rate") == (0.1, 0.2)
    assert claims.reach(deviations(runs[:1]), "relative_rate") == (0.1, np.inf)
    assert claims.reach(deviations(runs[1:2]), "relative_rate") == (0.0, 0.2)


def test_runs_above_the_limit_belong_to_the_rival():
    found = judged([path("solver", "euler", 0.5, 0.0), path("solver", "euler", 1.5, 0.0)])
    assert len(found["flow time"].checks) == len(found["above the limit"].checks) == 1
    assert found["above the limit"].word == "holds"  # a rival can win


def order(name, seen, nominal):
    return {"kind": "order", "problem": "p", "optimizer": name, "nominal_order": nominal,
            "observed_order": seen, "step_sizes": [0.2, 0.1], "errors": [0.4, 0.2]}  # fmt: skip


def limit(name, measured):
    return {"kind": "limit", "problem": "q", "optimizer": name, "momentum": 0.0, "R": 2.0,
            "measured_limit": measured}  # fmt: skip


def boundary(name, first):
    rates = equivalence.BOUNDARY_RATES.tolist()
    return {"kind": "boundary", "problem": "p", "optimizer": name, "momentum": 0.0, "R": 2.0,
            "relative_rates": rates, "diverged": [x >= first for x in rates]}  # fmt: skip


def trace(name, late):
    return {"kind": "sharpness", "problem": "p", "optimizer": name, "R": 2.0, "learning_rate": 0.1,
            "gradients": list(range(21)), "sharpness": [10.0] * 12 + [20 * late] * 9}  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "good", "bad"),
    [
        ("order", order("rk4", 4.05, 4), order("rk4", 3.8, 4)),
        ("boundary", limit("euler", 2.01), limit("euler", 2.1)),
        ("boundary", limit("euler", 1.99), limit("euler", None)),
        ("boundary of a network", boundary("euler", 1.1), boundary("euler", 2.0)),
        ("boundary of a network", boundary("euler", 1.0), boundary("euler", 0.8)),
        ("edge of stability", trace("euler", 1.05), trace("euler", 1.2)),
    ],
)
def test_thresholds_tell_good_from_bad(claim, good, bad):
    assert judged([good])[claim].word == "holds"
    assert judged([bad])[claim].word == "does not hold"
    assert judged([good, bad])[claim].word == "holds in part"
    assert judged([])[claim].word == "not measured"


def test_a_boundary_that_no_rate_reached_has_no_upper_end():
    (check,) = judged([boundary("euler", np.inf)])["boundary of a network"].checks
    assert (check.value, check.wanted) == (4.0, "4.00 or more contains 1 ± 0.1")
    assert check.holds is False


def test_a_trace_that_broke_off_is_not_at_the_edge():
    broken = trace("euler", 1.0)
    broken["gradients"], broken["sharpness"] = [0, 1, 2], [20.0, 20.0, 20.0]
    assert judged([broken])["edge of stability"].word == "does not hold"


def everything():
    """A record of every kind, such that every claim has something to judge."""
    records = [path("solver", name, x, 0.02 * x) for name in ("euler", "rk4") for x in (0.5, 1.5)]
    for b in (0.5, 0.9):
        delayed = np.exp(-np.linspace(0, 3, POINTS + 1)) / (1 + 0.01 * (1 + b) / (1 - b))
        more = {"momentum": b, "delayed_flow_loss": delayed.tolist()}
        records.append(path("momentum", f"heavy ball {b}", 0.5, 0.02, **more))
    steps = list(range(POINTS + 1))
    records += [path("relative", name, 0.8, 0.0, steps=steps) for name in equivalence.RELATIVE]
    records += [path("adam rate", "adam", 1e-3, 0.0, b1=b1) for b1 in paths.ADAM_B1]
    for family in ("adam constants", "adam betas"):
        records += [path(family, "adam", x, 5 * x) for x in (1e-3, 2e-3)]
    records += [limit("euler", 2.0), boundary("euler", 2.0), trace("euler", 1.0)]
    return [*records, order("euler", 1.0, 1)]


def test_every_claim_is_judged_and_the_verdict_counts_them():
    found = Results(equivalence.STUDY, equivalence.Settings(), everything())
    assert all(verdict.checks and verdict.finding for verdict in found.claims)
    rows = found.table("checks")
    assert len(rows) == sum(len(verdict.checks) for verdict in found.claims)
    checks = next(v.checks for v in found.claims if v.claim.name == "flow time")
    assert f"in {sum(c.holds for c in checks)} of {len(checks)} runs below it" in found.verdict
    rivals = [v.word for v in found.claims if v.claim.says.startswith("Rival")]
    assert f"of {len(rivals)} rival readings {rivals.count('does not hold')} do" in found.verdict


def test_what_was_not_measured_is_not_counted():
    def said(records):
        return Results(equivalence.STUDY, equivalence.Settings(), records).verdict

    assert said([limit("euler", 2.0)]) == (
        "Of 1 measured claims 1 hold, 0 in part; of 0 rival readings 0 do not hold."
    )


def test_the_figure_of_the_sharpness_says_where_it_ends():
    (figure,) = [figure for figure in equivalence.FIGURES if figure.name == "sharpness"]
    found = Results(equivalence.STUDY, equivalence.Settings(), [trace("euler", 1.0)])
    assert "1 ± 0.1 in 1 of 1 trainings" in figure.finding(found)
    assert figure.finding(found).endswith("euler 1.")
    below = Results(equivalence.STUDY, equivalence.Settings(), [trace("euler", 0.5)])
    assert "in 0 of 1 trainings" in figure.finding(below)
    nothing = Results(equivalence.STUDY, equivalence.Settings(), [limit("euler", 2.0)])
    assert "No training lasted" in figure.finding(nothing)


@pytest.mark.slow
def test_figures_leave_out_what_was_not_measured(tmp_path):
    def drawn(records):
        found = Results(equivalence.STUDY, equivalence.Settings(), records)
        written = page.write(found, tmp_path).read_text()
        text = html.unescape(written)
        assert found.verdict in text
        assert accessible.faults(written) == []
        return [f.name for f in equivalence.FIGURES if f'<figure id="{f.name}"' in text]

    assert drawn([trace("euler", 1.0)]) == ["sharpness"]
    assert drawn(everything()) == [figure.name for figure in equivalence.FIGURES]
    assert drawn([]) == []


def test_one_program_measures_a_method_on_a_quadratic(x64):
    records = equivalence.Bench(modes()).measure(find("euler"))
    kinds = [(record["kind"], record.get("family")) for record in records]
    assert kinds.count(("limit", None)) == 1
    assert kinds.count(("path", "solver")) == len(paths.SOLVER_STEPS["euler"])
    assert kinds.count(("path", "relative")) == len(paths.RELATIVE_STEPS)
    assert judged(records)["boundary"].word == "holds"


def test_a_loss_that_falls_below_zero_is_refused(x64):
    below = dataclasses.replace(modes(), loss=lambda x, batch: modes().loss(x, batch) - 0.1)
    below = dataclasses.replace(below, quadratic=False)
    with pytest.raises(ValueError, match=r"its loss falls to -.* by their ratio.*: subtract its"):
        equivalence.Bench(below).measure(find("euler"))


@pytest.mark.slow
def test_a_problem_of_ones_own_is_measured(tmp_path):
    found = equivalence.run(problems=modes(), out=tmp_path)
    words = {verdict.claim.name: verdict.word for verdict in found.claims}
    assert words["boundary"] == "holds"
    assert words["boundary of a network"] == "not measured"
    assert set(found.table("deviations").problem) == {"modes"}
    assert equivalence.run(problems=modes(), out=tmp_path, resume=True).records == found.records


def test_problems_that_have_no_flow_are_refused():
    random = Problem(lambda params, batch, key: params**2, lambda seed: jnp.ones(()), np.ones(2))
    with pytest.raises(ValueError, match="random loss, which has no gradient flow"):
        equivalence.run(problems=random)
    with pytest.raises(ValueError, match="unknown problem 'digits-pat': did you mean digits-path"):
        equivalence.run(problems="digits-pat")


@pytest.mark.slow
def test_the_flow_of_a_problem_in_single_precision_is_solved_to_its_rounding():
    def loss(x, batch):
        return 0.5 * jnp.sum(batch[0] * x**2)

    with jax.enable_x64(True):
        start = lambda seed: jnp.ones(2, jnp.float32)
        problem = Problem(loss, start, (np.float32([[1.0, 3.0]]),), x64=False)
        found = accuracy.flow_of(problem, 1e-11)([0.0, 1.0])
    np.testing.assert_allclose(found[1], np.exp([-1.0, -3.0]), rtol=1e-4)
