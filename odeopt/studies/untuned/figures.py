"""The figures of the study, as PNG files. Uses matplotlib; works on records only."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import drawing
from .tables import FACTOR, runs_of

CAPTIONS = {
    "ratio": (
        "Final loss of each untuned optimizer over that of the best tuned one, medians of the "
        "fresh seeds; every bar that points down is a problem on which nothing tuned is ahead. "
        "The whiskers span all pairs of seeds."
    ),
    "loss": (
        "Training loss against gradients, each tuned optimizer at its tuned rate: median (line) "
        "and range (band) of the fresh seeds. The untuned ones are drawn thick."
    ),
    "validation": (
        "The same runs on held-out data. A loss that falls in the figure above and rises here is "
        "overfitting: the race for training loss is then not a race for anything else."
    ),
    "first_step": (
        "Final loss against the size of the first step, over the loss from the default one: "
        f"median and range of the fresh seeds. The dashed lines are a factor of {FACTOR:.0f} apart."
    ),
}


def _styles(runs: pd.DataFrame) -> drawing.Styles:
    """The untuned optimizers first and thick, so that their colors never change."""
    names = [*runs[~runs.tuned.astype(bool)].optimizer.unique()]
    names += [*runs[runs.tuned.astype(bool)].optimizer.unique()]
    styles = drawing.styles_of(names)
    for name, style in styles.items():
        untuned = not runs[runs.optimizer == name].tuned.iloc[0]
        style["linewidth"] = 2.8 if untuned else 1.1
    return styles


def _curves(runs: pd.DataFrame, verdict: pd.DataFrame, what: str) -> Figure | None:
    fresh = runs[(runs.purpose == "fresh") & runs[f"final_{what}"].notna()]
    if what == "loss":
        fresh = runs[runs.purpose == "fresh"]
    if fresh.empty:
        return None
    styles = _styles(runs)
    label = "loss" if what == "loss" else "validation loss"
    figure, axes = drawing.panels(list(fresh.problem.unique()), "gradients", label)
    seen: dict[str, list[float]] = {name: [] for name in axes}
    for (problem, name), mine in fresh.groupby(["problem", "optimizer"], sort=False):
        curves = np.array([np.array(row, float) for row in mine[what]])
        curves = np.where(np.isfinite(curves), curves, np.inf)
        x = np.array(mine.gradients.iloc[0], float)
        middle = np.median(curves, axis=0)
        style = {**styles[name], "marker": "", "zorder": 3 if styles[name]["linewidth"] > 2 else 2}
        axes[problem].plot(x, np.where(middle < 1e30, middle, np.nan), **style)
        ceiling = 3 * mine.initial_loss.max()  # a run that blows up must not set the scale
        low, high = (np.minimum(x, 10 * ceiling) for x in (curves.min(axis=0), curves.max(axis=0)))
        color = style["color"]
        axes[problem].fill_between(x, low, high, color=color, alpha=0.1, lw=0)
        seen[problem] += [v for v in middle if v <= ceiling]
    for problem, ax in axes.items():
        ax.locator_params(axis="x", nbins=5)
        drawing.log_limits(ax, pd.Series(seen[problem], dtype=float))
    drawing.legend(figure, styles, list(fresh.optimizer.unique()))
    return figure


def _ratio(runs: pd.DataFrame, verdict: pd.DataFrame) -> Figure | None:
    if verdict.empty:
        return None
    styles = _styles(runs)
    problems, names = list(verdict.problem.unique()), list(verdict.optimizer.unique())
    figure = Figure(figsize=(10, 3.6), layout="constrained", dpi=100)
    ax = figure.add_subplot(ylabel="loss / best tuned")
    fresh = runs[runs.purpose == "fresh"].set_index(["problem", "optimizer"]).final
    width = 0.8 / len(names)
    shown = [1.0]
    for row in verdict[np.isfinite(verdict.ratio) & (verdict.ratio > 0)].itertuples():
        x = problems.index(row.problem) + width * (names.index(row.optimizer) + 0.5) - 0.4
        color = styles[row.optimizer]["color"]
        ax.bar(x, row.ratio - 1, width * 0.9, bottom=1, color=color, alpha=0.8)
        shown.append(row.ratio)
        mine, theirs = (
            fresh.loc[[(row.problem, row.optimizer)]],
            fresh.loc[[(row.problem, row.rival)]],
        )
        if np.isfinite([mine.max(), theirs.max()]).all() and theirs.min() > 0 and mine.min() > 0:
            span = [mine.min() / theirs.max(), mine.max() / theirs.min()]
            ax.plot([x, x], span, color="0.3", linewidth=1)
            shown += span
    ax.set_axisbelow(True)
    ax.axhline(1, color="0.2", linewidth=1)
    # Left to itself the axis ends at the foot of the bars, and those that hang from it are lost.
    ax.set(yscale="log", ylim=(min(shown) / 2, max(shown) * 2))
    ax.set_xticks(range(len(problems)), problems, rotation=30, ha="right")
    handles = [Line2D([], [], color=styles[n]["color"], linewidth=6, label=n) for n in names]
    drawing.key(figure, handles)
    return figure


def _first_step(runs: pd.DataFrame, verdict: pd.DataFrame) -> Figure | None:
    untuned = runs[~runs.tuned.astype(bool)]
    if untuned.empty or untuned.learning_rate.nunique() < 2:
        return None
    styles = _styles(runs)
    problems = list(untuned.problem.unique())
    figure, axes = drawing.panels(problems, "first step", "loss / loss from default")
    for (problem, name), mine in untuned.groupby(["problem", "optimizer"], sort=False):
        default = mine[mine.purpose == "fresh"].final.median()
        if not (np.isfinite(default) and default > 0):
            continue
        band = (mine.final / default).groupby(mine.learning_rate).agg(["min", "median", "max"])
        band = band.replace(np.inf, np.nan)
        axes[problem].plot(band.index, band["median"], **styles[name])
        axes[problem].fill_between(
            band.index, band["min"], band["max"], color=styles[name]["color"], alpha=0.12, lw=0
        )
    for ax in axes.values():
        ax.set(xscale="log", yscale="log")
        for level in (FACTOR**-0.5, FACTOR**0.5):
            ax.axhline(level, color="0.5", linewidth=1, linestyle="--")
    drawing.legend(figure, styles, list(untuned.optimizer.unique()))
    return figure


def draw(result: Any, out: Path) -> dict[str, Path]:
    """Writes every figure that the records allow.

    Args:
        result: A `study.Result`.
        out: An existing folder.

    Returns:
        Name to PNG file, in the order in which they should be read.
    """
    runs, verdict = runs_of(result.records), result.verdict
    with matplotlib.rc_context(drawing.RC):
        figures = {
            "ratio": _ratio(runs, verdict),
            "loss": _curves(runs, verdict, "loss"),
            "validation": _curves(runs, verdict, "validation"),
            "first_step": _first_step(runs, verdict),
        }
        return drawing.save(figures, out)
