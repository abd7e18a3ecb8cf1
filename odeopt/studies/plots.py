"""Two figures of the equivalence study: sharpness along training, orders of accuracy."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .drawing import Styles, legend, panels, plain_log, styles_of
from .records import Record

Records = Sequence[Record]


def _styles(records: Records) -> Styles:
    """A style for every optimizer, the same in all figures of a study."""
    return styles_of(r["optimizer"] for r in records if "optimizer" in r)


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
