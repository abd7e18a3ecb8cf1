"""Is a solver more stable than SGD, and what does it cost? Rates x seeds x problems."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

import odeopt

from ..optimizer import Optimizer
from ..solvers.explicit import ExplicitRungeKutta
from . import spectra
from .engine import (
    Claim,
    Figure,
    Lab,
    Results,
    Study,
    Task,
    at_least,
    compared,
    each,
    groups,
    race_figures,
    races,
)
from .engine.drawing import INK, MARKERS, Plot
from .engine.load import own_optimizers, own_problems
from .engine.optimizers import Entry, contenders
from .engine.problem import Problem
from .engine.race import Race, raced
from .engine.statistics import performance_profile
from .engine.store import Record
from .engine.tuner import TUNING_SEED, first_grid
from .problems import PROBLEMS, QUICK_PROBLEMS, SUITE, build
from .stability_tables import BASELINES, TABLES, baseline_of, runs_of

QUICK_SOLVERS = ("sgd", "momentum", "adam", "heun", "ssprk3", "rk4", "tsit5")
FULL_SOLVERS = (
    *("sgd", "momentum", "adam", "heun", "midpoint", "ralston"),
    *("bosh3", "ssprk3", "rk4", "dopri5", "tsit5"),
    *("nesterov", "conformal_leapfrog", "relativistic", "rk_momentum"),
    *("rmsprop", "adamw", "rk_adam"),
    *("euler@drift_adjusted", "euler@corridor", "bosh3@embedded_error"),
    *("rkc", "rkc2", "linearly_implicit_euler", "rosenbrock2"),
    *("exponential_euler", "implicit_euler"),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide the results.

    Attributes:
        solvers: Optimizers, separated by commas: explicit solvers of the zoo, momentum and adaptive
            optimizers, euler@sharpness and other rules, solvers for stiff losses; your own as
            my_file.py:make, where make(h) returns an optax optimizer.
        problems: Problems, separated by commas; your own as my_file.py:problem, made with
            odeopt.studies.Problem.
        seeds: Seeds to report; one more, seed 0, tunes the rates.
        gradients: Gradients of each run.
    """

    solvers: tuple[Any, ...] = QUICK_SOLVERS
    problems: tuple[Any, ...] = QUICK_PROBLEMS
    seeds: int = 3
    # A multiple of every solver's gradients per step, so that all end at the same count.
    gradients: int = 120

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", own_problems(self.problems, PROBLEMS))
        object.__setattr__(self, "solvers", own_optimizers(self.solvers))
        dearest = max(entry.gradients_per_step for entry in contenders(self.solvers))
        if self.gradients < dearest:
            raise ValueError(
                f"--gradients must be at least {dearest}, the cost of one step of the most "
                f"expensive solver, not {self.gradients}."
            )
        if self.gradients > 10**7:
            raise ValueError(f"--gradients must be at most 10000000, not {self.gradients}.")
        at_least(self, seeds=1)


FULL = {"solvers": FULL_SOLVERS, "problems": tuple(PROBLEMS), "seeds": 5, "gradients": 1800}


def tasks(settings: Settings) -> list[Task]:
    """Everything that is measured."""
    return [
        raced(p, one, functools.partial(_race, settings, p, one), 1 + 0.15 * one.gradients_per_step)
        for p in build(settings.problems)
        for one in contenders(settings.solvers)
    ]


def _race(settings: Settings, problem: Problem, entry: Entry, lab: Lab) -> list[Record]:
    """All runs of one optimizer on one problem, and its limit where the problem is quadratic."""

    def eigenvalues() -> list[Record]:
        values = spectra.eigenvalues(problem, TUNING_SEED)
        return [{"kind": "spectrum", "problem": problem.name, "eigenvalues": values}]

    spectrum = lab.once(f"spectrum/{problem.name}", eigenvalues)
    sharpness = float(spectrum[0]["eigenvalues"][-1])
    seeds = [TUNING_SEED, *range(1, settings.seeds + 1)]
    grid = first_grid(entry, sharpness, problem.dtype)
    about = {"sharpness": sharpness}
    race = Race(lab, problem, entry, settings.gradients, seeds, about=about)
    found = list(spectrum)
    exact = problem.quadratic and problem.batch_size is None  # batches have other curvatures
    if exact and sharpness > 0 and entry.limit and np.isfinite(entry.limit):
        make = functools.partial(_limit, race, entry.limit, sharpness)
        found += lab.once(f"limit/{problem.name}/{entry.name}", make)
    tried = race.tune(grid, seeds).scores
    return found + race.runs((rate, seed) for rate in tried for seed in seeds)


