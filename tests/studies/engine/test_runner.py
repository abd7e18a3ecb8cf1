import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.sweep import run_one_by_one
from odeopt.studies import problems, spectra
from odeopt.studies.engine import optimizers
from odeopt.studies.engine.optimizers import Entry, find
from odeopt.studies.engine.problem import Problem
from odeopt.studies.engine.runner import Runner

pytestmark = pytest.mark.usefixtures("x64")

EXPLICIT = ("euler", "heun", "midpoint", "ralston", "bosh3", "ssprk3", "rk4", "dopri5", "tsit5")


@pytest.fixture
def kappa(x64):
    return problems.build(["quadratic-kappa1e6"])[0]


@pytest.mark.parametrize("name", [*optimizers.BASELINES, *EXPLICIT])
def test_a_step_costs_the_gradients_it_counts(name, kappa):
    entry = find(name)
    optimizer = optax.with_extra_args_support(entry.make(0.1))
    params = kappa.init(0)
    state = optimizer.init(params)
    calls = []

    def counted(params, batch):
        jax.debug.callback(lambda _: calls.append(1), params[0])
        return kappa.loss(params, batch)

    value, grads = jax.value_and_grad(counted)(params, kappa.data)
    optimizer.update(grads, state, params, value=value, value_fn=counted, batch=kappa.data)
    jax.effects_barrier()
    assert len(calls) == entry.gradients_per_step


@pytest.mark.parametrize("problem", ["quadratic-diabetes", "digits-ce", "digits-mse-64"])
@pytest.mark.parametrize("name", ["momentum", "rk4"])
def test_one_program_equals_single_runs(problem, name):
    (problem,) = problems.build([problem])
    entry = find(name)
    runs = [(0.01, 0), (0.05, 2), (0.02, 1)]
    curves = Runner(problem, entry, 8 * entry.gradients_per_step, range(3)).run(runs)
    singles = run_one_by_one(problem, entry, runs, 8)
    tolerance = 1e-12 if problem.quadratic else 1e-5
    np.testing.assert_allclose([curve.final for curve in curves], singles, rtol=tolerance)


@pytest.mark.slow
def test_grouping_and_order_of_runs_do_not_change_a_bit():
    (problem,) = problems.build(["digits-ce-64"])
    sweep = Runner(problem, find("heun"), 20, range(3))
    runs = [(rate, seed) for rate in (0.1, 1.0, 30.0) for seed in range(3)]
    together = dict(zip(runs, sweep.run(runs), strict=True))
    for run in reversed(runs):
        (alone,) = sweep.run([run])
        np.testing.assert_array_equal(alone.loss, together[run].loss)


@pytest.mark.parametrize("name", ["heun", "rkc"])
def test_the_number_of_devices_does_not_change_a_bit(name):
    (problem,) = problems.build(["digits-ce-64"])
    runs = [(rate, seed) for rate in (0.1, 1.0, 300.0) for seed in range(3)]
    curves = []
    for count in (1, 3):
        ended = []
        sweep = Runner(problem, find(name), 20, range(3), jax.devices()[:count])
        curves.append(sweep.run(runs, ended=lambda i, curve: ended.append(i) or True))
        assert sorted(ended) == list(range(len(runs)))  # each once, though from three threads
    for one, other in zip(*curves, strict=True):
        np.testing.assert_array_equal(one.loss, other.loss)
        np.testing.assert_array_equal(one.gradients, other.gradients)


def test_the_runs_of_every_device_stop_when_one_is_told_to(kappa):
    sweep = Runner(kappa, find("sgd"), 20, [0], jax.devices()[:2])
    curves = sweep.run([(0.1, 0)] * 20, ended=lambda index, curve: False)
    assert len(curves) == 1


def test_a_diverged_run_stops_and_is_called_so(kappa):
    stable, unstable = Runner(kappa, find("sgd"), 2000, [0]).run([(1.9, 0), (5.0, 0)])
    assert not stable.diverged
    assert stable.made == 2000
    assert np.isfinite(stable.loss).all()
    assert unstable.diverged
    assert unstable.made < 2000
    assert np.isnan(unstable.loss[-1])


