"""The benchmark for benchopt: its iterations are gradients, and its commands run offline."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pandas as pd
import pytest
from benchopt.benchmark import Benchmark

import odeopt
from odeopt.studies import problems
from odeopt.studies.benchmark_problems import build
from odeopt.studies.engine.steps import advance

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent.parent / "benchmarks" / "benchopt"


@pytest.fixture
def folder(tmp_path):
    """A copy, because benchopt writes into the folder of a benchmark."""
    return Path(shutil.copytree(FOLDER, tmp_path / "gradients"))


@pytest.fixture
def solvers(folder):
    """The solver classes by name; that they switch x64 on is undone."""
    before = jax.config.read("jax_enable_x64")
    yield {solver.name: solver for solver in Benchmark(folder).get_solvers()}
    jax.config.update("jax_enable_x64", before)


def run(solver, problem, gradients):
    """What the solver holds at each call of benchopt: parameters to evaluate, gradients so far."""
    solver.set_objective(problem=problem, gradients=gradients, seed=0)
    seen = []

    def callback():
        state = solver.carry[1]
        seen.append((solver.get_result()["params"], getattr(state, "gradients", None)))
        return True

    solver.run(callback)
    return seen


@pytest.mark.parametrize(
    ("optimizer", "rate", "cost"),
    [("rk4", 0.3, 4), ("euler", 0.3, 1), ("linearly_implicit_euler", 0.1, None)],
)
def test_a_call_is_a_gradient(solvers, optimizer, rate, cost):
    solver = solvers["odeopt"].get_instance(optimizer=optimizer, learning_rate=rate)
    held = [int(count) for _, count in run(solver, build(["wine"])[0], gradients=11)]
    assert len(held) == 1 + 11
    # Parameters are seen from the call on at which their gradients have all been called.
    first = {count: held.index(count) for count in held}
    assert len(first) > 1
    assert first == {count: count for count in first}
    if cost is not None:
        assert list(first) == list(range(0, 12, cost))


def test_untuned_is_told_the_budget(solvers):
    (problem,) = problems.build(["logistic"])
    solver = solvers["odeopt"].get_instance(optimizer="untuned", learning_rate=None)
    found = run(solver, problem, gradients=6)[-1][0]

    def distance(horizon):
        optimizer = odeopt.untuned(horizon=horizon)
        start = problem.start(0)
        end, state = jax.jit(lambda x: advance(problem, optimizer, 6, problem.data, x))(start)
        error = optax.tree.sub(found, odeopt.step_params(state, end))
        return optax.tree.norm(error) / optax.tree.norm(found)

    assert distance(6) < 1e-4
    assert distance(12) > 1e-2


def test_both_libraries_start_alike_and_see_the_same_batches(solvers):
    (problem,) = build(["digit-rows"])
    ours = solvers["odeopt"].get_instance(optimizer="euler", learning_rate=0.1)
    theirs = solvers["optax"].get_instance(optimizer="sgd", learning_rate=0.1)
    for (x, _), (y, _) in zip(run(ours, problem, 5), run(theirs, problem, 5), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), x, y)


def test_a_schedule_of_optax_ends_with_the_budget(solvers):
    (problem,) = build(["wine"])
    solver = solvers["optax"].get_instance(optimizer="momentum+linear", learning_rate=0.1)
    *_, last = run(solver, problem, 5)
    longer = run(solver, problem, 10)
    assert optax.tree.norm(optax.tree.sub(last[0], longer[5][0])) > 1e-3
    assert solver.get_next(0) == 1
    assert solver.get_next(8) == solver.get_next(10) == 10


def test_a_wrong_name_is_answered_with_the_nearest(solvers):
    (problem,) = build(["wine"])
    for optimizer, rate in [("rk5", 0.1), ("untuned!", None)]:
        solver = solvers["odeopt"].get_instance(optimizer=optimizer, learning_rate=rate)
        with pytest.raises(ValueError, match=optimizer[:2]):
            solver.set_objective(problem=problem, gradients=5, seed=0)


def command(*words):
    """benchopt as from a shell in which this Python comes first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(FOLDER.parent.parent)}
    # sif2jax brings pytest-benchmark, whose fixture has the name of benchopt's.
    environment["PYTEST_ADDOPTS"] = "-p no:benchmark"
    subprocess.run([sys.executable, "-m", "benchopt", *words], env=environment, check=True)


def test_it_runs_and_every_curve_ends_at_the_budget(folder):
    datasets = ["-d", "benchmark[problem=wine]", "-d", "stability[problem=logistic]"]
    optimizers = [
        *("-s", "odeopt[optimizer=rk4,learning_rate=0.1]"),
        *("-s", "odeopt[optimizer=untuned,learning_rate=None]"),
        *("-s", "optax[optimizer=['schedule-free'],learning_rate=0.1]"),
    ]
    budget = ["-o", "loss[gradients=10]", "-r", "2"]
    results = folder / "results.parquet"
    command("run", folder, *datasets, *optimizers, *budget, "--no-plot", "--output", results)
    table = pd.read_parquet(results)
    runs = table.groupby(["dataset_name", "solver_name", "idx_rep"])
    assert len(runs) == 2 * 3 * 2
    assert (runs.stop_val.max() == 10).all()
    assert (runs.stop_val.min() == 0).all()
    # Every optimizer starts where the others do, and elsewhere in the next repetition.
    by_start = ["dataset_name", "idx_rep"]
    starts = table[table.stop_val == 0].groupby(by_start).objective_value.agg(["min", "max"])
    np.testing.assert_allclose(starts["min"], starts["max"], rtol=1e-5)
    assert starts["min"].round(3).nunique() == 4
    without = table.dataset_name.str.startswith("stability")
    decides = table.objective_loss.where(without, table.objective_validation)
    assert (table.objective_value == decides).all()


def test_it_passes_the_tests_of_benchopt(folder):
    command("test", folder, "--skip-install")
