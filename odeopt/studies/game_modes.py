"""What a GAN covers of the mixture: the tables, figures and verdict of its runs."""

from typing import Any

import numpy as np
import pandas as pd

from . import game_mixture as mixture
from .engine import Claim, Figure, Results, Table, compared, each, groups, statistics
from .engine.drawing import INK, Plot
from .engine.store import Record
from .engine.tuner import TUNING_SEED

WORKS = 0.5
"""Share of a method's modes at its best rate from which on another rate works as well."""
RIVAL = "adam"
LIMITS = -0.5, len(mixture.CENTERS) + 0.5
"""Of an axis of modes."""


def _summary(results: Results) -> pd.DataFrame:
    """One row a method, of its tuned rate over the reported seeds."""
    runs, rows = results.table("mixture"), list[dict[str, Any]]()
    fresh = {method: mine[mine.seed != TUNING_SEED] for method, mine in groups(runs, "method")}
    rival = -fresh[RIVAL].modes if RIVAL in fresh else ()
    for method, mine in fresh.items():
        tuning = runs[(runs.method == method) & (runs.seed == TUNING_SEED)]
        if mine.empty or tuning.empty:  # not finished
            continue
        rate, rates = mine.rate.iloc[0], np.array([0.0, *sorted(tuning.rate), np.inf])
        place = int(np.searchsorted(rates, rate))
        beside, modes = (rates[place - 1], rates[place + 1]), (mine.modes.min(), mine.modes.max())
        against = statistics.pairs(-mine.modes, () if method == RIVAL else rival)
        rows.append(
            {
                "method": method,
                "cost": mine.cost.iloc[0],
                "rate": rate,
                "rate_low": beside[0],
                "rate_high": beside[1],
                "works": int((tuning.modes >= WORKS * max(tuning.modes.max(), 1)).sum()),
                "modes": mine.modes.mean(),
                "low": modes[0],
                "high": modes[1],
                "lost": (mine.best - mine.modes).mean(),
                "wobble": mine.wobble.mean(),
                "share": mine.share.mean(),
                "diverged": int((~mine.finite).sum()),
                "seeds": len(mine),
                "above": against.share,
                "p": against.p,
                "rates": _between(*beside),
                "range": "{:.1f} to {:.1f}".format(*modes),
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p=statistics.holm(table.p)) if rows else table


def _between(low: float, high: float) -> str:
    if low == 0 and np.isinf(high):
        return "one tried"
    if low == 0:
        return f"below {high:g}"
    return f"above {low:g}" if np.isinf(high) else f"{low:g} to {high:g}"


def verdict(results: Results) -> list[str]:
    """Whether any method beats Adam."""
    summary = results.table("summary")
    if RIVAL not in set(summary.get("method", ())) or len(summary) < 2:
        return []
    adam = summary[summary.method == RIVAL].iloc[0]
    above = summary[summary.modes > adam.modes]
    each = ", ".join(f"{r.method} ({r.modes:.1f})" for r in above.itertuples())
    than = f"more of {len(mixture.CENTERS)} modes than Adam ({adam.modes:.1f})"
    if not each:
        return [f"In the GAN, at equal gradients, no method covers {than}."]
    return [
        f"In the GAN, at equal gradients, these cover {than}: {each}; {(above.p < 0.05).sum()} of "
        "these differences are significant (Mann-Whitney, Holm, 5 %)."
    ]


def _rivals(results: Results) -> pd.DataFrame:
    """All but Adam, beside Adam's modes."""
    summary = results.table("summary")
    if RIVAL not in set(summary.get("method", ())):
        return pd.DataFrame()
    rows = summary.set_index("method")
    return rows.drop(RIVAL).assign(adam=rows.modes[RIVAL]).reset_index()


BEATS = Claim(
    "beats",
    "A solver covers more modes of the mixture than Adam at equal gradients.",
    "higher mean, and p of the Mann-Whitney test, corrected by Holm, below 0.05; open where "
    "it is not below",
    compared(
        _rivals,
        "{method}",
        "modes",
        "above {adam:.3g}",
        lambda r: bool(r["modes"] > r["adam"]) if r["p"] < 0.05 else None,
    ),
)


def _fresh(results: Results) -> dict[str, list[Record]]:
    """The runs of the reported seeds, by method."""
    found: dict[str, list[Record]] = {}
    for r in results.kind("mixture"):
        if r["seed"] != TUNING_SEED:
            found.setdefault(r["method"], []).append(r)
    return found


def _modes(results: Results) -> Plot:
    plot, labels = Plot(height=2.2), ("rounds of gradients", "modes")
    for method, mine in _fresh(results).items():
        modes = np.array([r["modes"] for r in mine], float)
        rounds = mine[0]["rounds"] * np.arange(1, modes.shape[1] + 1) / modes.shape[1]
        band = modes.min(axis=0), modes.max(axis=0)
        axes = plot.line(method, method, rounds, modes.mean(axis=0), labels, band=band)
        axes.set_ylim(*LIMITS)
    return plot


def _samples(results: Results) -> Plot:
    plot = Plot(width=2.6, height=2.6)
    for method, mine in _fresh(results).items():
        axes = plot.panel(method, "", "")
        axes.plot(*mixture.CENTERS.T, "o", color=INK, alpha=0.4, markersize=9, mfc="none")
        axes.plot(*np.array(mine[0]["samples"], float).T, ".", color=INK, markersize=2)
        axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal", xticks=[], yticks=[])
    return plot


MODES = Figure(
    "modes",
    _modes,
    f"Modes that the generator covers, of {len(mixture.CENTERS)}, at tuned rates: mean and "
    "range of the reported seeds. A falling curve loses modes again.",
    each("Modes lost since the best point of a run", "summary", "{method} {lost:.1f}"),
)
SAMPLES = Figure(
    "samples",
    _samples,
    "Samples of the generator at the end, first reported seed; circles are the modes.",
    each(
        "Modes covered in the last quarter of a run, mean of the reported seeds",
        "summary",
        "{method} {modes:.1f}",
    ),
)
COVERED = each(
    f"Modes covered, of {len(mixture.CENTERS)}, in the last quarter of a run, mean and range",
    "summary",
    "{method} {modes:.1f} ({range})",
)
SUMMARY = Table(
    "summary",
    "GAN of a mixture",
    _summary,
    {
        "method": ("method", "its name; rms means in Adam's metric"),
        "cost": ("rounds", "rounds of gradients a step, one gradient for each player"),
        "rates": ("rate", "the neighbours of the tuned rate on the grid"),
        "modes": ("modes", "covered in the last quarter of a run, mean of the seeds"),
        "range": ("range", "of the seeds"),
        "p": (
            "p",
            "Mann-Whitney test against Adam, corrected by Holm; with 6 seeds at least 0.002 "
            "before the correction",
        ),
        "works": ("good rates", "rates with at least half the modes of the best rate"),
        "lost": ("lost", "modes lost since the best point of the run"),
        "wobble": ("wobble", "standard deviation of the modes in time"),
        "share": ("share", "samples within two standard deviations of a mode"),
        "diverged": ("diverged", "runs that are not finite"),
    },
    ("method", "cost", "rates", "modes", "range", "p"),
)
RUNS = Table(
    "mixture",
    "All runs of the GAN",
    lambda r: pd.DataFrame(map(mixture.judge, r.kind("mixture"))),
)
