"""Is a learning rate a step size, and where does that stop?"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from . import accuracy, spectra
from . import equivalence_paths as paths
from .engine import CHECKS, Figure, Results, Study, Table, Task, race_figures, whole
from .engine.drawing import INK, Plot, plain_log
from .engine.load import own_problems
from .engine.optimizers import Entry, find
from .engine.problem import Problem
from .engine.runner import POINTS, Runner
from .engine.store import Record
from .equivalence_claims import CLAIMS, NEAR, SAME
from .problems import SUITE, build

QUADRATICS = ("quadratic-diabetes", "quadratic-kappa1e6")
RELATIVE = ("euler", "rk4", "heavy ball 0.9")
"""Methods with different limits, whose curves at equal h * sharpness / R are compared."""
UNRESOLVED = ("heavy ball 0.99", "nesterov 0.9")
"""Left out on a network: it would take more steps than there is time for."""

BOUNDARY_STEPS = 150
BOUNDARY_RATES = 2 ** np.arange(-0.25, 2.1, 0.25)
"""In units of R / initial sharpness."""

TRACE_RATES = {"heavy ball 0.9": 0.9}
"""Instead of `spectra.TRACE_RATE`, for a method that does not survive a start above its limit."""


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
        found = own_problems(self.problems, (accuracy.PATH, *QUADRATICS))
        object.__setattr__(self, "problems", found)
        for problem in found:
            if isinstance(problem, Problem) and problem.takes_key:
                raise ValueError(
                    f"Problem {problem.name!r} has a random loss, which has no gradient flow: "
                    "give one without key."
                )


def made(settings: Settings) -> list[Problem]:
    """The problems, all full-batch."""
    found = [
        accuracy.path_problem() if name == accuracy.PATH else build([name])[0]
        for name in settings.problems
    ]
    return [dataclasses.replace(problem, batch_size=None) for problem in found]


def tasks(settings: Settings) -> list[Task]:
    """Everything that is measured."""
    found, traced = [], [*map(find, paths.SOLVERS), *map(paths.heavy_ball, (0.5, 0.9))]
    networks = []
    for problem in made(settings):
        bench = Bench(problem)
        for entry in paths.limited():
            if problem.quadratic or entry.name not in UNRESOLVED:
                name = f"{problem.name}, {entry.name}"
                found.append(_task(problem, name, functools.partial(bench.measure, entry)))
        if not problem.quadratic:
            networks.append(problem)
            for entry in traced:
                name = f"{problem.name}, sharpness, {entry.name}"
                found.append(_task(problem, name, functools.partial(bench.trace, entry)))
    if networks:
        found += [
            whole(f"order, {name}", functools.partial(paths.order, name)) for name in paths.ORDERS
        ]
        found.append(whole("order, euler on its own flow", paths.modified_order))
    for problem in networks:
        for name, make in (("rates", paths.adam_rates), ("time constants", paths.adam_constants)):
            work = functools.partial(make, problem)
            found.append(_task(problem, f"{problem.name}, adam, {name}", work))
    return found


def _task(problem: Problem, name: str, make: Callable[[], Sequence[Record]]) -> Task:
    return dataclasses.replace(whole(name, make), x64=problem.x64)


class Bench:
    """A problem with its sharpness and its flow, which is compiled once."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @functools.cached_property
    def sharpness(self) -> float:
        """The largest Hessian eigenvalue at the initial point."""
        return float(spectra.eigenvalues(self.problem, 0)[-1])

    @functools.cached_property
    def flow(self) -> paths.FlowLosses:
        """Losses along gradient flow."""
        return paths.flow_losses(self.problem)

    def measure(self, entry: Entry) -> list[Record]:
        """Everything about one method that one compiled program can tell."""
        cost = entry.gradients_per_step
        sweep = Runner(self.problem, entry, POINTS * cost, [0], spectra.LIMIT_RUNS)
        assert entry.limit is not None
        about = {"problem": self.problem.name, "optimizer": entry.name, "R": entry.limit}
        about["momentum"] = paths.momentum_of(entry)
        found = []
        if self.problem.quadratic:
            limit = spectra.measured_limit(sweep, entry.limit, self.sharpness)
            found.append({"kind": "limit", **about, "measured_limit": limit})
        else:
            unit = entry.limit / self.sharpness
            runs = [(float(x * unit), 0) for x in BOUNDARY_RATES]
            diverged = [curve.diverged for curve in sweep.run(runs, BOUNDARY_STEPS * cost)]
            rates = {"relative_rates": BOUNDARY_RATES, "diverged": diverged}
            found.append({"kind": "boundary", **about, **rates})
        if not entry.name.startswith("nesterov"):
            found += paths.follow(sweep, self.flow, self.sharpness)
        if entry.name in RELATIVE:
            found += paths.same_relative_steps(sweep, self.sharpness)
        return found

    def trace(self, entry: Entry) -> list[Record]:
        """Sharpness along training, which rises to the method's limit."""
        share = TRACE_RATES.get(entry.name, spectra.TRACE_RATE)
        return [spectra.trace_record(self.problem, entry, self.sharpness, share)]


