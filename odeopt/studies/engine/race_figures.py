"""Figures that several studies have, from their records. Uses matplotlib through `drawing`."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from . import races
from .drawing import INK, Plot, log_limits, plain_log
from .races import PAIR
from .study import Figure, Results


def loss_against_rate(runs: pd.DataFrame, x: str, label: str) -> Plot | None:
    """Final loss against a rate in column `x`; diverged rates are crosses on a strip above."""
    shown = races.fresh(runs)
    shown = shown[shown[x].notna()]
    if shown.empty:
        return None
    names = list(runs.optimizer.unique())
    plot = Plot(names)
    best = races.tuned(runs).drop_duplicates(PAIR).set_index(PAIR).learning_rate
    for (problem, name), mine in shown.groupby(PAIR, sort=False):
        axes = plot.panel(problem, label, "final loss", rows=len(names))
        finite = mine.final.where(np.isfinite(mine.final))
        # In the median a run that diverged counts as infinity, so the line stops there.
        losses = mine.final.groupby(mine[x]).median().replace(np.inf, np.nan)
        spread = finite.groupby(mine[x]).agg(["min", "max"])
        style = plot.style(name)
        axes.plot(losses.index, losses, **style)
        plot.band(axes, name, spread.index, spread["min"], spread["max"])
        at = mine[mine.learning_rate == best.get((problem, name))][x]
        if len(at):
            axes.plot(at.iloc[:1], losses[at.iloc[:1]], "o", mfc="none", ms=10, c=style["color"])
        lost = (mine.status == "diverged").groupby(mine[x]).any()
        crosses = lost[lost].index
        row = np.full(len(crosses), names.index(name))
        plot.strip(problem).plot(crosses, row, "x", ms=4, c=style["color"])
    for problem, mine in shown.groupby("problem", sort=False):
        axes = plot.panel(problem, label, "final loss")
        log_limits(axes, mine.final)
        axes.set_xscale("log")
        if x == "relative_rate":
            axes.axvline(1, color=INK, linewidth=1, linestyle="--")
    plot.key("diverged", marker="x")
    plot.key("tuned", marker="o", mfc="none")
    return plot


def loss_against_cost(runs: pd.DataFrame, seconds: bool = False) -> Plot | None:
    """Loss curves at the tuned rates: medians and ranges of the fresh seeds."""
    return curves(races.tuned(runs), list(runs.optimizer.unique()), seconds=seconds)


def curves(
    runs: pd.DataFrame, names: Sequence[str], what: str = "loss", seconds: bool = False
) -> Plot | None:
    """Medians and ranges of the recorded curves of runs, one setting an optimizer and problem.

    Args:
        runs: The runs.
        names: Optimizers, in the order of the legend.
        what: The column with the curves: "loss" or "validation".
        seconds: Against seconds instead of gradients.
    """
    if runs.empty:
        return None
    plot, label = Plot(names), "seconds" if seconds else "gradients"
    for problem, group in runs.groupby("problem", sort=False):
        axes, seen = plot.panel(problem, label, what), list[float]()
        for name, mine in group.groupby("optimizer", sort=False):
            lines = [
                pd.Series(np.array(getattr(run, what), float), run.loss_gradients)
                .groupby(level=0)
                .last()
                for run in mine.itertuples()
            ]
            table = pd.concat(lines, axis=1).fillna(np.inf).ffill()  # what has diverged stays so
            scale = (mine.seconds / mine.gradients).median() if seconds else 1.0
            finite = table.replace(np.inf, np.nan)
            every = max(1, len(table) // 6)
            axes.plot(
                table.index * scale,
                table.median(axis=1).replace(np.inf, np.nan),
                **plot.style(name, markevery=every),
            )
            plot.band(axes, name, table.index * scale, finite.min(axis=1), finite.max(axis=1))
            seen += list(finite.to_numpy().ravel())
        ceiling = 3 * group.initial_loss.max()
        log_limits(axes, [loss for loss in seen if loss <= ceiling])
        axes.locator_params(axis="x", nbins=5)
        axes.ticklabel_format(axis="x", scilimits=(-2, 4))
    return plot


def profile(runs: pd.DataFrame) -> Plot | None:
    """Performance profile of gradients to the target."""
    cost = races.gradients_to_target(runs)
    if cost.empty:
        return None
    shares = races.performance_profile(cost)
    plot = Plot(list(shares), width=6.5)
    axes = plot.panel("gradients to the target", "τ", "share of (problem, seed) pairs")
    end = max(2.0, shares.index[-1] * 1.1)
    for name, share in shares.items():
        style = plot.style(name, markevery=max(1, len(share) // 6))
        axes.step([*share.index, end], [*share, share.iloc[-1]], where="post", **style)
    axes.set(ylim=(-0.02, 1.02))
    plain_log(axes, [tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if tick <= end])
    return plot


def limits(table: pd.DataFrame, baseline: str) -> Plot | None:
    """Brackets of stability limits over the baseline's, of optimizers with a limit R."""
    if "problems" not in table:
        return None
    known = table[(table.problems > 0).fillna(False) & table.R.notna()]
    if known.empty:
        return None
    plot = Plot(list(table.index), height=0.6 + 0.3 * len(known))
    for key in ("step", "gradient"):
        axes = plot.panel(f"limit per {key}, over that of {baseline}", "", "")
        for row, (name, about) in enumerate(known.iterrows()):
            low, high = about[f"{key}_low"], about[f"{key}_high"]
            style = plot.style(str(name), linestyle="-", linewidth=3)
            axes.plot([low, high if np.isfinite(high) else 99 * low], [row] * 2, **style)
        axes.axvline(1, color=INK, linewidth=1)
        low = known[f"{key}_low"].min()
        high = known[f"{key}_high"].replace(np.inf, np.nan).max(skipna=True)
        high = high if np.isfinite(high) else 4 * low
        ticks = [tick for tick in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30) if low / 2 < tick < 2 * high]
        plain_log(axes, ticks or [1])
        axes.set(ylim=(len(known) - 0.5, -0.5), xlim=(min(low, 1) / 1.3, max(high, 1) * 1.3))
        axes.set_yticks(range(len(known)), known.index)
    return plot


