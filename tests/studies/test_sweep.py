import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from odeopt.studies.sweep import Sweep, run_one_by_one

from odeopt.studies import entries, extras, grid, problems, spectra

pytestmark = pytest.mark.usefixtures("x64")

EXPLICIT = ("euler", "heun", "midpoint", "ralston", "bosh3", "ssprk3", "rk4", "dopri5", "tsit5")


@pytest.fixture
def kappa(x64):
    return problems.build(["quadratic-kappa1e6"])[0]


def test_every_explicit_solver_and_baseline_takes_part():
    assert set(entries.entries()) == {"sgd", "momentum", "adam", *EXPLICIT, *entries.OTHERS}


@pytest.mark.parametrize("name", [*entries.BASELINES, *EXPLICIT])
def test_a_step_costs_the_gradients_it_is_charged(name, kappa):
    entry = entries.find(name)
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
    entry = entries.find(name)
    runs = [(0.01, 0), (0.05, 2), (0.02, 1)]
    curves = Sweep(problem, entry, 8, range(3), slots=4).run(runs)
    singles = run_one_by_one(problem, entry, runs, 8)
    tolerance = 1e-12 if problem.quadratic else 1e-5
    np.testing.assert_allclose([curve.final for curve in curves], singles, rtol=tolerance)


def test_grouping_and_order_of_runs_do_not_change_a_bit():
    (problem,) = problems.build(["digits-ce-64"])
    sweep = Sweep(problem, entries.find("heun"), 10, range(3), slots=4)
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
        sweep = Sweep(problem, entries.find(name), 10, range(3), 4, jax.devices()[:count])
        curves.append(sweep.run(runs, ended=lambda i, curve: ended.append(i) or True))
        assert sorted(ended) == list(range(len(runs)))  # each once, though from three threads
    for one, other in zip(*curves, strict=True):
        np.testing.assert_array_equal(one.loss, other.loss)
        np.testing.assert_array_equal(one.gradients, other.gradients)


def test_the_runs_of_every_device_stop_when_one_is_told_to(kappa):
    sweep = Sweep(kappa, entries.find("sgd"), 20, [0], 8, jax.devices()[:2])
    curves = sweep.run([(0.1, 0)] * 20, ended=lambda index, curve: False)
    assert len(curves) == 1


def test_a_diverged_run_stops_and_is_called_so(kappa):
    stable, unstable = Sweep(kappa, entries.find("sgd"), 2000, [0], 2).run([(1.9, 0), (5.0, 0)])
    assert not stable.diverged
    assert stable.made == 2000
    assert np.isfinite(stable.loss).all()
    assert unstable.diverged
    assert unstable.made < 2000
    assert np.isnan(unstable.loss[-1])


def test_a_loss_above_the_initial_one_is_a_divergence_though_finite(kappa):
    (curve,) = Sweep(kappa, entries.find("sgd"), 50, [0], 1).run([(2.1, 0)])
    assert np.isfinite(curve.final)
    assert curve.diverged


def test_a_curve_holds_the_losses_of_its_steps(kappa):
    (curve,) = Sweep(kappa, entries.find("sgd"), 130, [0], 1).run([(0.5, 0)])
    params, matrix, target = np.asarray(kappa.init(0)), *kappa.data
    losses = []
    for _ in range(131):
        residual = matrix @ params - target
        losses.append(0.5 * np.mean(residual**2))
        params = params - 0.5 * matrix.T @ residual / len(target)
    np.testing.assert_allclose(curve.loss, np.array(losses)[curve.steps], rtol=1e-9)
    assert curve.steps[-1] == curve.made == 130
    assert len(curve.loss) <= 200