def verdict(results: Results) -> str:
    """The answer: how far a step size of each solver is one, and how the claims came out."""
    words = pd.DataFrame(
        {"rival": v.claim.says.startswith("Rival"), "word": v.word} for v in results.claims
    )
    counts = words.groupby("rival").word.value_counts()
    rows = results.table("deviations")
    below = rows[(rows.family == "solver") & (rows.relative_rate < 1)]
    same = below.worst <= SAME
    lead = "Yes," if same.all() else "Only well" if same.any() else "Not even"
    return (
        f"{lead} below the stability limit: in {same.sum()} of "
        f"{len(same)} runs below it the loss is gradient flow's at all times to {SAME:.0%}. Of "
        f"{(~words.rival).sum()} claims {counts.get((False, 'holds'), 0)} hold, "
        f"{counts.get((False, 'holds in part'), 0)} in part; of {words.rival.sum()} rival readings "
        f"{counts.get((True, 'does not hold'), 0)} do not hold."
    )


def _paths(results: Results, *families: str) -> list[Record]:
    return [r for r in results.records if r["kind"] == "path" and r["family"] in families]


def _flow(plot: Plot) -> dict[str, Any]:
    style: dict[str, Any] = {"color": INK, "linestyle": ":", "linewidth": 2.5}
    plot.key("flow", **style)
    return style


def _clock_and_steps(results: Results) -> Plot | None:
    """Losses below the limit against flow time, and the same against the number of steps."""
    shown = [r for r in _paths(results, "solver") if r["relative_rate"] < 1]
    if not shown:
        return None
    plot, shades = Plot(), matplotlib.colormaps["viridis"]
    sizes = sorted({round(r["step_sharpness"], 6) for r in shown})
    for clock in ("flow time n·h", "number of steps"):
        for r in shown:
            size = sizes.index(round(r["step_sharpness"], 6)) / max(1, len(sizes) - 1)
            colour = matplotlib.colors.to_hex(shades(size))
            axes = plot.panel(f"{r['problem']}: {clock}", clock, "loss")
            times = np.array(r["times"])
            if clock == "number of steps":  # step 0 has no place on a log axis
                axes.loglog(times[1:] / r["step"], r["loss"][1:], color=colour, linewidth=1)
            else:
                axes.semilogy(times, r["loss"], color=colour, linewidth=1)
            label = f"h·sharpness = {r['step_sharpness']:.2g}"
            plot.key(label, color=colour, linestyle="-")
    for problem in {r["problem"]: r for r in shown}.values():
        axes = plot.panel(f"{problem['problem']}: flow time n·h", "", "")
        axes.plot(problem["times"], problem["flow_loss"], **_flow(plot))
        axes.set(xlabel="flow time n·h", ylabel="loss")
    return plot


def _against_size(
    rows: pd.DataFrame, size: str, value: str, label: str, rule: float | None = None
) -> Plot | None:
    if rows.empty:
        return None
    plot = Plot(list(rows.optimizer.unique()))
    for (problem, name), mine in rows.sort_values(size).groupby(["problem", "optimizer"]):
        axes = plot.panel(problem, label, "relative difference of loss")
        # What blew up is drawn where it leaves the figure.
        axes.loglog(mine[size], mine[value].abs().clip(upper=1e3), **plot.style(name))
    for problem in rows.problem.unique():
        axes = plot.panel(problem, label, "")
        axes.axhline(SAME, color=INK, linewidth=1, linestyle="--")
        if rule:
            axes.axvline(rule, color=INK, linewidth=1, linestyle="--")
        axes.set_ylim(max(axes.get_ylim()[0], 1e-9), 1e3 if rule else None)
    return plot


