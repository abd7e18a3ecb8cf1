"""What figures and report read off the runs of a sweep. Uses pandas; works on records only."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .records import Record
from .tables import TUNING_SEED

TARGET = 0.95
"""The share of the way down that counts as arrived: see `targets`."""
PAIR = ["problem", "optimizer"]
ROUNDING = 1e-6
_NUMBERS = (
    *("learning_rate", "relative_rate", "R", "order", "sharpness"),
    *("seconds", "gradients", "initial_loss", "final_loss"),
)
_COLUMNS = (*PAIR, "seed", "status", "gradients_per_step", "loss", "loss_gradients", *_NUMBERS)


def table_of(records: Sequence[Record]) -> pd.DataFrame:
    """The runs among the records; it has its columns also when it is empty."""
    rows = [record for record in records if record["kind"] == "run"]
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype(dict.fromkeys(_NUMBERS, float))


def reported(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs on fresh seeds: the tuning seed only chooses the rate."""
    return runs[runs.seed != TUNING_SEED]


def tuned(runs: pd.DataFrame) -> pd.DataFrame:
    """The reported runs at the rate that did best on the tuning seed, per problem and optimizer."""
    tuning = runs[(runs.seed == TUNING_SEED) & (runs.status == "ok")]
    best = tuning.sort_values(["final_loss", "learning_rate"]).drop_duplicates(PAIR)
    return reported(runs).merge(best[[*PAIR, "learning_rate"]])


def tuned_losses(runs: pd.DataFrame) -> pd.DataFrame:
    """Median final loss at the tuned rate, problems x optimizers; a miss counts as infinity."""
    best = tuned(runs)
    loss = best.final_loss.where(best.status == "ok", np.inf)
    table = loss.groupby([best.problem, best.optimizer]).median().unstack()
    optimizers, problems = runs.optimizer.unique(), runs.problem.unique()
    return table.reindex(index=problems, columns=optimizers).astype(float).fillna(np.inf)


def targets(runs: pd.DataFrame) -> pd.Series:
    """The loss that counts as arrived, per problem: `TARGET` of the way to the best one.

    The way begins at the median initial loss and ends at the lowest median final loss that any
    optimizer has at its tuned rate. A problem on which no optimizer improves has no target.
    """
    end = tuned_losses(runs).min(axis=1)
    begin = reported(runs).groupby("problem").initial_loss.median().reindex(end.index)
    return (end + (1 - TARGET) * (begin - end))[end < begin]


def gradients_to_target(runs: pd.DataFrame) -> pd.DataFrame:
    """Gradients until the loss curve first reaches the target: (problem, seed) x optimizer.

    Infinity for a run that never does, or that is missing.
    """
    goal, best = targets(runs), tuned(runs)
    best = best[best.problem.isin(goal.index)]

    def cost(run: pd.Series) -> float:
        loss = np.array(run.loss, float)
        arrived = np.flatnonzero(loss <= goal[run.problem])
        return run.loss_gradients[arrived[0]] if len(arrived) else np.inf

    costs = best.assign(cost=[cost(run) for _, run in best.iterrows()])
    table = costs.pivot(index=["problem", "seed"], columns="optimizer", values="cost")
    return table.reindex(columns=runs.optimizer.unique()).astype(float).fillna(np.inf)


def performance_profile(cost: pd.DataFrame) -> pd.DataFrame:
    """The share of rows in which a column is within a factor of that row's best.

    Args:
      cost: instances x optimizers; infinity is a miss.

    Returns:
      Factors (index, from 1) x optimizers; every column is non-decreasing and at most 1.
    """
    # A row that everybody misses is infinity over infinity: a miss for everybody.
    ratio = cost.div(cost.min(axis=1), axis=0).fillna(np.inf)
    values = ratio.to_numpy()
    factors = np.unique(np.append(values[np.isfinite(values)], 1.0))
    shares = {name: [(ratio[name] <= f).mean() for f in factors] for name in ratio}
    return pd.DataFrame(shares, index=factors)


def largest_stable(runs: pd.DataFrame) -> pd.DataFrame:
    """Between which rates of the grid the stability limit lies, one row a problem and optimizer.

    Returns:
      Columns `rate`, the largest rate up to which no seed diverged (NaN where the lowest rate
      diverged), `unstable`, the smallest rate at which a seed diverged (infinite where none did),
      and `gradients_per_step`.
    """
    made = runs[runs.status != "time-out"]
    diverged = (made.status == "diverged").groupby([*(made[c] for c in PAIR), made.learning_rate])
    ever = diverged.any().groupby(PAIR).cummax().reset_index(name="diverged")
    found = made.drop_duplicates(PAIR).set_index(PAIR)[["gradients_per_step"]]
    found["rate"] = ever[~ever.diverged].groupby(PAIR).learning_rate.max()
    found["unstable"] = ever[ever.diverged].groupby(PAIR).learning_rate.min()
    return found.assign(unstable=found.unstable.fillna(np.inf))


def _against(mine: pd.DataFrame, other: pd.DataFrame) -> dict[str, float]:
    """The bracket of a ratio of stability limits, from two tables of `largest_stable`, by problem.

    A limit lies between its `rate` and its `unstable`, so the ratio of two limits lies between the
    first `rate` over the second `unstable`, and the first `unstable` over the second `rate`.
    """
    pair = mine.join(other.add_suffix("_0"), how="inner").dropna()
    pair = pair[np.isfinite(pair.unstable_0)]
    found: dict[str, float] = {"problems": len(pair)}
    per_gradient = pair.gradients_per_step_0 / pair.gradients_per_step
    for key, weight in (("step", 1.0), ("gradient", per_gradient)):
        low, high = weight * pair.rate / pair.unstable_0, weight * pair.unstable / pair.rate_0
        found |= {f"{key}_low": low.median(), f"{key}_high": high.median()}
        # Equal rates of two grids may differ by rounding.
        found |= {f"{key}_larger": (low > 1 - ROUNDING).sum()}
        found |= {f"{key}_smaller": (high < 1 + ROUNDING).sum()}
    return found


def compare(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Every optimizer against a baseline, one row an optimizer.

    Returns:
      Columns `solver` (whether it has an order as an ODE solver); `step_low` and `step_high`, the
      bracket of its stability limit over the baseline's, each end the median over the `problems` on
      which some rate of the baseline diverged; `step_larger` and `step_smaller`: on how many of
      these the whole bracket is above or below 1; the same with `gradient`, the limits divided by
      the gradients of a step; `lowest`: on how many problems its tuned median loss is the lowest
      (ties count for each); `below`: on how many it is below the baseline's; `reached` of `pairs`:
      (problem, seed) pairs at the target; `diverged` of `runs`: over all rates and seeds.
    """
    stable, losses, cost = largest_stable(runs), tuned_losses(runs), gradients_to_target(runs)
    finite = losses.where(np.isfinite(losses))
    lowest = finite.eq(finite.min(axis=1), axis=0)
    known = stable.index.get_level_values("optimizer")
    rows = {}
    for name, mine in runs.groupby("optimizer", sort=False):
        row: dict[str, float | bool] = {"solver": bool(mine.order.notna().any())}
        if {name, baseline} <= set(known) and name != baseline:
            row |= _against(*(stable.xs(who, level="optimizer") for who in (name, baseline)))
        row |= {
            "lowest": lowest[name].sum(),
            "below": (losses[name] < losses[baseline]).sum() if baseline in losses else 0,
            "reached": np.isfinite(cost[name]).sum(),
            "pairs": len(cost),
            "diverged": (mine.status == "diverged").sum(),
            "runs": len(mine),
        }
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index")
