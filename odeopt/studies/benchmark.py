"""Does one untuned setting stand against tuned and scheduled rivals?"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pandas as pd

import odeopt

from .. import stepsize
from ..stepsize.distance import DISTANCE
from .benchmark_problems import CONTESTS, HELD_OUT, QUICK_PROBLEMS, SUITE, build, contest
from .benchmark_tables import (
    LEVEL,
    QUESTION,
    STEADY,
    WITHOUT_NOISE,
    judge,
    misled,
    profile,
    score,
    summary,
)
from .engine import (
    Claim,
    Figure,
    Lab,
    Results,
    Study,
    Table,
    Task,
    at_least,
    compared,
    groups,
    race_figures,
)
from .engine.drawing import INK, Plot
from .engine.load import own_optimizers, own_problems
from .engine.optimizers import Entry, Make, contenders, entry
from .engine.problem import Problem
from .engine.race import Race, raced
from .engine.races import NAMED, TARGET, frame, fresh
from .engine.ratios import INCOMPARABLE, MEND, check_start
from .engine.rivals import OPTIMIZERS, RIVALS, averaged, names, rival
from .engine.store import Record
from .engine.tuner import TUNING_SEED, Grid
from .names import lookup

FACTORS = (1 / 3, 3.0)
"""What the constant of an untuned optimizer is multiplied with, to see whether it matters."""
QUICK_RIVALS = ("adamw+cosine", "muon+linear", "momentum+linear")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide the results.

    Attributes:
        problems: Problems, separated by commas: quadratic, diabetes, wine, mnist, spiral,
            convolution, digit-rows, digits-vae, residual, characters, factorisation, cancer,
            friedman, mislabelled, denoising, hypercube, attention, autoencoder, teacher, shells,
            pooled, arctangent, stream, parity, lower-half, impedance, pooled-convolution, burgers,
            heat, poisson; your own as my_file.py:problem, made with odeopt.studies.Problem.
        rivals: Tuned optimizers, separated by commas: momentum, nesterov-.99, adam, adam-.98,
            nadam-.95, adamw, muon, muon-decay, soap, each with every schedule or with one, as in
            adamw+linear (constant, linear, cosine); schedule-free; your own as my_file.py:make,
            where make(h) returns an optax optimizer. The untuned ones always take part.
        seeds: Seeds to report; one more, seed 0, tunes the rates.
        gradients: Gradients of each run; schedules end there.
    """

    problems: tuple[Any, ...] = QUICK_PROBLEMS
    rivals: tuple[Any, ...] = QUICK_RIVALS
    seeds: int = 3
    gradients: int = 500

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", own_problems(self.problems, CONTESTS))
        object.__setattr__(self, "rivals", own_optimizers(self.rivals))
        at_least(self, seeds=1, gradients=2)  # a schedule of one step is none
        at_least(self, gradients=max(one.gradients_per_step for one in self.entries()))

    def entries(self) -> list[Entry]:
        """The tuned rivals, then the untuned ones."""
        known = dict.fromkeys([*OPTIMIZERS, *RIVALS])
        words = [asked for asked in self.rivals if isinstance(asked, str)]
        for word in words:
            lookup("rival", word, known)
        found = [rival(name, self.gradients) for name in dict.fromkeys(names(words))]
        alone = untuned(self.gradients)
        taken = [*known, *(one.name for one in alone)]
        if own := [asked for asked in self.rivals if not isinstance(asked, str)]:
            found += [averaged(one, self.gradients) for one in contenders(own, taken)]
        return [*found, *alone]


def untuned(steps: int) -> list[Entry]:
    """What takes part as it is, for runs of so many steps; a rate is a factor of its constant."""
    return [entry(name, make, tuned=False) for name, make in untuned_makers(steps).items()]


