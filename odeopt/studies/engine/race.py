"""A race: the runs of one optimizer on one problem over rates and seeds, each made once."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .optimizers import Entry
from .problem import Problem
from .runner import Curve, Runner
from .steps import refuse_broken
from .store import Record
from .tuner import TUNING_SEED, Grid, Tuned, tune
from .work import Lab, Task, TimeOver


def raced(
    problem: Problem, entry: Entry, work: Callable[..., Any], weight: float, what: str = ""
) -> Task:
    """A task that races an optimizer on a problem, by default under its name.

    One of the user's is tried before any work begins, unless a run is kept: its first step works.
    """

    def check(lab: Lab) -> None:
        if entry.own and not lab.store.has(_pieces("run", problem, entry)):
            refuse_broken(problem, entry)

    return Task(f"{problem.name}, {what or entry.name}", work, weight, problem.x64, check)


def _pieces(kind: str, problem: Problem, entry: Entry) -> str:
    """What the names of their runs begin with."""
    return f"{kind}/{problem.name}/{entry.name}/"


def final(record: Record) -> float:
    """The last loss of a run, infinite for a miss."""
    return float(record["final_loss"]) if record["status"] != "diverged" else float("inf")


class Race:
    """All runs of one optimizer on one problem under one budget of gradients, kept in a lab.

    Args:
        seeds: Seeds that runs may ask for.
        kind: What the records are called.
        about: What every record says besides.
        **options: Of `Runner`: `points`, `target`, `most`.
    """

    def __init__(
        self,
        lab: Lab,
        problem: Problem,
        entry: Entry,
        gradients: int,
        seeds: Sequence[int],
        *,
        kind: str = "run",
        about: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.lab, self.problem, self.entry, self.kind = lab, problem, entry, kind
        self.gradients, self.seeds, self.about = gradients, list(seeds), dict(about or {})
        self._options = {"devices": lab.devices, **options}

    @functools.cached_property
    def runner(self) -> Runner:
        """The compiled program, made when it is first needed."""
        return Runner(self.problem, self.entry, self.gradients, self.seeds, **self._options)

    def runs(
        self, wanted: Iterable[tuple[float, int]], gradients: int | None = None, **about: Any
    ) -> list[Record]:
        """The records of runs given as (learning rate, seed); those not kept already are made.

        `gradients` is a budget instead of the race's own; `about` is what new records say besides.
        Raises `TimeOver` if time is over before all are made.
        """
        pieces = _pieces(self.kind, self.problem, self.entry)
        ids, store = {run: f"{pieces}{run}" for run in wanted}, self.lab.store
        missing = [run for run, name in ids.items() if store.get(name) is None]

        def keep(index: int, curve: Curve) -> bool:
            record = {**self._record(*missing[index], curve), **about}
            store.add(ids[missing[index]], [record])
            return not self.lab.time_is_over

        if missing and not self.lab.time_is_over:
            self.runner.run(missing, gradients, ended=keep)
        found = [store.get(name) for name in ids.values()]
        if None in found:
            raise TimeOver
        return [records[0] for records in found if records]

    def tune(
        self,
        grid: Grid,
        seeds: Sequence[int] = (TUNING_SEED,),
        score: Callable[[Record], float] = final,
        **about: Any,
    ) -> Tuned:
        """Tune the rate on the tuning seed; the other `seeds` are run at every rate too.

        Lowest `score` of a record wins, by default the final loss.
        """

        def evaluate(rates: list[float]) -> list[float]:
            records = self.runs([(rate, seed) for rate in rates for seed in seeds], **about)
            losses = {(r["learning_rate"], r["seed"]): score(r) for r in records}
            return [losses[rate, TUNING_SEED] for rate in rates]

        return tune(evaluate, grid)

    def _record(self, rate: float, seed: int, curve: Curve) -> Record:
        entry, cost = self.entry, self.entry.gradients_per_step
        if entry.counted and curve.made:  # else one step would have broken the budget
            cost = round(curve.used / curve.made)
        return {
            "kind": self.kind,
            "problem": self.problem.name,
            "optimizer": entry.name,
            "hyperparameters": {**entry.hyperparameters, "batch_size": self.problem.batch_size},
            "learning_rate": rate,
            "seed": seed,
            "R": entry.limit,
            "order": entry.order,
            "gradients_per_step": cost,
            **self.about,
            "status": curve.status,
            "steps": curve.made,
            "gradients": curve.used,
            "reached": curve.reached,
            "rise": curve.rise,
            "seconds": curve.seconds,
            "compile_seconds": self.runner.compile_seconds,
            "initial_loss": curve.loss[0],
            "final_loss": curve.final,
            "loss": curve.loss,
            "validation": curve.validation,
            "ends": curve.ends,
            "loss_gradients": curve.gradients,
        }
