import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import odeopt
from odeopt.studies import benchmark, benchmark_problems, benchmark_tables, networks, problems
from odeopt.studies.benchmark import QUESTION
from odeopt.studies.engine import rivals
from odeopt.studies.engine.problem import Problem
from odeopt.studies.engine.runner import Runner
from odeopt.studies.engine.study import Results

SMALL = {"problems": ["wine"], "rivals": ["momentum+linear"], "seeds": 2, "gradients": 30}
NAMES = [one.name for one in benchmark.untuned(30)]


@pytest.mark.whole
@pytest.mark.parametrize("name", benchmark_problems.CONTESTS)
@pytest.mark.usefixtures("x64")
def test_problems_keep_their_dtype_and_hold_examples_out(name):
    (problem,) = benchmark_problems.build([name])
    key = {"key": jax.random.key(0)} if problem.takes_key else {}
    # Abstractly: nothing is computed or compiled.
    gradient = jax.value_and_grad(problem.objective)
    leaves = jax.tree.leaves(jax.eval_shape(gradient, problem.start(0), problem.data, **key))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype(problem.dtype)}
    if benchmark_problems.contest(problem).criterion == "loss":
        return
    parts = [problem.data[0], *(part[0] for part in problem.validation)]
    rows = [{row.tobytes() for row in part.reshape(len(part), -1)} for part in parts]
    assert sum(map(len, rows)) == len(set.union(*rows))


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


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_residuals_of_the_equations_are_those_of_finite_differences():
    poisson, (burgers, heat) = problems.poisson(), benchmark_problems.build(["burgers", "heat"])
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

    points, values, inside = burgers.data
    border, values = points[~inside], values[~inside]
    t, x = points[inside].T
    in_time = (w(t + step, x) - w(t - step, x)) / (2 * step)
    in_place = (w(t, x + step) - w(t, x - step)) / (2 * step)
    second = (w(t, x + step) - 2 * w(t, x) + w(t, x - step)) / step**2
    residual = in_time + w(t, x) * in_place - networks.VISCOSITY * second
    expected = np.mean(residual**2) + np.mean((w(*border.T) - values) ** 2)
    np.testing.assert_allclose(jax.jit(burgers.loss)(params, burgers.data), expected, rtol=1e-5)
    values = heat.data[1][~inside]
    expected = np.mean((in_time - 0.1 * second) ** 2) + np.mean((w(*border.T) - values) ** 2)
    np.testing.assert_allclose(jax.jit(heat.loss)(params, heat.data), expected, rtol=1e-5)
    walls, place = border[64:], border[:64, 1]
    np.testing.assert_allclose(values[64:], 0)
    np.testing.assert_allclose(abs(walls[:, 1]), 1)
    np.testing.assert_allclose(values[:64], np.sin(np.pi * place) + np.sin(3 * np.pi * place) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["momentum+linear", "adamw+cosine", "schedule-free"])
