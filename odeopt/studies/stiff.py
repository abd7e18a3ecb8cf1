"""What do solvers for stiff losses gain, in gradients and in seconds to a fixed target?"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from . import stiff_runs as runs
from . import stiff_tables as tables
from .engine import (
    Check,
    Claim,
    Figure,
    Results,
    Study,
    Table,
    compared,
    each,
    groups,
    race_figures,
    races,
)
from .engine.drawing import INK, Plot, log_limits
from .engine.problem import Problem
from .problems import build

ROUNDING = float(np.finfo(np.float32).eps)
"""Of a loss in single precision, relative: two programs may round it differently."""
MATTERS = 0.1
"""A first step matters where its sensitivity is at least this share of that of SGD's rate."""


def verdict(results: Results) -> str:
    """On how many problems the best solver is ahead of the best rival, and the others."""
    wins = _wins(results)
    if wins.empty:
        return (
            "No problem has finished runs of both a solver and a rival, so there is nothing "
            "to compare."
        )
    ends = results.table("verdict")[["gradients", "rival_gradients"]]
    if not np.isfinite(ends.to_numpy(float)).any():
        text = "Neither solvers nor rivals reach a target, so there is nothing to compare."
        own = any(isinstance(one, Problem) for one in results.settings.problems)
        return f"{text} On a problem of your own raise --target or --gradients." if own else text
    best = wins.gradients_won.idxmax()
    row = wins.loc[best]
    lead = "Yes." if row.gradients_won == row.problems else "On some problems."
    lead = lead if row.gradients_won else "No, not in gradients."
    rest = ", ".join(
        f"{name} on {r.gradients_won}" + f" of {r.problems}" * bool(r.problems != row.problems)
        for name, r in wins.drop(best).iterrows()
    )
    rest = rest and f" (fewer gradients than the best rival, other solvers: {rest})"
    return (
        f"{lead} To reach the target, {best} needs fewer gradients than the best rival on "
        f"{row.gradients_won} of {row.problems} problems, and fewer seconds on {row.seconds_won}"
        f"{rest}."
    )


def _wins(results: Results) -> pd.DataFrame:
    table = results.table("verdict")
    if table.empty:
        return table
    mine = table.groupby("optimizer", sort=False)
    return mine[[f"{name}_won" for name in tables.COSTS]].sum().assign(problems=mine.size())


def _sensitive(results: Results) -> pd.DataFrame:
    """What is compared with the sensitivity to SGD's rate."""
    table = results.table("sensitivity")
    return table[(table.optimizer != runs.SENSITIVE[0]) & table.share.notna()]


def _farther(results: Results) -> list[Check]:
    limits = results.table("stable").set_index("optimizer")
    if not set(runs.CLIMBING) <= set(limits.index):
        return []
    climbed = tables.runs_of(results, "climb").query("optimizer == 'rkc'")
    row, cost = limits.loc["rkc"], int(climbed.gradients_per_step.iloc[0])
    holds = True if row.low > cost else False if row.high <= cost else None
    return [Check(f"{runs.STABLE_ON}, rkc", row.low, f"above {cost}", holds)]


CLAIMS = (
    Claim(
        "fewer",
        "With nothing tuned, linearly_implicit_euler needs fewer gradients than the best rival.",
        "median gradients to the target below those of the rival that needs the fewest",
        compared(
            lambda r: r.table("verdict").query("optimizer == 'linearly_implicit_euler'"),
            "{problem}, {optimizer}",
            "gradients_ratio",
            "below 1",
            lambda r: None if np.isnan(r["gradients_ratio"]) else r["gradients_won"],
        ),
    ),
    Claim(
        "flat",
        "The first step of a controlled solver does not matter.",
        f"sensitivity over six decades below {MATTERS:g} times that of SGD to its learning rate",
        compared(
            _sensitive,
            "{problem}, {optimizer}",
            "share",
            f"below {MATTERS}",
            lambda r: r["share"] < MATTERS,
        ),
    ),
    Claim(
        "farther",
        "Per gradient, the largest stable rate of rkc is above SGD's.",
        "the whole interval of the ratio of rates is above the number of gradients of a step",
        _farther,
    ),
    Claim(
        "falls",
        "A step of implicit_euler does not raise the loss at any fixed rate.",
        f"largest relative rise of the loss in a step at most {ROUNDING:.1g}, the rounding of "
        "float32",
        compared(
            "descent",
            "{problem}, rate {rate:g}",
            "rise",
            "rounding",
            lambda r: r["rise"] <= ROUNDING,
        ),
    ),
)


