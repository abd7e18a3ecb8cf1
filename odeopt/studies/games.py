"""What does integration error do to a game? Games of two numbers, and a GAN of 16 Gaussians."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from . import game_mixture as mixture
from . import game_own as own
from . import game_plane as plane
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
    each,
    groups,
    statistics,
    whole,
)
from .engine.drawing import INK, Plot
from .engine.load import own_optimizers, own_problems
from .engine.store import Record
from .engine.tuner import TUNING_SEED

WORKS = 0.5
"""Share of a method's modes at its best rate from which on another rate works as well."""
RIVAL = "adam"
KNOWN = ("plane", "mixture")
_MODES = -0.5, len(mixture.CENTERS) + 0.5  # limits of an axis


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide the results.

    Attributes:
        problems: Games, separated by commas: plane (three games of two numbers), mixture; your own
            as my_game.py:game, made with odeopt.studies.Game. All solvers play all but the mixture.
        methods: How the mixture's GAN is trained, separated by commas: simultaneous, alternating,
            interaction, joint, rk4, rk4-penalty, adam; in Adam's metric alternating-rms,
            interaction-rms, rk4-rms; your own as my_file.py:make, where make(h) returns an
            optimizer whose update takes grad_fn, and which plays your own games too.
        seeds: Seeds to report; one more, seed 0, tunes the rates.
        rounds: Rounds of gradients of each run, one for each player a round.
    """

    problems: tuple[Any, ...] = KNOWN
    methods: tuple[Any, ...] = mixture.QUICK
    seeds: int = 6
    rounds: int = 9600

    def __post_init__(self) -> None:
        found = own_problems(self.problems, KNOWN, own.Game, "losses, init")
        object.__setattr__(self, "problems", found)
        object.__setattr__(self, "methods", own_optimizers(self.methods))
        at_least(self, seeds=1)
        costs = [method.cost for method in self.chosen.values()]
        looks = mixture.LOOKS * math.lcm(*costs)
        each = [entry for game in self.games for entry in game.entries(self.mine)]
        dearest = [entry.gradients_per_step for entry in each]
        dearest += costs if "mixture" in self.problems else []
        at_least(self, rounds=max(dearest, default=1))
        if "mixture" in self.problems and self.rounds % looks:
            raise ValueError(
                f"--rounds must be a multiple of {looks}, so that in the mixture every method has "
                f"as many between any two looks, not {self.rounds}."
            )

    @property
    def idle(self) -> dict[str, str]:
        """Settings that would change nothing, and what to write."""
        if "mixture" in self.problems:
            return {}
        alone = {}
        if not self.games:
            words = "changes nothing in the games of two numbers: leave it out, or add the mixture."
            alone = {name: f"--{name} {words}" for name in ("seeds", "rounds")}
        unused = [name for name in self.chosen if name in mixture.METHODS or not self.games]
        if not unused:
            return alone
        words = (
            f"--methods: {', '.join(unused)} would play none of these games, whose solvers all "
            "take part as it is: leave it out, or add the mixture, as in --problems mixture."
        )
        return {"methods": words, **alone}

    @property
    def chosen(self) -> dict[str, mixture.Method]:
        """The methods by name."""
        found: dict[str, mixture.Method] = {}
        for asked in self.methods:
            for name, method in mixture.method_of(asked).items():
                if found.setdefault(name, method) is not method:
                    raise ValueError(f"two methods are called {name!r}: give one another name.")
        return found

    @property
    def games(self) -> list[own.Game]:
        """The user's own games."""
        return [one for one in self.problems if isinstance(one, own.Game)]

    @property
    def mine(self) -> dict[str, Callable[[Any], Any]]:
        """The user's own methods, as functions of the rate."""
        chosen = self.chosen.items()
        return {name: method.make for name, method in chosen if name not in mixture.METHODS}


FULL = {"methods": tuple(mixture.METHODS), "seeds": 10, "rounds": 48000}


def tasks(settings: Settings) -> list[Task]:
    """Everything that is run."""
    chosen = settings.chosen
    found = [
        whole(f"{game}, {method}", functools.partial(plane.trajectory, game, method), 0.05)
        for game in (plane.GAMES if "plane" in settings.problems else ())
        for method in plane.METHODS
    ]
    for name, method in chosen.items() if "mixture" in settings.problems else ():
        work = functools.partial(_mixture, settings, name, method)
        found.append(Task(f"mixture, {name}", work, x64=False))
    for game in settings.games:
        for entry in game.entries(settings.mine):
            work = functools.partial(own.play, game, entry, settings.seeds, settings.rounds)
            found.append(Task(f"{game.name}, {entry.name}", work, 0.2, game.problem.x64))
    return found