@pytest.mark.usefixtures("x64")
def test_a_rival_is_read_out_at_its_end_and_at_its_running_mean(name):
    (problem,) = benchmark_problems.build(["spiral"])
    one, steps, rate = rivals.rival(name, 60), 60, np.float32(0.05)
    (curve,) = Runner(problem, one, steps, [3]).run([(rate, 3)])
    warm, size = 3, {"b1": 0.9, "b2": 0.999}  # 5 % of the steps
    optimizer, read = {
        "momentum+linear": (optax.sgd(optax.linear_schedule(rate, 0.0, steps), 0.9), None),
        "adamw+cosine": (
            optax.adamw(
                optax.warmup_cosine_decay_schedule(0.0, float(rate), warm, steps),
                weight_decay=0.1,
                **size,
            ),
            None,
        ),
        "schedule-free": (
            contrib.schedule_free_adamw(rate, warmup_steps=warm, weight_decay=0.0),
            contrib.schedule_free_eval_params,
        ),
    }[name]
    read = read or (lambda state, params: params)
    params = problem.start(3)
    state, mean = jax.jit(optimizer.init)(params), None

    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(jax.grad(problem.loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    for n, rows in enumerate(problem.batches(3, steps)):
        params, state = step(params, state, tuple(array[rows] for array in problem.data))
        now, weight = read(state, params), max(1 / (n + 1), 1 / 3)
        mean = now if mean is None else optax.incremental_update(now, mean, weight)
    for where, point in {"last": read(state, params), "averaged": mean}.items():
        expected = problem.measured(point, problem.data, problem.validation)
        for what, value in expected.items():
            np.testing.assert_allclose(curve.ends[where][what], value, rtol=2e-3, err_msg=what)


def test_schedules_end_where_the_run_does():
    for name, factor in rivals.SCHEDULES.items():
        sizes = np.array([factor(100)(n) for n in range(101)])
        assert sizes.max() == pytest.approx(1)
        assert (sizes[-1] == pytest.approx(0)) == (name != "constant")
    assert float(rivals.SCHEDULES["cosine"](100)(0)) == 0
    assert rivals.names(["adam", "muon+linear"])[:3] == [f"adam+{s}" for s in rivals.SCHEDULES]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return benchmark.run(**SMALL, out=tmp_path_factory.mktemp("benchmark") / "out")


def test_optimizers_run_on_problems_that_they_are_meant_for():
    """A metric of matrices where there is one, and `log_time_soap` without noise."""
    settings = benchmark.Settings(("wine", "spiral", "factorisation"), ("muon+linear", "adam"), 1)
    names = [task.name for task in benchmark.tasks(settings)]
    found = {name for name in names if name.endswith(", log_time_soap")}
    assert found == {"wine, log_time_soap"}
    loss = lambda x, rows: jnp.mean((rows @ x) ** 2)
    vectors = Problem(loss, lambda seed: jnp.ones(3), np.eye(3), name="vectors")
    names = [
        task.name for task in benchmark.tasks(benchmark.Settings((vectors,), settings.rivals, 1))
    ]
    assert not any("muon" in name for name in names)
    assert "vectors, adam+linear" in names


@pytest.mark.slow
def test_a_study_tunes_on_seed_0_by_validation_and_reports_the_others(result):
    table = benchmark_tables.runs_of(result)
    rival = table[table.tuned.astype(bool)]
    assert set(rival[rival.purpose == "tuning"].seed) == {0}
    fresh = rival[rival.purpose == "fresh"]
    assert set(fresh.seed) == {1, 2}
    tuning = rival[(rival.seed == 0) & (rival.status == "ok")]
    best = min(benchmark.score(row)[0] for row in result.records if row["seed"] == 0)
    assert tuning.score.min() == best
    assert set(fresh.learning_rate) == {tuning.set_index("learning_rate").score.idxmin()}
    mine = table[~table.tuned.astype(bool)]
    assert not set(mine.seed) & {0}
    assert set(mine[mine.optimizer == QUESTION].learning_rate) == {
        float(np.float32(factor)) for factor in (1, *benchmark.FACTORS)
    }
    assert set(mine[mine.optimizer != QUESTION].learning_rate) == {1.0}
    assert set(table.gradients) == {30}


def _record(problem, optimizer, seed, value, tuned=True, rate=1.0, mean=None):
    ends = {"last": {"loss": 0.1, "validation": value, "validation accuracy": 0.5, "test": 0.2}}
    if tuned:
        ends["averaged"] = {**ends["last"], "validation": mean or 2 * (value or 1.0)}
    return {
        "kind": "run", "problem": problem, "optimizer": optimizer, "seed": seed, "tuned": tuned,
        "learning_rate": rate, "purpose": "tuning" if seed == 0 else "fresh", "final_loss": 0.1,
        "status": "ok" if value is not None else "diverged", "initial_loss": 1.0, "seconds": 0.1,
        "gradients": 1, "gradients_per_step": 1, "loss_gradients": [0, 1], "loss": [1.0, 0.1],
        "validation": [1.0, value], "R": None, "order": None, "criterion": "validation",
        "memory": 1.0, "ends": ends,
    }  # fmt: skip


def _example():
    found = [_record("wine", "bad", 0, 0.3, mean=0.1), _record("lost", "good", 0, 0.3)]
    for seed, (mine, good, bad) in enumerate([(1.0, 2.0, 9.0), (4.0, 3.0, 9.0), (1.0, 5.0, None)]):
        for factor, times in ((1.0, 1), (1 / 3, 1.1), (3.0, 1.5)):
            found.append(
                _record("wine", QUESTION, seed + 1, times * mine, tuned=False, rate=factor)
            )
        for told, times in (("half", 1.0), ("twice", 0.5), ("nothing", 7.0)):
            name = f"{QUESTION}, told {told}"
            found.append(_record("wine", name, seed + 1, times * mine, tuned=False))
        found += [
            _record("wine", "log_time_soap", seed + 1, good / 2, tuned=False),
            _record("wine", "good", seed + 1, good),
            _record("wine", "bad", seed + 1, bad, mean=4.0),
            _record("lost", QUESTION, seed + 1, 10 * good, tuned=False),
            _record("lost", "good", seed + 1, good),
        ]
    return Results(benchmark.STUDY, benchmark.Settings(), found)


@pytest.mark.slow
def test_the_verdict_compares_with_the_best_median_and_says_losses_as_plainly_as_wins():
    judged = benchmark.judge(_example())
    judged = judged[judged.optimizer == QUESTION].set_index("problem")
    assert dict(judged.rival) == {"wine": "good", "lost": "good"}
    assert dict(judged.ahead) == {"wine": True, "lost": False}
    np.testing.assert_allclose(judged.ratio["wine"], 1 / 3)
    np.testing.assert_allclose(judged.ratio["lost"], 10)
    np.testing.assert_allclose(judged.share["wine"], 7 / 9)
    np.testing.assert_allclose((judged.low["wine"], judged.high["wine"]), (1 / 5, 2))
    assert (judged.p >= 0.1).all()  # the least that 3 and 3 can be
    assert benchmark.verdict(_example()) == (
        "With nothing tuned, the loss of untuned is within 10% of the best tuned and scheduled "
        "rival's on 1 of 2 problems, and lower on 1 (held out: 1 of 1, lower on 1). In full "
        "batches that of log_time_soap is within 10% on 1 of 1 problems, and lower on 1 (held out: "
        "1 of 1, lower on 1)."
    )
    verdicts = {verdict.claim.name: verdict.word for verdict in _example().claims}
    assert verdicts == {
        "level": "holds in part",
        "full-batch": "holds",
        "steady": "does not hold",
    }


def test_two_misses_are_not_level():
    found = [
        _record("wine", name, seed, loss, tuned=name == "good")
        for name in (QUESTION, "good")
        for seed, loss in enumerate([0.5, 0.5, None, None])
    ]
    results = Results(benchmark.STUDY, benchmark.Settings(), found)
    (row,) = results.table("verdict").to_dict("records")
    assert (row["score"], row["rival_score"], row["level"]) == (np.inf, np.inf, False)
    assert "within 10% of the best tuned and scheduled rival's on 0 of 1" in results.verdict


def test_a_wrong_setting_that_is_not_known_leaves_open_whether_it_matters():
    twice = f"{QUESTION}, told twice"
    found = [record for record in _example().records if record["optimizer"] != twice]
    results = Results(benchmark.STUDY, benchmark.Settings(), found)
    assert np.isnan(results.table("misled").worst).all()
    assert results.table("misled").steady.isna().all()
    (word,) = [verdict.word for verdict in results.claims if verdict.claim.name == "steady"]
    assert word == "open"


def test_losses_below_zero_have_no_ratio():
    found = [_record("nll", name, seed, -2.588, tuned=name == "good")
             for name in (QUESTION, "good") for seed in range(3)]  # fmt: skip
    found += [_record("nll", QUESTION, 1, -1.0, tuned=False, rate=f) for f in (1 / 3, 3.0)]
    results = Results(benchmark.STUDY, benchmark.Settings(), found)
    (row,) = results.table("verdict").to_dict("records")
    assert (row["note"], row["level"]) == ("not comparable by ratio", False)
    assert np.isnan([row["ratio"], row["low"], row["high"]]).all()
    assert results.table("misled").empty
    assert results.verdict.startswith("Not comparable by ratio, with losses below zero: nll; sub")
    words = {verdict.claim.name: verdict.word for verdict in results.claims}
    assert words == {"level": "open", "full-batch": "not measured", "steady": "not measured"}
    both = Results(benchmark.STUDY, benchmark.Settings(), found + _example().records)
    assert "rival's on 1 of 2 problems, and lower on 1 (held out" in both.verdict
    assert "zero: nll; subtract its least value" in both.verdict
    assert "note" not in _example().table("verdict")


def test_a_loss_that_starts_below_zero_is_refused():
    below = Problem(lambda p, batch: jnp.sum(p**2) - 3, lambda seed: jnp.ones(2), ())
    with pytest.raises(ValueError, match=r"starts at -1, .* by their ratio.*: subtract its least"):
        benchmark.run(problems=[below], rivals=["momentum+linear"], seeds=1, gradients=4)


@pytest.mark.slow
def test_where_a_rival_is_read_out_is_chosen_on_the_tuning_seed():
    summary = benchmark.summary(_example()).set_index(["problem", "optimizer"])
    row = summary.loc["wine", "bad"]
    assert (row.missed, row.runs, row.score, row.score_high) == (1, 3, 4.0, np.inf)
    assert summary.loc["lost", "good"].score == 3.0


@pytest.mark.slow
def test_the_profile_counts_gradients_to_what_decides_at_the_chosen_rate():
    """Validation: "slow" takes 2 gradients to the target, 0.145, where "fast" takes 1.

    Training loss, an untuned constant that is wrong and seed 0 do not count.
    """
    found = []
    for name, curve in {"fast": [1.0, 0.1, 0.1], "slow": [1.0, 0.5, 0.1]}.items():
        for seed in (0, 1, 2):
            found.append(_record("wine", name, seed, 0.1))
            found[-1] |= {"loss": [1.0, 0.9, 0.0], "validation": curve, "loss_gradients": [0, 1, 2]}
            found[-1]["validation"] = curve if seed else [1.0, 1e-9, 1e-9]
    found += [_record("wine", QUESTION, 1, 1e-9, tuned=False, rate=3.0)]
    found += [_record("wine", "lost", seed, None) for seed in (0, 1, 2)]
    found += [_record("spiral", "fast", seed, 0.1) for seed in (0, 1, 2)]  # the others do not run
    table = benchmark_tables.profile(Results(benchmark.STUDY, benchmark.Settings(), found))
    table = table.set_index("optimizer")
    np.testing.assert_allclose(table.score[["fast", "slow", "lost"]], [1, 2 / 3, 0])
    tuning = found[0]["gradients"]  # of one run
    late = (4 - (2 + tuning) / (1 + tuning)) / 3
    np.testing.assert_allclose(table.with_tuning[["fast", "slow", "lost"]], [1, late, 0])
    assert dict(table.arrived) == {"fast": 2, "slow": 1, "lost": 0}
    assert dict(table.problems) == {"fast": 2, "slow": 1, "lost": 1}
    untold = Results(benchmark.STUDY, benchmark.Settings(), found[:1])  # stopped while tuning
    assert benchmark_tables.profile(untold).problems.sum() == 0


def test_a_problem_on_which_no_loss_comes_down_has_curves_and_no_verdict():
    found = []
    for name, tuned in ((QUESTION, False), ("good", True)):
        for seed in (0, 1) if tuned else (1,):
            found.append(_record("wine", name, seed, 1.0, tuned=tuned))
            found[-1] |= {"initial_loss": 0.1, "loss": [0.1, 0.1]}
    still = Results(benchmark.STUDY, benchmark.Settings(), found)
    assert still.table("verdict").empty
    assert still.verdict.startswith("There is no problem on which a loss came down")
    drawn = {figure.name: figure.draw(still) for figure in benchmark.STUDY.figures}
    assert not drawn["ratio"]
    assert drawn["validation"]


@pytest.mark.slow
def test_a_wrong_constant_and_horizon_are_compared_with_the_right_one():
    (row,) = benchmark.misled(_example()).to_dict(orient="records")
    wanted = {"third": 1.1, "triple": 1.5, "half": 1.0, "twice": 0.5, "nothing": 7.0, "worst": 1.5}
    np.testing.assert_allclose([row[what] for what in wanted], list(wanted.values()))
    assert not row["steady"]


@pytest.mark.slow
def test_every_figure_is_drawn(result):
    for figure in benchmark.STUDY.figures:
        assert figure.draw(result).svgs(figure.name)
        assert figure.draw(_example()).svgs(figure.name)
        assert figure.finding(_example())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rivals": ["adm"]}, "unknown rival 'adm': did you mean adam"),
        ({"problems": ["minst"]}, "did you mean mnist"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0."),
        ({"gradients": 1}, "--gradients must be at least 2, not 1."),
        ({"rivals": {"m": odeopt.rk4}, "gradients": 3}, "--gradients must be at least 4, not 3."),
        ({"rivals": {"untuned": optax.sgd}}, "untuned is an optimizer of the study"),
        ({"rivals": {"adam+linear": optax.sgd}}, r"adam\+linear is an optimizer of the study"),
        ({"rivals": [{"a": optax.sgd}, {"a": optax.adam}]}, "two optimizers are called 'a'"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_made(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        benchmark.run(**given, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.cheap
def test_a_rival_that_is_named_twice_takes_part_once():
    names = [one.name for one in benchmark.Settings(rivals=("adam+linear", "adam")).entries()]
    assert len(set(names)) == len(names)
    assert {"adam+constant", "adam+linear", "adam+cosine"} <= set(names)


@pytest.mark.slow
def test_a_problem_and_a_rival_of_ones_own():
    x = np.linspace(-1, 1, 32, dtype=np.float32)
    line = Problem(
        loss=lambda params, batch: jnp.mean((batch[0] * params - batch[1]) ** 2),
        init=lambda seed: jnp.zeros(()) + seed,
        data=(x, 3 * x),
        validation=(x[::2], 3 * x[::2]),
        batch_size=8,
    )
    mine = {"mine": lambda h: optax.sgd(h, momentum=0.5)}
    found = benchmark.run(problems=[line], rivals=[mine], seeds=1, gradients=20)
    judged = found.table("verdict").set_index("optimizer")
    assert list(judged.index) == [name for name in NAMES if name != "log_time_soap"]
    assert (judged.rival == "mine").all()
    assert (judged.criterion == "validation").all()
