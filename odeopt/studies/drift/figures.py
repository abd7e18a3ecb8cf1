"""The figures of the study. Uses matplotlib; works on records only."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..drawing import COLOURS, RC, key, panels, plain_log, save, styles_of
from ..records import Record
from .trends import QUANTITIES, VARIANTS, judge

CAPTIONS = {
    "plane": (
        "The loss (ab - 0.6)²/2 of two numbers. Gradient flow keeps a² - b²; gradient descent "
        "(black) turns towards flatter minima, along its modified flow. With the counter-term it "
        "comes back to the flow, and with that term's sign wrong it leaves it twice as far. The "
        "larger step is too large for the first term, which overshoots; the next one mends it."
    ),
    "principal": (
        "A quadratic, one direction a panel: gradient descent (dots) beside the principal flow in "
        "complex numbers, of which the real part is drawn, and its envelope, the flow in real "
        "ones. They meet at every step: beyond h·curvature = 1 the iterates oscillate, beyond 2 "
        "they diverge. Gradient flow would decay in all three."
    ),
    "edge": (
        "A loss whose curvature grows at a steady rate along gradient flow (dotted). Gradient "
        "descent follows it up to 2/h, begins to oscillate, and so holds the curvature there. The "
        "central flow is the average: its curvature stays at 2/h, and its variance is "
        "that of the oscillation, once that has settled. The iterates settle 2 % beyond: the "
        "central flow knows the third derivatives of the loss, not the fourth."
    ),
    "epoch": (
        "Gradient descent on three batches in turn, always in the same order: its distance, after "
        "every epoch, from the gradient flow of their mean, from the flow with the penalty that "
        "remains in the mean over all orders, and from the one with the bracket of this order."
    ),
    "orders": (
        "Distance at the end against h, in units of the length of the path. A modified flow is "
        "followed with its order, gradient flow with order 1, or 2 with the counter-term."
    ),
    "trends": (
        "What the rate changes at equal flow time: gradient norm and sharpness, in percent of "
        "where the counter-term leads at the smallest rate, paired by seed; mean and range of the "
        "seeds. Flat is what gradient flow would give."
    ),
    "removed": (
        "The share of the trend that the counter-term removes, to its order 2 or 3, and that the "
        "explicit penalty at the smallest rate restores, when rates up to the one on the axis are "
        "compared. All are terms of a series in h: they get better to the left. One colour a flow "
        "time; what is below the frame is a trend turned around."
    ),
    "test": "Error on held-out digits at the last flow time. It is reported, not promised.",
}
PLANE: dict[str, Any] = {
    "flow": {"color": COLOURS[5], "linewidth": 3},
    "modified flow": {"color": COLOURS[6], "linestyle": "--", "linewidth": 1.6},
    "gradient descent": {"color": COLOURS[0], "marker": "o", "linestyle": ":"},
    "counter-term": {"color": COLOURS[3], "marker": "s", "linestyle": ":"},
    "counter-term, order 3": {"color": COLOURS[2], "marker": "D", "linestyle": ":"},
    "doubled drift": {"color": COLOURS[4], "marker": "^", "linestyle": ":"},
}
SHARES: dict[str, Any] = {"removed": "-", "by order 3": "-.", "restored": "--"}


def draw(records: list[Record], out: Path) -> dict[str, Path]:
    """Writes all figures that there are records for into an existing folder."""
    of_kind = {
        kind: [r for r in records if r["kind"] == kind]
        for kind in ("trajectory", "principal", "edge", "epoch", "order", "trend")
    }
    runs = pd.DataFrame(of_kind["trend"])
    with matplotlib.rc_context(RC):
        figures = {
            "plane": _plane(of_kind["trajectory"]) if of_kind["trajectory"] else None,
            "principal": _principal(of_kind["principal"]) if of_kind["principal"] else None,
            "edge": _edge(of_kind["edge"][0]) if of_kind["edge"] else None,
            "epoch": _epoch(of_kind["epoch"]) if of_kind["epoch"] else None,
            "orders": _orders(of_kind["order"]) if of_kind["order"] else None,
            "trends": _trends(runs) if len(runs) else None,
            "removed": _removed(runs) if len(runs) else None,
            "test": _test_error(runs) if len(runs) else None,
        }
        return save(figures, out)


def _plane(trajectories: list[Record]) -> Figure:
    sizes = sorted({r["h"] for r in trajectories})
    figure, axes = panels([f"h = {h:g}" for h in sizes], "a", "b", 4.2)
    a, b = np.meshgrid(np.linspace(-0.1, 3, 200), np.linspace(1.0, 3.7, 200))
    for h in sizes:
        ax = axes[f"h = {h:g}"]
        height = np.log10(0.5 * (a * b - 0.6) ** 2 + 1e-4)
        ax.contour(a, b, height, levels=12, colors="0.85", linewidths=0.7)
        ax.plot(0.6 / b[:, 0], b[:, 0], color="0.5", linewidth=0.8)
        for name, style in PLANE.items():
            points = next(r["points"] for r in trajectories if (r["h"], r["name"]) == (h, name))
            ax.plot(*np.transpose(points), **{"markersize": 4, "linewidth": 1, **style})
        ax.set(xlim=(0.1, 3), ylim=(1.0, 3.7))
    minima = Line2D([], [], color="0.5", linewidth=0.8, label="minima, ab = 0.6")
    key(figure, [*(Line2D([], [], label=n, markersize=4, **s) for n, s in PLANE.items()), minima])
    return figure


def _principal(records: list[Record]) -> Figure:
    names = [f"h·curvature = {r['curvature']:g}" for r in records]
    figure, axes = panels(names, "step", "x")
    for name, r in zip(names, records, strict=True):
        ax, envelope = axes[name], np.abs(r["envelope"])
        ax.plot(r["times"], r["flow"], color=COLOURS[6])
        ax.plot(r["times"], envelope, "--", color=COLOURS[3])
        ax.plot(r["times"], -envelope, "--", color=COLOURS[3])
        ax.plot(range(len(r["iterates"])), r["iterates"], "o", color=COLOURS[0], markersize=4)
    key(
        figure,
        [
            Line2D([], [], color=COLOURS[0], marker="o", linestyle="", label="gradient descent"),
            Line2D([], [], color=COLOURS[6], label="principal flow"),
            Line2D([], [], color=COLOURS[3], linestyle="--", label="its envelope"),
        ],
    )
    return figure


def _edge(record: Record) -> Figure:
    figure, axes = panels(["curvature", "square of x"], "step", "")
    x, curvature = np.transpose(record["iterates"])
    steps = np.arange(len(x))
    descent: dict[str, Any] = {"color": COLOURS[0], "marker": ".", "linestyle": ""}
    descent["markersize"] = 2
    flow: dict[str, Any] = {"color": COLOURS[6]}
    ax = axes["curvature"]
    ax.plot(steps, curvature, **descent)
    ax.plot(steps, record["flow"], **flow)
    ax.plot(steps, record["gradient flow"], ":", color="0.3")
    ax.set_ylim(curvature.min() - 0.2, 1.02 * curvature.max())
    axes["square of x"].plot(steps, x**2, **descent)
    axes["square of x"].plot(steps, record["variance"], **flow)
    key(
        figure,
        [
            Line2D([], [], label="gradient descent", **{**descent, "markersize": 6}),
            Line2D([], [], label="central flow and its variance", **flow),
            Line2D([], [], label="gradient flow", color="0.3", linestyle=":"),
        ],
    )
    return figure


def _epoch(records: list[Record]) -> Figure:
    names = [r["flow"] for r in records]
    styles = styles_of(names)
    figure, axes = panels(["distance from the iterates"], "epoch", "", 3.0)
    for r in records:
        ax = axes["distance from the iterates"]
        ax.semilogy(np.arange(1, len(r["distance"])), r["distance"][1:], **styles[r["flow"]])
    key(figure, [Line2D([], [], label=name, **styles[name]) for name in names])
    return figure


def _orders(records: list[Record]) -> Figure:
    names = {1: "gradient flow", 2: "modified flow, order 2", 3: "modified flow, order 3"}
    labels = [f"{r['method']} to {names[r['flow']]}" for r in records]
    styles = styles_of(labels)
    figure, axes = panels(list(dict.fromkeys(r["path"] for r in records)), "h", "error", 3.2)
    for r, label in zip(records, labels, strict=True):
        axes[r["path"]].loglog(r["step_sizes"], r["errors"], **styles[label])
    for path, ax in axes.items():
        plain_log(ax, next(r["step_sizes"] for r in records if r["path"] == path))
    key(figure, [Line2D([], [], label=label, **style) for label, style in styles.items()])
    return figure


def _trends(runs: pd.DataFrame) -> Figure:
    problems = list(runs["problem"].unique())
    names = [f"{p}, {q}, t = {t:g}" for p in problems for q in QUANTITIES for t in _times(runs, p)]
    figure, axes = panels(names, "h · first sharpness", "change, %")
    styles = styles_of(VARIANTS)
    for problem in problems:
        mine = runs[runs["problem"] == problem]
        edge = mine["first sharpness"].mean()
        for quantity in QUANTITIES:
            for time in _times(runs, problem):
                ax = axes[f"{problem}, {quantity}, t = {time:g}"]
                here = mine[mine["time"] == time]
                table = here.pivot(index=["variant", "rate"], columns="seed", values=quantity)
                base = table.loc["counter-term"].iloc[0]
                for variant, style in styles.items():
                    change = 100 * (table.loc[variant] / base - 1)
                    x = edge * change.index.to_numpy()
                    ax.plot(x, change.mean(axis=1), **style)
                    ax.fill_between(
                        x, change.min(axis=1), change.max(axis=1), color=style["color"], alpha=0.15
                    )
    key(figure, [Line2D([], [], label=name, **style) for name, style in styles.items()])
    return figure


def _removed(runs: pd.DataFrame) -> Figure:
    verdict = judge(runs)
    problems = list(verdict["problem"].unique())
    names = [f"{p}, {q}" for p in problems for q in QUANTITIES]
    figure, axes = panels(names, "largest h · first sharpness", "share of the trend", 2.8)
    for (problem, quantity, time), mine in verdict.groupby(["problem", "quantity", "time"]):
        ax = axes[f"{problem}, {quantity}"]
        colour = COLOURS[_times(runs, problem).index(time)]
        for share, dash in SHARES.items():
            ax.plot(mine["edge"], mine[share], dash, color=colour, marker="o", markersize=4)
    for name, ax in axes.items():
        edges = verdict[verdict["problem"] == name.split(", ")[0]]["edge"].unique()
        plain_log(ax, list(edges))
        ax.axhline(0.8, color="0.3", linewidth=1, linestyle=":")
        ax.set_ylim(-0.6, 1.1)
    count = max(len(_times(runs, p)) for p in problems)
    handles = [Line2D([], [], color=COLOURS[i], label=f"flow time {i + 1}") for i in range(count)]
    handles += [Line2D([], [], color="0.3", linestyle=d, label=s) for s, d in SHARES.items()]
    key(figure, [*handles, Line2D([], [], color="0.3", linestyle=":", label="80 %")])
    return figure


def _test_error(runs: pd.DataFrame) -> Figure:
    problems = list(runs["problem"].unique())
    figure, axes = panels(problems, "h · first sharpness", "test error, %", 2.8)
    styles = styles_of(VARIANTS)
    for problem, ax in axes.items():
        mine = runs[(runs["problem"] == problem) & (runs["time"] == _times(runs, problem)[-1])]
        for variant, style in styles.items():
            error = 100 * mine[mine["variant"] == variant].groupby("rate")["test error"].mean()
            ax.plot(mine["first sharpness"].mean() * error.index, error, **style)
        ax.set_ylim(0, 120 * mine["test error"].max())
    key(figure, [Line2D([], [], label=name, **style) for name, style in styles.items()])
    return figure


def _times(runs: pd.DataFrame, problem: str) -> list[float]:
    return sorted(runs[runs["problem"] == problem]["time"].unique())
