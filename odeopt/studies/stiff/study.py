"""The study as a whole: what is to do, until when, and its result."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from .. import estimate
from ..engine.problem import Problem
from ..folder import Folder
from ..problems import build
from ..records import Record, write_text
from . import tables
from .entries import find
from .goals import GOALS
from .settings import Settings
from .work import (
    DESCENT_ON,
    LIMITS,
    SENSITIVE,
    STABLE_ON,
    Climb,
    Descent,
    Race,
    Sweep,
    TimeOver,
)

Task = Race | Sweep | Climb | Descent


@dataclasses.dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        records: Every run. Runs that there was no time for are not here: --resume makes them.
        settings: The choices it was made with.
        seconds: Wall time of this call, compilation included.
        titles: One line about each problem, its target included.
        unfinished: What there was no time for.
    """

    records: list[Record]
    settings: dict[str, Any]
    seconds: float
    titles: dict[str, str]
    unfinished: list[str]

    @property
    def summary(self) -> pd.DataFrame:
        """One row a problem and optimizer; columns as `tables.summarize` says."""
        return tables.summarize(self.records)

    @property
    def verdict(self) -> pd.DataFrame:
        """One row a problem and solver; columns as `tables.judge` says."""
        return tables.judge(self.records)

    @property
    def sensitivity(self) -> pd.DataFrame:
        """One row a problem and optimizer; columns as `tables.sensitivity` says."""
        return tables.sensitivity(self.records)

    @property
    def stable(self) -> pd.DataFrame:
        """Largest stable rates; columns as `tables.stable` says."""
        return tables.stable(self.records)

    @property
    def descent(self) -> pd.DataFrame:
        """Implicit Euler at fixed rates; columns as `tables.descent` says."""
        return tables.descent(self.records)

    def show(self, console: Console) -> None:
        """Print one table a problem, then what rates do, then the answer."""
        summary = self.summary
        for name in dict.fromkeys(summary.problem):
            console.print(tables.problem_table(name, self.titles[name], summary))
        if len(self.sensitivity):
            console.print(tables.sensitivity_table(self.sensitivity))
        console.print(tables.LEGEND, style="dim")
        for sentence in tables.answer(self.records):
            console.print(sentence)


def run(
    *,
    problems: Sequence[str] | None = None,
    solvers: Sequence[str] | None = None,
    seeds: int | None = None,
    out: Path | str | None = None,
    full: bool = False,
    max_minutes: float | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Result:
    """Race solvers for stiff losses against tuned optimizers to a fixed target.

    Every run ends at the gradient whose loss is at the target, or with the budget of its problem;
    a miss costs infinitely much. What is tuned is tuned on seed 0, for the fewest gradients, and
    reported on fresh seeds. On the digits problems the study also measures what the learning rate
    of SGD and the first step of the controlled linearly implicit and exponential steps change, on
    `digits-mse` the largest stable rates of SGD and `rkc`, and where `implicit_euler` takes part
    whether its loss ever rises at fixed rates from 1e-3 to 1e6. JAX's configuration is as before
    when it returns; the study itself needs x64.

    Args:
        problems: Names of `goals.GOALS`: six by default, all ten in a full study.
        solvers: Names of `entries.ENTRIES`, rivals included: six by default, all in a full study.
        seeds: Fresh seeds that are reported: 3, or 5 in a full study.
        out: Folder for `runs.jsonl`, `summary.csv`, `verdict.csv`, `sensitivity.csv`,
            `stable.csv` and `descent.csv`; by default nothing is written.
        full: All problems and solvers, and more seeds.
        max_minutes: Start nothing new after this time; `resume` makes the rest.
        resume: Continue what a stopped or killed study left in `out`.
        console: Where to print the time estimate, progress and notices; silent by default.

    Raises:
        ValueError: For an option that makes no sense, a folder that cannot be used, or a problem
            whose data are not installed.
        records.CorruptRecordsError: If a stored record cannot be read.
    """
    begin = time.perf_counter()
    console = console or Console(quiet=True)
    if max_minutes is not None and not max_minutes > 0:
        raise ValueError(f"--max-minutes must be positive, not {max_minutes:g}.")
    if resume and out is None:
        raise ValueError("resume=True needs out=, the folder to go on in.")
    settings = Settings.of(problems=problems, solvers=solvers, seeds=seeds, full=full)
    deadline = begin + 60 * max_minutes if max_minutes is not None else np.inf
    path = None if out is None else Path(out)
    # Threads of OpenBLAS spin while they wait for each other: on two busy cores, Cholesky's
    # decomposition of 350 rows made a run take 0.5 s with one thread and 2 to 30 s with two.
    with jax.enable_x64(True), threadpool_limits(1, user_api="blas"):
        built = build(settings.problems)
        folder = Folder(path, settings.as_dict(), resume, console.print)
        tasks = [task for problem in built for task in _tasks(problem, settings, folder, deadline)]
        unfinished = _work(tasks, console)
    seconds = time.perf_counter() - begin
    titles = {p.name: f"{p.title}; to {GOALS[p.name].spoken()}" for p in built}
    result = Result(folder.records, settings.as_dict(), seconds, titles, unfinished)
    if path is not None:
        for name in ("summary", "verdict", "sensitivity", "stable", "descent"):
            table = getattr(result, name).to_csv(index=False, float_format="%.6g")
            write_text(path / f"{name}.csv", table)
    return result


def _tasks(problem: Problem, settings: Settings, folder: Folder, deadline: float) -> list[Task]:
    goal = GOALS[problem.name]
    optimum = goal.optimum(problem)
    found: list[Task] = []
    for entry in map(find, settings.solvers):
        # A line search that goes on with a value of another batch would only look bad.
        if not (entry.line_search and problem.batch_size):
            found.append(Race(problem, goal, optimum, entry, settings.seeds, folder, deadline))
        if entry.name in SENSITIVE and problem.name.startswith("digits"):
            found.append(Sweep(problem, entry, settings.seeds, folder, deadline))
        if entry.name in LIMITS and problem.name == STABLE_ON:
            found.append(Climb(problem, goal, entry, settings.seeds, folder, deadline))
        if entry.name == "implicit_euler" and problem.name in DESCENT_ON:
            found.append(Descent(problem, settings.seeds, folder, deadline))
    return found


def _work(tasks: list[Task], console: Console) -> list[str]:
    """Everything, with a progress bar; the names of what time was too short for."""
    problems = {task.work.problem.name: task.work.problem for task in tasks}
    measured = {name: estimate.calibrate(problem) for name, problem in problems.items()}
    seconds = [task.estimate(measured[task.work.problem.name]) for task in tasks]
    console.print(
        f"{len(tasks)} steps of work, estimated at {estimate.spoken(sum(seconds))} on this machine "
        "(measured on one gradient of each problem; figures and report come on top)."
    )
    columns = (TextColumn("{task.description:48}"), BarColumn(), TimeElapsedColumn())
    unfinished = []
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("", total=sum(seconds))
        for task, expected in zip(tasks, seconds, strict=True):
            progress.update(bar, description=task.name)
            try:
                task.run()
            except TimeOver:
                unfinished.append(task.name)
            progress.advance(bar, expected)
    if unfinished:
        console.print(
            f"--max-minutes is over: {len(unfinished)} of {len(tasks)} steps of work are not done "
            "and left out; --resume makes them."
        )
    return unfinished
