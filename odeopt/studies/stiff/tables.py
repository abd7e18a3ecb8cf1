"""Tables of the study: gradients and seconds to the target, and what rates do.

Uses pandas and rich; works on records only, so that a stored study gives the same tables.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from ..engine.races import width
from ..engine.tuner import TUNING_SEED
from ..records import Record
from ..untuned.tables import plain_table
from .work import SENSITIVE, STABLE_ON

COSTS = {"gradients": "to_target", "seconds": "seconds_to_target"}
"""What is compared, and the columns of `runs_of` that hold it."""

ROUNDING = float(np.finfo(np.float32).eps)
"""Of a loss in single precision, relative: two programs may round it differently."""

COLUMNS = (
    *("problem", "optimizer", "rival", "tuned", "purpose", "setting", "seed", "status", "spent"),
    *("seconds", "initial_loss", "final_loss", *COSTS.values()),
)
"""What every table of runs has, an empty one too."""


def runs_of(records: Sequence[Record], kind: str = "run") -> pd.DataFrame:
    """One row a run of that kind; a miss costs infinity."""
    runs = pd.DataFrame([record for record in records if record["kind"] == kind])
    if runs.empty:
        return pd.DataFrame(columns=[*COLUMNS])
    arrived = runs.status == "reached"
    runs["to_target"] = runs.reached.astype(float).where(arrived, np.inf)
    runs["seconds_to_target"] = runs.seconds.astype(float).where(arrived, np.inf)
    return runs


def summarize(records: Sequence[Record]) -> pd.DataFrame:
    """One row a problem and optimizer.

    Returns:
        Columns: `problem`, `optimizer`, `rival`, `tuned`; `setting` (rate, memory, or first step,
        chosen on the tuning seed where `tuned`), `tried` and `tuning` (how many settings, and
        the gradients spent on them); `reached` of `runs` fresh ones; `gradients` and `seconds` to
        the target, medians over the fresh seeds, with `_min` and `_max`, infinite for a miss;
        `loss`, the median final one. Pairs without a fresh run are left out.
    """
    rows = []
    for (problem, optimizer), group in _pairs(runs_of(records)):
        fresh, tuning = group[group.purpose == "fresh"], group[group.seed == TUNING_SEED]
        if fresh.empty:
            continue
        row: dict[str, Any] = {
            "problem": problem,
            "optimizer": optimizer,
            "rival": bool(fresh.rival.iloc[0]),
            "tuned": bool(fresh.tuned.iloc[0]),
            "setting": fresh.setting.iloc[0],
            "tried": len(tuning),
            "tuning": int(tuning.spent.sum()),
            "reached": int(np.isfinite(fresh.to_target).sum()),
            "runs": len(fresh),
        }
        for name, column in COSTS.items():
            row[name] = _median(fresh[column])
            row[f"{name}_min"], row[f"{name}_max"] = fresh[column].min(), fresh[column].max()
        row["loss"] = fresh.final_loss.astype(float).fillna(np.inf).median()
        rows.append(row)
    return _frame(rows, "problem", "optimizer", "rival", *COSTS)


def judge(records: Sequence[Record]) -> pd.DataFrame:
    """Every solver against the best rival, one row a problem that has both.

    Returns:
        Columns: `problem`, `optimizer`; and for each of `gradients` and `seconds`: the solver's
        median, that of the rival that needs fewest (`rival_...`), who that is (`..._rival`), the
        ratio (`..._ratio`; NaN where neither arrives) and whether it is below 1 (`..._won`).
    """
    rows = []
    for problem, group in summarize(records).groupby("problem", sort=False):
        rivals = group[group.rival.astype(bool)]
        if rivals.empty:
            continue
        for mine in group[~group.rival.astype(bool)].to_dict(orient="records"):
            row: dict[str, Any] = {"problem": problem, "optimizer": mine["optimizer"]}
            for name in COSTS:
                best = rivals.loc[rivals[name].idxmin()]
                row[name], row[f"rival_{name}"] = mine[name], best[name]
                row[f"{name}_rival"] = best.optimizer if np.isfinite(best[name]) else "none"
                both = np.isinf(mine[name]) and np.isinf(best[name])
                row[f"{name}_ratio"] = np.nan if both else mine[name] / best[name]
                row[f"{name}_won"] = bool(mine[name] < best[name])
            rows.append(row)
    return _frame(rows, "problem", "optimizer")


def costs(records: Sequence[Record], what: str) -> pd.DataFrame:
    """`gradients` or `seconds` to the target: (problem, fresh seed) x optimizer."""
    runs = runs_of(records)
    fresh = runs[runs.purpose == "fresh"]
    table = fresh.pivot(index=["problem", "seed"], columns="optimizer", values=COSTS[what])
    return table.reindex(columns=fresh.optimizer.unique()).astype(float).fillna(np.inf)


def sensitivity(records: Sequence[Record]) -> pd.DataFrame:
    """What the rate, or the size of the first step, changes over six decades.

    Returns:
        Columns: `problem`, `optimizer`; `sensitivity`: the mean over the logarithm of the rate of
        min(median final loss, initial loss), minus the lowest; `share`: the same over that of the
        first of `work.SENSITIVE`; `best` and `worst` median final loss; `diverged` of `runs`.
    """
    swept = runs_of(records, "sweep")
    rows = []
    for (problem, optimizer), group in _pairs(swept[swept.purpose == "sensitivity"]):
        # A loss above the start is a divergence, also where it is finite.
        final = group.final_loss.astype(float).where(group.status != "diverged", np.inf)
        loss = final.groupby(group.setting).median()
        initial = float(group.initial_loss.median())
        rows.append(
            {
                "problem": problem,
                "optimizer": optimizer,
                "sensitivity": width(loss, initial)["sensitivity"],
                "best": loss.min(),
                "worst": loss.max(),
                "initial": initial,
                "diverged": int((group.status == "diverged").sum()),
                "runs": len(group),
            }
        )
    table = _frame(rows, "problem", "optimizer", "sensitivity")
    base = table[table.optimizer == SENSITIVE[0]].set_index("problem").sensitivity
    table["share"] = table.sensitivity / table.problem.map(base).astype(float)
    return table


def stable(records: Sequence[Record]) -> pd.DataFrame:
    """Rates by quarter octaves up to the first divergence, one row an optimizer.

    Returns:
        Columns: `optimizer`; `rate`: the largest up to which no seed diverged (NaN where the first
        did); `best` and `gradients`: the rate of the fewest gradients to the target, median over
        the same seeds, and that number: tuned on what it is reported on, for all alike.
    """
    rows = []
    for optimizer, group in runs_of(records, "climb").groupby("optimizer", sort=False):
        diverged = (group.status == "diverged").groupby(group.setting).any().cummax()
        medians = group.to_target.groupby(group.setting).apply(_median)
        rows.append(
            {
                "optimizer": optimizer,
                "rate": diverged[~diverged].index.max() if (~diverged).any() else np.nan,
                "best": float(medians.idxmin()),
                "gradients": medians.min(),
            }
        )
    return _frame(rows, "optimizer", "rate", "best", "gradients")


def descent(records: Sequence[Record]) -> pd.DataFrame:
    """Implicit Euler at fixed rates.

    Returns:
        Columns: `problem`, `rate`; `rise`: the largest of the loss in a step, relative, over all
        seeds (negative: it always fell); `loss`: the highest final one; `steps` in all; `runs`.
    """
    made = runs_of(records, "descent")
    rows = []
    for (problem, rate), group in made.groupby(["problem", "setting"], sort=False):
        rows.append(
            {
                "problem": problem,
                "rate": rate,
                # what is not finite is stored as null
                "rise": group.rise.astype(float).fillna(np.inf).max(),
                "loss": group.final_loss.astype(float).fillna(np.inf).max(),
                "steps": int(group.steps.sum()),
                "runs": len(group),
            }
        )
    return _frame(rows, "problem", "rate", "rise")


def answer(records: Sequence[Record]) -> list[str]:
    """Sentences that say what these data say, losses as plainly as wins, and nothing else."""
    return [
        *_race(records),
        *_sensitive(sensitivity(records)),
        *_stable(stable(records)),
        *_descent(descent(records)),
    ] or ["No problem has both a solver and a rival that is done."]


def _race(records: Sequence[Record]) -> list[str]:
    summary = summarize(records)
    tuned = dict(zip(summary.optimizer, summary.get("tuned", ()), strict=False))
    sentences = []
    for name, rows in judge(records).groupby("optimizer", sort=False):
        how = "Tuned as its rivals are" if tuned[name] else "With nothing tuned"
        mine = summary[summary.optimizer == name]
        sentence = (
            f"{how}, {name} reaches the target in {mine.reached.sum()} of {mine.runs.sum()} runs; "
            f"it needs fewer gradients than the best tuned rival on {rows.gradients_won.sum()} of "
            f"{len(rows)} problems, and fewer seconds on {rows.seconds_won.sum()}."
        )
        for what in COSTS:
            behind = [
                f"{r['problem']} ({_behind(r, what)})"
                for r in rows.to_dict(orient="records")
                if not r[f"{what}_won"]
            ]
            if behind:
                sentence += f" Not ahead in {what} on {', '.join(behind)}."
        sentences.append(sentence)
    return sentences


def _behind(row: dict[str, Any], what: str) -> str:
    ratio = row[f"{what}_ratio"]
    if np.isnan(ratio):
        return "nor does any rival arrive"
    rival = row[f"{what}_rival"]
    return f"does not arrive, {rival} does" if np.isinf(ratio) else f"{ratio:.2g} times {rival}'s"


def _sensitive(table: pd.DataFrame) -> list[str]:
    sentences = []
    for row in table[table.optimizer != SENSITIVE[0]].itertuples():
        if np.isnan(row.share):
            continue
        base = table[(table.problem == row.problem) & (table.optimizer == SENSITIVE[0])].iloc[0]
        sentences.append(
            f"On {row.problem}, over six decades of the first step, the sensitivity of "
            f"{row.optimizer} is {row.share:.2g} of that of {SENSITIVE[0]} to its rate; "
            f"{row.diverged} of {row.runs} runs diverge, {base.diverged} of {base.runs} of "
            f"{SENSITIVE[0]}'s. The best loss is {text(row.best)} against {text(base.best)}."
        )
    return sentences


def _stable(table: pd.DataFrame) -> list[str]:
    table = table.set_index("optimizer")
    if not {"sgd", "rkc"} <= set(table.index):
        return []
    sgd, rkc = table.loc["sgd"], table.loc["rkc"]
    return [
        f"On {STABLE_ON} the largest stable rate of rkc is {rkc.rate / sgd.rate:.3g} times that of "
        f"sgd; each at the best of these rates, it needs {rkc.gradients / sgd.gradients:.2g} of "
        "sgd's gradients to the target."
    ]


def _descent(table: pd.DataFrame) -> list[str]:
    return [
        f"On {problem} implicit_euler at fixed rates from {rows.rate.min():g} to "
        f"{rows.rate.max():g} takes {rows.steps.sum()} steps in {rows.runs.sum()} runs; "
        + (
            "the loss rises in none of them by more than its rounding."
            if (rows.rise <= ROUNDING).all()
            else f"the largest rise of the loss in a step is {rows.rise.max():.2g} of it."
        )
        for problem, rows in table.groupby("problem", sort=False)
    ]


def problem_table(problem: str, title: str, summary: pd.DataFrame) -> Table:
    """The rows of one problem for a terminal of 80 columns, the fewest gradients first."""
    headings = ("optimizer", "setting", "gradients", "range", "seconds", "reached", "loss")
    table = plain_table(f"{problem}: {title}", *headings)
    rows = summary[summary.problem == problem].sort_values(["gradients", "loss"], kind="stable")
    for row in rows.itertuples():
        name = row.optimizer if row.rival else f"[bold]{row.optimizer}[/]"
        table.add_row(
            name,
            text(row.setting) if row.tuned else "untuned",
            text(row.gradients),
            f"{text(row.gradients_min)}..{text(row.gradients_max)}",
            text(row.seconds),
            f"{row.reached}/{row.runs}",
            text(row.loss),
        )
    return table


def sensitivity_table(table: pd.DataFrame) -> Table:
    """What rates and first steps do, for a terminal of 80 columns."""
    headings = ("problem", "optimizer", "sensitivity", "of sgd's", "best", "worst", "diverged")
    shown = plain_table("Final loss over rates, or first steps, from 1e-3 to 1e3", *headings)
    for row in table.itertuples():
        shown.add_row(
            row.problem,
            row.optimizer,
            text(row.sensitivity),
            text(row.share),
            text(row.best),
            "diverged" if np.isinf(row.worst) else text(row.worst),
            f"{row.diverged}/{row.runs}",
        )
    return shown


LEGEND = (
    "setting: rate, or memory of lbfgs, tuned on seed 0. gradients, seconds: to the target, "
    "medians of the fresh seeds, and their range; a miss is infinity. Products count 2, losses of "
    "a line search or a control 1, linear algebra nothing: the seconds see it. loss: final, median."
)
"""What the columns of the tables mean."""


def text(value: Any) -> str:
    """A number of three digits, whole from a hundred on."""
    if value is None or np.isnan(value):
        return "-"
    if np.isinf(value):
        return "miss"
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def _pairs(runs: pd.DataFrame) -> Any:
    return runs.groupby(["problem", "optimizer"], sort=False)


def _median(values: pd.Series) -> float:
    """The upper one of the two in the middle: half of infinity would be no number."""
    return float(values.sort_values().iloc[len(values) // 2])


def _frame(rows: list[dict[str, Any]], *columns: str) -> pd.DataFrame:
    """A table of these rows; without any, one that still has some columns."""
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))
