"""The work of the study, task by task, and its result."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .. import accuracy, spectra
from ..engine.optimizers import Entry, find
from ..engine.problem import Problem
from ..engine.runner import POINTS, Runner
from ..engine.study import versions
from ..folder import Folder
from ..problems import SUITE, build
from ..records import Record, clean, write_text
from . import claims, paths
from .deviations import deviations
from .methods import MOMENTA, SOLVERS, heavy_ball, limited, momentum_of, on_flow_time

QUADRATICS = ("quadratic-diabetes", "quadratic-kappa1e6")
RELATIVE = ("euler", "rk4", "heavy ball 0.9")
"""Methods with different limits, whose curves at equal h * sharpness / R are compared."""

BOUNDARY_STEPS = 150
BOUNDARY_RATES = 2 ** np.arange(-0.25, 2.1, 0.25)
"""In units of R / initial sharpness."""

TRACE_RATES = {"heavy ball 0.9": 0.9}
"""Instead of `spectra.TRACE_RATE`, for a method that does not survive a start above its limit."""
ORDERS = {"euler": 128, "heun": 128, "rk4": 64, "heavy ball 0.5": 128, "heavy ball 0.9": 256}
"""Steps over the path of `accuracy` from which a method is asymptotic."""
MODIFIED_STEPS = 64

Task = tuple[str, Callable[[], list[Record]]]


@dataclasses.dataclass(frozen=True)
class Result:
    """What the study found.

    Attributes:
        records: Every measurement, of the kinds "path", "limit", "boundary", "sharpness", "order".
        seconds: Wall time of this call, compilation included.
        titles: One line about each problem.
        settings: Suite and versions it was made with.
    """

    records: list[Record]
    seconds: float
    titles: dict[str, str]
    settings: dict[str, Any]

    @property
    def claims(self) -> list[claims.Claim]:
        """The claims with their verdicts, computed from the records."""
        return claims.judge(self.records)

    @property
    def deviations(self) -> pd.DataFrame:
        """One row a run; columns as `deviations.deviations` says."""
        return deviations(self.records)

    @property
    def checks(self) -> pd.DataFrame:
        """Every single comparison behind the verdicts: claim, where, value, wanted, holds."""
        return pd.DataFrame(
            {"claim": claim.key, **dataclasses.asdict(check)}
            for claim in self.claims
            for check in claim.checks
        )

    def show(self, console: Console) -> None:
        """Print the claims with their verdicts and figures."""
        console.print(claims.rich_table(self.claims))


def run(
    *,
    out: Path | str | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Result:
    """Measure in which sense a learning rate is a step size.

    Runs Euler, Heun, RK4, momentum and Adam from one initial point over many step sizes on two
    quadratics and on a digits network (400 examples, float64), and compares losses at equal flow
    time with an independent solver of the flow, limits with h * sharpness / R, and errors with
    orders. Takes about a minute and a half on two cores. JAX's configuration is as before when it
    returns; the study itself needs x64.

    Args:
        out: Folder for `runs.jsonl`, `claims.csv`, `checks.csv` and `deviations.csv`; by default
            nothing is written.
        resume: Continue what a killed study left in `out`.
        console: Where to print progress; silent by default.

    Raises:
        ValueError: For a folder that cannot be used.
        records.CorruptRecordsError: If a stored record cannot be read.
    """
    begin = time.perf_counter()
    console = console or Console(quiet=True)
    if resume and out is None:
        raise ValueError("resume=True needs out=, the folder to go on in.")
    path = None if out is None else Path(out)
    settings = {"suite": SUITE, "versions": versions()}
    with jax.enable_x64(True):
        folder = Folder(path, {"study": "equivalence", **settings}, resume, console.print)
        problems = [accuracy.path_problem(), *build(QUADRATICS)]
        _work(tasks(problems), folder, console)
    # One line of the file a task: a kill leaves whole tasks.
    records = [record for line in folder.records for record in line["records"]]
    titles = {problem.name: problem.title for problem in problems}
    result = Result(records, time.perf_counter() - begin, titles, settings)
    if path is not None:
        for name, table in {
            "claims.csv": claims.table(result.claims),
            "checks.csv": result.checks,
            "deviations.csv": result.deviations,
        }.items():
            write_text(path / name, table.to_csv(index=False, float_format="%.6g"))
    return result


def _work(todo: list[Task], folder: Folder, console: Console) -> None:
    done = {line["task"] for line in folder.records}
    console.print(f"{len(todo)} steps of work, about a minute and a half on two idle cores.")
    columns = (TextColumn("{task.description:44}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(todo))
        for name, work in todo:
            progress.update(bar, description=name)
            if name not in done:
                folder.add([{"kind": "task", "task": name, "records": clean(work())}])
            progress.advance(bar)


def tasks(problems: list[Problem]) -> list[Task]:
    """Everything that is measured; the first problem is the network."""
    network = problems[0]
    benches = [_Bench(problem) for problem in problems]
    found: list[Task] = []
    for bench in benches:
        for entry in limited():
            # With .99 a network needs more steps than there is time for.
            if bench.problem.quadratic or entry.name not in ("heavy ball 0.99", "nesterov 0.9"):
                name = f"{bench.problem.name}, {entry.name}"
                found.append((name, _bind(bench.measure, entry)))
    bench = benches[0]
    traced = [*(find(name) for name in SOLVERS), heavy_ball(0.5), heavy_ball(0.9)]
    found += [(f"sharpness along training, {e.name}", _bind(bench.trace, e)) for e in traced]
    found += [(f"order, {name}", _bind(_order, name)) for name in ORDERS]
    found.append(("order, euler on its own flow", _modified_order))
    found.append(("adam, learning rates", lambda: paths.adam_rates(network)))
    found.append(("adam, time constants", lambda: paths.adam_constants(network)))
    return found


def _bind(function: Callable[[Any], list[Record]], argument: Any) -> Callable[[], list[Record]]:
    return lambda: function(argument)


class _Bench:
    """A problem with its sharpness and its flow, which is compiled once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.sharpness = float(spectra.eigenvalues(problem, 0)[-1])
        self.flow = paths.flow_losses(problem)

    def measure(self, entry: Entry) -> list[Record]:
        """Everything about one method that one compiled program can tell."""
        cost = entry.gradients_per_step
        sweep = Runner(self.problem, entry, POINTS * cost, [0], spectra.LIMIT_RUNS)
        assert entry.limit is not None
        about = {
            "problem": self.problem.name,
            "optimizer": entry.name,
            "momentum": momentum_of(entry),
            "R": entry.limit,
        }
        found = []
        if self.problem.quadratic:
            limit = spectra.measured_limit(sweep, entry.limit, self.sharpness)
            found.append({"kind": "limit", **about, "measured_limit": limit})
        else:
            unit = entry.limit / self.sharpness
            curves = sweep.run(
                [(float(x * unit), 0) for x in BOUNDARY_RATES], BOUNDARY_STEPS * cost
            )
            diverged = [curve.diverged for curve in curves]
            rates = {"relative_rates": BOUNDARY_RATES, "diverged": diverged}
            found.append({"kind": "boundary", **about, **rates})
        if not entry.name.startswith("nesterov"):
            found += paths.follow(sweep, self.flow, self.sharpness)
        if entry.name in RELATIVE:
            found += paths.same_relative_steps(sweep, self.sharpness)
        return found

    def trace(self, entry: Entry) -> list[Record]:
        """Sharpness along training, which rises to the method's limit."""
        share = TRACE_RATES.get(entry.name, spectra.TRACE_RATE)
        return [spectra.trace_record(self.problem, entry, self.sharpness, share)]


def _order(name: str) -> list[Record]:
    entries = {entry.name: entry for entry in [*map(find, SOLVERS), *map(heavy_ball, MOMENTA)]}
    entry = entries[name]
    nominal = entry.order or 1
    return [accuracy.order_record(on_flow_time(entry), nominal, ORDERS[name])]


def _modified_order() -> list[Record]:
    entry = dataclasses.replace(find("euler"), name="euler, own flow")
    return [accuracy.order_record(entry, 2, MODIFIED_STEPS, modified=True)]
