"""Is a learning rate a step size, and where does that stop?"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.colors import LinearSegmentedColormap, to_hex

from . import accuracy, spectra
from . import equivalence_paths as paths
from .engine import CHECKS, Figure, Results, Study, Table, Task, groups, races, whole
from .engine.drawing import COLOURS, INK, Plot
from .engine.load import built, own_problems
from .engine.optimizers import Entry, find
from .engine.problem import Problem
from .engine.ratios import negative, refuse_loss
from .engine.runner import POINTS, Runner
from .engine.store import Record
from .engine.verdicts import rows_of
from .equivalence_claims import CLAIMS, NEAR, SAME, edges
from .problems import PROBLEMS, SUITE

QUADRATICS = ("quadratic-diabetes", "quadratic-kappa1e6")
RELATIVE = ("euler", "rk4", "heavy ball 0.9")
"""Methods with different limits, whose curves at equal h * sharpness / R are compared."""
UNRESOLVED = ("heavy ball 0.99", "nesterov 0.9")
"""Left out on a network: it would take more steps than there is time for."""

BOUNDARY_STEPS = 150
BOUNDARY_RATES = 2 ** np.arange(-0.25, 2.1, 0.25)
"""In units of R / initial sharpness."""

TRACE_RATES = {"heavy ball 0.9": 0.6}
"""Instead of `spectra.TRACE_RATE`, for a method that does not survive a start above its limit: far
enough below that it is the training that must bring it there."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide the results.

    Attributes:
        problems: Problems, separated by commas: digits-path, quadratic-diabetes,
            quadratic-kappa1e6; your own as my_file.py:problem, made with odeopt.studies.Problem, of
            which every step uses all data. Its loss is smooth and not random.
    """

    problems: tuple[Any, ...] = (accuracy.PATH, *QUADRATICS)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "problems", own_problems(self.problems, (accuracy.PATH, *QUADRATICS))
        )
        for problem in self.problems:
            if isinstance(problem, Problem) and problem.takes_key:
                raise ValueError(
                    f"Problem {problem.name!r} has a random loss, which has no gradient flow: "
                    "give one without key."
                )


def made(settings: Settings) -> list[Problem]:
    """The problems, all full-batch and in double precision.

    In single precision a loss that vanishes is soon rounding, and no method's.
    """

    def wide(init: Callable[[int], Any], seed: int) -> Any:
        wider = lambda x: jnp.asarray(x, float) if eqx.is_inexact_array(x) else x  # noqa: E731
        return jax.tree.map(wider, init(seed))

    known = {**PROBLEMS, accuracy.PATH: accuracy.path_problem}
    return [
        dataclasses.replace(
            problem, batch_size=None, init=functools.partial(wide, problem.init), x64=True
        )
        for problem in built(settings.problems, known)
    ]


def tasks(settings: Settings) -> list[Task]:
    """Everything that is measured."""
    work: dict[str, Callable[[], list[Record]]] = {}
    traced = [*map(find, paths.SOLVERS), *map(paths.heavy_ball, (0.5, 0.9))]
    problems = made(settings)
    networks = [problem for problem in problems if not problem.quadratic]
    for problem in problems:
        name, bench = problem.name, Bench(problem)
        for entry in paths.limited():
            if problem.quadratic or entry.name not in UNRESOLVED:
                work[f"{name}, {entry.name}"] = functools.partial(bench.measure, entry)
        for entry in traced if problem in networks else ():
            work[f"{name}, sharpness, {entry.name}"] = functools.partial(bench.trace, entry)
    for name in paths.ORDERS if networks else ():
        work[f"order, {name}"] = functools.partial(paths.order, name)
    for problem in networks:
        for name, make in (("rates", paths.adam_rates), ("time constants", paths.adam_constants)):
            work[f"{problem.name}, adam, {name}"] = functools.partial(make, problem)
    return [whole(name, make) for name, make in work.items()]


class Bench:
    """A problem with its sharpness and its flow, which is compiled once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @functools.cached_property
    def sharpness(self) -> float:
        """The largest Hessian eigenvalue at the initial point."""
        return spectra.sharpness_of(self.problem, 0)

    @functools.cached_property
    def flow(self) -> paths.FlowLosses:
        """Losses along gradient flow."""
        return paths.flow_losses(self.problem)

    def measure(self, entry: Entry) -> list[Record]:
        """Everything about one method that one compiled program can tell."""
        cost, limit = entry.gradients_per_step, entry.limit
        sweep = Runner(self.problem, entry, POINTS * cost, [0])
        assert limit is not None
        about: Record = {"problem": self.problem.name, "optimizer": entry.name, "R": limit}
        about["momentum"] = paths.momentum_of(entry)
        if self.problem.quadratic:
            measured = spectra.measured_limit(sweep, limit, self.sharpness)
            found = [{"kind": "limit", **about, "measured_limit": measured}]
        else:
            runs = [(float(x * (limit / self.sharpness)), 0) for x in BOUNDARY_RATES]
            diverged = [curve.diverged for curve in sweep.run(runs, BOUNDARY_STEPS * cost)]
            rates = {"relative_rates": BOUNDARY_RATES, "diverged": diverged}
            found = [{"kind": "boundary", **about, **rates}]
        if not entry.name.startswith("nesterov"):
            followed = paths.follow(sweep, self.flow, self.sharpness)
            lowest = min((min(r["flow_loss"]) for r in followed), default=0.0)
            if negative([lowest], max((r["flow_loss"][0] for r in followed), default=1.0)):
                why = "this study compares losses by their ratio"
                refuse_loss(self.problem, f"falls to {lowest:.3g}", why)
            found += followed
        if entry.name in RELATIVE:
            found += paths.same_relative_steps(sweep, self.sharpness)
        return found

    def trace(self, entry: Entry) -> list[Record]:
        """Sharpness along training, which rises to the method's limit."""
        share = TRACE_RATES.get(entry.name, spectra.TRACE_RATE)
        return [spectra.trace_record(self.problem, entry, self.sharpness, share)]