def _difference(results: Results) -> Plot | None:
    rows = results.table("deviations")
    rows = rows[rows.family == "solver"]
    return _against_size(rows, "relative_rate", "worst", "h · sharpness / R", rule=1.0)


def _momentum_error(results: Results) -> Plot | None:
    """Momentum's difference to the flow, on the axis on which it should be Euler's."""
    rows = results.table("deviations")
    rows = rows[(rows.optimizer == "euler") & (rows.relative_rate < 1) | (rows.momentum > 0)]
    b, off = rows.momentum.astype(float), np.log1p(rows.delayed_end.astype(float))
    rows = rows.assign(scaled=rows.step_sharpness * (1 + b) / (1 - b), off=off)
    return _against_size(rows, "scaled", "off", "h/(1-b) · sharpness · (1+b)/(1-b)")


def _limits(results: Results) -> Plot | None:
    """Measured limits in units of R, on quadratics, and of networks by their first sharpness."""
    found = [r for r in results.records if r["kind"] in ("limit", "boundary")]
    if not found:
        return None
    names = list(dict.fromkeys(r["optimizer"] for r in found))
    problems = list(dict.fromkeys(r["problem"] for r in found))
    plot = Plot(problems, width=6.5, height=0.8 + 0.4 * len(names))
    axes = plot.panel("largest stable h · sharpness / R", "", "")
    for r in found:
        at = names.index(r["optimizer"]) + 0.2 * (problems.index(r["problem"]) - 1)
        style = plot.style(r["problem"], linestyle="")
        if r["kind"] == "limit":
            axes.plot([(r["measured_limit"] or np.nan) / r["R"]], [at], **style)
        else:
            rates, lost = np.array(r["relative_rates"]), np.array(r["diverged"])
            axes.plot(rates[~lost], np.full((~lost).sum(), at), **style)
            axes.plot(rates[lost], np.full(lost.sum(), at), "x", color=style["color"])
            plot.key("diverged", marker="x")
    plain_log(axes, [0.5, 1, 2, 4])
    axes.set(ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names)
    axes.axvline(1, color=INK, linewidth=1, linestyle="--")
    return plot


def _relative(results: Results) -> Plot | None:
    """Losses at equal h * sharpness / R after equally many steps."""
    shown = _paths(results, "relative")
    if not shown:
        return None
    plot, dashes = Plot([r["optimizer"] for r in shown]), ("-", "--", ":")
    rates = sorted({round(r["relative_rate"], 6) for r in shown})
    for r in shown:
        dash = dashes[rates.index(round(r["relative_rate"], 6)) % 3]
        axes = plot.panel(r["problem"], "steps", "loss")
        style = plot.style(r["optimizer"], linestyle=dash, markevery=10)
        axes.loglog(r["steps"][1:], r["loss"][1:], **style)
        plot.key(f"h·sharpness/R = {r['relative_rate']:.2g}", linestyle=dash)
    return plot


def _momentum_clock(results: Results) -> Plot | None:
    """Momentum's losses against h/(1-b) times steps, and against h times steps."""
    shown = paths.smallest(_paths(results, "momentum"))
    return _clocks(
        [(r["problem"], r["optimizer"], r) for r in sorted(shown, key=lambda r: r["momentum"])],
        {"n·h/(1-b)": lambda r: 1.0, "n·h": lambda r: 1 - r["momentum"]},
    )


def _adam(results: Results) -> Plot | None:
    """Adam with different b1 on two clocks; the difference to its flow against h."""
    families = {"adam constants": "b = exp(-h/tau)", "adam betas": "b1, b2 as they are"}
    plot = _clocks(
        [
            (r["problem"], f"b1 = {r['b1']:g}", r)
            for r in paths.smallest(_paths(results, "adam rate"))
        ],
        {"n·h": lambda r: 1.0, "n·h/(1-b1)": lambda r: 1 / (1 - r["b1"])},
        list(families.values()),
    )
    rows = results.table("deviations")
    if plot is None:
        return None
    known = rows[rows.family.isin(list(families))].sort_values("learning_rate")
    for (problem, family), mine in known.groupby(["problem", "family"]):
        axes = plot.panel(f"{problem}: difference to the flow", "h", "")
        axes.loglog(mine.learning_rate, mine.worst, **plot.style(families[family]))
        plain_log(axes, list(mine.learning_rate)[::2])
        axes.axhline(SAME, color=INK, linewidth=1, linestyle="--")
    return plot


