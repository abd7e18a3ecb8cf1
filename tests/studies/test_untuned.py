import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from odeopt.studies import networks, problems, untuned, untuned_problems
from odeopt.studies.engine.problem import Problem
from odeopt.studies.engine.runner import Runner
from odeopt.studies.engine.study import Results

SMALL = {"problems": ["quadratic-kappa1e4"], "rivals": ["sgd"], "seeds": 2, "gradients": 30}
NAMES = [one.name for one in untuned.untuned()]


@pytest.mark.parametrize("name", untuned_problems.PROBLEMS)
@pytest.mark.usefixtures("x64")
def test_problems_keep_their_dtype(name):
    (problem,) = untuned_problems.build([name])
    for arrays in filter(None, (problem.data, problem.validation)):
        # Abstractly: nothing is computed or compiled.
        gradient = jax.value_and_grad(problem.loss)
        leaves = jax.tree.leaves(jax.eval_shape(gradient, problem.init(0), arrays))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype(problem.dtype)}


@pytest.mark.parametrize("name", [n for n in untuned_problems.PROBLEMS if "quadratic" not in n])
@pytest.mark.usefixtures("x64")
def test_no_held_out_example_is_trained_on(name):
    (problem,) = untuned_problems.build([name])
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
    (poisson, burgers) = untuned_problems.build(["poisson", "burgers"])
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


@pytest.mark.usefixtures("x64")
def test_a_run_reads_out_what_the_optimizer_hands_out():
    (problem,) = untuned_problems.build(["breast-cancer-32"])
    runner = Runner(problem, untuned.TUNED["schedule-free"], 60, [3], 1)
    (curve,) = runner.run([(0.1, 3)])

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


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return untuned.run(**SMALL, out=tmp_path_factory.mktemp("untuned") / "out")


def test_a_study_tunes_on_seed_0_and_reports_the_others(result):
    table = untuned.runs_of(result)
    sgd = table[table.optimizer == "sgd"]
    assert set(sgd[sgd.purpose == "tuning"].seed) == {0}
    fresh = sgd[sgd.purpose == "fresh"]
    assert set(fresh.seed) == {1, 2}
    tuning = sgd[(sgd.seed == 0) & (sgd.status == "ok")].set_index("learning_rate").final_loss
    assert set(fresh.learning_rate) == {tuning.idxmin()}
    assert not set(table[table.tuned.eq(False)].seed) & {0}
    assert {len(gradients) for gradients in table.loss_gradients} == {31}
    assert {gradients[-1] for gradients in table.loss_gradients} == {30}


def test_an_untuned_optimizer_runs_as_it_is_and_from_other_first_steps(result):
    table = untuned.runs_of(result)
    mine = table[table.optimizer == "log_time_adam"]
    assert set(mine[mine.purpose == "fresh"].learning_rate) == {1e-3}
    steps = sorted(set(mine.learning_rate))
    assert len(steps) == 7
    np.testing.assert_allclose([steps[0], steps[-1]], [1e-5, 1e-2])
    assert mine.final_loss.nunique() == len(mine)
    assert list(result.table("first_steps").optimizer) == NAMES


def _record(problem, optimizer, seed, loss, tuned=True, rate=1.0, held=None, purpose="fresh"):
    return {
        "kind": "run", "problem": problem, "optimizer": optimizer, "seed": seed, "tuned": tuned,
        "learning_rate": rate, "purpose": purpose, "final_loss": loss, "R": None, "order": None,
        "status": "ok" if loss is not None else "diverged", "initial_loss": 1.0, "seconds": 0.1,
        "gradients": 1, "gradients_per_step": 1, "loss_gradients": [0, 1], "loss": [1.0, loss],
        "validation": [1.0, held] if held else [],
    }  # fmt: skip


def _example():
    found, mine_name = [], untuned.QUESTION
    for seed, (mine, good, bad) in enumerate(
        [(1e-3, 2e-3, 0.1), (4e-3, 3e-3, 0.2), (1e-3, 5e-3, None)]
    ):
        found += [
            _record("won", mine_name, seed + 1, mine, tuned=False, held=0.5),
            _record("won", "good", seed + 1, good, held=0.4),
            _record("won", "bad", seed + 1, bad, held=0.3),
            _record("lost", mine_name, seed + 1, 10 * good, tuned=False),
            _record("lost", "good", seed + 1, good),
        ]
    found.append(_record("lost", mine_name, 1, 1.0, tuned=False, rate=0.5, purpose="first step"))
    return Results(untuned.STUDY, untuned.Settings(), found)


def test_the_verdict_compares_with_the_best_median_and_says_losses_as_plainly_as_wins():
    judged = untuned.judge(_example()).set_index("problem")
    assert dict(judged.rival) == {"won": "good", "lost": "good"}
    assert dict(judged.ahead) == {"won": True, "lost": False}
    np.testing.assert_allclose(judged.ratio["won"], 1 / 3)
    np.testing.assert_allclose(judged.ratio["lost"], 10)
    np.testing.assert_allclose(judged.share["won"], 7 / 9)
    np.testing.assert_allclose((judged.low["won"], judged.high["won"]), (1 / 5, 2))
    assert (judged.p >= 0.1).all()  # the least that 3 and 3 can be
    assert (judged.validation["won"], judged.lowest_validation["won"]) == (0.5, 0.3)
    assert np.isnan(judged.validation["lost"])
    np.testing.assert_allclose(untuned.first_steps(_example()).spread, 1.0 / 3e-2)
    assert untuned.verdict(_example()) == (
        "On some problems. With nothing tuned, log_time_adam ends below the best of the tuned "
        "optimizers on 1 of 2 problems (0 of the differences are significant, Holm, 5 %); on "
        "held-out data it is below that rival on 0 of 1, and below all tuned ones on 0."
    )
    words = " ".join(untuned.STUDY.answer(_example()))
    assert "behind on lost (10 times the loss of good)" in words
    assert "on 0 of 1; by more on lost (33)" in words
    verdicts = {verdict.claim.name: verdict.word for verdict in _example().claims}
    assert verdicts == {"ahead": "holds in part", "steady": "does not hold"}


def test_a_divergence_counts_as_infinity():
    summary = untuned.summary(_example()).set_index(["problem", "optimizer"])
    row = summary.loc["won", "bad"]
    assert (row.diverged, row.runs, row.loss_median, row.loss_max) == (1, 3, 0.2, np.inf)


def test_every_figure_is_drawn(result):
    drawn = {f.name: f.draw(result) for f in untuned.STUDY.figures}
    # A quadratic has nothing held out.
    assert [name for name, plot in drawn.items() if plot] == ["ratio", "loss", "first_step"]
    for figure in untuned.STUDY.figures:
        assert figure.draw(_example()).svgs(figure.name)
        assert figure.finding(_example())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rivals": ["adm"]}, "unknown rival 'adm': did you mean adam or"),
        ({"problems": ["digits-mes"]}, "did you mean digits-mse"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0."),
        ({"gradients": 0}, "--gradients must be at least 1, not 0."),
    ],
)
def test_a_mistake_is_refused_before_anything_is_made(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        untuned.run(**given, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
    found = untuned.run(problems=[line], rivals=[mine], seeds=1, gradients=20)
    judged = found.table("verdict").set_index("optimizer")
    assert list(judged.index) == NAMES
    assert (judged.rival == "mine").all()
    assert judged.validation.notna().all()