def verdict(results: Results) -> str:
    """The answer: how far a step size of each solver is one, and how the claims came out."""
    measured = [v for v in results.claims if v.checks]
    rivals = [v.word for v in measured if v.claim.says.startswith("Rival")]
    words = [v.word for v in measured if not v.claim.says.startswith("Rival")]
    rows = results.table("deviations")
    below = rows[(rows.family == "solver") & (rows.relative_rate < 1)]
    same = below.worst <= SAME
    lead = "Yes," if same.all() else "Only well" if same.any() else "Not even"
    said = []
    if len(same):
        said.append(
            f"{lead} below the stability limit: in {same.sum()} of {len(same)} runs below it the "
            f"loss is that of gradient flow to {SAME:.0%} at all times."
        )
    if measured:
        said.append(
            f"Of {len(words)} measured claims {words.count('holds')} hold, "
            f"{words.count('holds in part')} in part; of {len(rivals)} rival readings "
            f"{rivals.count('does not hold')} do not hold."
        )
    return " ".join(said) or "No claim was measured."


def _clock_and_steps(results: Results) -> Plot:
    """Losses below the limit against flow time, and the same against the number of steps."""
    every = [r for r in results.kind("path") if r["family"] == "solver"]
    shown = [r for r in every if r["relative_rate"] < 1]
    plot, shades = Plot(), LinearSegmentedColormap.from_list("", COLOURS[2:5:2])
    sizes = sorted({round(r["step_sharpness"], 6) for r in shown})
    for r in shown:
        size = sizes.index(round(r["step_sharpness"], 6)) / max(1, len(sizes) - 1)
        style = {"color": to_hex(shades(size)), "linewidth": 1}
        axes = plot.panel(f"{r['problem']}: flow time n·h", "flow time n·h", "loss")
        axes.semilogy(r["times"], r["loss"], **style)
        if len(axes.lines) == 1:
            flow: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 2.5}
            axes.plot(r["times"], r["flow_loss"], zorder=3, **flow)
            plot.key("flow", **flow)
        axes = plot.panel(f"{r['problem']}: number of steps", "number of steps", "loss")
        steps = np.array(r["times"][1:]) / r["step"]  # step 0 has no place on a log axis
        axes.loglog(steps, r["loss"][1:], **style)
        plot.key(f"h·sharpness = {r['step_sharpness']:.2g}", linestyle="-", **style)
    return plot


def _difference(results: Results) -> Plot:
    rows = results.table("deviations")
    rows = rows[rows.family == "solver"].sort_values("relative_rate")
    plot = Plot(list(rows.optimizer.unique()))
    for (problem, name), mine in groups(rows, ["problem", "optimizer"]):
        labels = "h · sharpness / R", "relative difference of loss"
        # What blew up is drawn where it leaves the figure.
        shown = mine.worst.clip(upper=1e3)
        axes = plot.line(problem, name, mine.relative_rate, shown, labels, log="xy", markevery=1)
        axes.axhline(SAME, color=INK, linewidth=1, linestyle="--")
        axes.axvline(1, color=INK, linewidth=1, linestyle="--")
        axes.set_ylim(max(axes.get_ylim()[0], 1e-9), 1e3)
    return plot