def _profile(results: Results) -> Plot:
    if not np.isfinite(tables.fresh(results).to_target).any():
        return race_figures.profile({})
    shown = tables.COSTS.items()
    return race_figures.profile(
        {f"{name} to the target": tables.costs(results, column) for name, column in shown}
    )


def _loss(results: Results) -> Plot:
    fresh = tables.fresh(results)
    plot = Plot(list(fresh.optimizer.unique()))
    goals = {r.problem: r for r in results.of("goal").itertuples()}
    for problem, mine in groups(fresh, "problem"):
        seen, ceiling = list[float](), 3 * mine.initial_loss.max()  # no blow-up sets the scale
        for run in mine.itertuples():
            x, y = np.array(run.loss_gradients, float) + 1, np.array(run.loss, float)
            y = np.where(y <= ceiling, y, np.nan)
            labels = "gradients", "loss"
            axes = plot.line(problem, run.optimizer, x, y, labels, log="x", alpha=0.7)
            seen += list(y)
        goal, start = goals[problem], mine.sort_values("seed").initial_loss.iloc[0]
        target = runs.Goal(goal.level, 0, goal.relative).target(start, goal.optimum)
        axes.axhline(target, color=INK, linestyle="--", linewidth=1)
        log_limits(axes, [*seen, target])
    return plot


FIGURES = (
    Figure(
        "profile",
        _profile,
        "The share of runs, over all problems and reported seeds, in which an optimizer needs at "
        "most τ times the gradients, or seconds, of the one that needs the fewest. Left end: how "
        "often an optimizer is the fastest. Right end: how often it reaches the target. An "
        "optimizer that does not run on a problem counts as a miss there.",
        verdict,
    ),
    Figure(
        "loss",
        _loss,
        "Every reported run up to the target (dashed; if the target depends on the seed, that of "
        "seed 1). Check whether the same optimizer was ahead before the target was reached.",
        verdict,
    ),
    Figure(
        "sensitivity",
        lambda r: race_figures.loss_against_rate(
            tables.runs_of(r, "sweep"), "learning_rate", "rate, or first step"
        ),
        f"Loss after {runs.SWEPT} gradients: median and range of the reported seeds; a cross in "
        "the strip on top marks a rate at which one diverged. A flat line means that there is "
        "nothing to tune.",
        each(
            f"Sensitivity to the first step, divided by that of {runs.SENSITIVE[0]} to its "
            "learning rate",
            _sensitive,
            "{problem}, {optimizer} {share:.2g}",
        ),
    ),
)

