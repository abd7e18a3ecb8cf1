"""Figures that several studies have, from their records. Uses matplotlib through `drawing`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from . import races
from .drawing import INK, Plot, log_limits, plain_log
from .races import PAIR
from .statistics import performance_profile
from .study import groups


def loss_against_rate(runs: pd.DataFrame, x: str, label: str, what: str = "final loss") -> Plot:
    """Final loss against a rate in column `x`; diverged rates are crosses on a strip above."""
    shown, names = races.fresh(runs), list(runs.optimizer.unique())
    shown, plot = shown[shown[x].notna()], Plot(names)
    best = races.tuned(runs).drop_duplicates(PAIR).set_index(PAIR).learning_rate
    for (problem, name), mine in groups(shown, PAIR):
        plot.panel(problem, label, what, rows=len(names))
        finite = mine.final.where(np.isfinite(mine.final))
        # In the median a run that diverged counts as infinity, so the line stops there.
        losses = mine.final.groupby(mine[x]).median().replace(np.inf, np.nan)
        spread = finite.groupby(mine[x]).agg(["min", "max"])
        band = spread["min"], spread["max"]
        axes = plot.line(problem, name, losses.index, losses, band=band, markevery=1)
        at = mine[mine.learning_rate == best.get((problem, name))][x]
        colour = plot.style(name)["color"]
        if len(at):
            axes.plot(at.iloc[:1], losses[at.iloc[:1]], "o", mfc="none", ms=10, c=colour)
        lost = (mine.status == "diverged").groupby(mine[x]).any()
        crosses = lost[lost].index
        row = np.full(len(crosses), names.index(name))
        plot.strip(problem).plot(crosses, row, "x", ms=4, c=colour)
    for problem, mine in groups(shown, "problem"):
        axes = plot.panel(problem, label, what)
        log_limits(axes, mine.final)
        axes.set_xscale("log")
        if x == "relative_rate":
            axes.axvline(1, color=INK, linewidth=1, linestyle="--")
    plot.key("diverged", marker="x")
    plot.key("tuned", marker="o", mfc="none")
    return plot


def curves(runs: pd.DataFrame, names: Sequence[str], what: str = "loss") -> Plot:
    """Medians and ranges of the curves in column `what` ("loss" or "validation") of runs.

    Of each optimizer on a problem the runs are those of one setting; `names` orders the legend.
    """
    plot, labels = Plot(names), ("gradients", what)
    for problem, group in groups(runs, "problem"):
        seen = list[float]()
        for name, mine in group.groupby("optimizer", sort=False):
            lines = [
                pd.Series(np.array(getattr(run, what), float), run.loss_gradients)
                .groupby(level=0)
                .last()
                for run in mine.itertuples()
            ]
            table = pd.concat(lines, axis=1).fillna(np.inf).ffill()  # what has diverged stays so
            median, finite = table.median(axis=1), table.replace(np.inf, np.nan)
            band = finite.min(axis=1), finite.max(axis=1)
            plot.line(problem, name, table.index, median.replace(np.inf, np.nan), labels, band=band)
            seen += list(finite.to_numpy().ravel())
        axes, ceiling = plot.panel(problem, *labels), 3 * group.initial_loss.max()
        log_limits(axes, [loss for loss in seen if loss <= ceiling])
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", scilimits=(-2, 4))
    return plot


def profile(costs: Mapping[str, pd.DataFrame]) -> Plot:
    """Performance profiles of costs of instances x optimizers, a panel each."""
    plot = Plot(width=6.5 if len(costs) == 1 else 4.2)
    for what, cost in costs.items():
        if cost.empty:
            continue
        shares = performance_profile(cost)
        end = max(2.0, shares.index[-1] * 1.1)
        for name, share in shares.items():
            x, y = [*share.index, end], [*share, share.iloc[-1]]
            labels = "τ", "share of (problem, seed) pairs"
            axes = plot.line(what, str(name), x, y, labels, drawstyle="steps-post")
            axes.set(ylim=(-0.02, 1.02))
            ticks = (1, 1.5, 2, 3, 5, 10, 20) if end < 30 else (1, 3, 10, 30, 100, 300, 1000, 3000)
            plain_log(axes, [tick for tick in ticks if tick <= end])
    return plot


def limited(table: pd.DataFrame) -> pd.DataFrame:
    """The optimizers whose limits `limits` draws: those that have run and have a limit R."""
    have_run = (table.get("problems", pd.Series(0, table.index)) > 0).fillna(False)
    return table[have_run & table.R.notna()]


def limits(table: pd.DataFrame, baseline: str) -> Plot:
    """Brackets of stability limits over the baseline's, of optimizers with a limit R."""
    plot = Plot(list(table.index))
    if "problems" not in table:
        return plot
    known = limited(table)
    plot.height = 0.6 + 0.3 * len(known)
    for key in ("step", "gradient") if len(known) else ():
        axes = plot.rows(f"limit per {key}, divided by that of {baseline}", "", list(known.index))
        low, high = known[f"{key}_low"], known[f"{key}_high"].replace(np.inf, np.nan)
        for row, (name, *ends) in enumerate(zip(known.index, low, high, strict=True)):
            style = plot.style(str(name), linestyle="-", linewidth=3)
            axes.plot([ends[0], np.nan_to_num(ends[1], nan=99 * ends[0])], [row] * 2, **style)
        axes.axvline(1, color=INK, linewidth=1)
        least, most = low.min(), np.nan_to_num(high.max(), nan=4 * low.min())
        ticks = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
        plain_log(axes, [tick for tick in ticks if least / 2 < tick < 2 * most] or [1])
        axes.set_xlim(min(least, 1) / 1.3, max(most, 1) * 1.3)
    return plot