def _mixture(settings: Settings, name: str, method: mixture.Method, lab: Lab) -> list[Record]:
    """Every rate on the seed that tunes, then reported seeds at the best one."""
    train = functools.partial(mixture.train, name, method, rounds=settings.rounds)
    same_seed = [TUNING_SEED] * len(method.rates)
    tuning = lab.once(f"rates/{name}", functools.partial(train, method.rates, same_seed))
    fresh = range(TUNING_SEED + 1, TUNING_SEED + 1 + settings.seeds)
    same_rate = [mixture.tuned(tuning)] * settings.seeds
    return tuning + lab.once(f"seeds/{name}", functools.partial(train, same_rate, fresh))


def _summary(results: Results) -> pd.DataFrame:
    """One row a method, of its tuned rate over the reported seeds."""
    runs, rows = results.table("mixture"), list[dict[str, Any]]()
    fresh = {method: mine[mine.seed != TUNING_SEED] for method, mine in groups(runs, "method")}
    rival = -fresh[RIVAL].modes if RIVAL in fresh else ()
    for method, mine in fresh.items():
        tuning = runs[(runs.method == method) & (runs.seed == TUNING_SEED)]
        if mine.empty or tuning.empty:  # not finished
            continue
        rate, rates = mine.rate.iloc[0], np.array([0.0, *sorted(tuning.rate), np.inf])
        place = int(np.searchsorted(rates, rate))
        beside, modes = (rates[place - 1], rates[place + 1]), (mine.modes.min(), mine.modes.max())
        against = statistics.pairs(-mine.modes, () if method == RIVAL else rival)
        rows.append(
            {
                "method": method,
                "cost": mine.cost.iloc[0],
                "rate": rate,
                "rate_low": beside[0],
                "rate_high": beside[1],
                "works": int((tuning.modes >= WORKS * max(tuning.modes.max(), 1)).sum()),
                "modes": mine.modes.mean(),
                "low": modes[0],
                "high": modes[1],
                "lost": (mine.best - mine.modes).mean(),
                "wobble": mine.wobble.mean(),
                "share": mine.share.mean(),
                "diverged": int((~mine.finite).sum()),
                "seeds": len(mine),
                "above": against.share,
                "p": against.p,
                "rates": _between(*beside),
                "range": "{:.1f} to {:.1f}".format(*modes),
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p=statistics.holm(table.p)) if rows else table


def _between(low: float, high: float) -> str:
    if low == 0 and np.isinf(high):
        return "one tried"
    if low == 0:
        return f"below {high:g}"
    return f"above {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def _damped(results: Results) -> pd.DataFrame:
    planes = results.table("planes")
    return planes[planes.game == "damped rotation"] if len(planes) else planes


def verdict(results: Results) -> str:
    """Which methods settle where the flow does, and whether any beats Adam in the GAN."""
    damped, summary, lines = _damped(results), results.table("summary"), list[str]()
    if len(damped):
        out = ", ".join(damped[damped.growth > 1].method)
        settle = ", ".join(damped[damped.growth < 1].method) or "no method"
        lines.append(
            "The error decides whether a game converges: in the damped rotation, whose flow "
            f"spirals inwards, {out} spiral outwards, and {settle} converge."
            if out
            else f"In the damped rotation, whose flow spirals inwards, {settle} converge, and no "
            "method spirals outwards."
        )
    if RIVAL in set(summary.get("method", ())) and len(summary) > 1:
        adam = summary[summary.method == RIVAL].iloc[0]
        above = summary[summary.modes > adam.modes]
        each = ", ".join(f"{r.method} ({r.modes:.1f})" for r in above.itertuples())
        than = f"more of {len(mixture.CENTERS)} modes than Adam ({adam.modes:.1f})"
        lines.append(
            f"In the GAN, at equal gradients, these cover {than}: {each}; "
            f"{(above.p < 0.05).sum()} of these differences are significant (Mann-Whitney, Holm, "
            "5 %)."
            if each
            else f"In the GAN, at equal gradients, no method covers {than}."
        )
    return " ".join([*lines, *own.verdict(results)]) or "There is nothing to compare."


def _rivals(results: Results) -> pd.DataFrame:
    """All but Adam, beside Adam's modes."""
    summary = results.table("summary")
    if RIVAL not in set(summary.get("method", ())):
        return pd.DataFrame()
    rows = summary.set_index("method")
    return rows.drop(RIVAL).assign(adam=rows.modes[RIVAL]).reset_index()


CLAIMS = (
    plane.CALCULATED,
    plane.CIRCLE,
    Claim(
        "beats",
        "A solver covers more modes of the mixture than Adam at equal gradients.",
        "higher mean, and p of the Mann-Whitney test, corrected by Holm, below 0.05; open where "
        "it is not below",
        compared(
            _rivals,
            "{method}",
            "modes",
            "above {adam:.3g}",
            lambda r: bool(r["modes"] > r["adam"]) if r["p"] < 0.05 else None,
        ),
    ),
)


def _outcome(results: Results) -> Plot:
    damped, summary = _damped(results), results.table("summary")
    plot = Plot([*damped.get("method", ()), *summary.get("method", ())], height=3.2)
    for row, r in enumerate(damped.itertuples()):
        title, label = "damped rotation", "|z| at the end, divided by the start"
        axes = plot.rows(title, label, list(damped.method))
        plot.line(title, r.method, [1, r.growth], [row, row], log="x", markevery=[1])
        axes.axvline(1, color=INK, linewidth=1)
    for row, r in enumerate(summary.itertuples()):
        title, label = "GAN of a mixture", f"modes of {len(mixture.CENTERS)} covered"
        axes = plot.rows(title, label, list(summary.method))
        ends = [r.low, r.modes, r.high]
        plot.line(title, r.method, ends, [row] * 3, linestyle="-", markevery=[1])
        axes.set_xlim(*_MODES)
    return plot


_SETTLED = each(
    "|z| at the end of the damped rotation, divided by the start",
    _damped,
    "{method} {growth:.3g}",
)
_COVERED = each(
    f"Modes covered, of {len(mixture.CENTERS)}, in the last quarter of a run, mean and range",
    "summary",
    "{method} {modes:.1f} ({range})",
)


def _ends(results: Results) -> str:
    """What the panels show that are drawn."""
    panels = (_SETTLED, _damped(results)), (_COVERED, results.table("summary"))
    return " ".join(say(results) for say, rows in panels if len(rows))


def _fresh(results: Results) -> dict[str, list[Record]]:
    """The runs of the reported seeds, by method."""
    found: dict[str, list[Record]] = {}
    for r in results.kind("mixture"):
        if r["seed"] != TUNING_SEED:
            found.setdefault(r["method"], []).append(r)
    return found


def _modes(results: Results) -> Plot:
    plot, labels = Plot(height=2.2), ("rounds of gradients", "modes")
    for method, mine in _fresh(results).items():
        modes = np.array([r["modes"] for r in mine], float)
        rounds = mine[0]["rounds"] * np.arange(1, modes.shape[1] + 1) / modes.shape[1]
        band = modes.min(axis=0), modes.max(axis=0)
        axes = plot.line(method, method, rounds, modes.mean(axis=0), labels, band=band)
        axes.set_ylim(*_MODES)
    return plot


def _samples(results: Results) -> Plot:
    plot = Plot(width=2.6, height=2.6)
    for method, mine in _fresh(results).items():
        axes = plot.panel(method, "", "")
        axes.plot(*mixture.CENTERS.T, "o", color=INK, alpha=0.4, markersize=9, mfc="none")
        axes.plot(*np.array(mine[0]["samples"], float).T, ".", color=INK, markersize=2)
        axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal", xticks=[], yticks=[])
    return plot


FIGURES = (
    Figure(
        "outcome",
        _outcome,
        "Left: a game whose flow spirals inwards; a method right of the line spirals outwards. "
        "Right: modes that the GAN covers at tuned rates and equal gradients, mean and range of "
        "the reported seeds.",
        _ends,
    ),
    own.FIGURE,
    plane.PLANE,
    Figure(
        "modes",
        _modes,
        f"Modes that the generator covers, of {len(mixture.CENTERS)}, at tuned rates: mean and "
        "range of the reported seeds. A falling curve loses modes again.",
        each("Modes lost since the best point of a run", "summary", "{method} {lost:.1f}"),
    ),
    Figure(
        "samples",
        _samples,
        "Samples of the generator at the end, first reported seed; circles are the modes.",
        each(
            "Modes covered in the last quarter of a run, mean of the reported seeds",
            "summary",
            "{method} {modes:.1f}",
        ),
    ),
)

TABLES = (
    Table(
        "summary",
        "GAN of a mixture",
        _summary,
        {
            "method": ("method", "its name; rms means in Adam's metric"),
            "cost": ("rounds", "rounds of gradients a step, one gradient for each player"),
            "rates": ("rate", "the neighbours of the tuned rate on the grid"),
            "modes": ("modes", "covered in the last quarter of a run, mean of the seeds"),
            "range": ("range", "of the seeds"),
            "p": (
                "p",
                "Mann-Whitney test against Adam, corrected by Holm; with 6 seeds at least 0.002 "
                "before the correction",
            ),
            "works": ("good rates", "rates with at least half the modes of the best rate"),
            "lost": ("lost", "modes lost since the best point of the run"),
            "wobble": ("wobble", "standard deviation of the modes in time"),
            "share": ("share", "samples within two standard deviations of a mode"),
            "diverged": ("diverged", "runs that are not finite"),
        },
        ("method", "cost", "rates", "modes", "range", "p"),
    ),
    Table(
        "planes",
        "Games of two numbers",
        lambda r: r.of("plane").drop(columns=["kind", "points", "radii", "every"], errors="ignore"),
        {
            "game": ("game", "its name"),
            "method": ("method", "its name"),
            "cost": ("rounds", "rounds of gradients a step; none if the solver counts none"),
            "growth": ("growth", "|z| at the end, divided by |z| at the start"),
            "predicted": ("calculated", "if linear: from the largest eigenvalue of the step"),
            "lowest": ("lowest", "of |z| over all steps, relative to the start"),
            "highest": ("highest", "of |z| over all steps, relative to the start"),
        },
        ("game", "method", "growth", "predicted"),
    ),
    Table(
        "mixture",
        "All runs of the GAN",
        lambda r: pd.DataFrame(map(mixture.judge, r.kind("mixture"))),
    ),
    own.TABLE,
)


def _method(results: Results) -> Mapping[str, str]:
    games = "; ".join(
        f"{name}: {game.title}, h = {game.h}, {game.steps} steps"
        for name, game in plane.GAMES.items()
    )
    return {
        "Games of two numbers": f"{games}; float64.",
        "Methods": "simultaneous: x - h g for both players. alternating: the second player sees "
        "the new parameters of the first. interaction, joint: simultaneous with the "
        "counter-terms between players, or all of them. rk4: the joint field. midpoint: the "
        f"implicit midpoint rule. penalty: {mixture.PENALTY} |grad of the generator's loss|² "
        "added to the discriminator's. rms: every gradient divided by the root of its mean "
        "square (optax's scale_by_rms, decay 0.999), which is fixed within a step. adam: "
        "optax's, b1 = 0.5, discriminator first.",
        "Equal gradients": f"A run has {results.settings.rounds} rounds, with one gradient for "
        "each player a round. Costs are measured by the operations of the compiled step: if only "
        "one player's gradient is used, it counts half. In a game of your own a step of the "
        f"implicit midpoint rule, which does not count its gradients, counts as {own.MIDPOINT} "
        "rounds.",
        "Mixture": f"A 4 by 4 grid of Gaussians with standard deviation {mixture.SPREAD}, 1 apart; "
        f"networks with two hidden layers of {mixture.HIDDEN} rectified units, {mixture.LATENT} "
        f"latent numbers, non-saturating loss, fresh batches of {mixture.BATCH}. A sample belongs "
        f"to a mode within {mixture.NEAR} standard deviations; a mode is covered by "
        f"{mixture.ENOUGH} of {mixture.SAMPLES} samples.",
        "Learning rates": "The rate that covers the most modes on seed 0 is run on the reported "
        "seeds.",
    }


STUDY = Study(
    name="games",
    question="How does the error of a solver change a game?",
    summary="Runs methods for games on three games of two numbers, trains a GAN on a mixture of "
    "16 Gaussians by them at equal gradients, and writes tables, figures and report.html. Five "
    "minutes; an hour or more with --full.",
    settings=Settings,
    full=FULL,
    tasks=tasks,
    verdict=verdict,
    tables=TABLES,
    figures=FIGURES,
    claims=CLAIMS,
    method=_method,
    page="docs/games.md",
)
run = STUDY.run