_VERDICT = {
    "gradients": ("gradients", "of the solver to the target, median of the reported seeds"),
    "rival_gradients": ("best rival's", "the fewest that a rival needs"),
    "gradients_rival": ("who", "the rival with the fewest gradients"),
    "gradients_ratio": ("ratio", "gradients divided by the rival's; a miss is infinite"),
    "gradients_won": ("fewer", "whether the solver needs fewer"),
    "gradients_p": ("p", "of the difference in gradients: Mann-Whitney, Holm over the problems"),
    "seconds": ("seconds", "of the solver to the target, without compilation"),
    "rival_seconds": ("best rival's seconds", "the fewest that a rival needs"),
    "seconds_rival": ("by whom", "the rival with the fewest seconds"),
    "seconds_ratio": ("of seconds", "ratio of the two"),
    "seconds_won": ("fewer seconds", "whether the solver needs fewer"),
}
_SUMMARY = {
    "setting": ("setting", "rate, memory or first step; tuned on seed 0 if there are several"),
    "tried": ("tried", "number of settings that were tried"),
    "tuning": ("tuning", "gradients used for it"),
    "reached": ("reached", "reported runs that reached the target"),
    "runs": ("of", "fresh runs"),
    "gradients": ("gradients", "to the target, median; a miss is infinite"),
    "gradients_min": ("fewest", "gradients"),
    "gradients_max": ("most", "gradients"),
    "seconds": ("seconds", "to the target, median"),
    "loss": ("loss", "final, median"),
}
TABLES = (
    Table(
        "verdict",
        "Against the best rival of each problem",
        tables.judge,
        {**races.NAMED, **_VERDICT},
        ("problem", "optimizer", "gradients", "rival_gradients", "gradients_rival", "seconds_won"),
        "The rival with the fewest gradients is not always the one with the fewest seconds.",
    ),
    Table(
        "summary",
        "All results",
        tables.summary,
        {**races.NAMED, **_SUMMARY},
        ("problem", "optimizer", "setting", "gradients", "seconds", "reached"),
    ),
    Table(
        "sensitivity",
        "Sensitivity to the rate, or to the first step",
        tables.sensitivity,
        {
            **races.NAMED,
            "sensitivity": races.COLUMNS["sensitivity"],
            "share": ("of sgd's", "the same divided by that of sgd to its learning rate"),
            "best": ("best loss", "over the rates"),
            "worst": ("worst", "over the rates"),
            "diverged": ("diverged", "runs"),
            "runs": ("of", "runs"),
        },
        ("problem", "optimizer", "share", "best", "worst", "diverged"),
        f"After {runs.SWEPT} gradients, rates and first steps from 1e-3 to 1e3 by decades.",
    ),
    Table(
        "left_out",
        "Left out",
        tables.left_out,
        {
            "optimizer": ("optimizer", "its name"),
            "problem": ("on", "problems on which it did not run"),
            "why": ("why", "what it needs, or what the problem has"),
        },
        ("optimizer", "problem", "why"),
    ),
    Table(
        "stable",
        "Largest stable rates",
        tables.stable,
        {
            **races.NAMED,
            "rate": ("stable to", "the largest rate such that no seed diverged at it or below"),
            "unstable": ("diverges at", "the next rate, at which a seed diverged"),
            "low": ("over sgd's, from", "the lower end of the ratio of limits"),
            "high": ("to", "the upper end"),
            "best": ("best rate", "the rate with the fewest gradients to the target"),
            "gradients": ("gradients", "there, median"),
        },
        ("optimizer", "rate", "unstable", "low", "high", "gradients"),
        f"On {runs.STABLE_ON}, by quarter octaves.",
    ),
    Table(
        "descent",
        "Implicit Euler at fixed rates",
        tables.descent,
        {
            **races.NAMED,
            "rate": ("rate", "fixed"),
            "rise": ("largest rise", "of the loss in a step, relative; negative if it always fell"),
            "loss": ("loss", "the highest final loss"),
            "steps": ("steps", "in all"),
            "runs": ("runs", "one for each seed"),
        },
    ),
)


def _method(results: Results) -> Mapping[str, str]:
    settings = results.settings
    listed = [
        f"{p.name}: {p.title}; to {settings.goal(p).spoken()} in {settings.goal(p).gradients} "
        f"gradients (data {p.checksum})"
        for p in build(settings.problems)
    ]
    return {
        "Target": "A run ends when the loss is at the target (the gradient there is counted), "
        "with its budget, or when the loss is not finite. A miss counts as infinity in medians. "
        f"With mini-batches the loss of the full batch is evaluated after every {runs.JUDGED} "
        "gradients; this costs seconds but is not counted in gradients.",
        "Cost": "The optimizer's own count: every gradient 1, every curvature product 2, every "
        "loss for step-size control or a line search 1, rejected steps in full, a Jacobian or an "
        "exact solve as many as a sample has outputs. Linear algebra is not counted in gradients "
        "but takes seconds. Seconds are wall time of compiled runs, without compilation.",
        "Tuning": "On seed 0, for the fewest gradients to the target; misses rank last, by their "
        "final loss. Half decades until both neighbours of the best rate have been tried, then "
        "the quarter decades beside it; a memory of 10 or 50 for L-BFGS. Tuning is listed, not "
        "counted.",
        "Rivals": "L-BFGS (optax), BFGS and Levenberg-Marquardt (optimistix) run on full batches "
        "only; BFGS where its matrix is small enough, Levenberg-Marquardt where the loss is a sum "
        "of squares and its Jacobian is small enough.",
        "Seeds": f"Seeds 1 to {settings.seeds} are reported, with other initial points and "
        "batches.",
        "Problems": "; ".join(listed),
    }


STUDY = Study(
    name="stiff",
    question="How many gradients and seconds do solvers for stiff losses need to a fixed target?",
    summary="Compares them with tuned rivals, in gradients and in seconds, and writes tables, "
    "figures and report.html. Some minutes; an hour with --full.",
    settings=runs.Settings,
    full=runs.FULL,
    tasks=runs.tasks,
    verdict=verdict,
    tables=TABLES,
    figures=FIGURES,
    claims=CLAIMS,
    method=_method,
    suite=runs.SUITE,
    page="docs/stiff.md",
)
run = STUDY.run
