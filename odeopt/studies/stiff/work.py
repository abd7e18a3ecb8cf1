"""The runs of one optimizer on one problem: which there are to make, and their records."""

import time

import jax
import jax.numpy as jnp

from .. import estimate
from ..engine.problem import Problem
from ..engine.study import versions
from ..engine.tuner import TUNING_SEED
from ..folder import Folder
from ..records import Record
from ..untuned.search import rate_of, tune
from .entries import FIXED, Entry
from .goals import SUITE, Goal
from .runs import Outcome, Runs, Target

SWEPT = 600
"""Gradients of a run that shows what a rate or a first step does."""
DECADES = tuple(range(-3, 4))
"""Rates, and first steps of the controlled step, over six decades."""
SWEPT_SEEDS = 3
FIRST_STABLE = 0.03
"""Where the search for the largest stable rate begins, in units of R: stable for sure."""
QUARTER_OCTAVE = 2**0.25
MOST_CLIMBS = 60

DESCENT_DECADES = tuple(range(-3, 7))
DESCENT_STEPS = 200
DESCENT_ON = ("digits-mse", "digits-ce")
"""Where implicit Euler takes so many steps at fixed rates."""

FIXED_COST = 400
"""More gradients than one of these steps takes."""

SENSITIVE = ("sgd", "linearly_implicit_euler", "exponential_euler")
"""Whose sensitivity to the rate, or to the first step, is compared: on the digits problems."""
LIMITS = {"sgd": 2.0, "rkc": 193.0}
"""Whose largest stable rate is measured, on `STABLE_ON`, and the limit R to begin with."""
STABLE_ON = "digits-mse"


class TimeOver(Exception):
    """There is no time for the next run."""


class Work:
    """Runs of one optimizer on one problem, each made once and kept.

    Args:
        kind: What its records are called.
        problem: The problem.
        entry: The optimizer.
        budget: The most gradients of a run.
        target: Where a run ends.
        folder: Where the records are.
        deadline: When no run is begun any more, on the clock of `time.perf_counter`.
        most: The most steps of a run.
    """

    def __init__(
        self,
        kind: str,
        problem: Problem,
        entry: Entry,
        budget: int,
        target: Target,
        folder: Folder,
        deadline: float,
        most: int | None = None,
    ) -> None:
        self.problem, self.entry, self.budget, self._most = problem, entry, budget, most
        self._target, self._folder, self._deadline = target, folder, deadline
        self.about = {
            "kind": kind,
            "suite": SUITE,
            "problem": problem.name,
            "optimizer": entry.name,
        }
        self.done: dict[tuple[float, int], Record] = {
            (record["setting"], record["seed"]): record
            for record in folder.records
            if self.about.items() <= record.items()
        }
        self._compiled: dict[int | None, Runs] = {}
        self._versions = versions()

    def make(self, setting: float, seed: int, purpose: str, limit: int | None = None) -> Record:
        """The record of a run, which is made unless it is there."""
        if (setting, seed) not in self.done:
            if time.perf_counter() > self._deadline:
                raise TimeOver
            choice = int(setting) if self.entry.choices else None
            if choice not in self._compiled:
                self._compiled[choice] = Runs(
                    self.problem, self.entry, self.budget, self._target, choice, self._most
                )
            runs = self._compiled[choice]
            outcome = runs.run(setting, seed, limit)
            record = self._record(setting, seed, purpose, limit or self.budget, outcome)
            self._folder.add([{**record, "compile_seconds": runs.compile_seconds}])
            self.done[setting, seed] = self._folder.records[-1]
        return self.done[setting, seed]

    def _record(
        self, setting: float, seed: int, purpose: str, limit: int, outcome: Outcome
    ) -> Record:
        return {
            **self.about,
            "rival": self.entry.rival,
            "tuned": self.entry.tuned,
            "purpose": purpose,
            "setting": setting,
            "seed": seed,
            "batch_size": self.problem.batch_size,
            "status": outcome.status,
            "target": outcome.target,
            "limit": limit,
            "reached": outcome.reached,
            "spent": outcome.spent,
            "steps": outcome.steps,
            "seconds": outcome.seconds,
            "initial_loss": outcome.initial,
            "final_loss": outcome.final,
            "rise": outcome.rise,
            "gradients": outcome.gradients,
            "loss": outcome.loss,
            "versions": self._versions,
            "data_checksum": self.problem.checksum,
        }


