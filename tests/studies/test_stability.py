import dataclasses
import itertools
import os
import subprocess
import sys

import jax
import numpy as np
import optax
import pandas as pd
import pytest

from odeopt.studies import stability
from odeopt.studies.engine import page, races
from odeopt.studies.engine.optimizers import find
from odeopt.studies.engine.store import StoreError
from odeopt.studies.engine.study import Results

from .engine import accessible

SMALL = {"solvers": ["sgd", "rk4"], "problems": ["quadratic-kappa1e6"], "seeds": 2, "gradients": 40}

# The children are forked before JAX starts a backend: each begins as a fresh process would, but
# without importing everything again, so that kills fall on work and not on imports.
KILLS = """
import os, pathlib, random, signal, sys, time
from odeopt.studies import stability

def study(out):
    stability.run(out=out, resume=True, seeds=2, gradients=40,
                  solvers=["sgd", "adam", "heun", "rk4"],
                  problems=["quadratic-diabetes", "quadratic-kappa1e6", "digits-ce-64"])

def child(out):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            study(out)
            status = 0
        finally:
            os._exit(status)
    return pid

folder = pathlib.Path(sys.argv[1])
assert os.waitpid(child(folder / "undisturbed"), 0)[1] == 0
random.seed(int(sys.argv[2]))
kills, tries = 0, 0
while kills < 20:
    pid = child(folder / f"killed-{tries}")
    time.sleep(random.uniform(0.2, 2.5))
    os.kill(pid, signal.SIGKILL)
    kills += os.waitpid(pid, 0)[1] == signal.SIGKILL
    # A study that was done before its kill makes room for a new one.
    tries += (folder / f"killed-{tries}" / "summary.csv").exists()
for n in range(tries + 1):
    assert os.waitpid(child(folder / f"killed-{n}"), 0)[1] == 0
print(kills)
"""


def ids(path):
    lines = [line for file in path.glob("runs*.jsonl") for line in file.read_text().splitlines()]
    return sorted(line.split('"id": ')[1].split(', "records"')[0] for line in lines)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    return stability.run(**SMALL, out=out), out


