"""Tables of the stiff study, of its records: gradients and seconds to the target, and rates."""

from typing import Any

import numpy as np
import pandas as pd

from .engine import Results, races
from .engine.races import PAIR, frame, width
from .engine.statistics import holm, pairs, ratio
from .stiff_runs import CLIMBING, SENSITIVE

COSTS = {"gradients": "to_target", "seconds": "seconds_to_target"}
"""What is compared, and the columns of `runs_of` that hold it."""


def runs_of(results: Results, kind: str = "run") -> pd.DataFrame:
    """One row a run of that kind; a miss costs infinity."""
    runs = frame(results.records, kind)
    for column in ("purpose", "reached", "rival", "tuned", "rise", "steps"):
        runs[column] = runs.get(column)
    arrived = runs.status == "reached"
    runs["to_target"] = runs.reached.astype(float).where(arrived, np.inf)
    runs["seconds_to_target"] = runs.seconds.where(arrived, np.inf)
    return runs


def fresh(results: Results) -> pd.DataFrame:
    """The runs to the target on reported seeds."""
    runs = runs_of(results)
    return runs[runs.purpose == "fresh"]


def summary(results: Results) -> pd.DataFrame:
    """One row a problem and optimizer with a fresh run.

    `setting` is the rate, memory, or first step, chosen on the tuning seed where `tuned`; `tried`
    and `tuning` are how many settings were, and the gradients used on them; `gradients` and
    `seconds` to the target are medians over the reported seeds, infinite for a miss.
    """
    rows = []
    for pair, group in runs_of(results).groupby(PAIR, sort=False):
        mine, tuning = group[group.purpose == "fresh"], group[group.purpose == "tuning"]
        if mine.empty:
            continue
        row = dict(zip(PAIR, pair, strict=True)) | {
            "rival": bool(mine.rival.iloc[0]),
            "tuned": bool(mine.tuned.iloc[0]),
            "setting": mine.learning_rate.iloc[0],
            "tried": len(tuning),
            "tuning": int((tuning.gradients + 1).sum()),
            "reached": int(np.isfinite(mine.to_target).sum()),
            "runs": len(mine),
        }
        for name, column in COSTS.items():
            row[name] = _median(mine[column])
            row[f"{name}_min"], row[f"{name}_max"] = mine[column].min(), mine[column].max()
        rows.append(row | {"loss": mine.final_loss.fillna(np.inf).median()})
    return races.table(rows, *PAIR, "rival", *COSTS)


def judge(results: Results) -> pd.DataFrame:
    """Every solver against the best rival, one row a problem that has both.

    For each of `gradients` and `seconds`: the solver's median, that of the rival that needs fewest
    (`rival_...`), who that is (`..._rival`), the ratio (`..._ratio`; NaN where neither arrives),
    whether it is below 1 (`..._won`), and the p-value of a difference (`..._p`: Mann-Whitney,
    corrected for the problems of the solver by Holm).
    """
    runs, rows = fresh(results).set_index(PAIR), []
    for problem, group in summary(results).groupby("problem", sort=False):
        rival = group.rival.astype(bool)
        for mine in group[~rival].to_dict(orient="records") if rival.any() else ():
            row: dict[str, Any] = {"problem": problem, "optimizer": mine["optimizer"]}
            for name, column in COSTS.items():
                best, own = group.loc[group[name][rival].idxmin()], mine[name]
                row[name], row[f"rival_{name}"] = own, best[name]
                row[f"{name}_rival"] = best.optimizer if np.isfinite(best[name]) else "none"
                with np.errstate(invalid="ignore"):
                    row[f"{name}_ratio"] = np.float64(own) / best[name]
                row[f"{name}_won"] = bool(own < best[name])
                names = [(problem, mine["optimizer"]), (problem, best.optimizer)]
                row[f"{name}_p"] = pairs(*(runs.loc[[key], column] for key in names)).p
            rows.append(row)
    table = races.table(rows, *PAIR, *(f"{name}_p" for name in COSTS))
    for name in COSTS:
        table[f"{name}_p"] = table.groupby("optimizer")[f"{name}_p"].transform(holm)
    return table


def costs(results: Results, column: str) -> pd.DataFrame:
    """Gradients or seconds to the target: (problem, fresh seed) x optimizer."""
    runs = fresh(results)
    table = runs.pivot(index=["problem", "seed"], columns="optimizer", values=column)
    return table.reindex(columns=runs.optimizer.unique()).astype(float).fillna(np.inf)


def sensitivity(results: Results) -> pd.DataFrame:
    """What the rate, or the size of the first step, changes over six decades.

    `sensitivity` is the mean over the logarithm of the rate of min(median final loss, initial
    loss), minus the lowest; `share` is the same over that of the first of `SENSITIVE`, NaN where
    that one came down at no rate.
    """
    rows = []
    for pair, group in runs_of(results, "sweep").groupby(PAIR, sort=False):
        loss = group.final.groupby(group.learning_rate).median()
        initial = float(group.initial_loss.median())
        row = dict(zip(PAIR, pair, strict=True)) | {
            "sensitivity": width(loss, initial)["sensitivity"],
            "best": loss.min(),
            "worst": loss.max(),
            "initial": initial,
            "diverged": int((group.status == "diverged").sum()),
            "runs": len(group),
        }
        rows.append(row)
    table = races.table(rows, *PAIR, "sensitivity")
    base = table[table.optimizer == SENSITIVE[0]].set_index("problem").sensitivity
    table["share"] = table.sensitivity / table.problem.map(base[base > 0]).astype(float)
    return table


def stable(results: Results) -> pd.DataFrame:
    """Rates by quarter octaves up to the first divergence, one row an optimizer.

    `rate` is the largest up to which no seed diverged (NaN where the first did); `low` and `high`
    are the bracket of that limit over SGD's. The rate of the fewest `gradients` to the target,
    `best`, is tuned on the seeds that it is reported on, for all alike.
    """
    runs, rows = runs_of(results, "climb"), list[tuple]()
    base = runs[runs.optimizer == CLIMBING[0]]
    sgd = (np.nan, np.nan) if base.empty else races.limit(base)
    for optimizer, group in runs.groupby("optimizer", sort=False):
        limit, medians = races.limit(group), group.groupby("learning_rate").to_target.apply(_median)
        rows.append((optimizer, *limit, *ratio(limit, sgd), float(medians.idxmin()), medians.min()))
    columns = ["optimizer", "rate", "unstable", "low", "high", "best", "gradients"]
    return pd.DataFrame(rows, columns=columns)


def descent(results: Results) -> pd.DataFrame:
    """Implicit Euler at fixed rates.

    `rise` is the largest of the loss in a step, relative, over all seeds (negative: it always
    fell); `loss` the highest final one.
    """
    made = runs_of(results, "descent").rename(columns={"learning_rate": "rate"})
    # What is stored as null was not finite.
    made = made.assign(
        rise=made.rise.astype(float).fillna(np.inf), loss=made.final_loss.fillna(np.inf)
    )
    found = made.groupby(["problem", "rate"], sort=False)
    return found.agg(
        rise=("rise", "max"), loss=("loss", "max"), steps=("steps", "sum"), runs=("seed", "size")
    ).reset_index()


def left_out(results: Results) -> pd.DataFrame:
    """Who was asked for and did not run: one row a reason."""
    found = races.table(results.kind("left out"), "optimizer", "why", "problem")
    return found.groupby(["optimizer", "why"]).problem.agg(", ".join).reset_index()


def _median(values: pd.Series) -> float:
    """The upper one of the two in the middle: half of infinity would be no number."""
    return float(values.sort_values().iloc[len(values) // 2])
