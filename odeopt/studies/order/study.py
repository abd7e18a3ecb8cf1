"""The work of the study, task by task, and its result."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from rich.console import Console

from ..engine.study import versions
from ..folder import Folder
from ..names import lookup
from ..problems import SUITE
from ..records import Record
from ..tasks import Task, console_table, work, write_tables
from . import epochs, rest

QUICK_SEEDS, FULL_SEEDS = 40, 200
NETWORK = "network"
CHANCE = 0.01
"""Two samples with a p-value below it count as different."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What the study found.

    Attributes:
        records: Every measurement, of the kinds "rest", "order" and "network".
        settings: The choices it was made with.
        seconds: Wall time of this call, compilation included.
        titles: One line about each problem.
    """

    records: list[Record]
    settings: dict[str, Any]
    seconds: float
    titles: dict[str, str]

    def of_kind(self, kind: str) -> list[Record]:
        """Some of the records."""
        return [record for record in self.records if record["kind"] == kind]

    @functools.cached_property
    def rest(self) -> pd.DataFrame:
        """One row a convex problem and method; columns as `rest.summarize` says."""
        return rest.summarize(self.of_kind("rest"))

    @property
    def orders(self) -> pd.DataFrame:
        """One row a splitting: its order for the flow of all data, expected and observed."""
        return pd.DataFrame(self.of_kind("order"), columns=["splitting", "order", "observed"])

    @property
    def networks(self) -> pd.DataFrame:
        """One row an optimizer; columns as `epochs.compare` says."""
        return epochs.compare(self.of_kind("network"))

    @property
    def answer(self) -> list[str]:
        """Sentences that say what the tables say, and nothing else."""
        found: list[str] = []
        for problem in dict.fromkeys(self.rest.get("problem", [])):
            mine = self.rest[self.rest["problem"] == problem].set_index("method")
            least = [
                min(r["least distance"])
                for r in self.of_kind("rest")
                if (r["problem"], r["method"]) == (problem, "forward")
            ]
            found += _rest_sentences(problem, mine, least[0])
        if len(self.orders):
            each = ", ".join(f"{r.splitting} {r.observed:.2f}" for r in self.orders.itertuples())
            found.append(f"Order of epochs for the flow of all data: {each}.")
        return found + _network_sentences(self.networks)

    def show(self, console: Console) -> None:
        """Print the tables that there are, and the answer."""
        tables = {
            "Rest, and what it costs": self.rest,
            "Epochs as a splitting": self.orders,
            "Networks, palindromic over reshuffled": self.networks,
        }
        for title, table in tables.items():
            if len(table):
                console.print(console_table(title, table))
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
    """Let batches act in several orders, and measure rest, loss and cost.

    Linear and softmax regression with weight decay: forward, backward (full, windows of 8 and 64,
    bracket and linearized forms), palindromic, reshuffled, averaged. Then the order of palindromic
    epochs as a splitting method, and digits networks with momentum and Adam, palindromic against
    reshuffled. JAX's configuration is as before when it returns; the study itself needs x64.

    Args:
        problems: Of `regression`, `softmax`, `network`; all by default.
        seeds: Runs of each method on the convex problems: 40, or 200 in a full study. (Networks
            have five.)
        out: Folder for `runs.jsonl`, `rest.csv`, `orders.csv` and `networks.csv`; by default
            nothing is written.
        full: More seeds.
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
    if seeds < 2:
        raise ValueError(f"--seeds must be at least 2, not {seeds}.")
    known: dict[str, Callable[[], Any]] = {**rest.PROBLEMS, NETWORK: epochs.network}
    names = tuple(dict.fromkeys(problems or known))
    makers = {name: lookup("problem", name, known) for name in names}
    settings = {
        **{"study": "order", "suite": SUITE, "problems": names, "seeds": seeds},
        **{"full": full, "versions": versions()},
    }
    path = None if out is None else Path(out)
    with jax.enable_x64(True):
        built = {name: make() for name, make in makers.items()}
        folder = Folder(path, settings, resume, console.print)
        records = work(tasks(built, seeds), folder, console)
    titles = {name: problem.title for name, problem in built.items()}
    result = Result(records, settings, time.perf_counter() - begin, titles)
    if path is not None:
        tables = {"rest": result.rest, "orders": result.orders, "networks": result.networks}
        write_tables(path, tables)
    return result


def tasks(problems: dict[str, Any], seeds: int) -> list[Task]:
    """Everything that is measured."""
    found: list[Task] = []
    for name, problem in problems.items():
        if name == NETWORK:
            continue
        for method in rest.METHODS:
            found.append(
                (f"{name}, {method}", functools.partial(_rest, name, problem, method, seeds))
            )
    if "regression" in problems:
        found.append(("order of epochs", lambda: epochs.orders(problems["regression"])))
    if NETWORK in problems:
        for optimizer in epochs.OPTIMIZERS:
            for order in epochs.ORDERS:
                make = functools.partial(epochs.train, optimizer, order)
                found.append((f"network, {optimizer}, {order}", make))
    return found


def _rest(name: str, problem: rest.Convex, method: str, seeds: int) -> list[Record]:
    return [{**record, "problem": name} for record in rest.run(problem, method, seeds)]


def _rest_sentences(problem: str, mine: pd.DataFrame, least: float) -> list[str]:
    full, forward = mine.loc["backward, full"], mine.loc["forward"]
    average, long = mine.loc["averaged"], mine.loc["averaged, equal gradients"]
    windows = ", ".join(
        f"{row['distance']:.2g} with {name.removeprefix('backward, ')} ({row['gradients']} "
        "gradients)"
        for name, row in mine.iterrows()
        if str(name).startswith("backward, window")
    )
    rest_ = (
        f"comes to rest: its distances shrink by {full['rate']:.3f} a step (1 - h wd is "
        f"{1 - rest.RATE * rest.DECAY:g}), to {full['last distance']:.1g}"
        if full["rate"] < 1
        else f"does not come to rest: its last distance is {full['last distance']:.1g}"
    )
    same = "cannot be told from" if full["p"] > CHANCE else "is not distributed like"
    return [
        f"{problem}: backward order {rest_}. Forward distances stay above {least:.2g}. In the mean "
        f"of the last steps, forward ones are {forward['distance']:.2g}, {windows}.",
        f"{problem}: the loss of backward order {same} that of forward order, {_excess(full)} "
        f"above the least against {_excess(forward)} (two-sample p = {full['p']:.2g}), for "
        f"{full['gradients']} gradients against {forward['gradients']}. An average of forward "
        f"iterates has {_excess(average)} for {average['gradients']} gradients, and "
        f"{_excess(long)} for {long['gradients']}.",
    ]


def _excess(row: pd.Series) -> str:
    return f"{row['excess']:.2g} ± {row['error']:.1g}"


def _network_sentences(networks: pd.DataFrame) -> list[str]:
    if networks.empty:
        return []
    each = ", ".join(
        f"{r.optimizer} {r.ratio:.2f} ({r.lowest:.2f} to {r.highest:.2f}, lower in {r.lower} of "
        f"{r.seeds})"
        for r in networks.itertuples()
    )
    clear = networks[(networks["highest"] < 1)]["optimizer"].tolist()
    verdict = (
        f"Palindromic order gains in all seeds with {', '.join(clear)}."
        if clear
        else "With none of them does palindromic order gain in all seeds."
    )
    return [f"Networks, last loss of palindromic over reshuffled: {each}. {verdict}"]