def test_a_loss_above_the_initial_one_is_a_divergence_though_finite(kappa):
    (curve,) = Runner(kappa, find("sgd"), 50, [0]).run([(2.1, 0)])
    assert np.isfinite(curve.final)
    assert curve.diverged


def test_a_curve_holds_the_losses_of_its_steps(kappa):
    (curve,) = Runner(kappa, find("sgd"), 130, [0]).run([(0.5, 0)])
    params, matrix, target = np.asarray(kappa.init(0)), *kappa.data
    losses = []
    for _ in range(131):
        residual = matrix @ params - target
        losses.append(0.5 * np.mean(residual**2))
        params = params - 0.5 * matrix.T @ residual / len(target)
    np.testing.assert_allclose(curve.loss, np.array(losses)[curve.steps], rtol=1e-9)
    assert curve.steps[-1] == curve.made == 130
    assert len(curve.loss) <= 200


@pytest.mark.slow
def test_one_program_is_five_times_faster_than_a_loop_of_jits_compile_included():
    (problem,) = problems.build(["digits-ce-64"])
    entry = find("rk4")
    runs = [(0.05 * 2.0**k, seed) for k in range(7) for seed in range(4)]
    jax.block_until_ready(jnp.zeros(3) + 1)  # the backend starts for neither
    begin = time.perf_counter()
    Runner(problem, entry, 200, range(4)).run(runs)
    program = time.perf_counter() - begin
    some = runs[::4]  # a quarter of the loop is enough to see it
    begin = time.perf_counter()
    run_one_by_one(problem, entry, some, 50)
    loop = (time.perf_counter() - begin) * len(runs) / len(some)
    assert loop > 5 * program, (loop, program)


@pytest.mark.slow
@pytest.mark.parametrize("problem", [name for name in problems.PROBLEMS if "quadratic" in name])
@pytest.mark.parametrize("name", [*EXPLICIT, "sgd", "momentum"])
def test_measured_limits_are_within_one_percent_of_theory(problem, name):
    (problem,) = problems.build([problem])
    entry = find(name)
    sharpness = float(spectra.eigenvalues(problem, 0)[-1])
    cost = entry.gradients_per_step
    sweep = Runner(problem, entry, 60 * cost, [0])
    measured = spectra.measured_limit(sweep, entry.limit, sharpness)
    assert abs(measured / entry.limit - 1) < 0.01


@pytest.mark.parametrize(
    ("name", "claimed"), [("sgd", 1.5), ("rk4", 2.0), ("sgd", 2.5), ("rk4", 3.2)]
)
def test_a_wrong_limit_is_not_confirmed(kappa, name, claimed):
    sweep = Runner(kappa, find(name), 240, [0])
    assert np.isnan(spectra.measured_limit(sweep, claimed, 1.0))


def test_losses_leave_the_program_in_full_precision(kappa):
    (curve,) = Runner(kappa, find("tsit5"), 3600, [0]).run([(1.0, 0)])
    assert np.mean(curve.loss == curve.loss.astype(np.float32).astype(float)) < 0.1


def test_a_target_is_met_at_the_gradient_that_shows_it(kappa):
    runner = Runner(kappa, find("sgd"), 400, [0], points=4, target=lambda initial: 0.1 * initial)
    (curve,) = runner.run([(1.0, 0)])
    (whole,) = Runner(kappa, find("sgd"), 400, [0], points=400).run([(1.0, 0)])
    first = int(np.flatnonzero(whole.loss <= 0.1 * whole.loss[0])[0])
    assert (curve.status, curve.reached, curve.made) == ("reached", first + 1, first)
    assert curve.final == whole.loss[first]
    assert curve.rise < 0  # a stable quadratic never rises


def test_a_target_that_is_missed_is_infinitely_far(kappa):
    runner = Runner(kappa, find("rk4"), 42, [0], target=lambda initial: 0.0 * initial)
    stable, unstable = runner.run([(1.0, 0), (5.0, 0)])
    assert (stable.status, stable.reached, stable.made, stable.used) == ("ok", np.inf, 10, 40)
    assert unstable.status == "diverged"
    assert unstable.rise > 1


