"""The figures of the study, as PNG files. Uses matplotlib; works on records only."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from .. import drawing
from ..engine.races import performance_profile
from ..records import Record
from .tables import COSTS, costs, runs_of

CAPTIONS = {
    "profile": (
        "Performance profiles over all problems and fresh seeds: the share of them on which an "
        "optimizer needs at most so many times the gradients, or the seconds, of the one that "
        "needs fewest. At 1: how often it is the fastest; at the right: how often it arrives at "
        "all. Solvers are drawn thick. L-BFGS does not run on mini-batches, which counts as a miss."
    ),
    "loss": (
        "Loss against gradients of every fresh run, up to the target (dashed; where it depends on "
        "the seed, that of seed 1). Where steps see mini-batches, the loss of the full batch."
    ),
    "sensitivity": (
        "Final loss after equal gradients against the rate, or the size of the first step: median "
        "and range of the fresh seeds. Crosses are medians of runs that diverged, at the loss of "
        "the start. A flat line has nothing to tune."
    ),
}


def _styles(records: Sequence[Record]) -> drawing.Styles:
    rivals = {r["optimizer"]: r["rival"] for r in records}
    styles = drawing.styles_of(sorted(rivals, key=lambda name: rivals[name]))
    for name, style in styles.items():
        style["linewidth"] = 1.1 if rivals[name] else 2.4
    return styles


def _profile(records: Sequence[Record], styles: drawing.Styles) -> Figure | None:
    tables = {name: costs(records, name) for name in COSTS}
    if any(table.empty for table in tables.values()):
        return None
    figure, axes = drawing.panels(list(tables), "factor of the least", "share of runs", 3.4)
    for name, table in tables.items():
        profile = performance_profile(table)
        last = 2 * float(profile.index.max())
        for optimizer in profile:
            x, y = [*profile.index, last], [*profile[optimizer], profile[optimizer].iloc[-1]]
            style = {**styles[optimizer], "marker": ""}
            axes[name].step(x, y, where="post", **style)
        axes[name].set(xscale="log", xlim=(0.95, last), ylim=(-0.02, 1.02))
    drawing.legend(figure, styles, list(tables["gradients"]))
    return figure


def _loss(runs: pd.DataFrame, styles: drawing.Styles) -> Figure | None:
    fresh = runs[runs.purpose == "fresh"]
    if fresh.empty:
        return None
    figure, axes = drawing.panels(list(fresh.problem.unique()), "gradients", "loss")
    for problem, mine in fresh.groupby("problem", sort=False):
        ax, ceiling = axes[problem], 3 * mine.initial_loss.max()
        seen: list[float] = []
        for run in mine.itertuples():
            y = np.array(run.loss, float)
            y = np.where(y <= ceiling, y, np.nan)  # a run that blows up must not set the scale
            seen += [value for value in y if np.isfinite(value)]
            style = {**styles[run.optimizer], "marker": "", "alpha": 0.6}
            style["linewidth"] *= 0.6
            ax.plot(np.array(run.gradients, float), y, **style)
        target = mine.sort_values("seed").target.iloc[0]
        ax.axhline(target, color="0.4", linestyle="--", linewidth=1)
        ax.set_xscale("log")
        drawing.log_limits(ax, pd.Series([*seen, target]))
    drawing.legend(figure, styles, list(fresh.optimizer.unique()))
    return figure


def _sensitivity(swept: pd.DataFrame, styles: drawing.Styles) -> Figure | None:
    swept = swept[swept.purpose == "sensitivity"]
    if swept.empty:
        return None
    figure, axes = drawing.panels(list(swept.problem.unique()), "rate, or first step", "loss")
    for (problem, name), mine in swept.groupby(["problem", "optimizer"], sort=False):
        initial = mine.initial_loss.median()
        loss = mine.final_loss.astype(float).where(mine.status != "diverged", np.inf)
        band = loss.groupby(mine.setting).agg(["min", "median", "max"])
        ends = band["median"].replace(np.inf, np.nan)
        axes[problem].plot(ends.index, ends, **styles[name])
        low, high = (band[c].clip(upper=initial) for c in ("min", "max"))
        color = styles[name]["color"]
        axes[problem].fill_between(band.index, low, high, color=color, alpha=0.12, lw=0)
        lost = band.index[np.isinf(band["median"])]
        axes[problem].plot(lost, np.full(len(lost), initial), "x", color=color)
        axes[problem].set(xscale="log", yscale="log")
    cross = Line2D([], [], color="0.3", marker="x", linestyle="", label="diverged")
    drawing.legend(figure, styles, list(swept.optimizer.unique()), cross)
    return figure


def draw(result: Any, out: Path) -> dict[str, Path]:
    """Writes every figure that the records allow.

    Args:
        result: A `study.Result`.
        out: An existing folder.

    Returns:
        Name to PNG file, in the order in which they should be read.
    """
    records = result.records
    styles = _styles(records)
    with matplotlib.rc_context(drawing.RC):
        figures = {
            "profile": _profile(records, styles),
            "loss": _loss(runs_of(records), styles),
            "sensitivity": _sensitivity(runs_of(records, "sweep"), styles),
        }
        return drawing.save(figures, out)
