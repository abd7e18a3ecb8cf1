"""The figures of the study. Uses matplotlib; works on records only."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import plots
from ..drawing import COLOURS, RC, key, legend, panels, plain_log, save, styles_of
from ..records import Record
from .claims import SAME
from .deviations import deviations

Records = Sequence[Record]
SHADES = matplotlib.colormaps["viridis"]
FLOW: Any = {"color": "#D55E00", "linestyle": "--", "linewidth": 2.5, "label": "flow"}


def _paths(records: Records, *families: str) -> list[Record]:
    return [r for r in records if r["kind"] == "path" and r["family"] in families]


def _problems(records: Records) -> list[str]:
    return list(dict.fromkeys(r["problem"] for r in records))


def _rule(ax: Axes, x: float | None = None, y: float | None = None) -> None:
    """A line to read against."""
    style: Any = {"color": "0.3", "linewidth": 1, "linestyle": "--"}
    if x is not None:
        ax.axvline(x, **style)
    if y is not None:
        ax.axhline(y, **style)


def _clock_and_steps(records: Records) -> Figure | None:
    """Losses below the limit against flow time, and the same against the number of steps."""
    shown = [r for r in _paths(records, "solver") if r["relative_rate"] < 1]
    if not shown:
        return None
    problems = _problems(shown)
    names = [f"{p}: {x}" for x in ("flow time", "number of steps") for p in problems]
    figure, axes = panels(names, "", "loss")
    sizes = sorted({round(r["step_sharpness"], 6) for r in shown})
    for r in shown:
        shade = SHADES(sizes.index(round(r["step_sharpness"], 6)) / max(1, len(sizes) - 1))
        times = np.array(r["times"])
        for x, label in ((times, "flow time"), (times / r["step"], "number of steps")):
            ax = axes[f"{r['problem']}: {label}"]
            begin = int(label == "number of steps")  # step 0 has no place on a log axis
            ax.semilogy(x[begin:], r["loss"][begin:], color=shade, linewidth=1)
            ax.set(xlabel="n·h")
            if begin:
                ax.set(xscale="log", xlabel="n")
    for problem in problems:
        one = next(r for r in shown if r["problem"] == problem)
        axes[f"{problem}: flow time"].plot(one["times"], one["flow_loss"], **FLOW)
    lines = [
        Line2D([], [], color=SHADES(i / max(1, len(sizes) - 1)), label=f"h·sharpness = {s:.2g}")
        for i, s in enumerate(sizes)
    ]
    key(figure, [Line2D([], [], **FLOW), *lines])
    return figure


def _difference(records: Records) -> Figure | None:
    """The largest difference to the flow against the step size in units of the limit."""
    rows = deviations(records)
    rows = rows[rows.family == "solver"]
    return _against_size(rows, "optimizer", "relative_rate", "worst", "h · sharpness / R", rule=1.0)


def _against_size(
    rows: pd.DataFrame, by: str, size: str, value: str, label: str, rule: float | None = None
) -> Figure | None:
    if rows.empty:
        return None
    styles = styles_of(rows[by])
    figure, axes = panels(list(rows.problem.unique()), label, "relative difference of loss")
    for (problem, name), mine in rows.sort_values(size).groupby(["problem", by], sort=False):
        height = mine[value].abs()
        # What blew up is drawn where it leaves the figure.
        axes[problem].loglog(mine[size], height.clip(upper=1e3), **styles[name])
    for ax in axes.values():
        _rule(ax, x=rule, y=SAME)
        ax.set_ylim(max(ax.get_ylim()[0], 1e-9), 1e3 if rule else None)
    legend(figure, styles, list(styles))
    return figure


def _limits(records: Records) -> Figure | None:
    """Measured limits in units of R, on quadratics, and of networks by their first sharpness."""
    limits = [r for r in records if r["kind"] in ("limit", "boundary")]
    if not limits:
        return None
    names = list(dict.fromkeys(r["optimizer"] for r in limits))
    problems = _problems(limits)
    styles = styles_of(problems)
    figure, axes = panels(["largest stable h · sharpness / R"], "", "", 3.4)
    (ax,) = axes.values()
    for r in limits:
        at = names.index(r["optimizer"]) + 0.2 * (problems.index(r["problem"]) - 1)
        style = {**styles[r["problem"]], "linestyle": ""}
        if r["kind"] == "limit":
            if r["measured_limit"] is not None:
                ax.plot(at, r["measured_limit"] / r["R"], **style)
        else:
            rates, lost = np.array(r["relative_rates"]), np.array(r["diverged"])
            ax.plot(np.full((~lost).sum(), at), rates[~lost], **{**style, "mfc": "none"})
            ax.plot(np.full(lost.sum(), at), rates[lost], "x", ms=4, color="0.6")
    ax.set_yscale("log")
    ax.set_yticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
    ax.set_yticks([], minor=True)
    ax.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    _rule(ax, y=1)
    handles = [Line2D([], [], **{**styles[p], "linestyle": ""}, label=p) for p in problems]
    cross = Line2D([], [], color="0.6", marker="x", linestyle="", label="diverged (network)")
    key(figure, [*handles, cross])
    return figure


def _edge(records: Records) -> Figure | None:
    traces = [r for r in records if r["kind"] == "sharpness"]
    return plots.sharpness_traces(traces, pd.DataFrame())


def _relative(records: Records) -> Figure | None:
    """Losses at equal h * sharpness / R after equally many steps."""
    shown = _paths(records, "relative")
    if not shown:
        return None
    styles = styles_of(r["optimizer"] for r in shown)
    figure, axes = panels(_problems(shown), "steps", "loss")
    rates = sorted({round(r["relative_rate"], 6) for r in shown})
    dashes: Any = ("-", "--", ":")
    for r in shown:
        dash = dashes[rates.index(round(r["relative_rate"], 6)) % 3]
        style = {**styles[r["optimizer"]], "marker": "", "linestyle": dash, "linewidth": 1.5}
        axes[r["problem"]].loglog(r["steps"][1:], r["loss"][1:], **style)
    solid = {name: {**style, "linestyle": "-", "marker": ""} for name, style in styles.items()}
    more = [
        Line2D([], [], color="0.3", linestyle=dashes[i % 3], label=f"h·sharpness/R = {rate:.2g}")
        for i, rate in enumerate(rates)
    ]
    legend(figure, solid, list(solid), *more)
    return figure


def _order(records: Records) -> Figure | None:
    return plots.orders_of_accuracy([r for r in records if r["kind"] == "order"], pd.DataFrame())


def _momentum_clock(records: Records) -> Figure | None:
    """Momentum's losses against h/(1-b) times steps, with the flow."""
    shown = _smallest(_paths(records, "momentum"))
    if not shown:
        return None
    styles = styles_of(r["optimizer"] for r in shown)
    problems = _problems(shown)
    names = [f"{p}: {clock}" for clock in ("n·h/(1-b)", "n·h") for p in problems]
    figure, axes = panels(names, "flow time", "loss")
    for r in shown:
        style = {**styles[r["optimizer"]], "marker": ""}
        times = np.array(r["times"])
        axes[f"{r['problem']}: n·h/(1-b)"].semilogy(times, r["loss"], **style)
        axes[f"{r['problem']}: n·h"].semilogy(times * (1 - r["momentum"]), r["loss"], **style)
        for clock in ("n·h/(1-b)", "n·h"):
            axes[f"{r['problem']}: {clock}"].plot(times, r["flow_loss"], **FLOW)
    legend(figure, styles, list(styles), Line2D([], [], **FLOW))
    return figure


