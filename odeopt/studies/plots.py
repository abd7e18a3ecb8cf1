"""The plots of a stability sweep, as PNG files. May use: matplotlib, pandas, `odeopt.solvers`."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation
from numpy.polynomial import polynomial

from .. import solvers
from . import measures
from .drawing import (
    MARKERS,
    RC,
    Styles,
    key,
    legend,
    log_limits,
    panels,
    plain_log,
    save,
    styles_of,
)
from .records import Record

Records = Sequence[Record]


def _styles(records: Records) -> Styles:
    """A style for every optimizer, the same in all figures of a study."""
    return styles_of(r["optimizer"] for r in records if "optimizer" in r)


def _loss_rate(records: Records, runs: pd.DataFrame, x: str) -> Figure | None:
    shown, styles = measures.reported(runs), _styles(records)
    shown = shown[shown[x].notna() & (shown.status != "time-out")]
    if shown.empty:
        return None
    label = "learning rate h (flow time)" if x == "learning_rate" else "h · sharpness / R"
    figure, axes = panels(list(shown.problem.unique()), label, "final loss")
    best = measures.tuned(runs).set_index(measures.PAIR).learning_rate
    order = list(styles)
    for (problem, name), mine in shown.groupby(measures.PAIR, sort=False):
        ax, style = axes[problem], styles[name]
        finite = mine.final_loss.where(mine.status == "ok")
        # In the median a run that diverged counts as infinity, so the line stops there.
        losses = finite.fillna(np.inf).groupby(mine.learning_rate).median().replace(np.inf, np.nan)
        band = finite.groupby(mine.learning_rate).agg(["min", "max"])
        rates = mine.groupby("learning_rate")[x].first()
        ax.plot(rates, losses, **style)
        ax.fill_between(rates, band["min"], band["max"], color=style["color"], alpha=0.15, lw=0)
        if (problem, name) in best.index:
            at = best.loc[[(problem, name)]].iloc[:1]
            ax.plot(rates.reindex(at), losses.reindex(at), "o", mfc="none", ms=10, c=style["color"])
        lost = (mine.status == "diverged").groupby(mine.learning_rate).any()
        height = np.full(lost.sum(), 0.965 - 0.035 * order.index(name))
        ax.plot(
            rates[lost], height, "x", ms=4, c=style["color"], transform=ax.get_xaxis_transform()
        )
    for problem, ax in axes.items():
        ok = shown[(shown.problem == problem) & (shown.status == "ok")]
        log_limits(ax, ok.final_loss, strip=0.04 + 0.035 * len(styles))
        ax.set_xscale("log")
        if x == "relative_rate":
            ax.axvline(1, color="0.3", linewidth=1, linestyle="--")
    cross = Line2D([], [], color="0.3", marker="x", linestyle="", label="diverged")
    ring = Line2D([], [], color="0.3", marker="o", mfc="none", ms=9, linestyle="", label="tuned")
    legend(figure, styles, shown.optimizer.unique(), cross, ring)
    return figure


def _curves(records: Records, runs: pd.DataFrame, against: str) -> Figure | None:
    best, styles = measures.tuned(runs), _styles(records)
    best = best[best.status != "time-out"]
    if best.empty:
        return None
    figure, axes = panels(list(best.problem.unique()), against, "loss")
    seen: dict[str, list[pd.Series]] = {}
    for (problem, name), mine in best.groupby(measures.PAIR, sort=False):
        curves = [
            pd.Series(np.array(r.loss, float), r.loss_gradients).fillna(np.inf)
            for r in mine.itertuples()
        ]
        table = pd.concat(curves, axis=1).ffill()  # what has diverged stays so
        scale = 1.0 if against == "gradients" else (mine.seconds / mine.gradients).median()
        x, ax, style = table.index * scale, axes[problem], styles[name]
        finite = table.replace(np.inf, np.nan)
        ax.plot(x, table.median(axis=1).replace(np.inf, np.nan), **{**style, "marker": ""})
        low, high = finite.min(axis=1), finite.max(axis=1)
        ax.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
        seen.setdefault(problem, []).append(finite.stack())
    for problem, ax in axes.items():
        losses = pd.concat(seen[problem])
        ax.locator_params(axis="x", nbins=5)
        ax.ticklabel_format(axis="x", scilimits=(-2, 4))
        log_limits(ax, losses[losses <= 3 * best.initial_loss[best.problem == problem].max()])
    legend(figure, styles, best.optimizer.unique())
    return figure


def _profile(records: Records, runs: pd.DataFrame) -> Figure | None:
    cost, styles = measures.gradients_to_target(runs), _styles(records)
    if cost.empty:
        return None
    profile = measures.performance_profile(cost)
    figure, axes = panels(["gradients to the target"], "τ", "share of (problem, seed) pairs")
    (ax,) = axes.values()
    end = max(2.0, profile.index[-1] * 1.1)
    for name, share in profile.items():
        style = {**styles[str(name)], "marker": ""}
        ax.step([*share.index, end], [*share, share.iloc[-1]], where="post", **style)
    ax.set(ylim=(-0.02, 1.02))
    plain_log(ax, [t for t in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if t <= end])
    legend(figure, styles, list(profile))
    return figure


def _rate_seed(records: Records, runs: pd.DataFrame) -> Figure | None:
    if runs.empty:
        return None
    colours = matplotlib.colormaps["viridis"].with_extremes(over="#D55E00", bad="0.7")
    level = np.log10((runs.final_loss / runs.initial_loss).clip(lower=1e-4))
    level = level.where(runs.status == "ok").where(runs.status != "diverged", 1)  # 1 is "over"
    norm = Normalize(min(level.min(), -1), 0)
    names = list(runs.problem.unique())
    rows = runs.groupby("problem").optimizer.nunique().max()
    figure, axes = panels(names, "learning rate h (flow time)", "", 0.9 + 0.3 * rows)
    for problem, ax in axes.items():
        ticks, top = {}, 0
        for name, mine in runs[runs.problem == problem].groupby("optimizer", sort=False):
            table = mine.assign(level=level).pivot(
                index="seed", columns="learning_rate", values="level"
            )
            y = top + np.arange(len(table) + 1)
            ax.pcolormesh(_edges(table.columns.to_numpy(float)), y, table, cmap=colours, norm=norm)
            ax.axhline(y[-1], color="white", linewidth=2)
            ticks[name], top = (y[0] + y[-1]) / 2, y[-1]
        ax.set(xscale="log", ylim=(top, 0))
        ax.set_yticks(list(ticks.values()), list(ticks))
        ax.grid(visible=False)
    mesh = ScalarMappable(norm, colours)
    label = "log10(final / initial loss), from -4"
    figure.colorbar(mesh, ax=list(axes.values()), label=label, pad=0.01, aspect=30)
    patches = [Patch(color="#D55E00", label="diverged")]
    if (runs.status == "time-out").any():
        patches.append(Patch(color="0.7", label="not made (time-out)"))
    key(figure, patches)
    return figure


def _edges(rates: np.ndarray) -> np.ndarray:
    """Borders of cells around ascending rates, halfway on a log scale."""
    logs = np.log(rates)
    middle = (logs[1:] + logs[:-1]) / 2
    first, last = (middle[0], middle[-1]) if len(middle) else (logs[0] - 0.35, logs[0] + 0.35)
    return np.exp([2 * logs[0] - first, *middle, 2 * logs[-1] - last])


def _of_kind(records: Records, kind: str) -> list[Record]:
    return [record for record in records if record["kind"] == kind]


def sharpness_traces(records: Records, runs: pd.DataFrame) -> Figure | None:
    traces, styles = _of_kind(records, "sharpness"), _styles(records)
    traces = [r for r in traces if r["R"] and r["gradients"]]
    if not traces:
        return None
    problems = list(dict.fromkeys(r["problem"] for r in traces))
    figure, axes = panels(problems, "gradients", "sharpness · h / R")
    for r in traces:
        relative = np.array(r["sharpness"], float) * r["learning_rate"] / r["R"]
        axes[r["problem"]].plot(r["gradients"], relative, **styles[r["optimizer"]])
    for ax in axes.values():
        ax.axhline(1, color="0.3", linewidth=1, linestyle="--")
        ax.set_ylim(0, min(max(ax.get_ylim()[1], 1.1), 3))
    legend(figure, styles, [r["optimizer"] for r in traces])
    return figure


def stability_polynomial(optimizer: str) -> np.ndarray | None:
    """Coefficients of R(z), ascending, by zoo name; None for what is not a Runge-Kutta method."""
    classes = {name.lower(): value for name, value in vars(solvers).items()}
    solver: Any = classes.get("euler" if optimizer == "sgd" else optimizer)
    return solver().stability_polynomial if hasattr(solver, "stability_polynomial") else None


def _regions(records: Records, runs: pd.DataFrame) -> Figure | None:
    spectra = {r["problem"]: np.array(r["eigenvalues"]) for r in _of_kind(records, "spectrum")}
    best, styles = measures.tuned(runs), _styles(records)
    best = best[best.problem.isin(list(spectra))].drop_duplicates(measures.PAIR)
    known = {name: stability_polynomial(name) for name in best.optimizer.unique()}
    methods = {name: p for name, p in known.items() if p is not None}
    if not methods:
        return None
    figure, axes = panels(list(methods), "Re z", "Im z", 3.1)
    best = best[best.optimizer.isin(list(methods))]
    reach = max(r.learning_rate * spectra[r.problem].max() for r in best.itertuples())
    left = -min(max(4.5, reach + 0.5), 10)
    x, y = np.meshgrid(np.linspace(left, 2, 221), np.linspace(-4.5, 4.5, 181))
    problems = [p for p in spectra if p in set(best.problem)]
    for run in best.itertuples():
        z, i = -run.learning_rate * spectra[run.problem], problems.index(run.problem)
        # The rows of the strip are points of the page apart: Im z is 0 in all of them.
        rise = 2.5 / 72 * ((len(problems) - 1) / 2 - i)
        row = axes[run.optimizer].transData + ScaledTranslation(0, rise, figure.dpi_scale_trans)
        style: Any = {"ms": 2.5, "mfc": "none", "mec": "0.15", "mew": 0.6}
        axes[run.optimizer].plot(z, 0 * z, MARKERS[i % 7], transform=row, **style)
    for name, ax in axes.items():
        size, colour = abs(polynomial.polyval(x + 1j * y, methods[name])), styles[name]["color"]
        ax.contourf(x, y, size, levels=[0, 1], colors=[colour], alpha=0.15)
        ax.contour(x, y, size, levels=[1], colors=[colour], linewidths=1.2)
        ax.set(xlim=(left, 2), ylim=(-4.5, 4.5), aspect="equal")
    handles = [
        Line2D([], [], color="0.15", mfc="none", marker=MARKERS[i % 7], linestyle="", label=p)
        for i, p in enumerate(problems)
    ]
    key(figure, handles)
    return figure


def orders_of_accuracy(records: Records, runs: pd.DataFrame) -> Figure | None:
    orders, styles = _of_kind(records, "order"), _styles(records)
    if not orders:
        return None
    problems = list(dict.fromkeys(r["problem"] for r in orders))
    figure, axes = panels(problems, "step size h (flow time)", "error at the end", 3.2)
    for r in orders:
        h, error = np.array(r["step_sizes"], float), np.array(r["errors"], float)
        ax, style = axes[r["problem"]], styles[r["optimizer"]]
        ax.loglog(h, error, **{**style, "linestyle": ""})
        at = np.argmin(h)
        ax.loglog(h, error[at] * (h / h[at]) ** r["nominal_order"], "--", lw=1, c=style["color"])
    for problem, ax in axes.items():
        sizes = {h for r in orders if r["problem"] == problem for h in r["step_sizes"]}
        plain_log(ax, sorted(sizes))
    legend(figure, styles, [r["optimizer"] for r in orders])
    return figure


DRAWINGS: dict[str, Callable[[Records, pd.DataFrame], Figure | None]] = {
    "loss_rate": partial(_loss_rate, x="learning_rate"),
    "loss_relative": partial(_loss_rate, x="relative_rate"),
    "loss_gradients": partial(_curves, against="gradients"),
    "loss_seconds": partial(_curves, against="seconds"),
    "profile": _profile,
    "rate_seed": _rate_seed,
    "sharpness": sharpness_traces,
    "regions": _regions,
    "order": orders_of_accuracy,
}


def draw(result: Any, out: Path) -> dict[str, Path]:
    """Writes every plot that the records allow.

    Args:
      result: a `stability.Result`.
      out: an existing folder.

    Returns:
      Name to PNG file, in the order in which they should be read. A plot without data is left out.
    """
    runs = measures.table_of(result.records)
    with matplotlib.rc_context(RC):
        drawn = {name: drawing(result.records, runs) for name, drawing in DRAWINGS.items()}
        return save(drawn, out)
