"""The plots of a stability sweep, as PNG files. May use: matplotlib, pandas, `odeopt.solvers`."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from .. import solvers

# Okabe and Ito's colours without the yellow, which is too pale for a line on white.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
MARKERS = "os^DvPX"
TARGET = 0.95  # of the way from the initial loss to the best one: see `targets`
STYLE = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 9, "axes.grid": True}

CAPTIONS = {
    "loss_rate": (
        "Final loss against learning rate. Lines: median over the reported seeds; bands: their "
        "range; rings: the tuned rate. A cross in the strip on top marks a rate at which at least "
        "one seed diverged. Look at where each line ends and at how wide its valley is."
    ),
    "loss_relative": (
        "The same losses against h·sharpness/R, the rate in units of each solver's own linear "
        "limit at the initial point. If the linear theory holds, all lines end at the line at 1."
    ),
}


def reported(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that figures show: seed 0 only tunes, unless there is no other."""
    fresh = runs[runs.seed != 0]
    return fresh if len(fresh) else runs


def tuned(runs: pd.DataFrame) -> pd.DataFrame:
    """The reported runs at the rate that did best on the tuning seed, per problem and optimizer."""
    tuning = runs[(runs.seed == 0) & (runs.status == "ok")]
    if not (runs.seed == 0).any():
        tuning = runs[runs.status == "ok"]
    best = tuning.loc[tuning.groupby(["problem", "optimizer"]).final_loss.idxmin()]
    keys = ["problem", "optimizer", "learning_rate"]
    return reported(runs).merge(best[keys], on=keys)


def _styles(result: Any) -> dict[str, dict[str, Any]]:
    """One colour, marker and dash per optimizer, the same in all figures."""
    names = dict.fromkeys(r["optimizer"] for r in result.records if "optimizer" in r)
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3],
            "markersize": 4,
            "linewidth": 1.4,
        }
        for i, name in enumerate(names)
    }


def _panels(names: list[str], xlabel: str, ylabel: str) -> tuple[Figure, dict[str, Axes]]:
    """Small multiples, one panel a name, at most three in a row."""
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    size = (10 if columns == 3 else 2 + 4 * columns, 0.7 + 2.7 * rows)
    figure = Figure(figsize=size, layout="constrained", dpi=100)
    axes = {}
    for i, name in enumerate(names):
        axes[name] = figure.add_subplot(rows, columns, i + 1, title=name)
        if i % columns == 0:
            axes[name].set_ylabel(ylabel)
        if i + columns >= len(names):
            axes[name].set_xlabel(xlabel)
    return figure, axes


def _legend(figure: Figure, styles: dict[str, dict[str, Any]], names: set[str], *more: Any) -> None:
    handles = [Line2D([], [], label=n, **s) for n, s in styles.items() if n in names] + list(more)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)))


def _loss_rate(result: Any, x: str = "learning_rate") -> Figure | None:
    runs, styles = reported(result.runs), _styles(result)
    runs = runs[runs[x].notna()]
    if not len(runs):
        return None
    label = "learning rate h (flow time per step)" if x == "learning_rate" else "h · sharpness / R"
    figure, axes = _panels(list(runs.problem.unique()), label, "final loss")
    best = tuned(result.runs)
    for problem, ax in axes.items():
        here = runs[runs.problem == problem]
        ax.set(xscale="log", yscale="log")
        ok = here[here.status == "ok"]
        for i, (name, style) in enumerate(styles.items()):
            mine = here[here.optimizer == name]
            if mine.empty:
                continue
            # A run that did not end counts as infinitely bad, so the line stops there.
            loss = mine.final_loss.where(mine.status == "ok", np.inf)
            rates = mine.groupby("learning_rate")[x].median()
            groups = loss.groupby(mine.learning_rate)
            median = groups.median().replace(np.inf, np.nan)
            finite = loss.replace(np.inf, np.nan).groupby(mine.learning_rate)
            ax.plot(rates, median, **style)
            ax.fill_between(rates, finite.min(), finite.max(), color=style["color"], alpha=0.15, lw=0)
            at = best[(best.problem == problem) & (best.optimizer == name)].learning_rate.unique()
            ax.plot(rates.reindex(at), median.reindex(at), "o", mfc="none", ms=10, c=style["color"])
            diverged = (mine.status == "diverged").groupby(mine.learning_rate).any()
            strip = np.full(diverged.sum(), 0.97 - 0.035 * i)
            ax.plot(rates[diverged], strip, "x", ms=4, c=style["color"],
                    transform=ax.get_xaxis_transform())  # fmt: skip
        _room_on_top(ax, ok.final_loss, 0.06 + 0.035 * len(styles))
        if x == "relative_rate":
            ax.axvline(1, color="0.4", linewidth=1, linestyle="--")
    mark = Line2D([], [], color="0.3", marker="x", linestyle="", label="diverged")
    ring = Line2D([], [], color="0.3", marker="o", mfc="none", ms=9, linestyle="", label="tuned")
    _legend(figure, styles, set(runs.optimizer), mark, ring)
    return figure


def _room_on_top(ax: Axes, values: pd.Series, share: float) -> None:
    """Limits on a log axis that leave a strip free above the data."""
    values = values[values > 0]
    if len(values):
        low, high = math.log10(values.min()), math.log10(values.max())
        pad = max(0.05 * (high - low), 0.1)
        low, high = low - pad, high + pad
        ax.set_ylim(10**low, 10 ** (low + (high - low) / (1 - share)))


DRAWINGS: dict[str, Callable[[Any], Figure | None]] = {
    "loss_rate": _loss_rate,
    "loss_relative": lambda result: _loss_rate(result, "relative_rate"),
}


def draw(result: Any, out: Path) -> dict[str, Path]:
    """Writes every plot that the records allow.

    Args:
      result: a `stability.Result`.
      out: an existing folder.

    Returns:
      Name to PNG file, in the order in which they should be read. A plot without data is left out.
    """
    import matplotlib

    files = {}
    with matplotlib.rc_context(STYLE):
        for name, drawing in DRAWINGS.items():
            figure = drawing(result)
            if figure is not None:
                files[name] = out / f"{name}.png"
                figure.savefig(files[name])
    return files