def _limit(race: Race, limit: float, sharpness: float) -> list[Record]:
    """The largest stable h * lambda_max on a quadratic, known to 0.5 %."""
    measured = spectra.measured_limit(race.runner, limit, sharpness)
    about = {"problem": race.problem.name, "optimizer": race.entry.name, "R": limit}
    return [{"kind": "limit", **about, "measured_limit": measured}]


def loss_against_rate(
    results: Results, problem: str, optimizer: str
) -> tuple[np.ndarray, np.ndarray]:
    """Rates, ascending, and final losses of shape (rates, seeds), infinite for a miss.

    The first seed is the tuning seed.
    """
    runs = runs_of(results).query("problem == @problem and optimizer == @optimizer")
    table = runs.pivot(index="learning_rate", columns="seed", values="final")
    return table.index.to_numpy(float), table.to_numpy()


def verdict(results: Results) -> str:
    """The answer in a sentence: whether any solver gains, R of the most stable one, its price."""
    runs = runs_of(results)
    baseline, table = baseline_of(runs), results.table("comparison").set_index("optimizer")
    own = [entry.name for entry in contenders(results.settings.solvers) if entry.own]
    solvers = table[(table.solver | table.index.isin(own)) & (table.index != baseline)]
    if why := _incomparable(results, baseline, solvers):
        return why
    problems, most, clear = runs.problem.nunique(), solvers.below.max(), solvers.clear.max()
    all_of_them = f"{problems} problem{'s' * (problems != 1)}"
    limit = "; ".join(_limits(results, list(solvers.index), baseline))
    if not most:
        return (
            f"No. {limit}; at equal gradients no solver ended with a lower loss than {baseline} on "
            f"any of {all_of_them}."
        )
    lead = "Yes, mostly." if 2 * clear > problems else "On some problems."
    lead = lead if clear else "Not clearly."
    each = ", ".join(
        f"{name} on {row.below:.0f}" + f", clearly on at least {row.clear:.0f}" * (row.clear > 0)
        for name, row in solvers.iterrows()
        if row.below
    )
    return (
        f"{lead} {limit}; at equal gradients these ended with a lower loss than {baseline}: {each} "
        f"of {all_of_them} (Mann-Whitney over all problems, corrected by Holm: p = "
        f"{solvers.p.min():.2g} for the clearest)."
    )


def _incomparable(results: Results, baseline: str, solvers: pd.DataFrame) -> str:
    """Why there is nothing to compare; empty where there is."""
    runs, late = runs_of(results), results.unfinished
    if not baseline and late:
        return f"No run of {' or '.join(BASELINES)} is finished yet: there is nothing to compare."
    if not baseline:
        return (
            f"This run has neither {' nor '.join(BASELINES)}, so there is nothing to compare with: "
            f"add {BASELINES[0]} to its solvers."
        )
    if solvers.empty and late:
        return f"No solver besides {baseline} is finished yet: there is nothing to compare."
    if solvers.empty:
        return (
            f"This run has no solver of a fixed step size and no optimizer of your own besides "
            f"{baseline}, so there is nothing to compare: add rk4 to its solvers."
        )
    if not (runs.final < runs.initial_loss).any():
        return "No run ended with a lower loss than it started with: there is nothing to compare."
    return ""


def _limits(results: Results, solvers: list[str], baseline: str) -> Iterator[str]:
    """What theory says of the solvers' stability limits."""
    about = runs_of(results).groupby("optimizer")[["R", "gradients_per_step"]].median()
    finite = about.R.reindex(solvers).dropna()
    if len(finite):
        name = finite.idxmax()
        other, mine = about.loc[baseline], about.loc[name]
        cost = mine.gradients_per_step
        yield (
            f"The stability limit of {name}, R = {mine.R:.3g}, is {mine.R / other.R:.3g} times "
            f"that of {baseline} per step. A step costs {cost:.3g} gradients, so per gradient the "
            f"limit is {mine.R / cost / other.R:.2g} times as large"
        )
    limits = {entry.name: entry.limit for entry in contenders(results.settings.solvers)}
    if without := [name for name in solvers if limits.get(name) == np.inf]:
        yield f"{', '.join(without)} {'have' if without[1:] else 'has'} no stability limit"
    elif not len(finite):
        yield f"No stability limit of {', '.join(solvers)} is known"


