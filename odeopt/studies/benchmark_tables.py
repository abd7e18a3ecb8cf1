"""Tables of the benchmark, of its records: losses, the best rivals, wrong constants."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .benchmark_problems import CONTESTS, HELD_OUT
from .engine import Results
from .engine.problem import metric_in
from .engine.races import PAIR, frame, gradients_to_target, table
from .engine.ratios import INCOMPARABLE, negative
from .engine.statistics import holm, pairs, profile_score
from .engine.tuner import TUNING_SEED

QUESTION = "untuned"
"""The optimizer that the study asks about."""
WITHOUT_NOISE = "log_time_soap"
"""The one that it asks about besides, where every gradient is that of all data."""
LEVEL = 1.1
"""The ratio of two losses up to which they count as level."""
STEADY = 1.2
"""The most that this may raise a loss by, to count as a constant that does not matter."""
MEASURES = ("loss", "validation", "validation accuracy", "test", "test accuracy")


def score(record: Mapping[str, Any]) -> tuple[float, str]:
    """What decides, and where it is read out: the better of last iterate and running mean.

    Infinite for a miss.
    """
    ends = pd.Series({read: end[record["criterion"]] for read, end in record["ends"].items()})
    ends = ends.astype(float).replace([-np.inf, np.nan], np.inf)  # what is not finite
    read = ends.idxmin()
    return (np.inf if record["status"] == "diverged" else ends[read]), read


def runs_of(results: Results) -> pd.DataFrame:
    """One row a run, with `score`, infinite for a miss, `MEASURES`, and the first `metric`.

    Whether a rival is read out at its last iterate or at the running mean is chosen on the tuning
    seed, with its rate.
    """
    runs = frame(results.records)
    if runs.empty:
        return runs.assign(score=[], tuned=[], factor=[])
    reads = {
        pair: min(score(row._asdict()) for row in group.itertuples())[1]
        for pair, group in runs[runs.seed == TUNING_SEED].groupby(PAIR)
    }
    ends = pd.DataFrame(
        (_named(r.ends[reads.get((r.problem, r.optimizer), "last")]) for r in runs.itertuples()),
        runs.index,
    )
    scores = [ends.loc[i, what] for i, what in runs.criterion.items()]
    scores = pd.Series(scores, runs.index, dtype=float).fillna(np.inf)
    scores[runs.status == "diverged"] = np.inf
    return runs.drop(columns=["loss", "validation"]).join(ends).assign(score=scores)


def _named(end: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured at the end of a run, in columns that no metric's name can take."""
    own = metric_in(end)
    found = {name: value for name, value in end.items() if name in MEASURES}
    return {**found, "metric": end[own]} if own else found


def summary(results: Results) -> pd.DataFrame:
    """One row a problem and optimizer at its chosen rate, untuned ones at factor 1."""
    rows = []
    for (problem, optimizer), group in runs_of(results).groupby(PAIR, sort=False):
        mine = _reported(group)
        if mine.empty:
            continue
        first, measured = mine.iloc[0], [m for m in MEASURES if m in mine]
        own = None if problem in CONTESTS else metric_in(first.ends["last"])
        rows.append(
            {
                "problem": problem,
                "optimizer": optimizer,
                "tuned": bool(first.tuned),
                "group": CONTESTS[problem].group if problem in CONTESTS else "own",
                "held_out": problem in HELD_OUT,
                "criterion": first.criterion,
                "rate": first.learning_rate,
                "rates": group[group.seed == TUNING_SEED].learning_rate.nunique(),
                "score": mine.score.median(),
                "score_low": mine.score.min(),
                "score_high": mine.score.max(),
                **{name: mine[name].median() for name in (*measured, "seconds")},
                **({"metric": mine.metric.median()} if own else {}),
                "memory": first.memory,
                "missed": int(np.isinf(mine.score).sum()),
                "runs": len(mine),
            }
        )
    return table(rows, *PAIR, "tuned", "score", "held_out")


def _reported(runs: pd.DataFrame) -> pd.DataFrame:
    """The fresh runs at the chosen rate, of untuned optimizers at factor 1."""
    return runs[runs.purpose.eq("fresh") & (runs.tuned | runs.learning_rate.eq(1.0))]


