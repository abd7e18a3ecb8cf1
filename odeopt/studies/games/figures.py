"""The figures of the study. Uses matplotlib; works on records only."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..drawing import COLOURS, RC, Styles, key, legend, panels, plain_log, save, styles_of
from ..records import Record
from .mixture import CENTERS
from .study import TUNING_SEED, judge

CAPTIONS = {
    "plane": (
        "Trajectories of games of two numbers, from the same start, as lines through the steps. "
        "The flow turns on a circle (bilinear, Dirac GAN) or into the middle (damped rotation); a "
        "method that leaves it outwards does so by its drift. In the bilinear game a player has no "
        "terms of its own, so that interaction and joint are one line; h is large there, and the "
        "terms of next order let them out too."
    ),
    "radius": (
        "Distance from the middle over rounds of gradients, one round being a gradient for each "
        "player (steps for the implicit midpoint rule, which does not say what it took)."
    ),
    "modes": (
        "Modes of 16 that the generator covers, over rounds of gradients, at tuned rates: mean and "
        "range of the fresh seeds."
    ),
    "rates": (
        "Modes covered over the last quarter of a run against the learning rate, on the seed that "
        "tunes: how wide a method's valley of useful rates is."
    ),
    "samples": "What the generator makes at the end, first fresh seed; circles: the modes.",
}


def draw(records: list[Record], out: Path) -> dict[str, Path]:
    """Writes all figures that there are records for into an existing folder."""
    planes = [r for r in records if r["kind"] == "plane"]
    runs = [r for r in records if r["kind"] == "mixture"]
    tuning = [r for r in runs if r["seed"] == TUNING_SEED]
    fresh = [r for r in runs if r["seed"] != TUNING_SEED]
    with matplotlib.rc_context(RC):
        figures = {
            "plane": _plane(planes) if planes else None,
            "radius": _radius(planes) if planes else None,
            "modes": _modes(fresh) if fresh else None,
            "rates": _rates(tuning) if tuning else None,
            "samples": _samples(fresh) if fresh else None,
        }
        return save(figures, out)


def _styles(records: list[Record]) -> Styles:
    return {
        name: {**style, "marker": "", "linewidth": 1.2}
        for name, style in styles_of(r["method"] for r in records).items()
    }


def _plane(records: list[Record]) -> Figure:
    games, styles = list(dict.fromkeys(r["game"] for r in records)), _styles(records)
    figure, axes = panels(games, "p", "q", 3.4)
    for r in records:
        points = np.asarray(r["points"], float)
        axes[r["game"]].plot(*points.T, **{**styles[r["method"]], "alpha": 0.8})
    for game, ax in axes.items():
        size = 2.2 * max(np.hypot(*r["points"][0]) for r in records if r["game"] == game)
        ax.set(xlim=(-size, size), ylim=(-size, size), aspect="equal")
    legend(figure, styles, list(styles))
    return figure


def _radius(records: list[Record]) -> Figure:
    games, styles = list(dict.fromkeys(r["game"] for r in records)), _styles(records)
    figure, axes = panels(games, "rounds of gradients", "|z|", 3.0)
    for r in records:
        rounds = np.arange(len(r["radii"])) * r["every"] * (r["cost"] or 1)
        axes[r["game"]].plot(rounds, np.asarray(r["radii"], float), **styles[r["method"]])
    for game, ax in axes.items():
        mine = [np.asarray(r["radii"], float) for r in records if r["game"] == game]
        start = mine[0][0]
        low, high = min(np.nanmin(r) for r in mine), max(np.nanmax(r) for r in mine)
        ax.set(yscale="log", ylim=(max(0.7 * low, 1e-3 * start), min(1.5 * high, 1e4 * start)))
        ax.set_xlim(0, next(r["steps"] for r in records if r["game"] == game))
    legend(figure, styles, list(styles))
    return figure


def _modes(records: list[Record]) -> Figure:
    methods, styles = list(dict.fromkeys(r["method"] for r in records)), _styles(records)
    figure, axes = panels(methods, "rounds of gradients", "modes", 2.2)
    for method, ax in axes.items():
        mine = [r for r in records if r["method"] == method]
        modes = np.asarray([r["modes"] for r in mine], float)
        rounds = mine[0]["rounds"] * np.arange(1, modes.shape[1] + 1) / modes.shape[1]
        colour = styles[method]["color"]
        ax.plot(rounds, modes.mean(axis=0), color=colour)
        ax.fill_between(rounds, modes.min(axis=0), modes.max(axis=0), color=colour, alpha=0.2)
        ax.set_ylim(-0.5, len(CENTERS) + 0.5)
    return figure


def _rates(records: list[Record]) -> Figure:
    table = pd.DataFrame([judge(r) for r in records])
    styles = styles_of(table["method"])
    scaled = table["method"].isin(["adam", *table["method"][table["method"].str.endswith("rms")]])
    kinds = {"the gradient as it is": ~scaled, "in Adam's metric": scaled}
    shown = {name: table[rows] for name, rows in kinds.items() if rows.any()}
    figure, axes = panels(list(shown), "learning rate", "modes", 3.0)
    for name, ax in axes.items():
        for method, mine in shown[name].groupby("method", sort=False):
            ax.plot(mine["rate"], mine["modes"], **styles[str(method)])
        plain_log(ax, sorted(shown[name]["rate"].unique()))
        ax.set_ylim(-0.5, len(CENTERS) + 0.5)
    key(figure, [Line2D([], [], label=name, **style) for name, style in styles.items()])
    return figure


def _samples(records: list[Record]) -> Figure:
    first = {r["method"]: r for r in reversed(records)}
    methods = list(dict.fromkeys(r["method"] for r in records))
    figure, axes = panels(methods, "", "", 2.8)
    for method, ax in axes.items():
        points = np.asarray(first[method]["samples"], float)
        ax.plot(*CENTERS.T, "o", color="0.8", markersize=9, markerfacecolor="none")
        ax.plot(*points.T, ".", color=COLOURS[6], markersize=2)
        ax.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal", xticks=[], yticks=[])
    return figure
