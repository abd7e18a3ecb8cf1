"""What a stability study measures beside its runs: limits, sharpness traces, orders."""

from collections.abc import Callable

import numpy as np

from . import accuracy, spectra
from .entries import Entry
from .folder import Folder
from .problem import Problem
from .problems import SUITE
from .sweep import Sweep

LIMIT_RUNS = 20
LIMIT_STEPS = 600
"""Half a percent above its limit plain gradient descent grows by 1 % a step: 400 times in 600."""

TRACED = ("sgd", "heun", "rk4")
"""Optimizers whose sharpness is traced, if they take part."""
TRACE_RATE = 1.3
"""Their learning rate in units of R / initial sharpness: sharpness first falls below R/h, since
the initial point is not typical, and then rises to it."""
TRACE_STEPS = 800
COARSEST_STEPS = {1: 128, 2: 128, 3: 64, 4: 64, 5: 16}
"""Steps over the path of `accuracy` from which a solver of that order is asymptotic, three
halvings staying above rounding errors. Order 5 reaches these first: it still shows 6."""

Task = tuple[str, float, Callable[[], None]]


def measured_limit(sweep: Sweep, limit: float, sharpness: float) -> float:
    """The largest stable h * lambda_max on a quadratic, from runs on a 1 % grid around `limit`.

    The grid lies at half percents, 0.905 to 1.095 of `limit`; the middle between the last stable
    rate below the first unstable one and that one is returned, so it is known to 0.5 %. NaN if
    no rate or every rate is stable.
    """
    relative = 1 + (np.arange(LIMIT_RUNS) - LIMIT_RUNS / 2 + 0.5) / 100
    curves = sweep.run([(x * limit / sharpness, 0) for x in relative], LIMIT_STEPS)
    unstable = np.array([curve.diverged for curve in curves])
    first = int(np.argmax(unstable))
    if not unstable.any() or first == 0:
        return float("nan")
    return float(limit * (relative[first - 1] + relative[first]) / 2)


def tasks(problem: Problem, entry: Entry, sharpness: float, folder: Folder) -> list[Task]:
    """The sharpness trace and the order of one optimizer, where asked for and not yet there."""
    found = []
    about = {"suite": SUITE, "optimizer": entry.name}
    stored = [record["kind"] for record in folder.records if about.items() <= record.items()]

    def sharpness_trace() -> None:
        assert entry.limit is not None
        rate = float(problem.dtype(TRACE_RATE * entry.limit / sharpness))
        spent, values = spectra.trace(problem, entry, rate, TRACE_STEPS)
        record = {"kind": "sharpness", **about, "problem": problem.name, "learning_rate": rate}
        folder.add([{**record, "R": entry.limit, "gradients": spent, "sharpness": values}])

    def order() -> None:
        assert entry.order is not None
        seen = accuracy.observed_order(entry, COARSEST_STEPS[entry.order])
        record = {"kind": "order", **about, "problem": accuracy.PATH, "nominal_order": entry.order}
        sizes = {"step_sizes": seen.step_sizes, "errors": seen.errors}
        folder.add([{**record, **sizes, "observed_order": seen.observed}])

    if entry.name in TRACED and "sharpness" not in stored:
        found.append((f"sharpness along training, {entry.name}", 2.0, sharpness_trace))
    if entry.order is not None and "order" not in stored:
        found.append((f"order of accuracy, {entry.name}", 2.0, order))
    return found