def untuned_makers(steps: int) -> dict[str, Make]:
    """The same optimizers as functions of that factor, by name."""

    def told(horizon: int | None) -> Any:
        rule = stepsize.anytime if horizon is None else functools.partial(stepsize.horizon, horizon)
        return lambda factor: odeopt.untuned(learning_rate=rule(DISTANCE * factor))

    return {
        QUESTION: told(steps),
        "untuned, told half": told(max(1, steps // 2)),
        "untuned, told twice": told(2 * steps),
        "untuned, told nothing": told(None),
        "log_time_adam": lambda factor: odeopt.log_time_adam(first=1e-3 * factor),
        "log_time_soap": lambda factor: odeopt.log_time_soap(first=1e-3 * factor),
    }


FULL = {"problems": tuple(CONTESTS), "rivals": RIVALS, "seeds": 5, "gradients": 2000}


def tasks(settings: Settings) -> list[Task]:
    """Every optimizer on every problem."""
    extra = {True: 10, False: len(FACTORS)}  # runs, about
    return [
        raced(p, one, functools.partial(_race, settings, p, one), settings.seeds + extra[one.tuned])
        for p in build(settings.problems)
        for one in settings.entries()
        if _suits(one, p)
    ]


def _suits(one: Entry, problem: Problem) -> bool:
    """Whether an optimizer is meant for a problem."""
    if one.name == WITHOUT_NOISE:
        return problem.batch_size is None
    if one.name.partition("+")[0] in ("muon", "muon-decay", "soap"):
        return any(leaf.ndim == 2 for leaf in jax.tree.leaves(problem.start(0)))
    return True


def _race(settings: Settings, problem: Problem, one: Entry, lab: Lab) -> list[Record]:
    """Tune on the tuning seed, or leave the constant as it is; then run the reported seeds."""
    seeds, judged = range(1, settings.seeds + 1), contest(problem)
    if problem.name not in CONTESTS:
        check_start(problem, _first_loss(problem, judged.criterion))
    params = problem.start(0)
    state = jax.eval_shape(one.make(0.1).init, params)
    held, size = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (state, params))
    about = {"tuned": one.tuned, "criterion": judged.criterion, "memory": held / size}
    race = Race(
        lab,
        problem,
        one,
        settings.gradients,
        [TUNING_SEED, *seeds],
        about=about,
        points=judged.points,
    )
    if not one.tuned:
        factors = (1.0, *FACTORS) if one.name == QUESTION else (1.0,)
        asked = [(factor, seed) for factor in factors for seed in seeds]
        return race.runs(((float(problem.dtype(f)), s) for f, s in asked), purpose="fresh")
    grid = Grid.quarter_decades(one.unit, dtype=problem.dtype)
    tuned = race.tune(grid, score=lambda record: score(record)[0], purpose="tuning")
    found = race.runs(((rate, TUNING_SEED) for rate in tuned.scores), purpose="tuning")
    return found + race.runs(((tuned.best, seed) for seed in seeds), purpose="fresh")


@functools.cache
def _first_loss(problem: Problem, criterion: str) -> float:
    """What decides, at the initial point of seed 0."""
    found = problem.measured(problem.start(0), problem.data, problem.validation)
    return float(found[criterion])


def verdict(results: Results) -> str:
    """On how many problems the untuned optimizers are level with the best rival."""
    judged = results.table("verdict")
    found = judged[judged.comparable]
    below = ", ".join(judged[~judged.comparable].problem.unique())
    below = below and f" {INCOMPARABLE.capitalize()}, with losses below zero: {below}; {MEND}."
    if found.empty and below:
        return below.strip()
    if found.empty:
        return (
            "There is no problem on which a loss came down and both a tuned and an untuned "
            "optimizer have finished runs."
        )
    text = (
        f"With nothing tuned, the loss of {QUESTION} is within {LEVEL - 1:.0%} of the best tuned "
        f"and scheduled rival's on {_counted(_of(found, QUESTION))}."
    )
    whole = _of(found, WITHOUT_NOISE)
    if whole.empty:
        return text + below
    return (
        f"{text} In full batches that of {WITHOUT_NOISE} is within {LEVEL - 1:.0%} on "
        f"{_counted(whole)}.{below}"
    )


def _counted(rows: pd.DataFrame) -> str:
    """On how many it is level and ahead, and on how many of those held out."""
    text = f"{rows.level.sum()} of {len(rows)} problems, and lower on {rows.ahead.sum()}"
    held = rows[rows.held_out.astype(bool)]
    if held.empty:
        return text
    return f"{text} (held out: {held.level.sum()} of {len(held)}, lower on {held.ahead.sum()})"


def _of(found: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    return found[found.optimizer == optimizer]


def _claim(name: str, optimizer: str, where: str = "") -> Claim:
    return Claim(
        name,
        f"With nothing tuned, {optimizer} is level with the best tuned and scheduled rival{where}.",
        f"median over the reported seeds at most {LEVEL:g} times that of the best rival",
        compared(
            lambda r: _of(r.table("verdict"), optimizer),
            "{problem}",
            "ratio",
            f"at most {LEVEL:g}",
            lambda r: r["level"] if r["comparable"] else None,
        ),
    )


CLAIMS = (
    _claim("level", QUESTION),
    _claim("full-batch", WITHOUT_NOISE, " in full batches"),
    Claim(
        "steady",
        "A constant that is wrong by a factor of 3, or a horizon by a factor of 2, does not "
        "matter.",
        f"the median is at most {STEADY:g} times as high with it",
        compared("misled", "{problem}", "worst", f"at most {STEADY:g}", lambda r: r["steady"]),
    ),
)


def _ratio(results: Results) -> Plot:
    found = results.table("verdict")
    found = found[found.comparable]
    problems, names = list(found.problem.unique()), list(found.optimizer.unique())
    plot = Plot(width=6.5, height=1 + 0.4 * len(problems))
    for number, (name, rows) in enumerate(groups(found, "optimizer")):
        axes = plot.rows("final loss, divided by that of the best tuned rival", "ratio", problems)
        style = plot.style(name, linestyle="")
        y = np.array([problems.index(p) for p in rows.problem], float)
        y += 0.8 * (number + 0.5) / len(names) - 0.4  # below each other in the problem's row
        axes.plot(rows.ratio.replace(np.inf, np.nan), y, **style)
        known = np.isfinite(rows.high) & (rows.low > 0)
        axes.hlines(y[known], rows.low[known], rows.high[known], color=style["color"], lw=1)
        axes.axvline(1, color=INK, linewidth=1)
        axes.axvline(LEVEL, color=INK, linewidth=1, linestyle="--")
        axes.set_xscale("log")
    return plot


def _curves(results: Results, what: str) -> Plot:
    runs = fresh(frame(results.records))
    best = runs.optimizer.isin(set(results.table("verdict").rival))
    shown = runs[best | (~runs.tuned & runs.learning_rate.eq(1.0))]
    shown = shown[shown[what].map(len) > 0]
    return race_figures.curves(shown, list(shown.optimizer.unique()), what)


FIGURES = (
    Figure(
        "ratio",
        _ratio,
        "Medians of the reported seeds; a line spans all pairs of seeds. Left of 1 the untuned "
        f"optimizer has the lower loss; left of the dashed line at {LEVEL:g} it is level.",
        verdict,
    ),
    Figure(
        "validation",
        lambda results: _curves(results, "validation"),
        "Loss on validation data at the last iterate: untuned optimizers, and every rival that "
        "is the best on some problem. A curve that rises again shows overfitting.",
        verdict,
    ),
)

TABLES = (
    Table(
        "verdict",
        "Against the best tuned and scheduled rival of each problem",
        judge,
        {
            **NAMED,
            "criterion": ("decides", "the loss that is compared: validation or training"),
            "held_out": (
                "held out",
                "whether its problem took no part in the design of the untuned",
            ),
            "score": ("loss", "of the untuned optimizer: median of the reported seeds"),
            "rival": ("best rival", "the tuned rival with the lowest median"),
            "rival_score": ("its loss", "median of the reported seeds"),
            "ratio": ("ratio", f"loss divided by the rival's; level up to {LEVEL:g}"),
            "note": ("note", "where no ratio is given"),
            "share": ("pairs of seeds", "the share in which the untuned optimizer ends lower"),
            "p": ("p", "of the difference: Mann-Whitney, Holm over the problems"),
            "accuracy": ("accuracy", "on validation data"),
            "rival_accuracy": ("rival's", "accuracy on validation data"),
            "test": ("test loss", "reported only"),
            "rival_test": ("rival's", "test loss"),
            "tries": ("tuning runs", "of all rivals together"),
        },
        ("problem", "optimizer", "score", "rival", "rival_score", "ratio"),
    ),
    Table(
        "profile",
        "How fast, over all problems: AlgoPerf's integrated performance profile",
        profile,
        {
            **NAMED,
            "score": (
                "score",
                "mean over τ from 1 to 4 of the share of problems on which it takes "
                "at most τ times the fewest gradients to the target: 1 is always the fastest",
            ),
            "with_tuning": (
                "with tuning",
                "the score if the gradients of an optimizer's tuning runs are counted too",
            ),
            "arrived": (
                "arrives",
                "problems on which it reaches the target, "
                f"{TARGET:.0%} of the decrease to the best end, by the median of the fresh seeds",
            ),
            "problems": ("of", "problems that have a target"),
        },
    ),
    Table(
        "misled",
        "Wrong constants and horizons",
        misled,
        {
            **NAMED,
            "third": ("a third", "of the constant: loss divided by that with the default"),
            "triple": ("three times", "the constant"),
            "half": ("half", "the horizon is told"),
            "twice": ("twice", "the horizon is told"),
            "nothing": ("nothing", "no horizon"),
            "steady": ("steady", f"whether the first four columns are at most {STEADY:g}"),
        },
    ),
    Table(
        "summary",
        "All results",
        summary,
        {
            **NAMED,
            "rate": ("rate", "tuned on seed 0; of an untuned optimizer the factor of its constant"),
            "rates": ("tried", "rates on seed 0"),
            "score": ("loss", "the loss that is compared: median of the reported seeds"),
            "score_low": ("lowest", "of the reported seeds"),
            "score_high": ("highest", "of the reported seeds"),
            "loss": ("training", "final training loss, median"),
            "validation": ("validation", "loss, median"),
            "validation accuracy": ("accuracy", "on validation data, median"),
            "test": ("test", "loss, median"),
            "metric": ("metric", "of your own, on validation data, median"),
            "seconds": ("seconds", "of a run, median"),
            "memory": ("memory", "of the state and the running mean, in copies of the parameters"),
            "missed": ("missed", "reported runs that diverged"),
            "runs": ("of", "fresh runs"),
        },
    ),
)


def _method(results: Results) -> Mapping[str, str]:
    settings = results.settings
    return {
        "Cost": f"Every run has {settings.gradients} gradients, and schedules end there. Tuning "
        "is not counted; the table says how many runs it took.",
        "Rivals": "Constant rate, linear decay to 0, and warm-up with cosine decay, each "
        "evaluated at its last iterate and at a running mean over 5 % of the steps; the better "
        "one on the tuning seed counts.",
        "Tuning": "On seed 0, by the loss that is compared: half decades around a default rate "
        "of the optimizer, until both neighbours of the best rate have been tried, then the "
        "quarter decades beside it.",
        "Seeds": f"Seeds 1 to {settings.seeds} are reported. They change the initial point and "
        "the order of the batches, not the split into training, validation and test data.",
        "Held out": f"{', '.join(HELD_OUT)} were not run before the present defaults of the "
        "untuned optimizers were fixed.",
        "Problems": "; ".join(problem.spoken for problem in build(settings.problems)),
    }


STUDY = Study(
    name="benchmark",
    question="How does one untuned setting compare with tuned and scheduled rivals?",
    summary="Compares untuned optimizers with tuned and scheduled ones at equal gradients, and "
    "writes tables, figures and report.html. Minutes; hours with --full.",
    settings=Settings,
    full=FULL,
    tasks=tasks,
    verdict=verdict,
    tables=TABLES,
    figures=FIGURES,
    claims=CLAIMS,
    method=_method,
    suite=SUITE,
    page="docs/benchmark.md",
)
run = STUDY.run