def sharpness(results: Results) -> Plot | None:
    """Sharpness along training in units of R / h, from records of the kind "sharpness"."""
    traces = [r for r in results.records if r["kind"] == "sharpness" and r["gradients"]]
    if not traces:
        return None
    plot = Plot([r["optimizer"] for r in traces], width=6.5)
    for r in traces:
        axes = plot.panel(r["problem"], "gradients", "sharpness · h / R")
        relative = np.array(r["sharpness"], float) * r["learning_rate"] / r["R"]
        axes.plot(r["gradients"], np.minimum(relative, 3), **plot.style(r["optimizer"]))
        axes.axhline(1, color=INK, linewidth=1, linestyle="--")
    return plot


def orders(results: Results) -> Plot | None:
    """Error against step size, from records of the kind "order"."""
    orders = [r for r in results.records if r["kind"] == "order"]
    if not orders:
        return None
    plot = Plot([r["optimizer"] for r in orders], width=6.5)
    axes = plot.panel(orders[0]["problem"], "step size h (flow time)", "error at the end")
    for r in orders:
        h, error = np.array(r["step_sizes"], float), np.array(r["errors"], float)
        style = plot.style(r["optimizer"], linestyle="")
        axes.loglog(h, error, **style)
        slope = error[-1] * (h / h[-1]) ** r["nominal_order"]
        axes.loglog(h, slope, "--", lw=1, c=style["color"])
    plain_log(axes, sorted({h for r in orders for h in r["step_sizes"]})[::2])
    plot.key("slope of the method's order", linestyle="--")
    return plot


SHARPNESS = Figure(
    "sharpness",
    sharpness,
    "Largest Hessian eigenvalue along training. A line that climbs to 1 and stays there trains at "
    "the edge of stability of its own method.",
    lambda results: (
        "Sharpness times h / R along training, for "
        + ", ".join(results.of("sharpness").optimizer.unique())
        + "."
    ),
)
ORDERS = Figure(
    "order",
    orders,
    "Error at a fixed flow time; dashed: the slope of the method's order. Look at whether points "
    "are parallel to it.",
    lambda results: (
        "Observed orders: "
        + ", ".join(
            f"{r.optimizer} {r.observed_order:.2f}" for r in results.of("order").itertuples()
        )
        + "."
    ),
)


def standard(
    runs_of: Callable[[Results], pd.DataFrame], finding: Callable[[Results], str]
) -> tuple[Figure, ...]:
    """The figures of every race at tuned rates.

    Args:
        runs_of: The runs of the results, as `races.frame` gives them.
        finding: Who ends lowest, in one sentence.
    """
    return (
        Figure(
            "loss_rate",
            lambda r: loss_against_rate(runs_of(r), "learning_rate", "learning rate h"),
            "Median over the fresh seeds (lines), their range (bands), the tuned rate (rings); a "
            "cross in the strip on top marks a rate at which a seed diverged. Look at where each "
            "line ends and how wide its valley is.",
            lambda r: "Every optimizer has a valley of rates that ends where runs diverge.",
        ),
        Figure(
            "loss_gradients",
            lambda r: loss_against_cost(runs_of(r)),
            "Each optimizer at its tuned rate. Every gradient of a step is counted: this is the "
            "comparison at equal cost, so look at which line is lowest on the right.",
            finding,
        ),
        Figure(
            "loss_seconds",
            lambda r: loss_against_cost(runs_of(r), seconds=True),
            "The same curves against seconds, each run's time spread evenly over its gradients. "
            "Lines that change places show where a gradient is not the whole cost of a step.",
            lambda r: "Seconds follow gradients wherever lines keep their places.",
        ),
        Figure(
            "profile",
            lambda r: profile(runs_of(r)),
            "The share of (problem, seed) pairs in which an optimizer at its tuned rate "
            "reaches the target within τ times the gradients of the fastest. The target is "
            f"{races.TARGET:.0%} of the decrease from the median initial loss to the best median "
            "final loss; a miss counts as infinity. Left end: who is fastest. Right end: who "
            "arrives at all.",
            finding,
        ),
    )
