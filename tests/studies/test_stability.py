import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from rich.console import Console

from odeopt.studies import entries, grid, records, stability

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
while kills < 10:
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


def run_keys(path):
    return [
        (r["problem"], r["optimizer"], r["learning_rate"], r["seed"])
        for r in records.read(path / "runs.jsonl")
        if r["kind"] == "run"
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    return stability.run(**SMALL, out=out), out


def copy(finished, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("runs.jsonl", "settings.json"):
        (out / name).write_bytes((finished[1] / name).read_bytes())
    return out


@pytest.mark.slow
def test_ten_kills_change_no_byte_of_the_summary(tmp_path):
    command = [sys.executable, "-c", KILLS, str(tmp_path), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "10\n"
    wanted = tmp_path / "undisturbed"
    folders = list(tmp_path.glob("killed-*"))
    assert folders
    for folder in folders:
        assert (folder / "summary.csv").read_bytes() == (wanted / "summary.csv").read_bytes()
        assert sorted(run_keys(folder)) == sorted(run_keys(wanted))
        assert len(set(run_keys(folder))) == len(run_keys(folder))  # no finished run was repeated


@pytest.mark.parametrize("share", [0.1, 0.45, 0.8, 0.999])
def test_a_file_cut_anywhere_resumes_to_the_same_summary(finished, tmp_path, share):
    out = copy(finished, tmp_path)
    data = (out / "runs.jsonl").read_bytes()
    (out / "runs.jsonl").write_bytes(data[: int(share * len(data))])
    stability.run(**SMALL, out=out, resume=True)
    assert (out / "summary.csv").read_bytes() == (finished[1] / "summary.csv").read_bytes()
    assert sorted(run_keys(out)) == sorted(run_keys(finished[1]))


def results(path):
    """The summary, and every record but for its times."""
    times = {"seconds": 0, "compile_seconds": 0}
    stored = [r | times for file in path.glob("runs*.jsonl") for r in records.read(file)]
    lines = {json.dumps({**r, "kind": r["kind"]}, sort_keys=True) for r in stored}
    return (path / "summary.csv").read_bytes(), lines


def test_devices_change_nothing_but_the_time(finished, tmp_path):
    stability.run(**SMALL, out=tmp_path / "out", devices=2)
    assert results(tmp_path / "out") == results(finished[1])


def test_shares_in_one_folder_make_the_study(finished, tmp_path):
    out = tmp_path / "out"
    parts = [stability.run(**SMALL, out=out, share=(i, 3)).runs for i in (1, 2, 3)]
    assert [set(part.optimizer) if len(part) else set() for part in parts] == [
        {"sgd"}, {"rk4"}, set(),
    ]  # fmt: skip
    assert not (out / "summary.csv").exists()
    with pytest.raises(ValueError, match="is not empty"):
        stability.run(**SMALL, out=out, share=(1, 3))  # a second one of the same number
    with pytest.raises(ValueError, match="gradients: 40 there, 60 now"):
        stability.run(**{**SMALL, "gradients": 60}, out=out, share=(1, 4))
    whole = stability.run(**SMALL, out=out, resume=True)
    assert results(out) == results(finished[1])
    assert len(whole.records) == len(finished[0].records)
    assert not records.read(out / "runs.jsonl")  # nothing was left to do


def test_a_share_that_was_killed_resumes_or_is_made_by_the_whole(finished, tmp_path):
    out = tmp_path / "out"
    for i in (1, 2):
        stability.run(**SMALL, out=out, share=(i, 2))
    for resumed in ((2, 2), None):
        file = out / "runs-2-of-2.jsonl"
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        stability.run(**SMALL, out=out, share=resumed, resume=True)
    assert results(out) == results(finished[1])


def test_resuming_a_finished_study_runs_nothing(finished, tmp_path):
    out = copy(finished, tmp_path)
    before = (out / "runs.jsonl").read_bytes()
    again = stability.run(**SMALL, out=out, resume=True)
    assert (out / "runs.jsonl").read_bytes() == before
    assert again.summary.equals(finished[0].summary)


def test_a_run_record_says_everything_about_its_run(finished):
    result, out = finished
    stored = records.read(out / "runs.jsonl")
    assert stored == result.records
    assert {r["kind"] for r in stored} == {"run", "limit", "spectrum"}
    for r in (r for r in stored if r["kind"] == "run"):
        assert r["gradients"] == r["steps"] * r["gradients_per_step"] <= SMALL["gradients"]
        assert len(r["loss"]) == len(r["loss_gradients"]) <= 200
        assert r["loss"][0] == r["initial_loss"]
        assert r["loss"][-1] == r["final_loss"]
        assert r["relative_rate"] == r["learning_rate"] * r["sharpness"] / r["R"]
        missed = r["final_loss"] is None or r["final_loss"] > r["initial_loss"]
        assert r["status"] == ("diverged" if missed else "ok")
        assert (r["relative_rate"] > 1) == missed  # the law of the quadratic
        assert r["data_checksum"]
        assert "jax" in r["versions"]


def test_summary_says_per_step_and_per_gradient(finished):
    result, _ = finished
    for row in result.summary.itertuples():
        entry = entries.find(row.optimizer)
        assert row.best_rate_per_gradient == row.best_rate / entry.gradients_per_step
        assert row.R_per_gradient == entry.limit / entry.gradients_per_step
        assert abs(row.measured_limit / row.R - 1) < 0.01
        rates, losses = result.loss_against_rate(row.problem, row.optimizer)
        assert losses.shape == (row.rates, 1 + SMALL["seeds"])
        best = np.argmin(losses[:, 0])
        assert rates[best] == row.best_rate
        assert np.median(losses[best, 1:]) == row.loss_median
        assert np.isinf(losses).sum() == row.diverged


def test_width_and_sensitivity_are_those_of_a_known_valley():
    def record(k, seed):
        loss = {-1: 1.5, 0: 0.05, 1: 0.0, 2: 0.09, 3: 0.5}.get(k, 1.0)
        return {
            **dict.fromkeys(("order", "R")), "kind": "run", "problem": "p", "optimizer": "o",
            "gradients_per_step": 1, "gradients": 9, "sharpness": 1.0, "seed": seed,
            "learning_rate": 2.0**k, "initial_loss": 1.0, "final_loss": loss,
            "status": "ok" if loss <= 1 else "diverged",
        }  # fmt: skip

    result = stability.Result([record(k, s) for k in range(-2, 4) for s in (0, 1)], {}, 0.0, {})
    (row,) = result.summary.itertuples()
    assert row.width_octaves == 2  # h = 1, 2, 4 lose less than a tenth of the decrease
    assert row.sensitivity == pytest.approx((1 + 1 + 0.05 + 0 + 0.09 + 0.5) / 6)
    assert (row.best_rate, row.best_at, row.diverged) == (2.0, "interior", 2)


def test_no_time_gives_time_outs_that_a_resume_makes(finished, tmp_path):
    out = tmp_path / "late"
    late = stability.run(**SMALL, out=out, max_minutes=1e-9)
    assert set(late.runs.status) == {"time-out"}
    assert np.isinf(late.summary.loss_median).all()
    assert not run_keys(out)
    stability.run(**SMALL, out=out, resume=True)
    assert (out / "summary.csv").read_bytes() == (finished[1] / "summary.csv").read_bytes()


@pytest.mark.slow
def test_sharpness_and_orders_come_with_digits_mse(tmp_path, monkeypatch):
    monkeypatch.setattr("odeopt.studies.extras.TRACE_STEPS", 20)
    options = {"problems": ["digits-mse"], "seeds": 1, "gradients": 8, "rates": [0.05]}
    result = stability.run(**options, solvers=["sgd", "midpoint", "rk4"])
    orders = {r["optimizer"]: r for r in result.records if r["kind"] == "order"}
    assert set(orders) == {"sgd", "midpoint", "rk4"}
    for record in orders.values():
        assert abs(record["observed_order"] - record["nominal_order"]) < 0.1
    traces = [r for r in result.records if r["kind"] == "sharpness"]
    assert {r["optimizer"] for r in traces} == {"sgd", "rk4"}
    assert all(len(r["gradients"]) == len(r["sharpness"]) == 21 for r in traces)


def test_adam_gets_rates_without_a_limit_and_says_where_the_best_is():
    result = stability.run(**{**SMALL, "solvers": ["adam"]})
    (row,) = result.summary.itertuples()
    assert row.R is None or np.isnan(row.R)
    assert row.best_at in ("interior", "upper end")
    assert row.rates <= 7 + grid.BLOCK * grid.MOST_BLOCKS


def test_the_callers_precision_is_restored(finished):
    assert finished
    assert not jax.config.jax_enable_x64


def test_it_says_how_long_it_will_take(tmp_path):
    console = Console(record=True, width=200)
    stability.run(**SMALL, console=console, max_minutes=1e-9)
    text = console.export_text()
    assert "estimated at" in text
    assert "--resume" in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"solvers": ["rk5"]}, r"unknown solver 'rk5': did you mean rkc or rk4"),
        ({"problems": ["digits"]}, "did you mean digits-"),
        ({"rates": [0.1, 0.0]}, "--rates must be positive"),
        ({"rates": [float("nan")]}, "--rates must be positive"),
        ({"rates": [float("inf")]}, "--rates must be positive"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"gradients": 3}, "--gradients must be at least 4"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"max_minutes": 0}, "--max-minutes must be positive"),
        ({"resume": True}, "needs out="),
        ({"share": (1, 2)}, "needs out="),
        ({"devices": 0}, "--devices must be at least 1"),
        ({"devices": 9}, r"--devices is 9, but this process has 8.*jax_num_cpu_devices"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(wrong, message):
    with pytest.raises(ValueError, match=message):
        stability.run(**{**SMALL, **wrong})


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write to .* --out"):
        stability.run(**SMALL, out=tmp_path / "file" / "out")


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty.*--resume.*--out"):
        stability.run(**SMALL, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_other_settings_are_refused_by_name_and_nothing_is_lost(finished, tmp_path):
    out = copy(finished, tmp_path)
    before = (out / "runs.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"gradients: 40 there, 60 now"):
        stability.run(**{**SMALL, "gradients": 60}, out=out, resume=True)
    assert (out / "runs.jsonl").read_bytes() == before


def test_results_without_their_settings_are_refused(finished, tmp_path):
    out = copy(finished, tmp_path)
    (out / "settings.json").unlink()
    with pytest.raises(ValueError, match=r"settings\.json is missing"):
        stability.run(**SMALL, out=out, resume=True)


def test_a_corrupt_line_stops_a_resume_and_nothing_is_lost(finished, tmp_path):
    out = copy(finished, tmp_path)
    lines = (out / "runs.jsonl").read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:50] + b"\n"
    (out / "runs.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(records.CorruptRecordsError, match="line 4"):
        stability.run(**SMALL, out=out, resume=True)
    assert (out / "runs.jsonl").read_bytes() == b"".join(lines)
    del lines[3]  # what the message says to do
    (out / "runs.jsonl").write_bytes(b"".join(lines))
    stability.run(**SMALL, out=out, resume=True)
    assert (out / "summary.csv").read_bytes() == (finished[1] / "summary.csv").read_bytes()


def test_records_are_valid_json_without_constants(finished):
    def refuse(constant):
        raise AssertionError(constant)

    for line in (finished[1] / "runs.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