@pytest.mark.slow
def test_twenty_kills_change_no_byte_of_the_summary(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "20\n"
    wanted = tmp_path / "undisturbed"
    folders = list(tmp_path.glob("killed-*"))
    assert folders
    for folder in folders:
        assert (folder / "summary.csv").read_bytes() == (wanted / "summary.csv").read_bytes()
        assert ids(folder) == ids(wanted)  # no finished run was repeated


@pytest.mark.parametrize("share", [0.1, 0.45, 0.8, 0.999])
def test_a_file_cut_anywhere_resumes_to_the_same_summary(finished, tmp_path, share):
    out = tmp_path / "out"
    out.mkdir()
    data = (finished[1] / "runs.jsonl").read_bytes()
    (out / "runs.jsonl").write_bytes(data[: int(share * len(data))])
    (out / "settings.json").write_bytes((finished[1] / "settings.json").read_bytes())
    stability.run(**SMALL, out=out, resume=True)
    assert (out / "summary.csv").read_bytes() == (finished[1] / "summary.csv").read_bytes()
    assert ids(out) == ids(finished[1])


def timeless(results):
    return [{**r, "seconds": 0, "compile_seconds": 0} for r in results.records]


def test_devices_change_nothing_but_the_time(finished):
    assert timeless(stability.run(**SMALL, devices=2)) == timeless(finished[0])


def test_shares_in_one_folder_make_the_study(finished, tmp_path):
    out = tmp_path / "out"
    for i in (1, 2, 3):
        stability.run(**SMALL, out=out, share=(i, 3))
    assert not (out / "summary.csv").exists()
    with pytest.raises(StoreError, match="is not empty"):
        stability.run(**SMALL, out=out, share=(1, 3))  # a second one of the same number
    with pytest.raises(StoreError, match="gradients: 40 there, 60 now"):
        stability.run(**{**SMALL, "gradients": 60}, out=out, share=(1, 4))
    whole = stability.run(**SMALL, out=out, resume=True)
    assert timeless(whole) == timeless(finished[0])
    assert not (out / "runs.jsonl").read_bytes()  # nothing was left to do
    assert (out / "summary.csv").read_bytes() == (finished[1] / "summary.csv").read_bytes()


def test_a_run_says_everything_about_itself(finished):
    result, out = finished
    assert stability.run(**SMALL, out=out, resume=True).records == result.records
    assert {r["kind"] for r in result.records} == {"run", "limit", "spectrum"}
    for r in stability.runs_of(result).to_dict("records"):
        assert r["gradients"] == r["steps"] * r["gradients_per_step"] <= SMALL["gradients"]
        assert len(r["loss"]) == len(r["loss_gradients"]) <= 200
        assert r["loss"][0] == r["initial_loss"]
        missed = not r["final_loss"] <= r["initial_loss"]
        assert r["status"] == ("diverged" if missed else "ok")
        assert (r["relative_rate"] > 1) == missed  # the law of the quadratic


def test_summary_says_per_step_and_per_gradient(finished):
    result, _ = finished
    for row in result.table("summary").itertuples():
        entry = find(row.optimizer)
        assert row.best_rate_per_gradient == row.best_rate / entry.gradients_per_step
        assert row.R_per_gradient == entry.limit / entry.gradients_per_step
        assert abs(row.measured_limit / row.R - 1) < 0.01
        assert row.stable * row.sharpness < row.R < row.unstable * row.sharpness
        rates, losses = stability.loss_against_rate(result, row.problem, row.optimizer)
        assert losses.shape == (row.rates, 1 + SMALL["seeds"])
        best = np.argmin(losses[:, 0])
        assert rates[best] == row.best_rate
        assert np.median(losses[best, 1:]) == row.loss_median
        assert np.isinf(losses).sum() == row.diverged


def record(rate, seed, loss, name="o", **more):
    return {
        **dict.fromkeys(("order", "R")), "kind": "run", "problem": "p", "optimizer": name,
        "gradients_per_step": 1, "gradients": 9, "sharpness": 1.0, "seed": seed, "seconds": 0.0,
        "compile_seconds": 0.0,
        "learning_rate": rate, "initial_loss": 1.0, "final_loss": loss, "loss": [1.0, loss],
        "loss_gradients": [0, 9], "status": "ok" if loss <= 1 else "diverged", **more,
    }  # fmt: skip


def made(records):
    return Results(stability.STUDY, stability.Settings(), records)


def test_width_and_sensitivity_are_those_of_a_known_valley():
    losses = {-2: 1.0, -1: 1.5, 0: 0.05, 1: 0.0, 2: 0.09, 3: 0.5}
    runs = races.frame([record(2.0**k, s, loss) for k, loss in losses.items() for s in (0, 1)])
    (row,) = races.summary(runs).itertuples()
    assert row.width_octaves == 2  # h = 1, 2, 4 lose less than a tenth of the decrease
    assert row.sensitivity == pytest.approx((1 + 1 + 0.05 + 0 + 0.09 + 0.5) / 6)
    assert (row.best_rate, row.best_at, row.diverged) == (2.0, "interior", 2)


def test_what_a_step_costs_is_that_of_the_tuned_rate():
    costs = {1.0: (9, 9), 2.0: (3, 4), 4.0: (1, 1)}  # by rate, of the tuning seed and another
    losses = {1.0: 0.5, 2.0: 0.1, 4.0: 7.0}
    runs = races.frame(
        [
            record(h, s, losses[h], R=2.0, gradients_per_step=cost)
            for h, both in costs.items()
            for s, cost in enumerate(both)
        ]
    )
    (row,) = races.summary(runs).itertuples()
    assert 3 <= row.gradients_per_step <= 4
    assert row.best_rate_per_gradient == 2.0 / row.gradients_per_step
    assert row.R_per_gradient == 2.0 / row.gradients_per_step


def test_seconds_of_a_run_are_those_of_whole_runs():
    lasting = ((1.0, 0.5, 2.0), (2.0, 0.6, 4.0), (4.0, 7.0, 0.5))  # the last one diverges
    runs = races.frame([record(h, 0, loss, seconds=s) for h, loss, s in lasting])
    (row,) = races.seconds(runs).itertuples()
    assert (row.seconds, row.seconds_per_run) == (6.5, 3.0)
    assert row.seconds_per_gradient == pytest.approx(6.5 / 27)


def test_a_rate_without_a_reported_run_is_no_part_of_the_good_region():
    found = races.width(pd.Series({1.0: 0.05, 2.0: 0.0, 4.0: np.nan, 8.0: 0.0}), 1.0)
    assert found["width_octaves"] == 1


SGD = [record(h, s, x, "sgd", order=1, R=2.0) for s in (0, 1)
       for h, x in ((1.0, 0.5), (2.0, 2.0))]  # fmt: skip


def rival(below, unstable):
    loss = 0.4 if below else 0.6
    return [
        record(h, s, x, "rk9", order=9, R=8.0, gradients_per_step=9)
        for s in (0, 1)
        for h, x in ((0.5, 0.9), (unstable / 2, loss), (unstable, 2.0))
    ]


@pytest.mark.parametrize(("below", "lead"), [(False, "No."), (True, "Not clearly.")])
def test_the_verdict_says_what_the_data_say(below, lead):
    results = made(SGD + rival(below, 8.0))
    assert results.verdict.startswith(f"{lead} The stability limit of rk9, R = 8, is 4 times")
    assert "A step costs 9 gradients" in results.verdict
    assert ("no solver ended with a lower loss than sgd" in results.verdict) == (not below)


def test_a_gain_is_called_one_where_seeds_leave_no_doubt():
    many = [
        {**r, "seed": seed} for r in SGD + rival(True, 8.0) if r["seed"] for seed in range(1, 7)
    ]
    tuning = [r for r in SGD + rival(True, 8.0) if not r["seed"]]
    assert made(tuning + many).verdict.startswith("Yes, mostly.")


@pytest.mark.parametrize(("seeds", "problems"), [(3, 7), (5, 14)])
def test_yes_can_be_said_with_the_seeds_of_both_presets(seeds, problems):
    found = []
    for name, best in (("sgd", 0.5), ("rk9", 0.1), ("heun", 0.6)):
        about = {"order": 1, "R": 2.0, "gradients_per_step": 1}
        for seed, n in itertools.product(range(seeds + 1), range(problems)):
            for rate, loss in ((0.5, best + 0.01 * seed), (1.0, 2.0)):
                found.append(record(rate, seed, loss, name, problem=f"p{n}", **about))
    assert made(found).verdict.startswith("Yes, mostly.")


def test_a_clear_gain_on_one_problem_of_three_is_not_called_mostly():
    about, found = {"order": 1, "gradients_per_step": 1}, []
    for seed in range(6):
        for name, clear, level in (("sgd", 0.5, 0.8), ("heun", 0.4, 0.799)):
            ends = {"p0": clear + 0.001 * seed, "p1": 0.5 + 0.1 * seed, "p2": 0.5 + 0.1 * seed}
            if seed == 3:
                ends |= {"p1": level, "p2": level}
            found += [record(1.0, seed, x, name, problem=p, **about) for p, x in ends.items()]
    results = made(found)
    row = results.table("comparison").set_index("optimizer").loc["heun"]
    assert (row.below, row.clear) == (3, 1)
    assert results.verdict.startswith("On some problems.")
    assert "heun on 3, clearly on at least 1 of 3 problems" in results.verdict


def test_what_cannot_be_answered_says_why():
    rivals = rival(True, 8.0)
    assert "neither sgd nor euler" in made(rivals).verdict
    assert "nor euler" not in made(SGD).verdict
    waiting = {"No run of sgd or euler": rivals, "No solver besides sgd": SGD}
    for words, records in waiting.items():
        late = dataclasses.replace(made(records), unfinished=["one"])
        assert late.verdict == f"{words} is finished yet: there is nothing to compare."
    level = [{**r, "final_loss": 1.0} for r in SGD + rivals]
    lost = [{**r, "final_loss": 2.0, "status": "diverged"} for r in SGD + rivals]
    for records in (level, lost):
        assert made(records).verdict.startswith("No run ended with a lower loss than it started")


def test_a_solver_that_controls_its_step_size_is_not_called_missing():
    controlled = [{**r, "optimizer": "rosenbrock2", "order": None} for r in rival(True, 8.0)]
    words = "no solver of a fixed step size and no optimizer of your own besides sgd"
    assert words in made(SGD + controlled).verdict


def test_a_rate_that_is_no_step_size_has_no_limit_to_compare():
    slow = [{**r, "optimizer": "tenth", "R": None} for r in rival(False, 8.0)]
    for records, words in ((SGD + slow, []), (SGD + rival(False, 8.0), ["rk9"])):
        (cheaper,) = [v for v in made(records).claims if v.claim.name == "cheaper"]
        assert [check.where for check in cheaper.checks] == words


def test_an_optimizer_of_ones_own_is_judged():
    settings = stability.Settings(solvers=["sgd", {"mine": optax.sgd}])
    mine = [record(h, s, x, "mine") for s in (0, 1) for h, x in ((0.5, 0.3), (1.0, 2.0))]
    verdict = Results(stability.STUDY, settings, SGD + mine).verdict
    assert "these ended with a lower loss than sgd: mine on 1 of 1 problem" in verdict


def test_a_study_leaves_the_devices_of_the_process_as_they_are():
    code = (
        "from odeopt.studies.engine.runner import local_devices; import jax\n"
        "found = jax.config.values['jax_num_cpu_devices']; local_devices(1)\n"
        "assert jax.config.values['jax_num_cpu_devices'] == found\n"
    )
    told = {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    more = "assert len(local_devices(2)) == 2; assert jax.local_device_count() == 3"
    for words, flags in (("", {}), (more, told)):
        subprocess.run([sys.executable, "-c", code + words], check=True, env=os.environ | flags)


@pytest.mark.cheap
def test_settings_may_be_given_by_a_generator():
    found = stability.run(solvers=(name for name in ("sgd", "heun")), max_minutes=1e-9)
    assert found.settings.solvers == ("sgd", "heun")


def test_findings_of_figures_are_of_the_data():
    (relative,) = [figure for figure in stability.FIGURES if figure.name == "loss_relative"]
    tame = [{**r, "sharpness": 1.0} for r in SGD if r["status"] != "diverged"]
    assert relative.finding(made(tame)).startswith("No run of the 1 lines diverged")
    assert relative.finding(made(SGD)).startswith("1 of 1 lines end")
    (profile,) = [figure for figure in stability.FIGURES if figure.name == "profile"]
    found = profile.finding(made(SGD + rival(True, 8.0)))
    assert found.endswith("in this share of the pairs: sgd 0% and 0%, rk9 100% and 100%.")
    lost = [{**r, "loss": [1.0, 2.0], "final_loss": 2.0, "status": "diverged"} for r in SGD]
    assert profile.finding(made(lost)) == "No loss came down, so there is no target."
    (limits,) = [figure for figure in stability.FIGURES if figure.name == "limits"]
    momentum = [{**r, "optimizer": "momentum", "order": None} for r in SGD]
    assert limits.finding(made(SGD + momentum)).endswith("momentum 0.50 to 2.00 and 0.50 to 2.00.")


def test_a_ratio_of_limits_is_a_bracket_and_a_claim_is_open_where_that_holds_1():
    results = made(SGD + rival(False, 32.0))
    row = results.table("comparison").set_index("optimizer").loc["rk9"]
    # sgd between 1 and 2, rk9 between 16 and 32: their ratio between 8 and 32
    assert (row.step_low, row.step_high) == (8.0, 32.0)
    assert (row.gradient_low, row.gradient_high) == (8 / 9, 32 / 9)
    assert row.step == "8.00 to 32.00"
    (cheaper,) = [v for v in results.claims if v.claim.name == "cheaper"]
    assert cheaper.word == "open"


@pytest.mark.slow
def test_limits_that_no_rate_reached_are_drawn_to_the_edge(tmp_path):
    stable = [{**r, "status": "ok", "final_loss": 0.9} for r in rival(False, 8.0)]
    assert page.write(made(SGD + stable), tmp_path).exists()


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["sgd", "rk9"])
def test_without_a_pair_to_compare_there_are_tables_still(missing, tmp_path):
    records = [r for r in SGD + rival(False, 8.0) if r["optimizer"] != missing]
    results = made(records)
    assert len(results.table("comparison")) == 1
    assert page.write(results, tmp_path).exists()
    assert "nothing to compare" in results.verdict


@pytest.mark.slow
def test_the_report_has_every_figure_and_says_what_they_show(finished, tmp_path):
    text = page.write(finished[0], tmp_path).read_text()
    drawn = {figure.name for figure in stability.FIGURES}
    assert {part.split('"')[0] for part in text.split('<figure id="')[1:]} == drawn
    assert "summary.csv" in text
    assert accessible.faults(text) == []
    assert text.index("limits") < text.index("loss_rate")


def test_adam_gets_rates_without_a_limit_and_says_where_the_best_is():
    result = stability.run(**{**SMALL, "solvers": ["adam"]})
    (row,) = result.table("summary").itertuples()
    assert pd.isna(row.R)
    assert row.best_at in ("interior", "upper end")


def test_no_time_leaves_runs_out_and_a_resume_makes_them(finished, tmp_path):
    out = tmp_path / "late"
    late = stability.run(**SMALL, out=out, max_minutes=1e-9)
    assert (late.records, len(late.unfinished)) == ([], 2)
    assert late.verdict == "No run was made: nothing to compare."
    stability.run(**SMALL, out=out, resume=True)
    assert (out / "summary.csv").read_bytes() == (finished[1] / "summary.csv").read_bytes()


def test_the_callers_precision_is_restored(finished):
    assert finished
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"solvers": ["rk5"]}, r"unknown solver 'rk5': did you mean rkc or rk4"),
        ({"solvers": "Low_storage4"}, "did you mean low_storage4"),
        ({"problems": ["digits"]}, "did you mean digits-"),
        ({"problems": [3]}, r"a int, not a problem: make it with odeopt\.studies\.Problem"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"gradients": 3}, "--gradients must be at least 4"),
        ({"gradients": 10**9}, "--gradients must be at most"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(wrong, message):
    with pytest.raises(ValueError, match=message):
        stability.run(**{**SMALL, **wrong})


OWN = """
import jax.numpy as jnp, numpy as np, optax
from odeopt.studies import Problem
x = np.linspace(-1, 1, 16, dtype=np.float32)
problem = Problem(lambda p, b: jnp.mean((b[0] * p - b[1]) ** 2), lambda seed: jnp.zeros(()) + seed,
                  (x, 3 * x), name="line")
number = 3
def mine(h):
    return optax.sgd(h)
"""


def test_own_problems_and_optimizers_come_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(OWN)
    result = stability.run(
        problems="my_model.py:problem", solvers=["sgd", "my_model.py:mine"], seeds=1, gradients=8
    )
    assert set(result.of("run").problem) == {"line"}
    assert set(result.of("run").optimizer) == {"sgd", "mine"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("my_model.py:problme", "has no 'problme': .*did you mean problem"),
        ("other.py:problem", "there is no file other.py"),
        ("my_model.py:number", "is a int, not a problem"),
        ("broken.py:problem", "broken.py fails: ZeroDivisionError"),
    ],
)
def test_a_file_that_has_no_problem_is_one_line(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ValueError, match=message) as error:
        stability.run(problems=word)
    assert "\n" not in str(error.value)
