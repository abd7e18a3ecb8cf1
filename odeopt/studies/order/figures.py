"""The figures of the study. Uses matplotlib; works on records only."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..drawing import RC, key, panels, plain_log, save, styles_of
from ..records import Record
from .rest import METHODS

CAPTIONS = {
    "distances": (
        "Distance between successive iterates, geometric mean of the seeds. Backward order comes "
        "to rest at the rate of the contraction; a window is forward again at every checkpoint; "
        "an average slows down as averages do. What leaves the frame has diverged."
    ),
    "excess": (
        "Loss of all data above the least, mean of the seeds, against gradients: all of them are "
        "charged. Backward order buys no lower loss with its gradients; an average does."
    ),
    "orders": (
        "Distance to the flow of the mean loss at a fixed time against h. Palindromic epochs are "
        "Strang's splitting: of order 2, if the step on each batch is."
    ),
    "networks": (
        "Digits network, loss of all training data after each epoch: geometric mean and range of "
        "the seeds."
    ),
}
THIN = ("forward, one order", "bracket, window 2", "linearized, window 8")


def draw(records: list[Record], out: Path) -> dict[str, Path]:
    """Writes all figures that there are records for into an existing folder."""
    kinds = ("rest", "order", "network")
    rest, orders, networks = ([r for r in records if r["kind"] == kind] for kind in kinds)
    with matplotlib.rc_context(RC):
        figures = {
            "distances": _curves(rest, "steps", "distances", "step", "distance") if rest else None,
            "excess": _curves(rest, "gradients", "excess", "gradients", "excess") if rest else None,
            "orders": _orders(orders) if orders else None,
            "networks": _networks(networks) if networks else None,
        }
        return save(figures, out)


def _curves(records: list[Record], x: str, y: str, xlabel: str, ylabel: str) -> Figure:
    problems = list(dict.fromkeys(r["problem"] for r in records))
    figure, axes = panels(problems, xlabel, ylabel, 3.6)
    styles = {
        name: {**style, "marker": "", "linewidth": 0.8 if name in THIN else 1.6}
        for name, style in styles_of(METHODS).items()
    }
    if y == "distances":  # it has other steps
        del styles["averaged, equal gradients"]
    for r in records:
        if r["method"] not in styles:
            continue
        axes[r["problem"]].plot(r[x], np.array(r[y], float), **styles[r["method"]])
    for problem, ax in axes.items():
        start = max(r[y][0] for r in records if r["problem"] == problem)
        ax.set(yscale="log", ylim=(1e-17 if y == "distances" else 1e-6, 10 * start))
        if y == "excess":
            ax.set_xscale("log")
    key(figure, [Line2D([], [], label=name, **style) for name, style in styles.items()])
    return figure


def _orders(records: list[Record]) -> Figure:
    styles = styles_of(r["splitting"] for r in records)
    figure, axes = panels(["linear regression"], "h", "error", 3.2)
    ax = axes["linear regression"]
    for r in records:
        ax.loglog(r["step_sizes"], r["errors"], **styles[r["splitting"]])
    plain_log(ax, records[0]["step_sizes"])
    key(figure, [Line2D([], [], label=name, **style) for name, style in styles.items()])
    return figure


def _networks(records: list[Record]) -> Figure:
    figure, axes = panels(list(dict.fromkeys(r["optimizer"] for r in records)), "epoch", "loss")
    styles = styles_of(r["order"] for r in records)
    for optimizer, ax in axes.items():
        for order, style in styles.items():
            mine = [r for r in records if (r["optimizer"], r["order"]) == (optimizer, order)]
            losses = np.array([r["losses"] for r in mine])
            epoch = 1 + np.arange(losses.shape[1])
            ax.semilogy(epoch, np.exp(np.log(losses).mean(axis=0)), **{**style, "marker": ""})
            band = losses.min(axis=0), losses.max(axis=0)
            ax.fill_between(epoch, *band, color=style["color"], alpha=0.15)
    key(figure, [Line2D([], [], label=name, **style) for name, style in styles.items()])
    return figure