def test_one_program_is_five_times_faster_than_a_loop_of_jits_compile_included():
    (problem,) = problems.build(["digits-ce-64"])
    entry = entries.find("rk4")
    runs = [(0.05 * 2.0**k, seed) for k in range(7) for seed in range(4)]
    jax.block_until_ready(jnp.zeros(3) + 1)  # the backend starts for neither
    begin = time.perf_counter()
    Sweep(problem, entry, 50, range(4), len(runs)).run(runs)
    program = time.perf_counter() - begin
    some = runs[::4]  # a quarter of the loop is enough to see it
    begin = time.perf_counter()
    run_one_by_one(problem, entry, some, 50)
    loop = (time.perf_counter() - begin) * len(runs) / len(some)
    assert loop > 5 * program, (loop, program)


@pytest.mark.parametrize("problem", [name for name in problems.PROBLEMS if "quadratic" in name])
@pytest.mark.parametrize("name", [*EXPLICIT, "sgd", "momentum"])
def test_measured_limits_are_within_one_percent_of_theory(problem, name):
    (problem,) = problems.build([problem])
    entry = entries.find(name)
    sharpness = float(spectra.eigenvalues(problem, 0)[-1])
    sweep = Sweep(problem, entry, 60, [0], extras.LIMIT_RUNS)
    measured = extras.measured_limit(sweep, entry.limit, sharpness)
    assert abs(measured / entry.limit - 1) < 0.01


@pytest.mark.parametrize(
    ("name", "claimed"), [("sgd", 1.5), ("rk4", 2.0), ("sgd", 2.5), ("rk4", 3.2)]
)
def test_a_wrong_limit_is_not_confirmed(kappa, name, claimed):
    sweep = Sweep(kappa, entries.find(name), 60, [0], extras.LIMIT_RUNS)
    assert np.isnan(extras.measured_limit(sweep, claimed, 1.0))


def losses(rates, best, limit):
    return {r: abs(np.log(r / best)) if r < limit else np.inf for r in rates}


@pytest.mark.parametrize(
    ("best", "limit", "where"),
    [
        (1.0, np.inf, "interior"),
        (1e-9, np.inf, "lower end"),
        (1e9, np.inf, "upper end"),
        (1e9, 2.0, "next to divergence"),
        (1.0, 1e-9, "lower end"),
    ],
)
def test_the_place_of_the_best_rate(best, limit, where):
    rates = [2.0**k for k in range(-3, 4)]
    assert grid.place(rates, losses(rates, best, limit)) == where


@pytest.mark.parametrize("best", [1e-3, 0.02, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("name", ["rk4", "adam"])
def test_the_grid_grows_until_the_best_is_bracketed_or_the_cap_is_reached(best, name):
    current = grid.first_grid(entries.find(name), 3.0, np.float64, ())
    assert len(current.rates) == 7
    while wider := current.next(losses(current.rates, best, np.inf)):
        assert set(current.rates) < set(wider.rates)
        current = wider
    bracketed = current.rates[0] < best < current.rates[-1]
    assert bracketed or current.blocks == grid.MOST_BLOCKS
    assert (
        grid.place(current.rates, losses(current.rates, best, np.inf)) == "interior"
    ) == bracketed


def test_rates_of_the_user_are_taken_as_they_are():
    fixed = grid.first_grid(entries.find("rk4"), 3.0, np.float32, (0.1, 0.3))
    assert fixed.rates == [float(np.float32(0.1)), float(np.float32(0.3))]
    assert fixed.next(losses(fixed.rates, 1e9, np.inf)) is None


def test_nothing_of_64_bits_goes_through_the_callback(kappa):
    # It may run in a thread where x64 is off, and float64 would sometimes be cut to float32.
    program = Sweep(kappa, entries.find("sgd"), 20, [0], 1)._program.as_text()
    (call,) = [line for line in program.splitlines() if "python_cpu_callback" in line]
    assert "u32[21,2]" in call
    assert "f64[" not in call


def test_losses_leave_the_program_in_full_precision(kappa):
    (curve,) = Sweep(kappa, entries.find("tsit5"), 600, [0], 1).run([(1.0, 0)])
    assert np.mean(curve.loss == curve.loss.astype(np.float32).astype(float)) < 0.1
