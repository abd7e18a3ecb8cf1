"""Is a solver more stable than SGD, and what does it cost? Rates x seeds x problems.

`run` does the whole study; `odeopt stability` is the same from a shell.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import estimate, extras
from .devices import local_devices
from .entries import Entry
from .folder import Folder, Share
from .grid import Grid, first_grid
from .problem import Problem
from .problems import SUITE, build
from .records import Record, write_text
from .settings import Settings, versions
from .spectra import eigenvalues
from .sweep import Curve, Sweep
from .tables import LEGEND, TUNING_SEED, rich_table, summarize, time_table


@dataclasses.dataclass(frozen=True)
class Result:
    """What a study found.

    Attributes:
        records: Every record, of the kinds "run", "limit", "order", "spectrum", "sharpness". Runs
            that there was no time for are here with status "time-out", but not on disk.
        settings: The choices it was made with.
        seconds: Wall time of this call, compilation included.
        titles: One line about each problem.
    """

    records: list[Record]
    settings: dict[str, Any]
    seconds: float
    titles: dict[str, str]

    @property
    def runs(self) -> pd.DataFrame:
        """One row a run, columns as in the records."""
        return pd.DataFrame([record for record in self.records if record["kind"] == "run"])

    @property
    def summary(self) -> pd.DataFrame:
        """One row a problem and optimizer; columns as `tables.summarize` says."""
        return summarize(self.records)

    @property
    def times(self) -> pd.DataFrame:
        """Seconds, one row a problem and optimizer; columns as `tables.time_table` says."""
        return time_table(self.records)

    def loss_against_rate(self, problem: str, optimizer: str) -> tuple[np.ndarray, np.ndarray]:
        """Rates, ascending, and final losses of shape (rates, seeds), infinite for a miss.

        The first seed is the tuning seed.
        """
        runs = self.runs.query("problem == @problem and optimizer == @optimizer")
        losses = runs.final_loss.where(runs.status == "ok", np.inf).astype(float)
        table = losses.groupby([runs.learning_rate, runs.seed]).first().unstack()
        return table.index.to_numpy(float), table.to_numpy()

    def show(self, console: Console) -> None:
        """Print one table a problem."""
        summary, times = self.summary, self.times
        for name in dict.fromkeys(summary.problem):
            console.print(rich_table(name, self.titles[name], summary, times))
        console.print(LEGEND, style="dim")


def run(
    *,
    solvers: Sequence[str] | None = None,
    problems: Sequence[str] | None = None,
    rates: Sequence[float] | None = None,
    seeds: int | None = None,
    gradients: int | None = None,
    batch_size: int | None = None,
    out: Path | str | None = None,
    full: bool = False,
    max_minutes: float | None = None,
    resume: bool = False,
    devices: int = 1,
    share: Share | None = None,
    console: Console | None = None,
) -> Result:
    """Run solvers and baselines over learning rates and seeds at equal gradients.

    The rates of an optimizer are chosen on seed 0 and reported on fresh seeds. All runs of one
    optimizer on one problem are one compiled program. With `digits-mse` among the problems the
    study also traces the sharpness along training and measures orders of accuracy. JAX's
    configuration is as before when it returns; the study itself needs x64.

    Args:
        solvers: Names of zoo optimizers, `sgd`, `momentum`, `adam`.
        problems: Names of `problems.PROBLEMS`; by default `QUICK_PROBLEMS`, or all in a full study.
        rates: Learning rates to try instead of the automatic grid.
        seeds: Fresh seeds that are reported: 3, or 5 in a full study.
        gradients: Gradients each run may spend: 120, or 1800 in a full study.
        batch_size: Examples of a mini-batch, default 64.
        out: Folder for `runs.jsonl`, `summary.csv` and `timings.csv`; by default nothing is
            written.
        full: All explicit and stiff solvers, all problems, more seeds and more gradients.
        max_minutes: Start nothing new after this time; `resume` makes the rest.
        resume: Continue what a stopped or killed study left in `out`.
        devices: Devices of this process that the runs are dealt out to. Changes no result.
        share: `(i, n)`: of the pairs of problem and optimizer only every n-th, from the i-th on,
            so that n processes make the study in one folder. No summary is written; `resume`
            without a share puts all together when the shares are done, and makes what they lack.
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
    if share is not None and out is None:
        raise ValueError("share= needs out=, the folder that the shares have in common.")
    where = local_devices(devices)
    settings = Settings.of(
        solvers=solvers,
        problems=problems,
        rates=rates,
        seeds=seeds,
        gradients=gradients,
        batch_size=batch_size,
        full=full,
    )
    deadline = begin + 60 * max_minutes if max_minutes is not None else np.inf
    with jax.enable_x64(True):
        built = build(settings.problems, settings.batch_size)
        path = None if out is None else Path(out)
        folder = Folder(path, settings.as_dict(), resume, console.print, share)
        study = _Study(settings, built, folder, deadline, where)
        study.run(console)
    seconds = time.perf_counter() - begin
    titles = {problem.name: problem.title for problem in built}
    result = Result([*folder.records, *study.late], settings.as_dict(), seconds, titles)
    if path is not None and share is None:
        write_text(path / "summary.csv", result.summary.to_csv(index=False, float_format="%.6g"))
        write_text(path / "timings.csv", result.times.to_csv(index=False, float_format="%.6g"))
    return result


