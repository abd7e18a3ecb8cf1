"""The work of the study, task by task, and its result."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from rich.console import Console

from ..engine.study import versions
from ..folder import Folder
from ..names import lookup
from ..records import Record
from ..tasks import console_table, doing, records_of, write_tables
from . import mixture, plane

QUICK_ROUNDS, FULL_ROUNDS = 9600, 48000
QUICK_SEEDS, FULL_SEEDS = 5, 10
TUNING_SEED = 0
LAST = 0.25
"""Share of the looks, at the end of a run, that its figures are means over."""
WORKS = 0.5
"""Share of a method's modes at its best rate from which on another rate works as well."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What the study found.

    Attributes:
        records: Every run, of the kinds "plane" and "mixture".
        settings: The choices it was made with.
        seconds: Wall time of this call, compilation included.
    """

    records: list[Record]
    settings: dict[str, Any]
    seconds: float

    @property
    def planes(self) -> pd.DataFrame:
        """One row a game of two numbers and method: how |z| grew, and what is calculated."""
        rows = [record for record in self.records if record["kind"] == "plane"]
        names = ["game", "method", "h", "steps", "cost", "growth", "predicted", "lowest", "highest"]
        return pd.DataFrame(rows, columns=names)

    @functools.cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run of the mixture; see `judge`."""
        return pd.DataFrame([judge(r) for r in self.records if r["kind"] == "mixture"])

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """One row a method of the mixture; see `summarize`."""
        return summarize(self.runs)

    @property
    def answer(self) -> list[str]:
        """Sentences that say what the tables say, and nothing else."""
        return [*_plane_sentences(self.planes), *_mixture_sentences(self.summary)]

    def show(self, console: Console) -> None:
        """Print the tables and the answer."""
        names = ["game", "method", "cost", "growth", "predicted"]
        console.print(console_table("|z| at the end over |z| at the start", self.planes[names]))
        names = ["method", "cost", "rate", "modes", "low", "high", "wobble", "share"]
        shown = self.summary.reindex(columns=names)
        console.print(console_table("Modes of 16, at equal gradients", shown))
        for sentence in self.answer:
            console.print(sentence)


def judge(record: Record) -> dict[str, Any]:
    """The figures of a run: modes covered and share of samples in modes, over its last looks."""
    modes = np.asarray(record["modes"], float)
    last = slice(-max(1, round(LAST * len(modes))), None)
    return {
        **{name: record[name] for name in ("method", "rate", "seed", "rounds")},
        "modes": modes[last].mean(),
        "wobble": modes[last].std(),
        "best": modes.max(),
        "end": modes[-1],
        "share": np.asarray(record["share"], float)[last].mean(),
        "finite": bool(np.all(record["finite"])),
    }


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a method, of its tuned rate over the fresh seeds.

    Columns: cost, rounds of gradients a step; rate, tuned on a seed of its own, and edge, whether
    it is the smallest or largest tried; works, how many of the rates reach half of the modes of the
    best; modes, low, high: mean and range of the seeds; lost, how many fewer than at a run's best;
    wobble, standard deviation over the last looks; share of samples in any mode; diverged runs.
    """
    rows: list[dict[str, Any]] = []
    for method, mine in runs.groupby("method", sort=False) if len(runs) else ():
        fresh = mine[mine["seed"] != TUNING_SEED]
        if fresh.empty:
            continue
        tuning = mine[mine["seed"] == TUNING_SEED]
        rate = fresh["rate"].iloc[0]
        rows.append(
            {
                "method": method,
                "cost": mixture.METHODS[str(method)].cost,
                "rate": rate,
                "edge": bool(rate in (tuning["rate"].min(), tuning["rate"].max())),
                "works": int((tuning["modes"] >= WORKS * max(tuning["modes"].max(), 1)).sum()),
                "modes": fresh["modes"].mean(),
                "low": fresh["modes"].min(),
                "high": fresh["modes"].max(),
                "lost": (fresh["best"] - fresh["modes"]).mean(),
                "wobble": fresh["wobble"].mean(),
                "share": fresh["share"].mean(),
                "diverged": int((~fresh["finite"]).sum()),
                "seeds": len(fresh),
            }
        )
    return pd.DataFrame(rows)


def run(
    *,
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    rounds: int | None = None,
    out: Path | str | None = None,
    full: bool = False,
    max_minutes: float | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> Result:
    """Run games of two numbers, and a GAN of a mixture of 16 Gaussians, by methods for games.

    The GAN's learning rates are tuned, each on one seed, by the modes covered over the last quarter
    of a run; then fresh seeds are run at the tuned rate. All runs take equally many gradients.

    Args:
        methods: Names of `mixture.METHODS`; `mixture.QUICK` by default, all in a full study. The
            games of two numbers, which take seconds, are always run by all of theirs.
        seeds: Fresh seeds of the mixture: 5, or 10 in a full study; one more tunes.
        rounds: Rounds of gradients of each run, one for each player: 9600, or 48000.
        out: Folder for `runs.jsonl`, `planes.csv`, `mixture.csv` and `summary.csv`; by default
            nothing is written.
        full: More rounds, seeds and methods.
        max_minutes: Start nothing new after this time.
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
    rounds = (FULL_ROUNDS if full else QUICK_ROUNDS) if rounds is None else rounds
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {seeds}.")
    if max_minutes is not None and not max_minutes > 0:
        raise ValueError(f"--max-minutes must be positive, not {max_minutes:g}.")
    names = tuple(dict.fromkeys(methods or (mixture.METHODS if full else mixture.QUICK)))
    chosen = {name: lookup("method", name, mixture.METHODS) for name in names}
    least = mixture.LOOKS * max(method.cost for method in chosen.values())
    if rounds < least:
        raise ValueError(
            f"--rounds must be at least {least}, a step between any two looks, not {rounds}."
        )
    settings = {
        **{"study": "games", "methods": names, "seeds": seeds, "rounds": rounds},
        "rates": {name: method.rates for name, method in chosen.items()},
        "versions": versions(),
    }
    path = None if out is None else Path(out)
    folder = Folder(path, settings, resume, console.print)
    deadline = None if max_minutes is None else begin + 60 * max_minutes
    _work(names, seeds, rounds, folder, console, deadline)
    result = Result(records_of(folder), settings, time.perf_counter() - begin)
    if path is not None:
        tables = {"planes": result.planes, "mixture": result.runs, "summary": result.summary}
        write_tables(path, tables)
    return result


