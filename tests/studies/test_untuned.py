import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from optax import contrib
from rich.console import Console
from typer.testing import CliRunner

from odeopt.studies import networks, records, untuned
from odeopt.studies.old_cli import app
from odeopt.studies.untuned import figures, problems, report, rivals, runs, search, study, tables

SMALL = {"problems": ["quadratic-kappa1e4"], "rivals": ["sgd"], "seeds": 2, "gradients": 30}


@pytest.mark.parametrize("name", problems.PROBLEMS)
@pytest.mark.usefixtures("x64")
def test_problems_keep_their_dtype(name):
    (problem,) = problems.build([name])
    for arrays in filter(None, (problem.data, problem.validation)):
        # Abstractly: nothing is computed or compiled.
        gradient = jax.value_and_grad(problem.loss)
        leaves = jax.tree.leaves(jax.eval_shape(gradient, problem.init(0), arrays))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype(problem.dtype)}


@pytest.mark.parametrize("name", [n for n in problems.PROBLEMS if "quadratic" not in n])
def test_no_held_out_example_is_trained_on(name):
    (problem,) = problems.build([name])
    train, held = problem.data[0], problem.validation[0]
    rows = {array.tobytes() for array in np.atleast_2d(train.reshape(len(train), -1))}
    assert not rows & {array.tobytes() for array in np.atleast_2d(held.reshape(len(held), -1))}


def test_the_cross_entropy_is_optaxs_and_exact_where_that_one_is_rounded():
    random = np.random.default_rng(0)
    logits = jnp.asarray(random.standard_normal((20, 5)), jnp.float32)
    labels = jax.nn.one_hot(random.integers(0, 5, 20), 5)
    expected = jnp.mean(optax.softmax_cross_entropy(logits, labels))
    mine = jax.jit(networks.cross_entropy)
    np.testing.assert_allclose(mine(logits, labels), expected, rtol=1e-6)
    sure = jnp.array([[30.0, 0.0]], jnp.float32)
    right = jnp.array([[1.0, 0.0]], jnp.float32)
    np.testing.assert_allclose(mine(sure, right), np.exp(-30.0), rtol=1e-5)
    slope = jax.jit(jax.grad(networks.cross_entropy))(sure, right)
    np.testing.assert_allclose(slope, [[-np.exp(-30.0), np.exp(-30.0)]], rtol=1e-5)


def _network(params, inputs):
    for weights, biases in params[:-1]:
        inputs = np.tanh(inputs @ np.asarray(weights) + np.asarray(biases))
    weights, biases = params[-1]
    return (inputs @ np.asarray(weights) + np.asarray(biases))[:, 0]


@pytest.mark.usefixtures("x64")
def test_residuals_of_the_equations_are_those_of_finite_differences():
    (poisson, burgers) = problems.build(["poisson", "burgers"])
    params, step = poisson.init(1), 1e-4

    def u(x):
        return x * (1 - x) * _network(params, (2 * x - 1)[:, None])

    x, source = poisson.data
    second = (u(x + step) - 2 * u(x) + u(x - step)) / step**2
    expected = np.mean((second - source) ** 2) / np.mean(source**2)
    np.testing.assert_allclose(jax.jit(poisson.loss)(params, poisson.data), expected, rtol=1e-5)

    params = burgers.init(1)

    def w(t, x):
        return _network(params, np.stack([2 * t - 1, x], axis=-1))

    interior, border, values = burgers.data
    t, x = interior.T
    in_time = (w(t + step, x) - w(t - step, x)) / (2 * step)
    in_place = (w(t, x + step) - w(t, x - step)) / (2 * step)
    second = (w(t, x + step) - 2 * w(t, x) + w(t, x - step)) / step**2
    residual = in_time + w(t, x) * in_place - problems.VISCOSITY * second
    expected = np.mean(residual**2) + np.mean((w(*border.T) - values) ** 2)
    np.testing.assert_allclose(jax.jit(burgers.loss)(params, burgers.data), expected, rtol=1e-5)


@pytest.mark.parametrize("at", [-14, -3, 0, 5, 21])
def test_the_best_rate_is_interior_and_known_to_a_quarter_decade(at):
    best, tried = search.tune(lambda quarters: abs(quarters - at) + 1.0)
    assert best == at
    assert {best - 1, best + 1} <= set(tried)