class _Study:
    """The work of one call of `run`: what is to do, in which order, and until when."""

    def __init__(
        self,
        settings: Settings,
        problems: list[Problem],
        folder: Folder,
        deadline: float,
        devices: list[jax.Device],
    ) -> None:
        self.settings, self.problems, self.folder = settings, problems, folder
        self.deadline, self.devices = deadline, devices
        self.seeds = [TUNING_SEED, *range(1, settings.seeds + 1)]
        self.late: list[Record] = []
        self.versions = versions()

    def run(self, console: Console) -> None:
        for problem in self.problems:
            self._spectrum(problem)
        tasks: list[tuple[str, float, Callable[[], None]]] = []
        entries = self.settings.entries()
        for place, problem in enumerate(self.problems):
            cost = estimate.calibrate(problem)
            own = [e for i, e in enumerate(entries) if self.folder.mine(place * len(entries) + i)]
            for entry in own:
                sweep = _PairSweep(self, problem, entry)
                tasks.append((sweep.name, sweep.estimate(cost), sweep.run))
            if problem.name == "digits-mse":
                for entry in own:
                    tasks += extras.tasks(problem, entry, self.sharpness(problem), self.folder)
        total = sum(seconds for _, seconds, _ in tasks)
        console.print(
            f"{len(tasks)} steps of work, estimated at {estimate.spoken(total)} on this machine "
            "(measured on one gradient of each problem; figures and report come on top)."
        )
        columns = (TextColumn("{task.description:34}"), BarColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
            bar = progress.add_task("", total=total)
            for name, seconds, work in tasks:
                progress.update(bar, description=name)
                work()
                progress.advance(bar, seconds)
        if self.late:
            console.print(
                f"--max-minutes is over: {len(self.late)} runs were not made and count as "
                "time-outs; --resume makes them."
            )

    def sharpness(self, problem: Problem) -> float:
        spectra = [record for record in self.folder.records if record["kind"] == "spectrum"]
        stored = {record["problem"]: record["eigenvalues"] for record in spectra}
        return float(stored[problem.name][-1])

    def _spectrum(self, problem: Problem) -> None:
        about = {"kind": "spectrum", "suite": SUITE, "problem": problem.name}
        if not any(about.items() <= record.items() for record in self.folder.records):
            values = eigenvalues(problem, TUNING_SEED)
            self.folder.add([{**about, "seed": TUNING_SEED, "eigenvalues": values}])


class _PairSweep:
    """All runs of one optimizer on one problem, and its limit where the problem is quadratic."""

    def __init__(self, study: _Study, problem: Problem, entry: Entry) -> None:
        self.study, self.problem, self.entry = study, problem, entry
        self.name = f"{problem.name}, {entry.name}"
        self.gradients = study.settings.gradients
        self.steps = self.gradients // entry.gradients_per_step
        self.about = {"suite": SUITE, "problem": problem.name, "optimizer": entry.name}
        self.sharpness = study.sharpness(problem)
        stored = [r for r in study.folder.records if self.about.items() <= r.items()]
        self.limit_known = any(record["kind"] == "limit" for record in stored)
        self.done = {
            (record["learning_rate"], record["seed"]): record
            for record in stored
            if record["kind"] == "run"
        }
        self.grid = first_grid(entry, self.sharpness, problem.dtype, study.settings.rates)
        self._sweep: Sweep | None = None

    def estimate(self, cost: estimate.Cost) -> float:
        """Seconds that `run` is expected to take."""
        return cost.sweep(len(self._missing(self.grid)) * self.gradients, self.entry)

    def run(self) -> None:
        """Make the runs that are missing until the best rate is bracketed or time is up."""
        if self.problem.quadratic and self.entry.limit and not self.limit_known:
            if time.perf_counter() > self.study.deadline:
                self._give_up(self.grid)
                return
            limit = extras.measured_limit(self._compiled(), self.entry.limit, self.sharpness)
            about = {"kind": "limit", **self.about, "R": self.entry.limit}
            self.study.folder.add([{**about, "measured_limit": limit}])
        grid: Grid | None = self.grid
        while grid is not None:
            missing = self._missing(grid)
            if missing:
                if time.perf_counter() > self.study.deadline:
                    self._give_up(grid)
                    return
                self._compiled().run(missing, ended=functools.partial(self._keep, missing))
                if self._missing(grid):
                    self._give_up(grid)
                    return
            tuning = {rate: self._final(rate, TUNING_SEED) for rate in grid.rates}
            grid = grid.next(tuning)

    def _keep(self, runs: list[tuple[float, int]], index: int, curve: Curve) -> bool:
        """Put a run on disk as it ends; False when there is no time for another one."""
        record = self._record(*runs[index], curve)
        self.study.folder.add([record])
        self.done[runs[index]] = record
        return time.perf_counter() <= self.study.deadline

    def _missing(self, grid: Grid) -> list[tuple[float, int]]:
        runs = [(rate, seed) for rate in grid.rates for seed in self.study.seeds]
        return [key for key in runs if key not in self.done]

    def _final(self, rate: float, seed: int) -> float:
        record = self.done[rate, seed]
        return record["final_loss"] if record["status"] == "ok" else np.inf

    def _compiled(self) -> Sweep:
        if self._sweep is None:
            seeds = self.study.seeds
            slots = max(len(self.grid.rates) * len(seeds), extras.LIMIT_RUNS)
            self._sweep = Sweep(
                self.problem, self.entry, self.steps, seeds, slots, self.study.devices
            )
        return self._sweep

    def _give_up(self, grid: Grid) -> None:
        self.study.late += [self._record(*key, None) for key in self._missing(grid)]

    def _record(self, rate: float, seed: int, curve: Curve | None) -> Record:
        limit, cost = self.entry.limit, self.entry.gradients_per_step
        if self.entry.counted and curve is not None:
            cost = round(curve.spent / max(1, curve.made))
        hyperparameters = {**self.entry.hyperparameters, "batch_size": self.problem.batch_size}
        record = {
            "kind": "run",
            **self.about,
            "hyperparameters": hyperparameters,
            "learning_rate": rate,
            "relative_rate": rate * self.sharpness / limit if limit else None,
            "seed": seed,
            "R": limit,
            "order": self.entry.order,
            "gradients_per_step": cost,
            "sharpness": self.sharpness,
            "versions": self.study.versions,
            "data_checksum": self.problem.checksum,
        }
        outcome: Record = dict.fromkeys(("initial_loss", "final_loss"), None)
        outcome |= {"status": "time-out", "steps": 0, "gradients": 0, "seconds": 0.0}
        outcome |= {"loss": [], "loss_gradients": [], "spikes": 0, "compile_seconds": 0.0}
        if curve is not None:
            outcome = {
                "status": "diverged" if curve.diverged else "ok",
                "steps": int(curve.made),
                "gradients": curve.spent,
                "seconds": curve.seconds,
                "compile_seconds": self._compiled().compile_seconds,
                "initial_loss": curve.loss[0],
                "final_loss": curve.final,
                "loss": curve.loss,
                "loss_gradients": curve.gradients,
                "spikes": curve.spikes,
            }
        return {**record, **outcome}
