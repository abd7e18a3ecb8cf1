"""Does a learning rate that needs no tuning keep up with tuned ones?

`run` does the whole study; `odeopt untuned` is the same from a shell.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from .engine import (
    Check,
    Claim,
    Figure,
    Lab,
    Results,
    Study,
    Table,
    Task,
    at_least,
    race_figures,
    races,
)
from .engine.drawing import INK, Plot
from .engine.load import own_optimizers, own_problems
from .engine.optimizers import Entry, contenders
from .engine.problem import Problem
from .engine.races import PAIR, Race, frame
from .engine.statistics import holm, pairs
from .engine.store import Record
from .engine.terminal import cell
from .engine.tuner import TUNING_SEED, Grid
from .names import lookup
from .untuned_problems import PROBLEMS, QUICK_PROBLEMS, SUITE, build
from .untuned_rivals import QUESTION, QUICK_RIVALS, TUNED, untuned

FACTOR = 10.0
"""The most that a first step may change a final loss by, to count as one that does not matter."""
FIRST_STEPS = tuple(range(-8, 5, 2))
"""First steps of an untuned optimizer in quarter decades: 1e-5 to 1e-2 from a default of 1e-3."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide the results.

    Attributes:
        problems: Problems, separated by commas: quadratic-kappa1e4, quadratic-kappa1e6, digits-mse,
            digits-ce, digits-ce-64, digits-ce-8, digits-autoencoder, diabetes-mlp, poisson,
            breast-cancer-32, burgers; your own as my_file.py:problem, made with
            odeopt.studies.Problem.
        rivals: Tuned optimizers, separated by commas: sgd, momentum-.9, momentum-.99, nesterov-.99,
            adam, adam-.98, nadam-.95, schedule-free, prodigy; your own as my_file.py:make, where
            make(h) returns an optax optimizer. The untuned ones always take part.
        seeds: Fresh seeds to report; one more tunes the rates.
        gradients: Gradients of each run.
    """

    problems: tuple[Any, ...] = QUICK_PROBLEMS
    rivals: tuple[Any, ...] = QUICK_RIVALS
    seeds: int = 3
    gradients: int = 500

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", own_problems(self.problems, PROBLEMS))
        object.__setattr__(self, "rivals", own_optimizers(self.rivals))
        at_least(self, seeds=1, gradients=1)
        self.entries()

    def entries(self) -> list[Entry]:
        """The tuned rivals, then the untuned ones."""
        known = (lookup("rival", r, TUNED) if isinstance(r, str) else r for r in self.rivals)
        return contenders([*known, *untuned()])


FULL = {"problems": tuple(PROBLEMS), "rivals": tuple(TUNED), "seeds": 5, "gradients": 2000}


def tasks(settings: Settings) -> list[Task]:
    """Every optimizer on every problem."""
    return [
        Task(
            f"{problem.name}, {one.name}",
            functools.partial(_race, settings, problem, one),
            (10 if one.tuned else len(FIRST_STEPS)) + settings.seeds,
            problem.x64,
        )
        for problem in build(settings.problems)
        for one in settings.entries()
    ]


def _race(settings: Settings, problem: Problem, one: Entry, lab: Lab) -> list[Record]:
    """Tune on the tuning seed, or leave the first step as it is; then run the fresh seeds."""
    seeds, gradients = range(1, settings.seeds + 1), settings.gradients
    about, found = {"tuned": one.tuned}, list[Record]()
    race = Race(
        lab, problem, one, gradients, [TUNING_SEED, *seeds], slots=7, about=about, points=50
    )
    if one.tuned:
        grid = Grid.quarter_decades(one.unit, dtype=problem.dtype)
        tuned = race.tune(grid, purpose="tuning")
        found += race.runs(((rate, TUNING_SEED) for rate in tuned.scores), purpose="tuning")
        rates = [tuned.best]
    else:
        rates = [float(problem.dtype(one.unit * 10 ** (k / 4))) for k in (0, *FIRST_STEPS)]
    found += race.runs(((rates[0], seed) for seed in seeds), purpose="fresh")
    others = [rate for rate in rates if rate != rates[0]]
    return found + race.runs(
        ((rate, seed) for rate in others for seed in seeds), purpose="first step"
    )


def runs_of(results: Results) -> pd.DataFrame:
    """One row a run, with `held_out`, the last loss on held-out data; a divergence is infinity."""
    runs = frame(results.records)
    for column in ("tuned", "purpose", "validation"):
        runs[column] = runs.get(column)
    # What is held out at a divergence is as bad; where nothing is held out, there is nothing.
    last = [row[-1] if row else np.nan for row in runs.validation]
    held = pd.Series(last, runs.index, dtype=float).where(runs.status != "diverged", np.inf)
    return runs.assign(held_out=held.where(runs.validation.astype(bool)))


def summary(results: Results) -> pd.DataFrame:
    """One row a problem and optimizer.

    Columns: `problem`, `optimizer`, `tuned`; `rate` (chosen on the tuning seed; the first step of
    an untuned optimizer) and `rates`, how many were tried; `loss_median`, `loss_min`, `loss_max`,
    `validation_median` (final, fresh seeds, infinite for a divergence); `initial_loss`; `diverged`
    of `runs` fresh ones; `seconds` of a run. Pairs without a fresh run are left out.
    """
    rows = []
    for (problem, optimizer), group in runs_of(results).groupby(PAIR, sort=False):
        mine = group[group.purpose == "fresh"]
        if mine.empty:
            continue
        rows.append(
            {
                "problem": problem,
                "optimizer": optimizer,
                "tuned": bool(mine.tuned.iloc[0]),
                "rate": mine.learning_rate.iloc[0],
                "rates": int((group.seed == TUNING_SEED).sum()),
                **{f"loss_{what}": mine.final.agg(what) for what in ("median", "min", "max")},
                "validation_median": mine.held_out.median(),
                "initial_loss": mine.initial_loss.median(),
                "diverged": int((mine.status == "diverged").sum()),
                "runs": len(mine),
                "seconds": mine.seconds.median(),
            }
        )
    return races.table(rows, *PAIR, "tuned", "loss_median")


def judge(results: Results) -> pd.DataFrame:
    """Every untuned optimizer against the best tuned one, one row a problem.

    Columns: `problem`, `optimizer`; `rival`, the tuned one of the lowest median loss; `loss` and
    `rival_loss`, medians; `ratio` of the two, `ahead` if it is below 1; `share` of the pairs of
    fresh seeds (one of each) in which the untuned one ends lower, and the p-value of a difference,
    `p` (Mann-Whitney, corrected for the problems by Holm); `low` and `high`, the range of the
    ratio over them; `validation`, `rival_validation`, and `lowest_validation` among all tuned ones.
    """
    runs, rows = runs_of(results), []
    finals = runs[runs.purpose == "fresh"].set_index(PAIR).final
    for problem, group in summary(results).groupby("problem", sort=False):
        tuned = group[group.tuned.astype(bool)]
        if tuned.empty:
            continue
        best = tuned.loc[tuned.loss_median.idxmin()]
        theirs = finals.loc[[(problem, best.optimizer)]].to_numpy()
        for row in group[~group.tuned.astype(bool)].itertuples():
            mine = finals.loc[[(problem, row.optimizer)]].to_numpy()
            compared = pairs(mine, theirs)
            rows.append(
                {
                    "problem": problem,
                    "optimizer": row.optimizer,
                    "rival": best.optimizer,
                    "loss": row.loss_median,
                    "rival_loss": best.loss_median,
                    "ratio": row.loss_median / best.loss_median,
                    "ahead": bool(row.loss_median < best.loss_median),
                    "share": compared.share,
                    "p": compared.p,
                    "low": mine.min() / theirs.max(),
                    "high": mine.max() / theirs.min(),
                    "validation": row.validation_median,
                    "rival_validation": best.validation_median,
                    "lowest_validation": tuned.validation_median.min(),
                }
            )
    table = races.table(rows, *PAIR, "p", "ahead")
    table["p"] = table.groupby("optimizer").p.transform(holm)
    return table


def first_steps(results: Results) -> pd.DataFrame:
    """What the size of the first step changes, one row a problem and untuned optimizer.

    Columns: `problem`, `optimizer`; `first_steps`, how many; `loss_low` and `loss_high` of their
    median final losses; `spread`, the ratio; `steady`, whether it is below `FACTOR`; `worst`, the
    first step of the highest.
    """
    runs, rows = runs_of(results), []
    for (problem, optimizer), group in runs[runs.tuned.eq(False)].groupby(PAIR, sort=False):
        losses = group.groupby("learning_rate").final.median()
        if len(losses) < 2:
            continue
        spread = losses.max() / losses.min()
        rows.append(
            {
                "problem": problem,
                "optimizer": optimizer,
                "first_steps": len(losses),
                "loss_low": losses.min(),
                "loss_high": losses.max(),
                "spread": spread,
                "steady": bool(spread < FACTOR),
                "worst": float(losses.idxmax()),
            }
        )
    return races.table(rows, *PAIR, "steady")


def verdict(results: Results) -> str:
    """On how many problems the untuned optimizer is ahead of the best tuned one."""
    table = judge(results)
    if table.empty:
        return "No problem has both a tuned and an untuned optimizer that is done."
    rows = table[table.optimizer == QUESTION]
    ahead, clearly = rows.ahead.astype(bool), (rows.p < 0.05).sum()
    lead = "Yes." if ahead.all() else "On some problems." if ahead.any() else "No."
    text = (
        f"{lead} With nothing tuned, {QUESTION} ends below the best of the tuned optimizers on "
        f"{ahead.sum()} of {len(rows)} problems ({clearly} of the differences are significant, "
        "Holm, 5 %)"
    )
    held = rows[rows.validation.notna()]
    if held.empty:
        return f"{text}."
    return (
        f"{text}; on held-out data it is below that rival on "
        f"{(held.validation < held.rival_validation).sum()} of {len(held)}, and below all tuned "
        f"ones on {(held.validation < held.lowest_validation).sum()}."
    )


def _answer(results: Results) -> list[str]:
    steps, sentences = first_steps(results), []
    for name, rows in judge(results).groupby("optimizer", sort=False):
        behind = [
            f"{r.problem} ({r.ratio:.2g} times the loss of {r.rival})"
            for r in rows.itertuples()
            if not r.ahead
        ]
        text = f"{name} is ahead on {rows.ahead.sum()} of {len(rows)} problems"
        text += f" and behind on {', '.join(behind)}" if behind else ""
        mine = steps[steps.optimizer == name]
        worse = [f"{r.problem} ({r.spread:.2g})" for r in mine.itertuples() if not r.steady]
        if len(mine):
            text += f". First steps from 1e-5 to 1e-2 change its loss less than {FACTOR:.0f} times"
            text += f" on {mine.steady.sum()} of {len(mine)}"
            text += f"; by more on {', '.join(worse)}" if worse else ""
        sentences.append(f"{text}.")
    return sentences


def _checks(table: pd.DataFrame, value: str, wanted: str, holds: str) -> list[Check]:
    mine = table[table.optimizer == QUESTION].to_dict(orient="records")
    return [Check(row["problem"], row[value], wanted, bool(row[holds])) for row in mine]


CLAIMS = (
    Claim(
        "ahead",
        f"With nothing tuned, {QUESTION} ends below the best tuned optimizer.",
        "median final loss of the fresh seeds below that of the rival of the lowest one",
        lambda results: _checks(judge(results), "ratio", "below 1", "ahead"),
    ),
    Claim(
        "steady",
        f"The first step of {QUESTION} does not matter.",
        f"highest over lowest median loss from first steps of 1e-5 to 1e-2 below {FACTOR:.0f}",
        lambda r: _checks(first_steps(r), "spread", f"below {FACTOR:.0f}", "steady"),
    ),
)


def _ratio(results: Results) -> Plot | None:
    table = judge(results)
    if table.empty:
        return None
    problems = list(table.problem.unique())
    plot = Plot(list(table.optimizer.unique()), width=6.5, height=1 + 0.4 * len(problems))
    axes = plot.panel("final loss over that of the best tuned optimizer", "ratio", "")
    for number, (name, rows) in enumerate(table.groupby("optimizer", sort=False)):
        style = plot.style(str(name), linestyle="")
        y = np.array([problems.index(p) for p in rows.problem]) + 0.25 * number
        axes.plot(rows.ratio.replace(np.inf, np.nan), y, **style)
        known = np.isfinite(rows.high) & (rows.low > 0)
        axes.hlines(y[known], rows.low[known], rows.high[known], color=style["color"], lw=1)
    axes.axvline(1, color=INK, linewidth=1)
    axes.set(xscale="log", ylim=(len(problems) - 0.5, -0.5))
    axes.set_yticks(range(len(problems)), problems)
    return plot


def _curves(results: Results, what: str) -> Plot | None:
    runs = runs_of(results)
    shown = runs[(runs.purpose == "fresh") & ((what == "loss") | runs.held_out.notna())]
    return race_figures.curves(shown, list(runs.optimizer.unique()), what)


def _first_step(results: Results) -> Plot | None:
    runs = runs_of(results).query("tuned == False")
    if runs.learning_rate.nunique() < 2:
        return None
    return race_figures.loss_against_rate(runs, "learning_rate", "first step")


def _found_steps(results: Results) -> str:
    rows = first_steps(results)
    each = "; ".join(f"{r.problem}, {r.optimizer} {cell(r.spread, 2)}" for r in rows.itertuples())
    return f"Highest over lowest loss: {each}."


FIGURES = (
    Figure(
        "ratio",
        _ratio,
        "Medians of the fresh seeds; a line spans all pairs of seeds. Left of 1 nothing tuned is "
        "ahead; a line that crosses 1 is a matter of the seed.",
        verdict,
    ),
    Figure(
        "loss",
        lambda results: _curves(results, "loss"),
        "Training loss, each tuned optimizer at its tuned rate: median and range of the fresh "
        "seeds. Look at whether the order at the end was the order on the way.",
        verdict,
    ),
    Figure(
        "validation",
        lambda results: _curves(results, "validation"),
        "The same runs on held-out data. A loss that falls in the figure above and rises here is "
        "overfitting: the race for training loss is then not a race for anything else.",
        verdict,
    ),
    Figure(
        "first_step",
        _first_step,
        "Final loss of the untuned optimizers against the size of their first step: median and "
        "range of the fresh seeds. A flat line has nothing left to tune.",
        _found_steps,
    ),
)

TABLES = (
    Table(
        "verdict",
        "Against the best tuned optimizer of each problem",
        judge,
        {
            **races.NAMED,
            "loss": ("loss", "of the untuned one: final, median of the fresh seeds"),
            "rival": ("best tuned", "the tuned one of the lowest median loss"),
            "rival_loss": ("its loss", "final, median of the fresh seeds"),
            "ratio": ("ratio", "of the two losses; below 1 nothing tuned is ahead"),
            "ahead": ("ahead", "whether the untuned one ends lower"),
            "share": ("pairs of seeds", "the share in which the untuned one ends lower"),
            "p": ("p", "of a difference: Mann-Whitney, Holm over the problems"),
            "validation": ("held out", "median loss of the untuned one on held-out data"),
            "rival_validation": ("of that rival", "on held-out data"),
            "lowest_validation": ("lowest", "of all tuned ones on held-out data"),
        },
        ("problem", "optimizer", "loss", "rival", "rival_loss", "ratio"),
    ),
    Table(
        "first_steps",
        "What the size of the first step changes",
        first_steps,
        {
            **races.NAMED,
            "loss_low": ("lowest loss", "of the medians from different first steps"),
            "loss_high": ("highest", "of these"),
            "spread": ("spread", "highest over lowest"),
            "steady": (f"below {FACTOR:.0f}", "whether the spread is"),
            "worst": ("highest from", "the first step of the highest loss"),
        },
        ("problem", "optimizer", "loss_low", "loss_high", "spread", "worst"),
    ),
    Table(
        "summary",
        "All results",
        summary,
        {
            **races.NAMED,
            "rate": ("rate", "tuned on seed 0; the first step of an untuned optimizer"),
            "rates": ("tried", "rates on seed 0"),
            "loss_median": ("loss", "final, median of the fresh seeds"),
            "loss_min": ("lowest", "of the fresh seeds"),
            "loss_max": ("highest", "of the fresh seeds"),
            "validation_median": ("held out", "median loss on held-out data"),
            "diverged": ("diverged", "fresh runs"),
            "runs": ("of", "fresh runs"),
        },
        ("problem", "optimizer", "rate", "loss_median", "validation_median", "diverged"),
    ),
)


def _method(results: Results) -> Mapping[str, str]:
    settings = results.settings
    return {
        "Cost": f"Every run has {settings.gradients} gradients; a mini-batch gradient counts "
        "as one. The gradients of tuning are not counted.",
        "Tuning": "Seed 0, at a constant rate: half decades around a rate of the optimizer's own, "
        "extended until the best one has both its neighbours, then the quarter decades beside it.",
        "Seeds": f"Seeds 1 to {settings.seeds} are reported. They change the initial point and the "
        "order of the batches, not the split into training and held-out data.",
        "Losses": "On all examples of a kind, at the parameters that the optimizer hands out: an "
        "average where it keeps one. A run that ends above its start counts as infinity.",
        "Problems": "; ".join(problem.spoken for problem in build(settings.problems)),
    }


STUDY = Study(
    name="untuned",
    question="Does a learning rate that needs no tuning keep up with tuned ones?",
    summary="Races log_time_adam as it is against tuned optimizers at equal gradients, and writes "
    "tables, figures and report.html. Three minutes; an hour with --full.",
    settings=Settings,
    full=FULL,
    tasks=tasks,
    verdict=verdict,
    tables=TABLES,
    figures=FIGURES,
    claims=CLAIMS,
    answer=_answer,
    method=_method,
    suite=SUITE,
    page="docs/untuned.md",
)
run = STUDY.run
