"""The stability sweep as one compiled program against a Python loop over the same runs."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from odeopt.studies.engine.optimizers import Entry, find
from odeopt.studies.engine.problem import Problem
from odeopt.studies.engine.runner import Runner
from odeopt.studies.engine.steps import step_function
from odeopt.studies.engine.tuner import first_grid
from odeopt.studies.problems import build

from .timing import Call, Row, once_each, ratio

GRADIENTS = 200
SEEDS = (0, 1, 2, 3)
SHARPNESS = 10.0  # about that of the digits network; it only places the rates
MOST_ROUNDS = 3  # a round takes tens of seconds


def sweep(rounds: int) -> Iterator[Row]:
    """Wall time of the loop over that of the one program, compilation included on both sides."""
    for name in ("sgd", "rk4"):
        entry = find(name)
        steps = GRADIENTS // entry.gradients_per_step
        with jax.enable_x64(True):
            (problem,) = build(["digits-mse-64"])
            grid = first_grid(entry, SHARPNESS, problem.dtype)
            rates = grid.rates(grid.first)
            runs = [(rate, seed) for rate in rates for seed in SEEDS]
            loop = Call(run_one_by_one, problem, entry, runs, steps)
            program = Call(run_at_once, problem, entry, runs)
            pairs = once_each(loop, program, 1 if rounds < MOST_ROUNDS else MOST_ROUNDS)
        row = f"python loop / one program, {len(runs)} runs of {name}, compile included"
        yield ratio("sweep", row, pairs, "> 5")


def run_at_once(problem: Problem, entry: Entry, runs: Sequence[tuple[float, int]]) -> Any:
    """The same runs as one program, which a new runner compiles anew."""
    return Runner(problem, entry, GRADIENTS, SEEDS).run(runs)


def run_one_by_one(
    problem: Problem, entry: Entry, runs: Sequence[tuple[float, int]], steps: int
) -> list[float]:
    """The final losses of the same runs by the loop that everybody writes: a jitted step a run.

    It is what the compiled runner is compared with, here and in tests.
    """
    data = jax.tree.map(jnp.asarray, problem.data)
    losses = []
    for rate, seed in runs:
        optimizer = entry.make(np.asarray(rate, problem.dtype)[()])
        step = jax.jit(step_function(problem.objective, optimizer))
        params = problem.start(seed)
        state = optimizer.init(params)
        table = problem.batches(seed, steps)
        for index in range(steps):
            batch = data
            if table is not None:
                rows = table[index]
                batch = jax.tree.map(lambda array, rows=rows: array[rows], data)
            params, state, _ = step(params, state, batch)
        losses.append(float(problem.full_loss(entry.read(state, params), data)))
    return losses
