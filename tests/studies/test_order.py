"""The study of orders: how runs are read, and what the command leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from odeopt.studies import order
from odeopt.studies.old_cli import app
from odeopt.studies.order import epochs, rest


def test_a_rate_that_is_known_is_read_as_it_is():
    falling = 0.3 * 0.8 ** np.arange(200)
    assert rest.decay_rate(falling) == pytest.approx(0.8)
    assert np.isnan(rest.decay_rate(np.full(200, 0.1)))  # never at rest


def test_the_spread_keeps_its_digits_where_points_come_to_rest(x64):
    points = 1 + 1e-9 * np.random.default_rng(0).standard_normal((50, 3))
    tail = rest.Tail.of({"w": jnp.zeros(3)})
    for i, point in enumerate(points):
        tail = tail.add({"w": jnp.asarray(point)}, jnp.asarray(i >= 10))
    expected = np.sqrt(((points[10:] - points[10:].mean(axis=0)) ** 2).sum(axis=1).mean())
    assert float(tail.spread) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", rest.PROBLEMS)
def test_the_least_loss_is_the_least(x64, name):
    problem = rest.PROBLEMS[name]()
    start = jax.tree.map(jnp.asarray, problem.params)
    near = jax.tree.map(lambda p: p + 1e-3, start)
    assert problem.least < min(problem.of_all(start), problem.of_all(near))
    each = jax.vmap(problem.of_batch, (None, 0))(near, jnp.arange(problem.batches))
    assert float(each.mean()) == pytest.approx(float(problem.of_all(near)))
    # strongly convex: the excess is at most |gradient|^2 / 2 above the least
    slope = jax.grad(problem.of_all)(near)
    bound = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(slope)) / (2 * rest.DECAY)
    assert problem.of_all(near) - problem.least <= bound


def test_runs_share_their_batches_and_are_charged(x64):
    problem = rest.regression()
    runs = {name: rest.run(problem, name, 2, 16)[0] for name in ("forward", "backward, full")}
    assert runs["forward"]["spent"] == 16
    assert runs["backward, full"]["spent"] == 16 * 17 // 2
    first = [r["distances"][0] for r in runs.values()]
    assert first[0] == pytest.approx(first[1])  # one step is one step
    assert np.mean(runs["backward, full"]["last distance"]) < 0.5 * np.mean(
        runs["forward"]["last distance"]
    )


def test_networks_are_compared_in_pairs():
    losses = {"reshuffled": [1.0, 2.0, 4.0], "palindromic": [0.5, 2.5, 4.0]}
    records = [
        {"optimizer": "o", "order": name, "seed": seed, "loss": loss, "test error": 0.1}
        for name, values in losses.items()
        for seed, loss in enumerate(values)
    ]
    (row,) = epochs.compare(records).to_dict(orient="records")
    assert (row["lowest"], row["highest"]) == (0.5, 1.25)
    assert (row["lower"], row["seeds"]) == (1, 3)
    assert row["ratio"] == pytest.approx(0.625 ** (1 / 3))


@pytest.fixture
def tiny(monkeypatch):
    """Everything that the study does, in a few steps."""
    monkeypatch.setattr(rest.run, "__defaults__", (9,))
    monkeypatch.setattr(epochs.train, "__defaults__", (2, 2))
    monkeypatch.setattr(epochs, "COARSEST", 2)
    monkeypatch.setattr(epochs, "HALVINGS", 1)
    monkeypatch.setattr(epochs, "OPTIMIZERS", {"Adam": epochs.OPTIMIZERS["Adam 0.01"]})
    methods = ("forward", "backward, window 8", "backward, full", "averaged")
    kept = {name: rest.METHODS[name] for name in methods}
    long = rest.Method(averaged=True, times=2)
    monkeypatch.setattr(rest, "METHODS", {**kept, "averaged, equal gradients": long})


@pytest.mark.slow
def test_the_command_ends_with_files_and_a_page_and_goes_on(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = lambda *words: CliRunner(env={"COLUMNS": "250"}).invoke(app, ["order", *words])
    first = call("--problems", "regression,network", "--seeds", "2")
    assert first.exit_code == 0, first.output
    folder = tmp_path / "order-report"
    names = {path.name for path in folder.iterdir()}
    tables = {"rest.csv", "orders.csv", "networks.csv"}
    figures = {f"{name}.png" for name in order.figures.CAPTIONS}
    assert {"runs.jsonl", "settings.json", "report.html"} | tables | figures == names
    table = pd.read_csv(folder / "rest.csv").set_index("method")
    assert table.loc["backward, full", "gradients"] == 45
    assert table.loc["averaged, equal gradients", "gradients"] == 18
    assert len(pd.read_csv(folder / "networks.csv")) == 1
    page = " ".join((folder / "report.html").read_text().split())
    assert page.count("data:image/png;base64,") == len(figures)
    assert "http://" not in page
    assert "https://" not in page
    assert "its expected loss is not lower" in page
    assert "odeopt order --problems regression,network --seeds 2" in page
    assert not jax.config.jax_enable_x64  # as it was

    # a kill in the middle: what is there is kept, the rest is made again
    lines = (folder / "runs.jsonl").read_text().splitlines(keepends=True)
    (folder / "runs.jsonl").write_text("".join(lines[:-1]))
    again = order.run(problems=["regression", "network"], seeds=2, out=folder, resume=True)
    assert (folder / "runs.jsonl").read_text().splitlines(keepends=True)[:-1] == lines[:-1]
    assert len(again.networks) == 1

    for words, message in [
        (["--problems", "regresion"], "unknown problem 'regresion': did you mean regression?"),
        (["--seeds", "1"], "--seeds must be at least 2, not 1."),
    ]:
        wrong = call(*words)
        assert wrong.exit_code == 2
        assert message in wrong.stderr
