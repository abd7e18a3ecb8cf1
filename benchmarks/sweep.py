"""The stability sweep as one compiled program against a Python loop over the same runs."""

import time
from collections.abc import Iterator

import jax

from odeopt.studies.engine.optimizers import find
from odeopt.studies.engine.runner import Runner, run_one_by_one
from odeopt.studies.engine.tuner import first_grid
from odeopt.studies.problems import build

from .timing import Row, ratio

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
            pairs = []
            for _ in range(1 if rounds < MOST_ROUNDS else min(rounds, MOST_ROUNDS)):
                begin = time.perf_counter()
                run_one_by_one(problem, entry, runs, steps)
                between = time.perf_counter()
                Runner(problem, entry, GRADIENTS, SEEDS, len(runs)).run(runs)
                pairs.append((between - begin, time.perf_counter() - between))
        row = f"python loop / one program, {len(runs)} runs of {name}, compile included"
        yield ratio("sweep", row, pairs, "> 5")