def _best(results: Results) -> str:
    runs, lowest = runs_of(results), results.table("comparison").set_index("optimizer").lowest
    winners = lowest[lowest > 0].sort_values(ascending=False, kind="stable")
    each = ", ".join(f"{name} on {count}" for name, count in winners.items()) or "no optimizer"
    lost = int((runs.status == "diverged").sum())
    return (
        f"With {runs.gradients.max():.0f} gradients and tuned rates, the lowest median loss is "
        f"that of {each} of {runs.problem.nunique()} problems. {lost} of {len(runs)} runs "
        "diverged."
    )


def _solvers(results: Results) -> pd.DataFrame:
    """Solvers whose limits can be compared with the baseline's: rates that are step sizes."""
    table = results.table("comparison")
    known = table.get("problems", pd.Series(0, table.index)) > 0
    entries = contenders(results.settings.solvers)
    unlimited = [entry.name for entry in entries if entry.limit == np.inf]
    return table[table.solver & known & (table.R.notna() | table.optimizer.isin(unlimited))]


CLAIMS = (
    spectra.LIMITS_HOLD,
    Claim(
        "cheaper",
        "Per gradient, a solver's stability limit is above SGD's.",
        "the whole interval of the ratio, median over problems, is above 1",
        compared(
            _solvers,
            "{optimizer}",
            "gradient_high",
            "above 1",
            lambda r: r["gradient_low"] > 1 or (None if r["gradient_high"] > 1 + 1e-6 else False),
        ),
    ),
)


def _regions(results: Results) -> Plot:
    found = results.of("spectrum").itertuples()
    spectrum = {record.problem: np.array(record.eigenvalues) for record in found}
    best = races.tuned(runs_of(results)).drop_duplicates(races.PAIR)
    best = best[best.problem.isin(list(spectrum))]
    every = contenders(results.settings.solvers)
    known = {one.name: p for one in every if (p := _polynomial(one)) is not None}
    plot, problems = Plot(list(best.optimizer.unique()), height=2.6), list(spectrum)
    reach = max((r.learning_rate * spectrum[r.problem].max() for r in best.itertuples()), default=0)
    left = -min(max(4.5, reach + 0.5), 10)
    x, y = np.meshgrid(np.linspace(left, 1, 181), np.linspace(-4, 4, 161))
    for name, mine in groups(best[best.optimizer.isin(known)], "optimizer"):
        axes = plot.panel(name, "Re z", "Im z", rows=len(problems))
        colour = plot.style(name)["color"]
        size = abs(np.polynomial.polynomial.polyval(x + 1j * y, known[name]))
        axes.contourf(x, y, size, levels=[0, 1], colors=[colour], alpha=0.2)
        axes.contour(x, y, size, levels=[1], colors=[colour], linewidths=1.2)
        axes.set(xlim=(left, 1), ylim=(-4, 4))
        for run in mine.itertuples():
            row = problems.index(run.problem)
            z = np.clip(-run.learning_rate * spectrum[run.problem], left, 1)
            style: Any = {"marker": MARKERS[row % 7], "linestyle": "", "mfc": "none"}
            plot.strip(name).plot(z, np.full(len(z), row), color=INK, ms=3, mew=0.6, **style)
            plot.key(run.problem, **style)
    return plot


def _polynomial(one: Entry) -> np.ndarray | None:
    """Of the method, where it is one of gradient flow."""
    optimizer = odeopt.euler(0.1) if one.name == "sgd" else one.make(0.1)
    if one.order is None or not isinstance(optimizer, Optimizer):
        return None
    solver = optimizer.design.solver
    return solver.tableau.stability_polynomial if isinstance(solver, ExplicitRungeKutta) else None


def _costs(results: Results) -> pd.DataFrame:
    runs = runs_of(results)
    return races.gradients_to_target(races.tuned(runs), runs.optimizer.unique())


def _profile(results: Results) -> Plot:
    return race_figures.profile({"gradients to the target": _costs(results)})


def _fastest(results: Results) -> str:
    """Both ends of the profiles."""
    cost = _costs(results)
    if cost.empty:
        return "No loss came down, so there is no target."
    shares = performance_profile(cost)
    each = ", ".join(
        f"{name} {first:.0%} and {last:.0%}"
        for name, first, last in zip(shares, shares.iloc[0], shares.iloc[-1], strict=True)
    )
    return f"The fastest, and at the target at all, in this share of the pairs: {each}."


def _edges(results: Results) -> str:
    """Where the lines of the optimizers with a limit end."""
    runs = runs_of(results).dropna(subset="relative_rate")
    first = runs[runs.status == "diverged"].groupby(races.PAIR).relative_rate.min()
    pairs = runs.groupby(races.PAIR).ngroups
    if first.empty:
        return f"No run of the {pairs} lines diverged: none shows where it ends."
    low, middle, high = first.quantile([0, 0.5, 1])
    return (
        f"{len(first)} of {pairs} lines end: the smallest h·sharpness/R at which a run diverged is "
        f"{middle:.2g} in the median, {low:.2g} to {high:.2g}."
    )