def _smallest(records: Records) -> list[Record]:
    found = {}
    for r in sorted(records, key=lambda r: -r["step"]):
        found[r["problem"], r["optimizer"], r.get("b1")] = r
    return sorted(found.values(), key=lambda r: (r["problem"], r.get("momentum") or 0.0))


def _momentum_error(records: Records) -> Figure | None:
    """Momentum's difference to the flow, on the axis on which it should be Euler's."""
    rows = deviations(records)
    rows = rows[(rows.optimizer == "euler") & (rows.relative_rate < 1) | (rows.momentum > 0)]
    scale = (1 + rows.momentum.fillna(0)) / (1 - rows.momentum.fillna(0))
    off = np.log1p(rows.delayed_end.astype(float))
    rows = rows.assign(scaled=rows.step_sharpness * scale, off=off)
    label = "h/(1-b) · sharpness · (1+b)/(1-b)"
    return _against_size(rows, "optimizer", "scaled", "off", label)


def _adam(records: Records) -> Figure | None:
    """Adam: curves with different b1 on two clocks; the difference to its flow against h."""
    rates = _smallest(_paths(records, "adam rate"))
    if not rates:
        return None
    names = ["b1 on the clock n·h", "b1 on the clock n·h/(1-b1)", "difference to the flow"]
    figure, axes = panels(names, "flow time", "loss")
    styles = styles_of(f"b1 = {r['b1']:g}" for r in rates)
    for r in rates:
        style = {**styles[f"b1 = {r['b1']:g}"], "marker": ""}
        times = np.array(r["times"])
        axes[names[0]].semilogy(times, r["loss"], **style)
        axes[names[1]].semilogy(times / (1 - r["b1"]), r["loss"], **style)
    for name in names[:2]:
        axes[name].plot(rates[0]["times"], rates[0]["flow_loss"], **FLOW)
        axes[name].set_xlim(0, rates[0]["times"][-1])
    rows, ax = deviations(records), axes[names[2]]
    handles = []
    for family, label, colour in (
        ("adam constants", "b = exp(-h/tau)", COLOURS[3]),
        ("adam betas", "b1, b2 as they are", COLOURS[1]),
    ):
        mine = rows[rows.family == family].sort_values("learning_rate")
        handles += ax.loglog(mine.learning_rate, mine.worst, "o-", color=colour, label=label)
    ax.set(xlabel="h")
    plain_log(ax, sorted(set(rows[rows.family == "adam betas"].learning_rate))[::2])
    _rule(ax, y=SAME)
    legend(figure, styles, list(styles), Line2D([], [], **FLOW), *handles)
    return figure