def test_a_target_on_mini_batches_is_looked_for_at_every_read_out():
    (problem,) = problems.build(["digits-ce-64"])
    at = range(28, 400, 28)
    runner = Runner(
        problem, find("momentum"), 392, [0], points=at, target=lambda initial: 0.5 * initial
    )
    (curve,) = runner.run([(0.3, 0)])
    assert curve.status == "reached"
    assert (curve.reached - 1) % 28 == 0
    assert curve.final <= 0.5 * curve.loss[0]


@pytest.mark.slow
def test_the_most_steps_end_a_run_too(kappa):
    entry = find("implicit_euler")
    (curve,) = Runner(kappa, entry, 4000, [0], most=7).run([(1.0, 0)])
    assert curve.made == 7


@pytest.mark.slow
def test_a_line_search_is_counted_as_it_counts(kappa):
    entry = Entry(
        "lbfgs",
        lambda rate: optax.lbfgs(),
        counted=True,
        line_search=True,
        cost=lambda before, after: optax.tree.get(after, "num_linesearch_steps"),
    )
    runner = Runner(kappa, entry, 400, [0], target=lambda initial: 1e-5 * initial)
    (curve,) = runner.run([(1.0, 0)])
    assert curve.status == "reached"
    assert curve.made < curve.used < 300


def linear(**options):
    inputs = np.random.default_rng(0).standard_normal((64, 3))
    data = {"x": inputs[:48], "y": inputs[:48] @ [1.0, 2.0, 3.0]}
    held = {"x": inputs[48:], "y": inputs[48:] @ [1.0, 2.0, 3.0]}

    def loss(params, batch, key=None):
        noise = 0.0 if key is None else 0.1 * jax.random.normal(key, batch["y"].shape)
        return jnp.mean((batch["x"] @ params - batch["y"] + noise) ** 2)

    def quiet(params, batch):
        return loss(params, batch)

    init = lambda seed: jnp.asarray(np.random.default_rng(seed).standard_normal(3))
    chosen = loss if options.pop("noisy", False) else quiet
    return Problem(chosen, init, data, validation=held, batch_size=16, **options)


def test_what_is_held_out_is_read_out_beside_the_loss():
    (curve,) = Runner(linear(), find("sgd"), 200, [0]).run([(0.1, 0)])
    assert curve.validation.shape == curve.loss.shape
    assert curve.validation[-1] < 1e-6 * curve.validation[0]
    own = linear(metric=lambda params, held: jnp.max(jnp.abs(held["x"] @ params - held["y"])))
    (other,) = Runner(own, find("sgd"), 200, [0]).run([(0.1, 0)])
    np.testing.assert_array_equal(other.loss, curve.loss)
    np.testing.assert_array_equal(other.validation, curve.validation)
    assert list(other.ends["last"]) == ["loss", "validation", "metric"]
    assert other.ends["last"]["metric"] ** 2 >= other.ends["last"]["validation"]


@pytest.mark.slow
def test_a_random_loss_has_a_key_of_its_own_in_every_step():
    noisy = Runner(linear(noisy=True), find("heun"), 400, range(2))
    a, again, b = noisy.run([(0.05, 0), (0.05, 0), (0.05, 1)])
    np.testing.assert_array_equal(a.loss, again.loss)
    assert a.final != b.final
    assert 1e-6 < a.final < 1e-1  # the noise averages out, which one key for all would not


def test_what_fails_where_a_run_ends_is_raised(kappa):
    def fail(index, curve):
        raise ValueError("disk full")

    with pytest.raises(ValueError, match="disk full"):
        Runner(kappa, find("sgd"), 20, [0]).run([(0.1, 0)] * 3, ended=fail)


def test_runs_after_one_that_failed_are_not_reported(kappa):
    """They were not made: kept, they would be counted as diverged."""
    told = []

    def fail_once(index, curve):
        told.append(index)
        if index == 1:
            raise ValueError("disk full for a moment")
        return True

    with pytest.raises(ValueError, match="for a moment"):
        Runner(kappa, find("sgd"), 20, [0]).run([(0.1, 0)] * 6, ended=fail_once)
    assert told == [0, 1]


def test_weight_decay_is_part_of_the_loss():
    (curve,) = Runner(linear(weight_decay=1.0), find("sgd"), 2000, [0]).run([(0.05, 0)])
    assert curve.final > 1.0  # the minimum without it is 0
