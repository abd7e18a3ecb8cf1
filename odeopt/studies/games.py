"""What does integration error do to a game? Games of two numbers, and a GAN of 16 Gaussians."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from . import game_mixture as mixture
from . import game_modes as modes
from . import game_own as own
from . import game_plane as plane
from .engine import Figure, Lab, Results, Study, Task, at_least, whole
from .engine.drawing import INK, Plot
from .engine.load import own_optimizers, own_problems
from .engine.store import Record
from .engine.tuner import TUNING_SEED

KNOWN = ("plane", "mixture")


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


def verdict(results: Results) -> str:
    """Which methods settle where the flow does, and whether any beats Adam in the GAN."""
    said = [*plane.verdict(results), *modes.verdict(results), *own.verdict(results)]
    return " ".join(said) or "There is nothing to compare."


CLAIMS = (plane.CALCULATED, plane.CIRCLE, modes.BEATS)


def _outcome(results: Results) -> Plot:
    damped, summary = plane.damped(results), results.table("summary")
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
        axes.set_xlim(*modes.LIMITS)
    return plot


def _ends(results: Results) -> str:
    """What the panels show that are drawn."""
    panels = (plane.SETTLED, plane.damped(results)), (modes.COVERED, results.table("summary"))
    return " ".join(say(results) for say, rows in panels if len(rows))


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
    modes.MODES,
    modes.SAMPLES,
)

TABLES = (modes.SUMMARY, plane.TABLE, modes.RUNS, own.TABLE)


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
