"""Tables of the stiff study: gradients and seconds to the target, and what rates do.

Uses pandas; works on records only, so that a stored study gives the same tables.
"""

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
    """One row a problem and optimizer.

    Columns: `problem`, `optimizer`, `rival`, `tuned`; `setting` (rate, memory, or first step,
    chosen on the tuning seed where `tuned`), `tried` and `tuning` (how many settings, and the
    gradients used on them); `reached` of `runs` fresh ones; `gradients` and `seconds` to the
    target, medians over the reported seeds, with `_min` and `_max`, infinite for a miss; `loss`,
    the median final one. Pairs without a fresh run are left out.
    """
    rows = []
    for (problem, optimizer), group in runs_of(results).groupby(PAIR, sort=False):
        mine, tuning = group[group.purpose == "fresh"], group[group.purpose == "tuning"]
        if mine.empty:
            continue
        row: dict[str, Any] = {
            "problem": problem,
            "optimizer": optimizer,
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
        row["loss"] = mine.final_loss.fillna(np.inf).median()
        rows.append(row)
    return races.table(rows, *PAIR, "rival", *COSTS)


def judge(results: Results) -> pd.DataFrame:
    """Every solver against the best rival, one row a problem that has both.

    Columns: `problem`, `optimizer`; and for each of `gradients` and `seconds`: the solver's
    median, that of the rival that needs fewest (`rival_...`), who that is (`..._rival`), the ratio
    (`..._ratio`; NaN where neither arrives), whether it is below 1 (`..._won`), and the p-value of
    a difference (`..._p`: Mann-Whitney, corrected for the problems of the solver by Holm).
    """
    runs, rows = fresh(results).set_index(PAIR), []
    for problem, group in summary(results).groupby("problem", sort=False):
        rivals = group[group.rival.astype(bool)]
        if rivals.empty:
            continue
        for mine in group[~group.rival.astype(bool)].to_dict(orient="records"):
            row: dict[str, Any] = {"problem": problem, "optimizer": mine["optimizer"]}
            for name, column in COSTS.items():
                best = rivals.loc[rivals[name].idxmin()]
                row[name], row[f"rival_{name}"] = mine[name], best[name]
                row[f"{name}_rival"] = best.optimizer if np.isfinite(best[name]) else "none"
                both = np.isinf(mine[name]) and np.isinf(best[name])
                row[f"{name}_ratio"] = np.nan if both else mine[name] / best[name]
                row[f"{name}_won"] = bool(mine[name] < best[name])
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

    Columns: `problem`, `optimizer`; `sensitivity`: the mean over the logarithm of the rate of
    min(median final loss, initial loss), minus the lowest; `share`: the same over that of the first
    of `SENSITIVE`; `best` and `worst` median final loss; `initial` loss; `diverged` of `runs`.
    """
    rows = []
    for (problem, optimizer), group in runs_of(results, "sweep").groupby(PAIR, sort=False):
        loss = group.final.groupby(group.learning_rate).median()
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
    table = races.table(rows, *PAIR, "sensitivity")
    base = table[table.optimizer == SENSITIVE[0]].set_index("problem").sensitivity
    table["share"] = table.sensitivity / table.problem.map(base).astype(float)
    return table


def stable(results: Results) -> pd.DataFrame:
    """Rates by quarter octaves up to the first divergence, one row an optimizer.

    Columns: `optimizer`; `rate`: the largest up to which no seed diverged (NaN where the first
    did); `unstable`: the next one, at which one did; `low` and `high`: the bracket of that limit
    over SGD's; `best` and `gradients`: the rate of the fewest gradients to the target, median over
    the same seeds, and that number: tuned on what it is reported on, for all alike.
    """
    limits, rows = dict[str, tuple[float, float]](), []
    for optimizer, group in runs_of(results, "climb").groupby("optimizer", sort=False):
        limits[str(optimizer)] = races.limit(group)
        medians = group.to_target.groupby(group.learning_rate).apply(_median)
        limit, best = limits[str(optimizer)], float(medians.idxmin())
        low, high = ratio(limit, limits[CLIMBING[0]]) if CLIMBING[0] in limits else (np.nan, np.nan)
        row = {"optimizer": optimizer, "rate": limit[0], "unstable": limit[1]}
        rows.append({**row, "low": low, "high": high, "best": best, "gradients": medians.min()})
    return races.table(rows, "optimizer", "rate", "best", "gradients")


def descent(results: Results) -> pd.DataFrame:
    """Implicit Euler at fixed rates.

    Columns: `problem`, `rate`; `rise`: the largest of the loss in a step, relative, over all seeds
    (negative: it always fell); `loss`: the highest final one; `steps` in all; `runs`.
    """
    made = runs_of(results, "descent").rename(columns={"learning_rate": "rate"})
    # What is stored as null was not finite.
    made = made.assign(rise=made.rise.astype(float), loss=made.final_loss).fillna(
        {"rise": np.inf, "loss": np.inf}
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
