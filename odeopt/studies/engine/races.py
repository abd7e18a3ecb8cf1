"""What tables read off the records of races, so that a stored study gives the same ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from . import statistics
from .store import Record
from .tuner import TUNING_SEED, bracket, place

TARGET = 0.95
"""The share of the decrease that counts as arrived: see `targets`."""
GOOD = 0.1
"""A rate is good where the loss comes down by all but this share of the best decrease."""
SIGNIFICANT = 0.05
"""The p-value, corrected for their number, below which a difference is called one."""
PAIR = ["problem", "optimizer"]


def frame(records: Sequence[Record], kind: str = "run") -> pd.DataFrame:
    """The runs, one a row, with `final`: the last loss, infinite for a miss."""
    numbers = ["learning_rate", "R", "order", "seconds", "gradients", "initial_loss", "final_loss"]
    rows = [record for record in records if record["kind"] == kind]
    others = "seed", "status", "gradients_per_step", "loss", "loss_gradients", "compile_seconds"
    runs = table(rows, *PAIR, *others, *numbers).astype(dict.fromkeys(numbers, float))
    runs["final"] = runs.final_loss.where(runs.status != "diverged", np.inf).astype(float)
    return runs


def table(rows: Sequence[Mapping[str, Any]], *columns: str) -> pd.DataFrame:
    """A table of these rows; without any, one that still has some columns."""
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def fresh(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs on reported seeds: the tuning seed only chooses the rate."""
    return runs[runs.seed != TUNING_SEED]


def tuned(runs: pd.DataFrame) -> pd.DataFrame:
    """The fresh runs at the rate that did best on the tuning seed, per problem and optimizer."""
    tuning = runs[(runs.seed == TUNING_SEED) & np.isfinite(runs.final)]
    best = tuning.sort_values(["final", "learning_rate"]).drop_duplicates(PAIR)
    return fresh(runs).merge(best[[*PAIR, "learning_rate"]])


def targets(best: pd.DataFrame) -> pd.Series:
    """The loss that counts as arrived, per problem: `TARGET` of the decrease to the best one.

    The decrease begins at the median initial loss and ends at the lowest median final loss that any
    optimizer has in these runs. A problem on which no optimizer improves has no target.
    """
    end = best.groupby(PAIR).final.median().groupby("problem").min()
    begin = best.groupby("problem").initial_loss.median()
    return (end + (1 - TARGET) * (begin - end))[end < begin]


def gradients_to_target(best: pd.DataFrame, optimizers: Sequence[str]) -> pd.DataFrame:
    """Gradients until the loss curve first reaches the target: (problem, seed) x optimizer.

    Infinity for a run that never does, or is missing. `best` are the runs at the rate that each
    optimizer is judged by, such as `tuned`.
    """
    goal = targets(best)
    best = best[best.problem.isin(goal.index)]

    def cost(run: pd.Series) -> float:
        arrived = np.flatnonzero(np.array(run.loss, float) <= goal[run.problem])
        return run.loss_gradients[arrived[0]] if len(arrived) else np.inf

    costs = best.assign(cost=[cost(run) for _, run in best.iterrows()])
    table = costs.pivot(index=["problem", "seed"], columns="optimizer", values="cost")
    return table.reindex(columns=optimizers).astype(float).fillna(np.inf)


def limit(runs: pd.DataFrame) -> tuple[float, float]:
    """Between which rates of these runs the stability limit lies, as `tuner.bracket` says."""
    return bracket((runs.status == "diverged").groupby(runs.learning_rate).any().to_dict())