def test_a_rate_next_to_divergence_has_a_worse_neighbor_on_either_side():
    best, tried = search.tune(lambda quarters: 10.0**-quarters if quarters < 9 else np.inf)
    assert best == 8
    assert np.isinf(tried[9])
    best, tried = search.tune(lambda quarters: 10.0**-quarters if quarters < -11 else np.inf)
    assert best == -12


def test_a_search_without_an_interior_ends():
    best, tried = search.tune(lambda quarters: float(-quarters))
    assert best == max(tried)
    assert len(tried) < 30


@pytest.mark.usefixtures("x64")
def test_a_run_is_the_loop_that_everybody_writes():
    (problem,) = problems.build(["breast-cancer-32"])
    curve = runs.Runs(problem, rivals.find("schedule-free"), 60).run(0.1, 3)

    optimizer = contrib.schedule_free_adamw(np.float32(0.1), weight_decay=0.0)
    params = problem.init(3)
    state, table = jax.jit(optimizer.init)(params), problem.batches(3, 60)

    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(jax.grad(problem.loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    for rows in table:
        params, state = step(params, state, tuple(array[rows] for array in problem.data))
    read = contrib.schedule_free_eval_params(state, params)
    np.testing.assert_allclose(curve.final, problem.loss(read, problem.data), rtol=1e-3)
    held = problem.loss(read, problem.validation)
    np.testing.assert_allclose(curve.validation[-1], held, rtol=1e-3)
    # What is read out is the average, not where the gradient is taken.
    assert abs(problem.loss(params, problem.data) / curve.final - 1) > 0.01


@pytest.mark.usefixtures("x64")
def test_a_run_that_blows_up_has_diverged():
    (problem,) = problems.build(["quadratic-kappa1e4"])
    curve = runs.Runs(problem, rivals.find("sgd"), 2000).run(100.0, 1)
    assert curve.final == np.inf
    assert np.isnan(curve.validation).all()


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return study.run(**SMALL, out=tmp_path_factory.mktemp("untuned") / "out")


def test_a_study_tunes_on_seed_0_and_reports_the_others(result):
    table = pd.DataFrame(result.records)
    sgd = table[table.optimizer == "sgd"]
    assert set(sgd[sgd.purpose == "tuning"].seed) == {0}
    fresh = sgd[sgd.purpose == "fresh"]
    assert set(fresh.seed) == {1, 2}
    tuning = sgd[(sgd.seed == 0) & (sgd.status == "ok")].set_index("learning_rate").final_loss
    assert set(fresh.learning_rate) == {tuning.idxmin()}
    assert not set(table[~table.tuned].seed) & {0}
    assert {len(gradients) for gradients in table.gradients} == {31}
    assert {gradients[-1] for gradients in table.gradients} == {30}


def test_an_untuned_optimizer_runs_as_it_is_and_from_other_first_steps(result):
    table = pd.DataFrame(result.records)
    mine = table[table.optimizer == "log-time-adam"]
    assert set(mine[mine.purpose == "fresh"].learning_rate) == {1e-3}
    steps = sorted(set(mine.learning_rate))
    assert len(steps) == 7
    np.testing.assert_allclose([steps[0], steps[-1]], [1e-5, 1e-2])
    assert mine.final_loss.nunique() == len(mine)
    assert list(result.first_steps.optimizer) == ["log-time-adam", "adam-.98-angle"]


def test_resuming_makes_no_run_twice_and_changes_no_table(result, tmp_path):
    settings = json.dumps(records.clean(result.settings))
    lines = [json.dumps(record) for record in result.records]
    for kept in (len(lines), len(lines) // 2):
        out = tmp_path / str(kept)
        out.mkdir()
        (out / "settings.json").write_text(settings)
        (out / "runs.jsonl").write_text("".join(line + "\n" for line in lines[:kept]))
        again = study.run(**SMALL, out=out, resume=True)
        assert len(again.records) == len(lines)
        timeless = [table.drop(columns="seconds") for table in (result.summary, again.summary)]
        pd.testing.assert_frame_equal(*timeless)
        pd.testing.assert_frame_equal(result.verdict, again.verdict)


def test_a_study_out_of_time_says_what_is_missing(tmp_path):
    said = Console(record=True, width=200, file=io.StringIO())
    late = study.run(**SMALL, out=tmp_path, max_minutes=1e-9, console=said)
    assert late.records == []
    assert len(late.unfinished) == 3
    assert "3 of 3 optimizers on problems are not done" in said.export_text()
    late.show(said)
    assert "No problem has both" in said.export_text()
    page = report.write(late, tmp_path, figures.draw(late, tmp_path)).read_text()
    assert "3 optimizers on problems are not done" in page


def _record(problem, optimizer, seed, loss, tuned=True, rate=1.0, held=None, purpose="fresh"):
    return {
        "kind": "run", "problem": problem, "optimizer": optimizer, "seed": seed, "tuned": tuned,
        "learning_rate": rate, "purpose": purpose, "final_loss": loss, "final_validation": held,
        "status": "ok" if loss is not None else "diverged", "initial_loss": 1.0, "seconds": 0.1,
        "gradients": [0, 1], "loss": [1.0, loss], "validation": [1.0, held],
        "data_checksum": "ab12",
    }  # fmt: skip


def _example():
    found = []
    for seed, (mine, good, bad) in enumerate(
        [(1e-3, 2e-3, 0.1), (4e-3, 3e-3, 0.2), (1e-3, 5e-3, None)]
    ):
        found += [
            _record("won", "mine", seed + 1, mine, tuned=False, held=0.5),
            _record("won", "good", seed + 1, good, held=0.4),
            _record("won", "bad", seed + 1, bad, held=0.3),
            _record("lost", "mine", seed + 1, 10 * good, tuned=False),
            _record("lost", "good", seed + 1, good),
        ]
    found.append(_record("lost", "mine", 1, 1.0, tuned=False, rate=0.5, purpose="first step"))
    return found


def test_the_verdict_compares_with_the_best_median_and_says_losses_as_plainly_as_wins():
    verdict = tables.judge(_example()).set_index("problem")
    assert dict(verdict.rival) == {"won": "good", "lost": "good"}
    assert dict(verdict.ahead) == {"won": True, "lost": False}
    np.testing.assert_allclose(verdict.ratio["won"], 1 / 3)
    np.testing.assert_allclose(verdict.ratio["lost"], 10)
    np.testing.assert_allclose(verdict.share["won"], 7 / 9)
    assert (verdict.validation["won"], verdict.lowest_validation["won"]) == (0.5, 0.3)
    assert np.isnan(verdict.validation["lost"])
    steps = tables.robustness(_example())
    np.testing.assert_allclose(steps.spread, 1.0 / 3e-2)
    words = " ".join(tables.answer(tables.judge(_example()), steps))
    assert "on 1 of 2 problems" in words
    assert "behind on lost (10 times the loss of good)" in words
    assert "below that rival on 0 of 1" in words
    assert "on 0 of 1 problems; by more on lost (33)" in words


def test_a_divergence_counts_as_infinity():
    summary = tables.summarize(_example()).set_index(["problem", "optimizer"])
    row = summary.loc["won", "bad"]
    assert (row.diverged, row.runs, row.loss_median, row.loss_max) == (1, 3, 0.2, np.inf)


def test_the_page_holds_everything_and_escapes(result, tmp_path):
    named = dataclasses.replace(result, titles={"quadratic-kappa1e4": "<b>bold</b>"})
    files = figures.draw(named, tmp_path)
    assert list(files) == ["ratio", "loss", "first_step"]  # a quadratic has nothing held out
    page = report.write(named, tmp_path, files).read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "&lt;b&gt;bold" in page
    assert "<b>bold" not in page
    assert "http" not in page.replace("http-equiv", "")
    for sentence in tables.answer(result.verdict, result.first_steps):
        assert sentence.split(",")[0] in page
    example = dataclasses.replace(result, records=_example())
    assert "validation" in figures.draw(example, tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rivals", "adm"], "unknown rival 'adm': did you mean adam or"),
        (["--problems", "digits-mes"], "did you mean digits-mse"),
        (["--seeds", "0"], "--seeds must be at least 1, not 0."),
        (["--gradients", "0"], "--gradients must be at least 1, not 0."),
        (["--max-minutes", "-1"], "--max-minutes must be positive, not -1."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["untuned", *words])
    assert answer.exit_code == 2
    assert message in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_command_ends_with_an_answer_and_the_report(result, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(untuned, "run", lambda **_: result)
    (tmp_path / "untuned-report").mkdir()
    words = ["untuned", "--out", "untuned-report"]
    answer = CliRunner(env={"COLUMNS": "200"}).invoke(app, words)
    assert answer.exit_code == 0, answer.output
    for word in ("log-time-adam", "best tuned", "With nothing tuned", "report.html"):
        assert word in answer.output
    assert (tmp_path / "untuned-report" / "report.html").exists()
