"""The work of the study, run by run, and its result."""

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

from .. import estimate
from ..engine.problem import Problem
from ..engine.study import versions
from ..engine.tuner import TUNING_SEED
from ..folder import Folder
from ..records import Record, write_text
from . import tables
from .problems import SUITE, build
from .rivals import Rival, find
from .runs import Curve, Runs
from .search import rate_of, tune
from .settings import Settings

FIRST_STEPS = tuple(range(-8, 5, 2))
"""First steps of an untuned optimizer: half decades, 1e-5 to 1e-2 from a default of 1e-3."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        records: Every run. Runs that there was no time for are not here: --resume makes them.
        settings: The choices it was made with.
        seconds: Wall time of this call, compilation included.
        titles: One line about each problem.
        unfinished: Pairs of problem and optimizer that there was no time for.
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
        """One row a problem and untuned optimizer; columns as `tables.judge` says."""
        return tables.judge(self.records)

    @property
    def first_steps(self) -> pd.DataFrame:
        """What the size of the first step changes; columns as `tables.robustness` says."""
        return tables.robustness(self.records)

    def show(self, console: Console) -> None:
        """Print one table a problem, then who is ahead, then what the first step changes."""
        summary = self.summary
        for name in dict.fromkeys(summary.problem):
            console.print(tables.problem_table(name, self.titles[name], summary))
        console.print(tables.verdict_table(self.verdict))
        console.print(tables.robustness_table(self.first_steps))
        console.print(tables.LEGEND, style="dim")
        for sentence in tables.answer(self.verdict, self.first_steps):
            console.print(sentence)


def run(
    *,
    problems: Sequence[str] | None = None,
    rivals: Sequence[str] | None = None,
    seeds: int | None = None,
    gradients: int | None = None,
    out: Path | str | None = None,
    full: bool = False,
    max_minutes: float | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Result:
    """Race optimizers with nothing tuned against tuned ones, at equal gradients.

    The learning rate of each rival is tuned on seed 0 of each problem, on a logarithmic grid that
    is extended until its best is interior; fresh seeds are reported. `log_time_adam()` and Adam
    with the same controller run as they are, and again from first steps of 1e-5 to 1e-2.
    Validation losses stand beside training losses. JAX's configuration is as before when it
    returns; the study itself needs x64.

    Args:
        problems: Names of `problems.PROBLEMS`: four by default, all eleven in a full study.
        rivals: Names of `rivals.TUNED`: four by default, all nine in a full study.
        seeds: Fresh seeds that are reported: 3, or 5 in a full study.
        gradients: Gradients each run may spend: 500, or 2000 in a full study.
        out: Folder for `runs.jsonl`, `summary.csv`, `verdict.csv` and `first_steps.csv`; by
            default nothing is written.
        full: All problems and rivals, more seeds and more gradients.
        max_minutes: Start nothing new after this time; `resume` makes the rest.
        resume: Continue what a stopped or killed study left in `out`.
        console: Where to print the time estimate, progress and notices; silent by default.

    Raises:
        ValueError: For an option that makes no sense, or a folder that cannot be used.
        records.CorruptRecordsError: If a stored record cannot be read.
    """
    begin = time.perf_counter()
    console = console or Console(quiet=True)
    if max_minutes is not None and not max_minutes > 0:
        raise ValueError(f"--max-minutes must be positive, not {max_minutes:g}.")
    if resume and out is None:
        raise ValueError("resume=True needs out=, the folder to go on in.")
    settings = Settings.of(
        problems=problems, rivals=rivals, seeds=seeds, gradients=gradients, full=full
    )
    deadline = begin + 60 * max_minutes if max_minutes is not None else np.inf
    path = None if out is None else Path(out)
    with jax.enable_x64(True):
        built = build(settings.problems)
        folder = Folder(path, settings.as_dict(), resume, console.print)
        races = [
            _Race(settings, problem, find(name), folder, deadline)
            for problem in built
            for name in settings.optimizers
        ]
        unfinished = _work(races, settings, console)
    seconds = time.perf_counter() - begin
    titles = {problem.name: problem.title for problem in built}
    result = Result(folder.records, settings.as_dict(), seconds, titles, unfinished)
    if path is not None:
        for name in ("summary", "verdict", "first_steps"):
            table = getattr(result, name).to_csv(index=False, float_format="%.6g")
            write_text(path / f"{name}.csv", table)
    return result


def _work(races: "list[_Race]", settings: Settings, console: Console) -> list[str]:
    """All races, with a progress bar; the names of those that time was too short for."""
    costs = {race.problem.name: race.problem for race in races}
    measured = {name: estimate.calibrate(problem) for name, problem in costs.items()}
    seconds = [race.estimate(measured[race.problem.name]) for race in races]
    console.print(
        f"{len(races)} optimizers on problems, estimated at {estimate.spoken(sum(seconds))} on "
        f"this machine (measured on one gradient of each problem; figures and report come on top)."
    )
    columns = (TextColumn("{task.description:34}"), BarColumn(), TimeElapsedColumn())
    unfinished = []
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("", total=sum(seconds))
        for race, expected in zip(races, seconds, strict=True):
            progress.update(bar, description=race.name)
            try:
                race.run()
            except _TimeOver:
                unfinished.append(race.name)
            progress.advance(bar, expected)
    if unfinished:
        console.print(
            f"--max-minutes is over: {len(unfinished)} of {len(races)} optimizers on problems "
            "are not done and left out; --resume makes their runs."
        )
    return unfinished


class _TimeOver(Exception):
    """There is no time for the next run."""


class _Race:
    """All runs of one optimizer on one problem."""

    def __init__(
        self, settings: Settings, problem: Problem, rival: Rival, folder: Folder, deadline: float
    ) -> None:
        self.settings, self.problem, self.rival = settings, problem, rival
        self.folder, self.deadline = folder, deadline
        self.name = f"{problem.name}, {rival.name}"
        self.about = {"suite": SUITE, "problem": problem.name, "optimizer": rival.name}
        self.fresh = range(1, settings.seeds + 1)
        self.versions = versions()
        self.done = {
            (record["learning_rate"], record["seed"]): _final(record)
            for record in folder.records
            if self.about.items() <= record.items()
        }
        self._runs: Runs | None = None

    def estimate(self, cost: estimate.Cost) -> float:
        """Seconds that `run` is expected to take, if nothing is done yet."""
        seeds = self.settings.seeds
        count = 10 + seeds if self.rival.tuned else (len(FIRST_STEPS) + 1) * seeds
        compiling = cost.compile * estimate.COMPILE_PER_GRADIENT
        return compiling + count * self.settings.gradients * cost.gradient

    def run(self) -> None:
        """Tune on the tuning seed, or leave the first step as it is; then run the fresh seeds."""
        if self.rival.tuned:
            best, _ = tune(lambda quarters: self._make(quarters, TUNING_SEED, "tuning"))
            for seed in self.fresh:
                self._make(best, seed, "fresh")
            return
        for quarters in (0, *(q for q in FIRST_STEPS if q)):
            for seed in self.fresh:
                self._make(quarters, seed, "fresh" if quarters == 0 else "first step")

    def _make(self, quarters: int, seed: int, purpose: str) -> float:
        """The final loss of a run, which is made unless it is on disk."""
        rate = rate_of(self.rival.unit, quarters, self.problem.dtype)
        if (rate, seed) not in self.done:
            if time.perf_counter() > self.deadline:
                raise _TimeOver
            if self._runs is None:
                self._runs = Runs(self.problem, self.rival, self.settings.gradients)
            record = self._record(rate, seed, purpose, self._runs.run(rate, seed))
            self.folder.add([record])
            self.done[rate, seed] = _final(record)
        return self.done[rate, seed]

    def _record(self, rate: float, seed: int, purpose: str, curve: Curve) -> Record:
        assert self._runs is not None
        return {
            "kind": "run",
            **self.about,
            "tuned": self.rival.tuned,
            "purpose": purpose,
            "learning_rate": rate,
            "seed": seed,
            "batch_size": self.problem.batch_size,
            "status": "ok" if np.isfinite(curve.final) else "diverged",
            "initial_loss": curve.loss[0],
            "final_loss": curve.loss[-1],
            "final_validation": curve.validation[-1],
            "gradients": curve.steps,
            "loss": curve.loss,
            "validation": curve.validation,
            "seconds": curve.seconds,
            "compile_seconds": self._runs.compile_seconds,
            "versions": self.versions,
            "data_checksum": self.problem.checksum,
        }


def _final(record: Record) -> float:
    return float(record["final_loss"]) if record["status"] == "ok" else float("inf")