DRAWINGS: dict[str, Callable[[Records], Figure | None]] = {
    "flow_time": _clock_and_steps,
    "difference": _difference,
    "limits": _limits,
    "sharpness": _edge,
    "relative": _relative,
    "order": _order,
    "momentum_clock": _momentum_clock,
    "momentum_error": _momentum_error,
    "adam": _adam,
}

CAPTIONS = {
    "flow_time": (
        "Loss of Euler, Heun and RK4 at every step size below the limit; upper row against flow "
        "time n·h, where the lines should lie on the flow's (dashed), lower row against the number "
        "of steps, where they should not. The colour is the step size."
    ),
    "difference": (
        "Largest relative difference to the flow's loss at 60 common flow times, against the step "
        "size in units of each method's limit (vertical line; what blew up sits at the top). Below "
        f"the horizontal line ({SAME:.0%}) flow time predicts the loss. Look at how far right each "
        "method gets."
    ),
    "limits": (
        "Largest stable h·sharpness/R. Filled: measured on quadratics, where it should be 1. "
        "Open: rates that survive on the network, in units of R over its initial sharpness; "
        "crosses diverged."
    ),
    "sharpness": (
        "Sharpness along training, times h/R. A line that goes to 1 and stays trains at the edge "
        "of stability of its own method."
    ),
    "relative": (
        "Loss after equally many steps at equal h·sharpness/R. If h/R were all, lines of one dash "
        "would coincide."
    ),
    "order": (
        "Error at a fixed flow time against the step size; dashed: the slope of the order. "
        "“own flow” is Euler against the flow of E + (h/4)‖grad E‖²."
    ),
    "momentum_clock": (
        "Momentum at its smallest measured step. Upper row on the clock n·h/(1-b), where it should "
        "lie on gradient flow (dashed); lower row on the clock n·h, where it should not."
    ),
    "momentum_error": (
        "Difference of log loss to the flow at the end of the path, start from rest accounted for, "
        "against the effective step times (1+b)/(1-b). One line for every b says: momentum errs "
        "as gradient descent does with a step (1+b)/(1-b) times as long."
    ),
    "adam": (
        "Adam at its smallest measured rate with several b1, on the clock n·h (left, where they "
        "should coincide) and on momentum's clock (middle, where they should not). Right: largest "
        "difference to Adam's flow when the betas follow the rate, and when they stay."
    ),
}


def draw(records: Records, out: Path) -> dict[str, Path]:
    """Writes every figure that the records allow, as PNG files in an existing folder."""
    with matplotlib.rc_context(RC):
        return save({name: drawing(records) for name, drawing in DRAWINGS.items()}, out)