class Race:
    """Tune on the tuning seed where there is something to tune, then run the fresh seeds."""

    def __init__(
        self,
        problem: Problem,
        goal: Goal,
        optimum: float,
        entry: Entry,
        seeds: int,
        folder: Folder,
        deadline: float,
    ) -> None:
        self.work = Work(
            "run",
            problem,
            entry,
            goal.gradients,
            lambda initial: goal.target(initial, optimum),
            folder,
            deadline,
        )
        self.name, self._seeds = f"{problem.name}, {entry.name}", seeds

    def estimate(self, cost: estimate.Cost) -> float:
        """Seconds that `run` is expected to take, if nothing is done yet."""
        entry = self.work.entry
        # Tuning looks no further than the best so far, and most fresh runs arrive.
        budgets = 2.0 if entry.tuned else 0.3 * entry.weight
        return 4 * cost.compile + (budgets + 0.1 * self._seeds) * self.work.budget * cost.gradient

    def run(self) -> None:
        """Make what is missing."""
        work, entry = self.work, self.work.entry
        if entry.choices:
            setting: float = min(entry.choices, key=self._score)
        else:
            best = tune(lambda q: self._score(self._rate(q)))[0] if entry.tuned else 0
            setting = self._rate(best)
        for seed in range(1, self._seeds + 1):
            work.make(setting, seed, "fresh")

    def _rate(self, quarters: int) -> float:
        return rate_of(self.work.entry.unit, quarters, self.work.problem.dtype)

    def _score(self, setting: float) -> float:
        """Gradients to the target on the tuning seed; a miss is ranked behind by its final loss.

        Once a setting has arrived, no other is given more gradients than that one took.
        """
        tuning = [r for (_, seed), r in self.work.done.items() if seed == TUNING_SEED]
        arrived = [record["reached"] for record in tuning if record["status"] == "reached"]
        limit = min(arrived, default=None)
        record = self.work.make(setting, TUNING_SEED, "tuning", limit)
        if record["status"] == "reached":
            return float(record["reached"])
        if record["status"] == "diverged":
            return float("inf")
        return self.work.budget * (1 + record["final_loss"] / record["initial_loss"])


def _nowhere(initial: jax.Array) -> jax.Array:
    """A target that no loss is at or below."""
    return jnp.full_like(initial, -jnp.inf)


class Sweep:
    """Final losses at equal gradients, over six decades of rates or first steps."""

    def __init__(
        self, problem: Problem, entry: Entry, seeds: int, folder: Folder, deadline: float
    ) -> None:
        self.work = Work("sweep", problem, entry, SWEPT, _nowhere, folder, deadline)
        self.name = f"{problem.name}, sensitivity of {entry.name}"
        self._seeds = range(1, min(seeds, SWEPT_SEEDS) + 1)

    def estimate(self, cost: estimate.Cost) -> float:
        """Seconds that `run` is expected to take, if nothing is done yet."""
        runs = len(DECADES) * len(self._seeds)
        return 4 * cost.compile + runs * SWEPT * cost.gradient * self.work.entry.weight

    def run(self) -> None:
        """Make what is missing."""
        for decade in DECADES:
            for seed in self._seeds:
                rate = float(self.work.problem.dtype(10.0**decade))
                self.work.make(rate, seed, "sensitivity")


class Descent:
    """Implicit Euler at fixed rates over nine decades: does the loss ever rise?"""

    def __init__(self, problem: Problem, seeds: int, folder: Folder, deadline: float) -> None:
        budget = DESCENT_STEPS * (FIXED_COST + 1)
        self.work = Work(
            "descent", problem, FIXED, budget, _nowhere, folder, deadline, DESCENT_STEPS
        )
        self.name = f"{problem.name}, descent of implicit_euler"
        self._seeds = range(1, min(seeds, SWEPT_SEEDS) + 1)

    def estimate(self, cost: estimate.Cost) -> float:
        """Seconds that `run` is expected to take, if nothing is done yet."""
        runs = len(DESCENT_DECADES) * len(self._seeds)
        return 4 * cost.compile + 0.5 * runs * self.work.budget * cost.gradient

    def run(self) -> None:
        """Make what is missing."""
        for decade in DESCENT_DECADES:
            for seed in self._seeds:
                rate = float(self.work.problem.dtype(10.0**decade))
                self.work.make(rate, seed, "descent")


class Climb:
    """Rates by quarter octaves, on all seeds, up to the first at which one of them diverges."""

    def __init__(
        self,
        problem: Problem,
        goal: Goal,
        entry: Entry,
        seeds: int,
        folder: Folder,
        deadline: float,
    ) -> None:
        target = lambda initial: goal.target(initial, 0.0)  # noqa: E731
        self.work = Work("climb", problem, entry, goal.gradients, target, folder, deadline)
        self.name = f"{problem.name}, stable rates of {entry.name}"
        self._seeds = range(1, min(seeds, SWEPT_SEEDS) + 1)

    def estimate(self, cost: estimate.Cost) -> float:
        """Seconds that `run` is expected to take, if nothing is done yet."""
        return 4 * cost.compile + 5 * len(self._seeds) * self.work.budget * cost.gradient

    def run(self) -> None:
        """Make what is missing."""
        rate = FIRST_STABLE * LIMITS[self.work.entry.name]
        for _ in range(MOST_CLIMBS):
            setting = float(self.work.problem.dtype(rate))
            found = [self.work.make(setting, seed, "stable")["status"] for seed in self._seeds]
            if "diverged" in found:
                break
            rate *= QUARTER_OCTAVE