def _sharpness(results: Results) -> Plot:
    """Sharpness along training in units of R / h, from records of the kind "sharpness"."""
    plot, labels = Plot(width=6.5), ("gradients", "sharpness · h / R")
    for r in results.kind("sharpness"):
        if r["gradients"]:
            relative = np.array(r["sharpness"], float) * r["learning_rate"] / r["R"]
            shown, name = np.minimum(relative, 3), r["optimizer"]
            axes = plot.line(r["problem"], name, r["gradients"], shown, labels, markevery=1)
            axes.axhline(1, color=INK, linewidth=1, linestyle="--")
    return plot


def _found(name: str) -> Callable[[Results], str]:
    """A claim, its verdict and what was measured for it."""

    def say(results: Results) -> str:
        (verdict,) = (v for v in results.claims if v.claim.name == name)
        return f"{verdict.claim.says} {verdict.word.capitalize()}. {verdict.finding}"

    return say


def _at_the_edge(results: Results) -> str:
    """Where the lines of the figure of the sharpness end."""
    late = {(r["problem"], r["optimizer"]): r["late"] for r in rows_of(results, edges)}
    ends = {pair: ratio for pair, ratio in late.items() if np.isfinite(ratio)}
    if not ends:
        return "No training lasted long enough to say where sharpness times h / R ends."
    near = sum(abs(ratio - 1) <= NEAR for ratio in ends.values())
    each = (f"{problem}, {name} {ratio:.3g}" for (problem, name), ratio in ends.items())
    return (
        f"Sharpness times h / R ends at 1 ± {NEAR:g} in {near} of {len(ends)} trainings (median of "
        f"the last quarter): {'; '.join(each)}."
    )


FIGURES = (
    Figure(
        "difference",
        _difference,
        "Largest relative difference from the flow's loss at 60 common flow times, against the "
        "step size in units of each method's limit (vertical line; diverged runs are at the "
        f"top). Below the horizontal line ({SAME:.0%}) flow time predicts the loss. Compare how "
        "far right each method stays below it.",
        _found("flow time"),
    ),
    Figure(
        "flow_time",
        _clock_and_steps,
        "Loss of Euler, Heun and RK4 at every step size below the limit: against flow time, where "
        "the lines should lie on the flow's (dotted), and against the number of steps, where they "
        "should not. The colour is the step size.",
        _found("number of steps"),
    ),
    Figure(
        "sharpness",
        _sharpness,
        "Largest Hessian eigenvalue along training. A line that climbs to 1 and stays there trains "
        "at the edge of stability of its own method.",
        _at_the_edge,
    ),
)

TABLES = (
    CHECKS,
    Table(
        "deviations",
        "Every run that has a flow beside it",
        lambda results: paths.deviations(results.records),
        {
            **races.NAMED,
            "b1": ("b1", "Adam's"),
            "learning_rate": ("rate", "h"),
            "step": ("step", "flow time of a step, h/(1-b) for momentum"),
            "relative_rate": ("h·sharpness/R", "the rate in units of the stability limit"),
            "worst": (
                "worst",
                "largest relative difference of the loss from the flow's at the 60 common flow "
                "times; a miss is a diverged run",
            ),
            "end": ("end", "the difference at the last flow time, with its sign"),
            "delayed_end": ("delayed end", "the same, allowing for momentum's start from rest"),
        },
    ),
)


def _method(results: Results) -> Mapping[str, str]:
    return {
        "Thresholds": f"{SAME:.0%} for losses and for limits on quadratics; {NEAR:.0%} (0.1 for "
        "orders) for quantities that fluctuate or are known only on a grid. A claim holds in "
        "part if some of its comparisons do. Its rivals are other meanings of a learning rate, "
        "which theory expects to fail.",
        "Flows": "In closed form on quadratics; on networks by diffrax's Dopri8 at tight "
        "tolerance, which shares no code with the optimizers. R is the limit of h·sharpness in "
        "theory, and the sharpness is the largest Hessian eigenvalue at the initial point.",
        "Problems": "; ".join(problem.spoken for problem in made(results.settings)),
    }


STUDY = Study(
    name="equivalence",
    question="Is a learning rate a step size?",
    summary="Compares solvers, momentum and Adam with the flows that they should follow: flow "
    "time, stability limits and orders. Judges every claim. About two minutes.",
    settings=Settings,
    full={},
    tasks=tasks,
    verdict=verdict,
    tables=TABLES,
    figures=FIGURES,
    claims=CLAIMS,
    method=_method,
    suite=SUITE,
    page="docs/equivalence.md",
)
run = STUDY.run