def profile(results: Results) -> pd.DataFrame:
    """AlgoPerf's score of every optimizer: gradients until what decides has come down.

    They are counted on the curve of the last iterate, to the target of `races.targets`; medians
    over the fresh seeds; in `with_tuning` those of its tuning runs are added. Problems that an
    optimizer did not run on do not count for it.
    """
    every = frame(results.records)
    runs = _reported(every)
    curves = [np.array(run[run.criterion], float) for _, run in runs.iterrows()]
    ends = np.array([curve[-1] for curve in curves])
    best = runs.assign(
        loss=curves,
        initial_loss=[curve[0] for curve in curves],
        final=np.where(runs.status == "diverged", np.inf, ends),
    )
    costs = gradients_to_target(best, runs.optimizer.unique()).groupby("problem").median()
    ran = runs.groupby(PAIR).size().unstack().reindex(costs.index).notna()
    tuning = every[every.seed == TUNING_SEED].groupby(PAIR).gradients.sum().unstack()
    in_all = costs + tuning.reindex_like(costs).fillna(0)
    rows = [
        {
            "optimizer": one,
            "score": profile_score(costs[ran[one]])[one],
            "with_tuning": profile_score(in_all[ran[one]])[one],
            "arrived": np.isfinite(costs[one]).sum(),
            "problems": ran[one].sum(),
        }
        for one in costs
    ]
    return table(rows, "optimizer", "score", "with_tuning", "arrived", "problems")


def judge(results: Results) -> pd.DataFrame:
    """Every untuned optimizer against the best rival, one row a problem.

    The rival is the tuned one of the lowest median on the reported seeds, which favours it. `low`
    and `high` are the range of the ratio over all pairs of seeds. A problem on which no run has a
    lower loss than at its start is left out. Ratios are NaN where a loss is below zero.
    """
    runs, rows = runs_of(results), list[dict[str, Any]]()
    reported, below = _reported(runs), _below_zero(runs)
    finals = reported.set_index(PAIR).score
    improved = {*reported[reported.final_loss < reported.initial_loss].problem}
    for problem, group in results.table("summary").groupby("problem", sort=False):
        rivals = group[group.tuned.astype(bool)]
        if rivals.empty or problem not in improved:
            continue
        best, comparable = rivals.loc[rivals.score.idxmin()], problem not in below
        size = 1.0 if comparable else np.nan
        theirs = finals.loc[[(problem, best.optimizer)]].to_numpy()
        for _, row in group[~group.tuned.astype(bool)].iterrows():
            mine = finals.loc[[(problem, row.optimizer)]].to_numpy()
            compared, level = pairs(mine, theirs), row.score <= LEVEL * best.score
            ends = (row.score, best.score), (mine.min(), theirs.max()), (mine.max(), theirs.min())
            with np.errstate(divide="ignore", invalid="ignore"):  # of two misses, or zeros, NaN
                ratio, low, high = (size * np.divide(*both) for both in ends)
            rows.append(
                {
                    **row[["problem", "optimizer", "group", "held_out", "criterion"]],
                    "rival": best.optimizer,
                    "score": row.score,
                    "rival_score": best.score,
                    "comparable": comparable,
                    **({} if comparable else {"note": INCOMPARABLE}),
                    "ratio": ratio,
                    "level": comparable and bool(level and np.isfinite(row.score)),
                    "ahead": bool(row.score < best.score),
                    "share": compared.share,
                    "p": compared.p,
                    "low": low,
                    "high": high,
                    "accuracy": row.get("validation accuracy"),
                    "rival_accuracy": best.get("validation accuracy"),
                    "test": row.get("test"),
                    "rival_test": best.get("test"),
                    "tries": int(rivals.rates.sum()),
                }
            )
    found = table(rows, *PAIR, "rival", "p", "ratio", "level", "ahead", "held_out", "comparable")
    found["comparable"] = found.comparable.astype(bool)
    found["p"] = found.groupby("optimizer").p.transform(holm)
    return found


def _below_zero(runs: pd.DataFrame) -> set[str]:
    """The problems on which a run ended below zero, so that no ratio of losses means anything."""
    grouped = runs.groupby("problem", sort=False)
    return {name for name, g in grouped if negative(g.score, g.initial_loss.abs().max())}


def misled(results: Results) -> pd.DataFrame:
    """What a wrong constant or horizon does to the untuned optimizer, one row a problem.

    Problems with a loss below zero are left out. What is not known is NaN, the `worst` then too.
    """
    runs, rows = runs_of(results), list[dict[str, Any]]()
    runs = runs[~runs.problem.isin(_below_zero(runs))]
    for problem, group in runs[~runs.tuned.astype(bool)].groupby("problem", sort=False):
        scores = group.groupby(["optimizer", "learning_rate"]).score.median()
        mine = scores.get(QUESTION, pd.Series(dtype=float)).sort_index()
        if len(mine) < 3:
            continue
        base = mine.iloc[1]
        found = {"third": mine.iloc[0], "triple": mine.iloc[2]}
        for what in ("half", "twice", "nothing"):
            found[what] = scores.get((f"{QUESTION}, told {what}", 1.0), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):  # of two misses, or zeros, NaN
            row = {what: np.divide(value, base) for what, value in found.items()}
        worst = float(np.max([row[what] for what in ("third", "triple", "half", "twice")]))
        steady = None if np.isnan(worst) else worst <= STEADY
        rows.append({"problem": problem, **row, "worst": worst, "steady": steady})
    return table(rows, "problem", "worst", "steady")
