"""What the figures of all studies share: colours, panels, legends, log axes. Uses matplotlib."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Styles = dict[str, dict[str, Any]]

# Okabe and Ito's colours without the yellow, which is too pale for a line on white.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
MARKERS = "os^DvPX"
RC: Any = {"font.size": 9, "axes.titlesize": 9, "axes.grid": True, "grid.color": "0.9"}


def styles_of(names: Iterable[str]) -> Styles:
    """One colour, marker and dash for each of the different names."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)],
            "marker": MARKERS[i % len(MARKERS)],
            "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3],
            "linewidth": 2.6 - 0.25 * (i % len(COLOURS)),  # thinner lines lie on thicker ones
            "markersize": 4,
        }
        for i, name in enumerate(dict.fromkeys(names))
    }


def panels(
    names: Sequence[str], xlabel: str, ylabel: str, height: float = 2.6
) -> tuple[Figure, dict[str, Axes]]:
    """Small multiples, one panel a name, at most three in a row."""
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    size = (10 if columns == 3 else 2 + 4 * columns, 0.7 + height * rows)
    figure = Figure(figsize=size, layout="constrained", dpi=100)
    axes = {}
    for i, name in enumerate(names):
        axes[name] = ax = figure.add_subplot(rows, columns, i + 1, title=name)
        ax.set(ylabel=ylabel if i % columns == 0 else "")
        ax.set(xlabel=xlabel if i + columns >= len(names) else "")
    return figure, axes


def legend(figure: Figure, styles: Styles, names: Sequence[str], *more: Line2D) -> None:
    """A legend of the names that have a style, and of further lines."""
    handles = [Line2D([], [], label=n, **s) for n, s in styles.items() if n in names]
    key(figure, [*handles, *more])


def key(figure: Figure, handles: Sequence[Artist]) -> None:
    """A legend in the empty corner of the panels, or below them, as wide as the figure allows."""
    count = sum(ax.get_subplotspec() is not None for ax in figure.axes)
    entry = 0.7 + 0.075 * max(len(str(h.get_label())) for h in handles)  # inches
    corner = count > 3 and count % 3 != 0
    fit = max(1, int(figure.get_figwidth() * (1 - count % 3 / 3 if corner else 1) / entry))
    rows = math.ceil(len(handles) / (min(fit, 3) if corner else fit))
    figure.legend(
        handles=handles,
        loc="lower right" if corner else "outside lower center",
        ncols=math.ceil(len(handles) / rows),
    )


def log_limits(ax: Axes, values: pd.Series, strip: float = 0.0) -> None:
    """A log axis from round-off up, with a share of its height left free above the data."""
    values = values[values > 0]
    if values.empty:
        return
    low, high = np.log10(max(values.min(), 1e-16 * values.max())), np.log10(values.max())
    pad = max(0.05 * (high - low), 0.1)
    height = (high - low + 2 * pad) / (1 - strip)
    ax.set(yscale="log", ylim=(10 ** (low - pad), 10 ** (low - pad + height)))


def plain_log(ax: Axes, ticks: Sequence[float]) -> None:
    """A log axis over less than two decades, with ticks that can be read."""
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{t:.3g}" for t in ticks])
    ax.set_xticks([], minor=True)


def save(figures: Mapping[str, Figure | None], out: Path) -> dict[str, Path]:
    """Writes figures as PNG files into an existing folder; what is `None` is left out."""
    files = {}
    for name, figure in figures.items():
        if figure is not None:
            files[name] = out / f"{name}.png"
            figure.savefig(files[name])
    return files