def _clocks(
    shown: Sequence[tuple[str, str, Record]],
    clocks: Mapping[str, Callable[[Record], float]],
    more: Sequence[str] = (),
) -> Plot | None:
    """Losses of runs, (problem, label, run), on several clocks: multiples of flow time."""
    if not shown:
        return None
    plot = Plot([*(label for _, label, _ in shown), *more])
    for clock, factor in clocks.items():
        for problem, label, r in shown:
            axes = plot.panel(f"{problem}: {clock}", "flow time", "loss")
            times = np.array(r["times"])
            axes.semilogy(factor(r) * times, r["loss"], **plot.style(label, markevery=10))
            axes.plot(times, r["flow_loss"], **_flow(plot))
            axes.set_xlim(0, times[-1])
    return plot


def _found(name: str) -> Callable[[Results], str]:
    """What was measured for a claim."""
    return lambda results: next(v.finding for v in results.claims if v.claim.name == name)


FIGURES = (
    Figure(
        "difference",
        _difference,
        "Largest relative difference to the flow's loss at 60 common flow times, against the step "
        "size in units of each method's limit (vertical line; what blew up sits at the top). Below "
        f"the horizontal line ({SAME:.0%}) flow time predicts the loss. Look at how far right each "
        "method gets.",
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
        "limits",
        _limits,
        "Measured on quadratics, where it should be 1; on a network all rates that survive, in "
        "units of R over its initial sharpness.",
        _found("boundary of a network"),
    ),
    race_figures.SHARPNESS,
    Figure(
        "relative",
        _relative,
        "Loss after equally many steps at equal h·sharpness/R. If h/R were all, lines of one dash "
        "would coincide.",
        _found("whole curves in h/R"),
    ),
    race_figures.ORDERS,
    Figure(
        "momentum_clock",
        _momentum_clock,
        "Momentum at its smallest measured step, on the clock n·h/(1-b), where it should lie on "
        "gradient flow (dotted), and on the clock n·h, where it should not.",
        _found("momentum's rate"),
    ),
    Figure(
        "momentum_error",
        _momentum_error,
        "Difference of log loss to the flow at the end of the path, start from rest accounted for, "
        "against the effective step times (1+b)/(1-b). One line for every b says: momentum errs "
        "as gradient descent does with a step (1+b)/(1-b) times as long.",
        _found("momentum's error"),
    ),
    Figure(
        "adam",
        _adam,
        "Adam at its smallest measured rate with several b1, on the clock n·h, where they should "
        "coincide, and on momentum's clock, where they should not; and the largest difference to "
        "Adam's flow when the betas follow the rate, and when they stay.",
        _found("Adam's time constants"),
    ),
)

TABLES = (
    CHECKS,
    Table(
        "deviations",
        "Every run that has a flow beside it",
        lambda results: paths.deviations(results.records),
        {
            "problem": ("problem", "its name"),
            "optimizer": ("optimizer", "its name"),
            "b1": ("b1", "Adam's"),
            "learning_rate": ("rate", "h"),
            "step": ("step", "flow time of a step, h/(1-b) for momentum"),
            "relative_rate": ("h·sharpness/R", "the rate in units of the stability limit"),
            "worst": (
                "worst",
                "largest relative difference of the loss to the flow's at the 60 common flow "
                "times; a miss is a run that blew up",
            ),
            "end": ("end", "the same at the last one, signed"),
            "delayed_end": ("delayed end", "on the clock that knows momentum's start from rest"),
        },
    ),
)


def _method(results: Results) -> Mapping[str, str]:
    return {
        "Thresholds": f"{SAME:.0%} for losses and for limits on quadratics, {NEAR:.0%} (0.1 for "
        "orders) for what is known to a grid or fluctuates. A claim holds in part where some of "
        "its comparisons do. Its rivals are readings of a learning rate that theory expects to "
        "fail.",
        "Flows": "In closed form on quadratics; on networks by diffrax's Dopri8 at tight "
        "tolerance, a code that shares nothing with the optimizers. R is theory's limit of "
        "h·sharpness, sharpness the largest Hessian eigenvalue at the initial point.",
        "Problems": "; ".join(problem.spoken for problem in made(results.settings)),
    }


STUDY = Study(
    name="equivalence",
    question="Is a learning rate a step size?",
    summary="Measures flow time, stability limits and orders of solvers, momentum and Adam beside "
    "the flows that they should follow, and judges every claim. About two minutes.",
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