def compare(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Every optimizer against a baseline, one row an optimizer.

    `step_low` and `step_high` bracket its stability limit over the baseline's, each end the median
    over the `problems` on which some rate of the baseline diverged; the same with `gradient`, the
    limits divided by the gradients of a step. On how many problems its tuned median loss is the
    `lowest`, or `below` the baseline's; `p` is that of its not being lower on any problem
    (`statistics.lower`, corrected for the number of optimizers). On how many problems, at least,
    it is lower at the level `SIGNIFICANT` is `clear`.
    """
    best, optimizers = tuned(runs), runs.optimizer.unique()
    losses = best.groupby(PAIR).final.median().unstack()
    losses = losses.reindex(index=runs.problem.unique(), columns=optimizers).astype(float)
    finite, cost = losses.where(np.isfinite(losses)), gradients_to_target(best, optimizers)
    lowest = finite.eq(finite.min(axis=1), axis=0)
    rows, p = {}, dict[str, list[float]]()
    for name, mine in runs.groupby("optimizer", sort=False):
        row: dict[str, Any] = {"solver": bool(mine.order.notna().any()), "R": mine.R.iloc[0]}
        if baseline in losses and name != baseline:
            row |= _against(runs, str(name), baseline)
            row["below"] = (losses[name] < losses[baseline].fillna(np.inf)).sum()
            each = (best[best.problem == problem] for problem in losses.index)
            p[str(name)] = statistics.lower(
                (one[one.optimizer == name].final, one[one.optimizer == baseline].final)
                for one in each
            )
        row |= {"lowest": lowest[name].sum(), "reached": np.isfinite(cost[name]).sum()}
        row |= {"pairs": len(cost), "diverged": (mine.status == "diverged").sum()}
        rows[name] = {**row, "runs": len(mine)}
    table = pd.DataFrame.from_dict(rows, orient="index")
    if not p:
        return table
    corrected = pd.DataFrame(p).T.apply(statistics.holm)  # a column for each number of problems
    return table.assign(p=corrected[0], clear=(corrected < SIGNIFICANT).sum(axis=1))


def _against(runs: pd.DataFrame, name: str, baseline: str) -> dict[str, Any]:
    """The bracket of a ratio of stability limits: medians over problems."""
    found = []
    for _, one in runs.groupby("problem"):
        mine, other = (one[one.optimizer == which] for which in (name, baseline))
        ends = *limit(mine), *limit(other)
        if np.isfinite([ends[0], *ends[2:]]).all():
            low, high = statistics.ratio(ends[:2], ends[2:])
            weight = other.gradients_per_step.median() / mine.gradients_per_step.median()
            found.append((low, high, weight * low, weight * high))
    names = ("step_low", "step_high", "gradient_low", "gradient_high")
    medians = zip(names, np.median(found, axis=0), strict=True) if found else ()
    return {"problems": len(found), **dict(medians)}


def width(loss: pd.Series, initial: float) -> dict[str, float]:
    """Sensitivity to the learning rate, and the width of its good region in octaves.

    The sensitivity is the mean over the rates of min(loss, initial loss), minus the lowest loss;
    `loss` is the median final loss by rate, ascending on a logarithmic grid.
    """
    capped = loss.clip(upper=initial)
    best = capped.min()
    good = (capped <= best + GOOD * (initial - best)) & (capped < initial)
    if not good.any():
        return {"sensitivity": 0.0, "width_octaves": 0.0}
    stretch = (~good).cumsum()  # of good rates beside each other it is the same
    around = loss.index[good & (stretch == stretch[capped.idxmin()])]
    width = float(np.log2(around[-1] / around[0]))
    return {"sensitivity": float((capped - best).mean()), "width_octaves": width}


def seconds(runs: pd.DataFrame) -> pd.DataFrame:
    """Seconds, one row a problem and optimizer; `SECONDS` says what they mean."""
    whole = runs.assign(whole=runs.seconds.where(runs.status == "ok"))
    found = whole.groupby(PAIR, sort=False).agg(
        compile_seconds=("compile_seconds", "max"),
        seconds=("seconds", "sum"),
        seconds_per_gradient=("gradients", "sum"),
        seconds_per_run=("whole", "median"),
    )
    found["seconds_per_gradient"] = found.seconds / found.seconds_per_gradient.clip(lower=1)
    return found.reset_index()


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a problem and optimizer; `COLUMNS` says what they mean.

    `gradients` are those of a run at the best rate, and `gradients_per_step` the median there, of
    an optimizer whose steps differ in cost. No times: equal runs give equal tables.
    """
    return pd.DataFrame([_row(mine) for _, mine in runs.groupby(PAIR, sort=False)])


def _row(runs: pd.DataFrame) -> dict[str, Any]:
    about, by_rate = runs.iloc[0], runs.sort_values("learning_rate").groupby("learning_rate")
    tuning = by_rate.apply(lambda mine: mine[mine.seed == TUNING_SEED].final.min()).fillna(np.inf)
    medians = by_rate.apply(lambda mine: fresh(mine).final.median())
    best = float(tuning.idxmin())
    found = bool(np.isfinite(tuning[best]))
    at_best = runs[runs.learning_rate == best]
    losses = fresh(at_best).final if found else pd.Series([np.inf])
    cost, (stable, unstable) = round(at_best.gradients_per_step.median()), limit(runs)
    used = at_best.gradients[at_best.status != "diverged"]
    initial = float(fresh(runs).initial_loss.median())
    return {
        "problem": about.problem,
        "optimizer": about.optimizer,
        "order": about.order,
        "R": about.R,
        "R_per_gradient": about.R / cost,
        "gradients_per_step": cost,
        "gradients": int(used.max()) if found and len(used) else None,
        "best_rate": best if found else None,
        "best_rate_per_gradient": best / cost if found else None,
        "best_at": place(tuning.to_dict()) if found else "nowhere",
        "loss_median": losses.median(),
        "loss_min": losses.min(),
        "loss_max": losses.max(),
        "initial_loss": initial,
        **width(medians, initial),
        "rates": len(tuning),
        "runs": len(runs),
        "diverged": int((runs.status == "diverged").sum()),
        "stable": stable,
        "unstable": unstable if np.isfinite(unstable) else None,
    }


NAMED = {"problem": ("problem", "its name"), "optimizer": ("optimizer", "its name")}
"""Headings and meanings of the columns that tables of races have, one or both."""
COLUMNS = {
    **NAMED,
    "order": ("order", "of accuracy as a solver of gradient flow"),
    "R": ("R", "largest stable h·sharpness in theory"),
    "R_per_gradient": ("R per gradient", "R divided by the gradients of a step"),
    "measured_limit": ("measured limit", "the largest stable h·sharpness, to 0.5 %"),
    "best_rate": ("tuned h", "the learning rate with the lowest loss on seed 0"),
    "best_relative_rate": ("h·sharpness/R", "the tuned rate in units of the theoretical limit"),
    "best_at": ("tuned at", "where in the grid the best rate lies"),
    "loss_median": (
        "loss",
        "final loss on all data at the tuned rate: median of the reported seeds",
    ),
    "loss_min": ("lowest", "of the reported seeds"),
    "loss_max": ("highest", "of the reported seeds"),
    "stable": ("stable to", "largest rate such that no seed diverged at it or below"),
    "unstable": ("diverges at", "smallest rate at which a seed diverged"),
    "sensitivity": (
        "sensitivity",
        "mean over log rates of min(loss, initial loss), minus the lowest loss",
    ),
    "width_octaves": (
        "good octaves",
        f"width of the range of rates that lose at most {GOOD:.0%} of the best decrease",
    ),
    "diverged": ("diverged", "runs, over all rates and seeds"),
    "runs": ("of", "runs"),
}
"""Headings and meanings of the columns of `summary`."""
SECONDS = {
    **NAMED,
    "compile_seconds": ("compilation", "of the one program that makes all runs, in seconds"),
    "seconds": ("all runs", "in seconds"),
    "seconds_per_gradient": ("a gradient", "in seconds"),
    "seconds_per_run": ("a run", "median of the runs that were not cut short, in seconds"),
}
"""Headings and meanings of the columns of `seconds`."""
