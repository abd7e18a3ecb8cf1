"""Tables of the stability study, of its records."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .engine import Results, Table, races
from .engine.problem import metric_in
from .engine.verdicts import interval

BASELINES = ("sgd", "euler")  # the first that takes part; they are the same method


def runs_of(results: Results) -> pd.DataFrame:
    """One row a run; `relative_rate` is h * sharpness / R."""
    runs = races.frame(results.records)
    sharpness = runs.get("sharpness", pd.Series(np.nan, runs.index))
    return runs.assign(relative_rate=_relative(runs.learning_rate, sharpness, runs.R))


def _relative(rate: pd.Series, sharpness: pd.Series, limit: pd.Series) -> pd.Series:
    """The rate in units of the stability limit; NaN where nothing curves upwards."""
    return rate.astype(float) * sharpness.where(sharpness > 0) / limit


def baseline_of(runs: pd.DataFrame) -> str:
    """The optimizer that the others are compared with; empty where none takes part."""
    return next((name for name in BASELINES if name in set(runs.optimizer)), "")


def _summary(results: Results) -> pd.DataFrame:
    table = races.summary(runs_of(results))
    known = {(r["problem"], r["optimizer"]): r for r in results.records if r["kind"] == "limit"}
    sharpness = {r["problem"]: r["eigenvalues"][-1] for r in results.records if "eigenvalues" in r}
    pairs = list(zip(table.problem, table.optimizer, strict=True))
    limits = [known.get(pair, {}).get("measured_limit") for pair in pairs]
    table.insert(4, "measured_limit", pd.Series(limits, dtype=float))
    table.insert(8, "sharpness", table.problem.map(sharpness))
    relative = _relative(table.best_rate, table.sharpness, table.R)
    table.insert(10, "best_relative_rate", relative)
    return table.merge(_held_out(results, list(table)), how="left", on=races.PAIR)


def _held_out(results: Results, taken: Sequence[str]) -> pd.DataFrame:
    """Medians of what is measured on validation data, at tuned rates.

    `metric` is the first that the problem has. One whose name is `taken` by another column is
    called "metric" and that name.
    """
    best = races.tuned(runs_of(results)).reset_index(drop=True)
    ends = [ends["last"] for ends in best.get("ends", [])]
    found = pd.DataFrame(ends, index=best.index).drop(columns="loss", errors="ignore").astype(float)
    found = found.rename(columns={name: f"metric {name}" for name in found if name in taken})
    own = [end.get(metric_in(end) or "") for end in ends]
    if any(value is not None for value in own):
        found["metric"] = np.array(own, float)
    return found.groupby([best[key] for key in races.PAIR]).median().reset_index()


def _comparison(results: Results) -> pd.DataFrame:
    runs = runs_of(results)
    table = races.compare(runs, baseline_of(runs))
    for key in ("step", "gradient"):
        if f"{key}_low" in table:
            ends = zip(table[f"{key}_low"], table[f"{key}_high"], strict=True)
            table[key] = ["–" if pd.isna(low) else interval(low, high) for low, high in ends]
    for part, whole_ in (("reached", "pairs"), ("diverged", "runs")):
        table[f"{part} of {whole_}"] = [f"{r[part]} of {r[whole_]}" for _, r in table.iterrows()]
    return table.reset_index(names="optimizer")


TABLES = (
    Table(
        "comparison",
        "Against the baseline",
        _comparison,
        {
            **races.NAMED,
            "step": (
                "limit, per step",
                "stability limit divided by the baseline's: the interval that the grid allows, "
                "medians over problems",
            ),
            "gradient": ("per gradient", "the same, divided by the gradients of a step"),
            "lowest": ("lowest on", "problems on which its median final loss is the lowest"),
            "below": ("below on", "problems on which its median loss is below the baseline's"),
            "p": (
                "p",
                "of its not being lower on any problem: Mann-Whitney, one-sided, combined over "
                "problems (Fisher), corrected for the number of optimizers (Holm)",
            ),
            "clear": (
                "clearly on",
                "problems, at least, on which it is lower: the same test without the clearest "
                f"problems but one, at {races.SIGNIFICANT:.0%}",
            ),
            "reached of pairs": ("reached", "pairs of problem and seed at the target"),
            "diverged of runs": ("diverged", "runs that end not finite, or above the initial loss"),
        },
        ("optimizer", "step", "gradient", "below", "clear", "diverged of runs"),
        "The rate of a method without R is not a flow time, so a ratio of limits to its limit "
        "says little.",
    ),
    Table(
        "summary",
        "All results",
        _summary,
        races.COLUMNS
        | {
            "validation": ("validation", "loss on validation data at the tuned rate, median"),
            "metric": ("metric", "the problem's own, the first where it has several, median"),
        },
        ("problem", "optimizer", "best_rate", "best_relative_rate", "loss_median", "unstable"),
    ),
    Table("timings", "Seconds", lambda r: races.seconds(runs_of(r)), races.SECONDS),
)
