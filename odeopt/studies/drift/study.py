"""The work of the study, task by task, and its result."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from rich.console import Console

from ..engine.study import versions
from ..folder import Folder
from ..names import lookup
from ..problems import SUITE, build
from ..records import Record
from ..tasks import Task, console_table, work, write_tables
from . import beyond, paths, trends

QUICK_SEEDS, FULL_SEEDS = 3, 5
ENOUGH = 0.8
"""Share of a trend from which it counts as removed, or restored."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What the study found.

    Attributes:
        records: Every measurement, of the kinds "order", "trajectory", "principal", "edge",
            "epoch" and "trend".
        settings: The choices it was made with.
        seconds: Wall time of this call, compilation included.
        titles: One line about each network.
    """

    records: list[Record]
    settings: dict[str, Any]
    seconds: float
    titles: dict[str, str]

    @property
    def orders(self) -> pd.DataFrame:
        """One row a path and claim: method, order of the flow it follows, expected and observed."""
        rows = [record for record in self.records if record["kind"] == "order"]
        names = ["path", "method", "flow", "order", "observed", "step_sizes", "errors"]
        return pd.DataFrame(rows, columns=names)

    @property
    def runs(self) -> pd.DataFrame:
        """One row a network, variant, rate, flow time and seed; columns as `trends.Bench.run`."""
        return pd.DataFrame(record for record in self.records if record["kind"] == "trend")

    @functools.cached_property
    def verdict(self) -> pd.DataFrame:
        """The trends; columns as `trends.judge` says."""
        return trends.judge(self.runs)

    @property
    def answer(self) -> list[str]:
        """Sentences that say what the tables say, and nothing else."""
        return [*_order_sentences(self.orders), *_trend_sentences(self.verdict)]

    def show(self, console: Console) -> None:
        """Print the observed orders, the trends, and the answer."""
        orders = self.orders.drop(columns=["step_sizes", "errors"])
        console.print(console_table("Error against h", orders))
        console.print(
            console_table("Trends with the rate at equal flow time, %", _ranges(self.verdict))
        )
        for sentence in self.answer:
            console.print(sentence)


def run(
    *,
    problems: Sequence[str] | None = None,
    seeds: int | None = None,
    out: Path | str | None = None,
    full: bool = False,
    resume: bool = False,
    console: Console | None = None,
) -> Result:
    """Compare iterates with flows, and measure what drift does to networks as the rate grows.

    Two paths (two numbers; a digits network) give errors against h: of gradient descent against
    gradient flow and two modified flows, and with counter-term against gradient flow. The
    principal, central and epoch flows are drawn beside iterates of small problems. Then digits
    networks are trained, full batch, to equal flow times at several rates, plainly, with the
    counter-term, and at the smallest rate with the explicit penalty. JAX's configuration is as
    before when it returns; the study itself needs x64.

    Args:
        problems: Names of `trends.FULL`; both by default.
        seeds: Initial points of the networks: 3, or 5 in a full study.
        out: Folder for `runs.jsonl`, `orders.csv`, `trends.csv` and `runs.csv`; by default nothing
            is written.
        full: One smaller rate, one more flow time, more seeds.
        resume: Continue what a killed study left in `out`.
        console: Where to print progress; silent by default.

    Raises:
        ValueError: For an option that makes no sense, or a folder that cannot be used.
        records.CorruptRecordsError: If a stored record cannot be read.
    """
    begin = time.perf_counter()
    console = console or Console(quiet=True)
    if resume and out is None:
        raise ValueError("resume=True needs out=, the folder to go on in.")
    seeds = (FULL_SEEDS if full else QUICK_SEEDS) if seeds is None else seeds
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {seeds}.")
    plans = trends.FULL if full else trends.QUICK
    names = tuple(dict.fromkeys(problems or plans))
    chosen = {name: lookup("problem", name, plans) for name in names}
    settings = {
        **{"study": "drift", "suite": SUITE, "seeds": seeds, "versions": versions()},
        "plans": {name: dataclasses.asdict(plan) for name, plan in chosen.items()},
    }
    path = None if out is None else Path(out)
    with jax.enable_x64(True):
        built = {problem.name: trends.held_out(problem) for problem in build(names)}
        folder = Folder(path, settings, resume, console.print)
        benches = [trends.Bench(built[name], plan, seeds) for name, plan in chosen.items()]
        records = work(tasks(benches), folder, console)
    titles = {name: problem.title for name, problem in built.items()}
    result = Result(records, settings, time.perf_counter() - begin, titles)
    if path is not None:
        tables = {"orders": result.orders, "trends": result.verdict, "runs": result.runs}
        write_tables(path, tables)
    return result


def tasks(benches: Sequence[trends.Bench]) -> list[Task]:
    """Everything that is measured."""
    found: list[Task] = [
        ("trajectories", paths.plane),
        ("principal flow", beyond.directions),
        ("central flow", beyond.edge),
        ("epoch flow", beyond.epochs),
    ]
    found += [(f"orders, {name}", functools.partial(paths.orders, name)) for name in paths.PATHS]
    for bench in benches:
        for variant in trends.VARIANTS:
            for rate in bench.plan.rates:
                name = f"{bench.problem.name}, {variant}, {rate:g}"
                found.append((name, functools.partial(bench.run, variant, rate)))
    return found


def _ranges(verdict: pd.DataFrame) -> pd.DataFrame:
    """The trends in percent, all flow times in one row: lowest to highest."""
    rows = []
    for (problem, quantity, edge), mine in verdict.groupby(
        ["problem", "quantity", "edge"], sort=False
    ):
        row = {"problem": problem, "quantity": quantity, "h·sharpness to": edge}
        for name in ("change", "removed", "by order 3", "restored"):
            row[name] = _range(100 * mine[name])
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["problem", "quantity"], kind="stable")


def _order_sentences(orders: pd.DataFrame) -> list[str]:
    if orders.empty:
        return []
    miss = abs(orders["observed"] - orders["order"])
    right = int((miss < 0.1).sum())
    sentence = (
        f"Of {len(orders)} orders in h, {right} were observed within 0.1; the largest miss is "
        f"{miss.max():.2g}."
    )
    meaning = (
        "Gradient descent follows gradient flow with order 1 and its modified flows with orders 2 "
        "and 3; the counter-term brings it back to gradient flow with order 2, its next term with "
        "order 3, and the wrong sign does not."
    )
    return [sentence, meaning] if right == len(orders) else [sentence]


def _trend_sentences(verdict: pd.DataFrame) -> list[str]:
    sentences = []
    for (problem, quantity), mine in verdict.groupby(["problem", "quantity"], sort=False):
        at_most = mine[mine["largest"] == mine["largest"].max()]
        falls = f"{at_most['falling'].sum()} of {at_most['seeds'].sum()}"
        sentences.append(
            f"{problem}: the {quantity} falls with the rate in {falls} comparisons of a seed and a "
            f"flow time, by {_range(-100 * at_most['change'])} % at the largest rate. "
            f"The counter-term removes {_range(100 * at_most['removed'])} % of that trend "
            f"(with its next term {_range(100 * at_most['by order 3'])} %), the "
            f"explicit penalty restores {_range(100 * at_most['restored'])} %. {_reach(mine)}"
        )
    return sentences


def _reach(mine: pd.DataFrame) -> str:
    """Up to which rate at least `ENOUGH` is removed at every flow time."""
    worst = mine.groupby("edge")["removed"].min().sort_index()
    good = worst[(worst >= ENOUGH).cummin()]
    if good.empty:
        return (
            f"At no rate here is it {100 * ENOUGH:.0f} % at all flow times; the closest is "
            f"{100 * worst.max():.0f} %, up to h·sharpness = {worst.idxmax():.2g}."
        )
    return (
        f"At least {100 * ENOUGH:.0f} % is removed by the first term, at all flow times, up to "
        f"h·sharpness = {good.index[-1]:.2g}."
    )


def _range(values: pd.Series) -> str:
    low, high = (f"{x:.0f}" if abs(x) >= 10 else f"{x:.2g}" for x in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"
