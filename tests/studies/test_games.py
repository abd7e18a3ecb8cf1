"""The study of games: what is calculated, what is charged, and what the command leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from odeopt.studies import games
from odeopt.studies.games import mixture, plane, study
from odeopt.studies.old_cli import app


@pytest.mark.parametrize("method", [m for m in plane.METHODS if m != "alternating"])
def test_a_linear_game_grows_as_calculated(x64, method):
    (record,) = plane.trajectory("damped rotation", method)
    assert record["growth"] == pytest.approx(record["predicted"], rel=1e-9)


def test_alternating_orbits_are_ellipses_and_the_dirac_gan_keeps_its_circle(x64):
    (record,) = plane.trajectory("bilinear", "alternating")
    assert record["predicted"] == pytest.approx(1)
    assert record["highest"] < np.sqrt(1.25 / 0.75)
    plain, corrected = (plane.trajectory("Dirac GAN", m)[0] for m in ("simultaneous", "joint"))
    assert plain["growth"] ** 2 > 5
    assert abs(corrected["highest"] ** 2 - 1) < 0.01
    assert abs(corrected["lowest"] ** 2 - 1) < 0.01


def operations(name):
    players = mixture.start(0)
    step = mixture.stepper(name, 0.1, jax.random.key(0))
    carry = players, mixture.METHODS[name].make(0.1).init(players)
    return jax.jit(step).lower(jnp.int32(0), carry).compile().cost_analysis()["flops"]


def test_a_step_is_charged_what_its_compiled_program_computes():
    once = operations("simultaneous")
    for name in ("interaction", "rk4-penalty"):
        cost = mixture.METHODS[name].cost
        assert operations(name) / once == pytest.approx(cost, rel=0.15), name


def test_samples_at_the_modes_cover_them_and_a_blur_covers_none(monkeypatch):
    key = jax.random.key(1)
    which = jax.random.randint(key, (mixture.SAMPLES,), 0, 8)
    noise = mixture.SPREAD * jax.random.normal(key, (mixture.SAMPLES, 2))
    half = jnp.asarray(mixture.CENTERS)[which] + noise
    blur = jax.random.uniform(key, (mixture.SAMPLES, 2), minval=-2, maxval=2)
    seen = []
    for made in (half, blur):
        monkeypatch.setattr(mixture, "network", lambda params, noise, made=made: made)
        seen.append(mixture.look({"generator": None}, key))
    assert int(seen[0]["modes"]) == 8
    assert float(seen[0]["share"]) == pytest.approx(1 - np.exp(-2), abs=0.03)  # within 2 deviations
    assert int(seen[1]["modes"]) <= 1


def run(method, rate, seed, modes):
    share, finite = [0.5] * len(modes), [True] * len(modes)
    about = {"kind": "mixture", "method": method, "rate": rate, "seed": seed, "rounds": 40}
    return {**about, "modes": modes, "share": share, "finite": finite, "samples": [[0.0, 0.0]]}


def test_runs_are_read_over_their_last_quarter_and_rates_tuned_on_a_seed_of_their_own():
    tuning = [
        run("adam", 0.1, 0, [16, 16, 16, 16, 16, 16, 3, 5]),
        run("adam", 0.2, 0, [0, 0, 0, 0, 0, 0, 9, 11]),
        run("adam", 0.4, 0, [0, 0, 0, 0, 0, 0, 4, 6]),
    ]
    assert study.tuned(tuning) == 0.2
    fresh = [run("adam", 0.2, seed, [0, 0, 0, 14, 0, 0, 8, 10 + seed]) for seed in (1, 2)]
    rest = [run("rk4", 0.1, seed, [0, 0, 0, 0, 0, 0, 2, 2]) for seed in (0, 1, 2)]
    result = study.Result([*tuning, *fresh, *rest], {}, 1.0)
    row = result.summary.set_index("method").loc["adam"]
    assert (row["rate"], row["edge"], row["works"], row["seeds"]) == (0.2, False, 2, 2)
    assert (row["modes"], row["low"], row["high"]) == (9.75, 9.5, 10.0)
    assert row["lost"] == pytest.approx(14 - 9.75)
    assert result.answer[1] == "None covers more modes than Adam."
    assert "smallest or largest tried for rk4." in result.answer[2]
    better = [{**r, "modes": [15] * 8} if r["method"] == "rk4" else r for r in result.records]
    better = study.Result(better, {}, 1.0).answer[1]
    assert better.endswith(
        "more modes than Adam: rk4; at every seed more than at any of Adam's: rk4."
    )


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(mixture, "HIDDEN", 4)
    monkeypatch.setattr(mixture, "BATCH", 8)
    monkeypatch.setattr(mixture, "LOOKS", 4)
    monkeypatch.setattr(plane, "METHODS", {"rk4": plane.METHODS["rk4"]})


@pytest.mark.slow
def test_the_command_ends_with_files_and_a_page_and_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = lambda *words: CliRunner(env={"COLUMNS": "200"}).invoke(app, ["games", *words])
    words = ["--methods", "adam", "--seeds", "2", "--rounds", "48"]
    first = call(*words)
    assert first.exit_code == 0, first.output
    folder = tmp_path / "games-report"
    names = {path.name for path in folder.iterdir()}
    figures = {f"{name}.png" for name in games.figures.CAPTIONS}
    tables = {"planes.csv", "mixture.csv", "summary.csv"}
    assert {"runs.jsonl", "settings.json", "report.html"} | tables | figures == names
    table = pd.read_csv(folder / "mixture.csv")
    assert len(table) == 6 + 2
    assert np.all(table["modes"].between(0, 16))
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == len(figures)
    assert "http://" not in page
    assert "https://" not in page
    assert "odeopt games --methods adam --seeds 2 --rounds 48" in page
    assert not jax.config.jax_enable_x64  # as it was

    # a kill in the middle: what is there is kept, the rest is made again, to the same numbers
    lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    (folder / "runs.jsonl").write_text("".join(lines[:-1]))
    games.run(methods=["adam"], seeds=2, rounds=48, out=folder, resume=True)
    assert (folder / "runs.jsonl").read_text().splitlines(keepends=True) == lines

    late = games.run(methods=["adam"], rounds=48, max_minutes=1e-9)
    assert late.runs.empty
    assert late.summary.empty
    assert late.answer == []
    for words, message in [
        (["--methods", "rk5"], "unknown method 'rk5': did you mean rk4?"),
        (["--seeds", "0"], "--seeds must be at least 1, not 0."),
        (["--rounds", "1"], "--rounds must be at least 24,"),
        (["--max-minutes", "-1"], "--max-minutes must be positive, not -1."),
    ]:
        wrong = call(*words)
        assert wrong.exit_code == 2
        assert message in wrong.stderr