def _work(
    names: Sequence[str],
    seeds: int,
    rounds: int,
    folder: Folder,
    console: Console,
    deadline: float | None,
) -> None:
    total = len(plane.GAMES) * len(plane.METHODS) + 2 * len(names)
    with doing(folder, console, total, deadline) as do:
        for game in plane.GAMES:
            for method in plane.METHODS:
                with jax.enable_x64(True):
                    do(f"{game}, {method}", functools.partial(plane.trajectory, game, method))
        for name in names:
            rates = mixture.METHODS[name].rates
            with jax.enable_x64(False):
                train = functools.partial(mixture.train, name, rounds=rounds)
                same = [TUNING_SEED] * len(rates)
                tuning = do(f"mixture, {name}, rates", functools.partial(train, rates, same))
                if tuning is not None:
                    fresh = range(TUNING_SEED + 1, TUNING_SEED + 1 + seeds)
                    same_rate = [tuned(tuning)] * seeds
                    do(f"mixture, {name}, seeds", functools.partial(train, same_rate, fresh))


def tuned(records: Sequence[Record]) -> float:
    """The rate whose run covers most modes over its last looks; among equal ones, most share."""
    table = pd.DataFrame([judge(record) for record in records])
    return float(table.sort_values(["modes", "share"])["rate"].iloc[-1])


def _plane_sentences(planes: pd.DataFrame) -> list[str]:
    sentences = []
    for game, mine in planes.groupby("game", sort=False):
        each = ", ".join(f"{row.method} {row.growth:.3g}" for row in mine.itertuples())
        about = f"h = {mine['h'].iloc[0]:g}, {mine['steps'].iloc[0]} steps"
        sentences.append(f"{game} ({about}), |z| at the end over the start: {each}.")
    known = planes[planes["predicted"].notna()]
    # where eigenvectors are orthogonal, which in turn they are not
    exact = known[known["method"] != "alternating"]
    if len(exact):
        miss = abs(exact["growth"] / exact["predicted"].astype(float) - 1).max()
        sentences.append(
            f"Of the two linear games that is the calculated factor to {miss:.1g}, alternating "
            "aside, whose orbits are ellipses."
        )
    return sentences


def _mixture_sentences(summary: pd.DataFrame) -> list[str]:
    if summary.empty:
        return []
    order = summary.sort_values("modes", ascending=False)
    each = ", ".join(
        f"{row.method} {row.modes:.1f} ({row.low:.1f} to {row.high:.1f})"
        for row in order.itertuples()
    )
    sentences = [
        f"Mixture, modes of {len(mixture.CENTERS)} covered over the last quarter at equal "
        f"gradients, mean and range of {order['seeds'].iloc[0]} seeds at tuned rates: {each}."
    ]
    if "adam" in set(order["method"]) and len(order) > 1:
        adam = order[order["method"] == "adam"].iloc[0]
        others = order[order["method"] != "adam"]
        above = others[others["modes"] > adam["modes"]]["method"]
        apart = others[others["low"] > adam["high"]]["method"]
        sentences.append(
            f"In the mean more modes than Adam: {', '.join(above)}; at every seed more than at any "
            f"of Adam's: {', '.join(apart) or 'none'}."
            if len(above)
            else "None covers more modes than Adam."
        )
    if edge := list(summary[summary["edge"]]["method"]):
        sentences.append(f"The tuned rate is the smallest or largest tried for {', '.join(edge)}.")
    return sentences