def _reach(results: Results) -> str:
    runs = runs_of(results)
    lost = runs[runs.status == "diverged"].groupby(races.PAIR).ngroups
    return f"Runs diverged at some rate in {lost} of {runs.groupby(races.PAIR).ngroups} lines."


def _inside(results: Results) -> str:
    tuned = races.tuned(runs_of(results)).drop_duplicates(races.PAIR).relative_rate.dropna()
    if tuned.empty:
        return "No optimizer with a limit has a tuned rate."
    return (
        f"At tuned rates h·sharpness is {tuned.median():.2g} of the limit R in the median, "
        f"{tuned.min():.2g} to {tuned.max():.2g}."
    )


FIGURES = (
    Figure(
        "limits",
        lambda r: race_figures.limits(
            r.table("comparison").set_index("optimizer"), baseline_of(runs_of(r))
        ),
        "A limit lies between the largest stable and the smallest diverged rate that were tried. "
        "So the ratio of two limits is an interval, drawn as a bar; its ends are medians over "
        "problems. Only a bar that does not contain 1 shows that one limit is larger.",
        each(
            "Limits divided by the baseline's, per step and per gradient",
            lambda r: race_figures.limited(r.table("comparison")),
            "{optimizer} {step} and {gradient}",
        ),
    ),
    Figure(
        "loss_relative",
        lambda r: race_figures.loss_against_rate(runs_of(r), "relative_rate", "h · sharpness / R"),
        "Loss against the rate in units of each method's own linear stability limit at the initial "
        "point. According to linear theory the lines end at 1.",
        _edges,
    ),
    Figure(
        "loss_rate",
        lambda r: race_figures.loss_against_rate(runs_of(r), "learning_rate", "learning rate h"),
        "Median over the reported seeds (lines), their range (bands), the tuned rate (rings). A "
        "cross in the strip on top marks a rate at which a seed diverged. Compare where the "
        "lines end and how wide their minima are.",
        _reach,
    ),
    Figure(
        "loss_gradients",
        lambda r: race_figures.curves(races.tuned(runs_of(r)), runs_of(r).optimizer.unique()),
        "Each optimizer at its tuned rate. Every gradient of a step is counted, so this is the "
        "comparison at equal cost: the line that is lowest on the right wins.",
        _best,
    ),
    Figure(
        "profile",
        _profile,
        "The share of (problem, seed) pairs in which an optimizer at its tuned rate reaches the "
        f"target within τ times the gradients of the fastest. The target is {races.TARGET:.0%} of "
        "the decrease from the median initial loss to the best median final loss; a miss counts "
        "as infinity. Left end: how often an optimizer is the fastest. Right end: how often it "
        "reaches the target.",
        _fastest,
    ),
    Figure(
        "regions",
        _regions,
        "The region of stability |R(z)| ≤ 1 (shaded). The strip above shows z = −h λ for the "
        "eigenvalues λ of the Hessian at the initial point and the tuned rate h, one row for "
        "each problem; they are real. Directions with z left of the shaded region grow at first.",
        _inside,
    ),
)


def _method(results: Results) -> Mapping[str, str]:
    problems = build(results.settings.problems)
    return {
        "Cost": f"Each run has {results.settings.gradients} gradients. A mini-batch gradient "
        "counts as one, a Hessian product as two. Seconds are those of the compiled program.",
        "Learning rates": "Octaves of R/sharpness where the method has a stability limit R "
        "(sharpness: the largest Hessian eigenvalue at the tuning seed's initial point), half "
        "decades for the others. The grid is extended until the best rate is inside it.",
        "Seeds": "The rate is chosen on seed 0. Medians and ranges are over "
        f"{results.settings.seeds} other seeds, with other initial points and batches.",
        "Divergence": "A final loss that is not finite or above the initial one; it counts as "
        "infinity in every median and ranking.",
        "Problems": "; ".join(problem.spoken for problem in problems),
    }


STUDY = Study(
    name="stability",
    question="Is a solver more stable than SGD, and at what cost?",
    summary="Runs every solver over learning rates and seeds at an equal number of gradients, and "
    "writes tables, figures and report.html. Two minutes; an hour or more with --full.",
    settings=Settings,
    full=FULL,
    tasks=tasks,
    verdict=verdict,
    tables=TABLES,
    figures=FIGURES,
    claims=CLAIMS,
    method=_method,
    suite=SUITE,
    page="docs/stability.md",
)
run = STUDY.run
