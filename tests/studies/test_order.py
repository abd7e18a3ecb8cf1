"""The study of orders: how runs are read, and what is said of them."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from odeopt.studies import Problem, accuracy, order
from odeopt.studies import order_epochs as epochs
from odeopt.studies import order_rest as rest
from odeopt.studies.engine import Lab, Results, page
from odeopt.studies.engine.store import Store

from .engine import accessible


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


@pytest.mark.slow
@pytest.mark.parametrize("name", rest.PROBLEMS)
def test_the_least_loss_is_the_least(x64, name):
    problem = rest.PROBLEMS[name]()
    start = problem.start(0)
    near = jax.tree.map(lambda p: p + 1e-3, start)
    assert problem.least < min(problem.of_all(start), problem.of_all(near))
    each = jax.vmap(problem.of_batch, (None, 0))(near, jnp.arange(len(problem.rows)))
    assert float(each.mean()) == pytest.approx(float(problem.of_all(near)))
    # strongly convex: the excess is at most |gradient|^2 / 2 above the least
    slope = jax.grad(problem.of_all)(near)
    bound = sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(slope)) / (2 * rest.DECAY)
    assert problem.of_all(near) - problem.least <= bound


@pytest.mark.slow
def test_runs_share_their_batches_and_are_counted(x64):
    problem = rest.regression()
    runs = {name: rest.run(problem, name, 2, 16)[0] for name in ("forward", "backward, full")}
    assert runs["forward"]["used"] == 16
    assert runs["backward, full"]["used"] == 16 * 17 // 2
    first = [r["distances"][0] for r in runs.values()]
    assert first[0] == pytest.approx(first[1])  # one step is one step
    assert np.mean(runs["backward, full"]["last distance"]) < 0.5 * np.mean(
        runs["forward"]["last distance"]
    )


def made(records):
    return Results(order.STUDY, order.Settings(), records)


def compared(reshuffled, palindromic):
    losses = {"reshuffled": reshuffled, "palindromic": palindromic}
    about = {"kind": "network", "problem": "p", "optimizer": "o", "held_out": 0.1}
    about["learning_rate"] = 0.1
    return made(
        [
            {**about, "order": name, "seed": seed, "loss": loss, "losses": [1.0, loss]}
            for name, values in losses.items()
            for seed, loss in enumerate(values)
        ]
    )


def test_networks_are_compared_in_pairs():
    results = compared([1.0, 2.0, 4.0], [0.5, 2.5, 4.0])
    (row,) = results.table("networks").to_dict(orient="records")
    assert (row["lowest"], row["highest"]) == (0.5, 1.25)
    assert (row["lower"], row["seeds"]) == (1, 3)
    assert row["ratio"] == pytest.approx(0.625 ** (1 / 3))
    assert row["low"] < row["ratio"] < 1 < row["high"]
    (row,) = compared([1.0, 2.0], [0.5, None]).table("networks").to_dict(orient="records")
    assert (row["palindromic"], row["lower"], row["seeds"]) == (np.inf, 1, 2)  # a miss is infinite


@pytest.mark.parametrize(
    ("palindromic", "word"),
    [
        ([0.5, 1.1, 2.0], "holds"),
        ([0.5, 2.5, 4.0], "open"),
        ([1.5, 2.9, 6.0], "does not hold"),
        ([0.5, None, 2.0], "open"),  # a run that diverged
    ],
)
def test_a_gain_is_claimed_where_the_interval_leaves_no_doubt(palindromic, word):
    results = compared([1.0, 2.0, 4.0], palindromic)
    (claim,) = [verdict for verdict in results.claims if verdict.claim.name == "gains"]
    assert claim.word == word
    assert ("clearly lower than reshuffling on p with o" in results.verdict) == (word == "holds")
    assert ("clearly higher on p with o" in results.verdict) == (word == "does not hold")


@pytest.mark.parametrize(
    ("seeds", "higher", "word"),
    [(9, 0.0, "holds"), (9, 0.5, "does not hold"), (5, 0.5, "open"), (5, 0.0, "open")],
)
def test_orders_are_alike_only_where_seeds_could_have_told_them_apart(seeds, higher, word):
    """In pairs: the seeds differ by far more than the orders do."""
    random = np.random.default_rng(0)
    forward = 100.0 * np.arange(1, seeds + 1)
    backward = forward + higher + 0.1 * random.standard_normal(seeds)
    about = {"kind": "rest", "problem": "p", "used": 1, "rate": None}
    about |= {f"{which} distance": [1.0] for which in ("mean", "last", "least")} | {"spread": [1.0]}
    runs = {"forward": forward, "backward, full": backward}
    records = [{**about, "method": m, "last excess": list(x)} for m, x in runs.items()]
    results = Results(order.STUDY, order.Settings(seeds=seeds), records)
    (claim,) = [verdict for verdict in results.claims if verdict.claim.name == "alike"]
    assert claim.word == word


@pytest.mark.slow
def test_the_network_is_counted_and_its_errors_are_shares(x64):
    lab = Lab(Store(None, {}))
    (run,) = epochs.train(epochs.network(), "Adam", "palindromic", 0.01, lab, 1, 1)
    assert run["optimizer"] == "Adam 0.01"
    assert run["gradients"] == 1300 // 64
    assert 0 < run["held_out"] < 1


@pytest.fixture
def tiny(monkeypatch):
    """Everything that the study does, in a few steps."""
    monkeypatch.setattr(rest.run, "__defaults__", (9, 0))
    monkeypatch.setattr(epochs.train, "__defaults__", (2, 2))
    monkeypatch.setattr(epochs, "COARSEST", 2)
    monkeypatch.setattr(accuracy, "HALVINGS", 1)
    monkeypatch.setattr(epochs, "RATES", {"Adam": (0.01,)})
    methods = ("forward", "backward, window 8", "backward, full", "averaged")
    kept = {name: rest.METHODS[name] for name in methods}
    long = rest.Method(averaged=True, times=2)
    monkeypatch.setattr(rest, "METHODS", {**kept, "averaged, equal gradients": long})


def line(x64=False):
    dtype = np.float64 if x64 else np.float32
    x = np.linspace(-1, 1, 24, dtype=dtype)

    def loss(params, batch, key):
        noise = 0.01 * jax.random.normal(key, batch[0].shape, dtype)
        return jnp.mean((batch[0] * params["a"] - batch[1] + noise) ** 2), {}

    start = {"a": np.zeros((), dtype)}
    return Problem(
        loss, lambda seed: jax.tree.map(lambda p: jnp.asarray(p + seed, dtype), start), (x, 3 * x),
        name="line", batch_size=8, has_aux=True, x64=x64,
    )  # fmt: skip


@pytest.mark.slow
def test_a_problem_of_ones_own_is_trained_in_both_orders_at_tuned_rates(monkeypatch):
    monkeypatch.setattr(epochs.train, "__defaults__", (3, 2))
    results = order.run(problems=line())
    table = results.table("networks").set_index("optimizer")
    assert set(table.index) == set(epochs.OPTIMIZERS)
    assert (table.seeds == 2).all()
    assert table.held_out_reshuffled.isna().all()
    assert {r["gradients"] for r in results.records} == {9}
    assert "of 2 pairs of problem and optimizer" in results.verdict
    runs = results.of("network")
    assert set(runs.seed) == {1, 2}  # seed 0 tunes
    # Steps of the loss's own curvature are the best ones for momentum, and far from its limit.
    assert runs[runs.optimizer == "momentum"].learning_rate.between(0.05, 4).all()
    assert (table.palindromic < 0.5 * 9).all()
    assert {word for word in (v.word for v in results.claims[:4])} == {"not measured"}


@pytest.mark.slow
def test_a_study_says_everything_it_measured_and_goes_on(tiny, tmp_path):
    out, options = tmp_path / "out", {"problems": ["regression", "network"], "seeds": 2}
    results = order.run(**options, out=out)
    table = pd.read_csv(out / "rest.csv").set_index("method")
    assert table.loc["backward, full", "gradients"] == 45
    assert table.loc["averaged, equal gradients", "gradients"] == 18
    assert len(pd.read_csv(out / "networks.csv")) == 1
    text = page.write(results, out).read_text()
    drawn = {part.split('"')[0] for part in text.split('<figure id="')[1:]}
    assert drawn == {figure.name for figure in order.STUDY.figures}
    assert accessible.faults(text) == []
    assert "its expected loss is not lower" in text
    assert "odeopt order --problems regression,network --seeds 2" in text
    assert not jax.config.jax_enable_x64  # as it was

    lines = (out / "runs.jsonl").read_text().splitlines(keepends=True)
    (out / "runs.jsonl").write_text("".join(lines[1:]))
    order.run(**options, out=out, resume=True)
    assert (out / "runs.jsonl").read_text().splitlines(keepends=True) == [*lines[1:], lines[0]]


def test_losses_below_zero_have_no_ratio():
    records = [
        {
            "kind": "network", "problem": "nll", "optimizer": "Adam", "order": name,
            "learning_rate": 0.1, "seed": seed, "losses": [0.5, -2 - seed], "loss": -2 - seed,
            "held_out": None, "gradients": 9,
        }
        for name in epochs.ORDERS
        for seed in (1, 2)
    ]  # fmt: skip
    found = Results(order.STUDY, order.Settings(), records)
    with warnings.catch_warnings(action="error"):
        (row,) = found.table("networks").to_dict("records")
        assert epochs.NETWORKS.draw(found).svgs("networks")
    assert np.isnan(row["ratio"])
    assert row["interval"] == "not comparable by ratio"
    assert found.verdict.startswith("Not comparable by ratio, with losses below zero: nll; subtra")
    (gains,) = [v for v in found.claims if v.claim.name == "gains"]
    assert gains.word == "open"


def test_a_loss_that_starts_below_zero_is_refused():
    below = dataclasses.replace(line(), loss=lambda p, batch: (p["a"] ** 2 - 100, 0.0))
    with pytest.raises(ValueError, match=r"Problem 'line': its loss starts at -.* subtract its"):
        order.run(problems=[below])


@pytest.mark.cheap
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"problems": "regresion"}, "unknown problem 'regresion': did you mean regression?"),
        ({"problems": [3]}, "a int, not a problem"),
        (
            {"problems": dataclasses.replace(line(), batch_size=None)},
            "Problem 'line' has no mini-batches to put in order: give it batch_size=",
        ),
        ({"seeds": 1}, "--seeds must be at least 2, not 1"),
        ({"problems": line(), "seeds": 200}, "--seeds is that of the convex problems"),
        ({"problems": "network", "seeds": 9}, "networks have 5: leave it out, or name a convex"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(wrong, message):
    with pytest.raises(ValueError, match=message):
        order.run(**wrong)


def test_orders_have_the_same_batches_in_another_order():
    known = {field.name: getattr(line(), field.name) for field in dataclasses.fields(Problem)}
    for wanted in epochs.ORDERS.values():
        found = rest.Batched(**known, order=wanted).batches(3, 7)
        assert found.tolist() == [
            list(range(8 * k, 8 * k + 8))
            for k in np.concatenate([wanted(3, 3)(e) for e in range(3)])[:7]
        ]
