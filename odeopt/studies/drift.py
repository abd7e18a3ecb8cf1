"""What is the drift of gradient descent, and what does it do to a network as the rate grows?"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from . import drift_orders
from .drift_trends import HELD_OUT, OWN_STEPS, PLANS, QUANTITIES, VARIANTS, Bench, judge
from .engine import Claim, Figure, Results, Study, Table, Task, at_least, compared, groups, whole
from .engine.drawing import Plot
from .engine.load import own_problems
from .engine.tuner import bracket
from .problems import SUITE, build

ENOUGH = 0.8
"""Share of a trend from which it counts as removed, or restored."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide the results.

    Attributes:
        problems: Networks whose trends with the rate are measured, separated by commas: digits-mse,
            digits-ce; your own as my_file.py:problem, made with odeopt.studies.Problem, of which
            every step uses all data.
        seeds: Initial points of the networks.
        halvings: How often the largest rate is halved.
        times: Flow times at which to look, at most 3.
    """

    problems: tuple[Any, ...] = tuple(PLANS)
    seeds: int = 3
    halvings: int = 3
    times: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", own_problems(self.problems, PLANS))
        at_least(self, seeds=1, halvings=1, times=1)
        if self.times > len(OWN_STEPS):
            raise ValueError(f"--times must be at most {len(OWN_STEPS)}, not {self.times}.")


FULL = {"seeds": 5, "halvings": 4, "times": 3}


def tasks(settings: Settings) -> list[Task]:
    """Everything that is measured."""
    found = [
        whole(f"orders, {name}", functools.partial(drift_orders.orders, name))
        for name in drift_orders.PATHS
    ]
    for problem in build(settings.problems):
        bench = Bench(problem, settings.seeds, settings.halvings, settings.times)
        for variant in VARIANTS:
            for halving in range(settings.halvings, -1, -1):
                name = f"{problem.name}, {variant}, h/{2**halving}"
                steps = 2 ** (settings.halvings if variant == "explicit" else halving)
                work = functools.partial(bench.run, variant, halving)
                found.append(whole(name, work, 0.5 + steps / 4, problem.x64))
    return found


def runs_of(results: Results) -> pd.DataFrame:
    """One row a network, variant, rate, flow time and seed."""
    runs = results.of("trend")
    # What is not finite is None on disk.
    return runs.astype({n: float for n in (*QUANTITIES, "first sharpness") if n in runs})


def _whole(results: Results) -> pd.DataFrame:
    """The runs of variants that are finished at all rates of their problem."""
    runs = runs_of(results)
    if runs.empty:
        return runs
    rates = runs.groupby(["problem", "variant"])["rate"].transform("nunique")
    return runs[rates == runs.groupby("problem")["rate"].transform("nunique")]


def _shares(results: Results) -> pd.DataFrame:
    """The trends in percent, all flow times in one row: lowest to highest."""
    trends, shares = results.table("trends"), ["change", "removed", "by order 3", "restored"]
    if trends.empty:
        return trends
    keys = ["problem", "quantity", "edge"]
    found = trends.groupby(keys, sort=False)[shares].agg(lambda mine: _range(100 * mine))
    return found.reset_index().sort_values(keys[:2], kind="stable")


def _range(values: pd.Series) -> str:
    if values.isna().all():
        return "–"
    low, high = (f"{x:.0f}" if abs(x) >= 10 else f"{x:.2g}" for x in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def _kind(name: str, results: Results) -> pd.DataFrame:
    return results.of(name).drop(columns="kind", errors="ignore")


def _validation(results: Results) -> pd.DataFrame:
    """Mean of the metric on examples that are held out, a column a variant, at the last time."""
    runs = results.of("trend")
    if "validation" not in runs:
        return pd.DataFrame()
    last = runs[runs["time"] == runs.groupby("problem")["time"].transform("max")]
    index = ["problem", "time", "rate"]
    found = last.pivot_table(index=index, columns="variant", values="validation", sort=False)
    return found.reset_index()


def reach(mine: pd.DataFrame, share: str = "removed") -> tuple[float, float]:
    """The bracket of h · sharpness up to which at least `ENOUGH` is removed at every flow time.

    From the last rate that holds, 0 for none, to the first that does not, infinity for none.
    """
    worst = mine.groupby("edge")[share].min().dropna()
    low, high = bracket((~(worst >= ENOUGH)).to_dict())
    return float(np.nan_to_num(low)), high


def _spoken(low: float, high: float) -> str:
    if not low and np.isinf(high):
        return "not decided: no trend to remove"
    if not low:
        return f"at no rate (smallest tried: h·sharpness = {high:.2g})"
    if np.isinf(high):
        return f"at every rate tried, up to h·sharpness = {low:.2g}"
    return f"up to h·sharpness = {low:.2g}, no longer at {high:.2g}"


def _reaches(results: Results) -> str:
    mine = groups(results.table("trends"), ["problem", "quantity"])
    each = (f"{' '.join(key)} {_spoken(*reach(rows))}" for key, rows in mine)
    return f"At least {ENOUGH:.0%} is removed at all flow times: {'; '.join(each)}."


def verdict(results: Results) -> str:
    """The answer in two sentences: what gradient descent follows, and what that does."""
    orders, words = results.of("order"), []
    if len(orders):
        held = int((abs(orders.observed - orders.order) < drift_orders.NEAR).sum())
        words.append(
            f"{held} of {len(orders)} measured orders agree with theory, by which gradient descent "
            "follows the flow of E + (h/4)‖grad E‖² with one order more than gradient flow."
        )
    words += [_falls_by(results)] if len(results.table("trends")) else []
    return " ".join(words) or "Nothing was measured yet."


def _falls_by(results: Results) -> str:
    trends = results.table("trends")
    if trends.empty:
        return "No variant is finished at two rates, so no trend is known."
    most = trends[trends["largest"] == trends.groupby("problem")["largest"].transform("max")]
    undecided, most = most.open.sum(), most[most.open < most.seeds]
    if most.empty:
        return (
            "Gradient norm and sharpness have no trend with the rate: their changes are rounding, "
            "or not finite."
        )
    rest = f" ({undecided} more are open: not finite, or rounding)" if undecided else ""
    what = most.quantity.unique()
    fall = (
        f"As the rate grows, {' and '.join(what)} fall{'s' * (len(what) == 1)} in "
        f"{most.falling.sum()} of "
        f"{(most.seeds - most.open).sum()} comparisons{rest}, by {_range(-100 * most.change)} % "
        f"{'(a negative number is a rise) ' * bool((most.change > 0).any())}at the largest rate."
    )
    if most[["removed", "by order 3"]].isna().all().any():
        return fall
    return (
        f"{fall} Cancelling the drift to order 2 removes {_range(100 * most.removed)} % of this "
        "trend (negative: a larger trend is left, up or down), to order 3 "
        f"{_range(100 * most['by order 3'])} %."
    )


_WHERE = "{problem}, {quantity}, t = {time:g}, h·sharpness up to {edge:.2g}"


def _within(share: str, most: float) -> Callable[[Mapping[str, Any]], bool | None]:
    """Whether a share of a trend is as large as it should be; `None` where there is no trend."""
    return lambda row: None if np.isnan(row[share]) else ENOUGH <= row[share] <= most


def _falls(row: Mapping[str, Any]) -> bool | None:
    """Whether the slope is negative in every seed; `None` where no seed contradicts it."""
    if row["falling"] + row["open"] < row["seeds"]:
        return False
    return None if row["open"] else True


def _enough(share: str, says: str, most: float = 1.0, **more: Any) -> Claim:
    """That a share of the trends is large enough, and not above `most`."""
    words = f"at least {ENOUGH:.0%}" + f", at most {most:.0%}" * (most > 1)
    checks = compared("trends", _WHERE, share, words, _within(share, most))
    return Claim(share, says, words, checks, **more)


CLAIMS = (
    drift_orders.ORDERS_HOLD,
    Claim(
        "falls",
        "At equal flow time, gradient norm and sharpness fall as the learning rate grows.",
        "negative slope in every seed",
        compared("trends", _WHERE, "falling", "{seeds}", _falls),
        "Barrett and Dherin, arXiv:2009.11162",
    ),
    _enough("removed", "The counter-term of order 2 removes that trend.", finding=_reaches),
    _enough("by order 3", "With the term of order 3 too, the counter-term removes that trend."),
    _enough(
        "restored", "The explicit penalty restores that trend at the smallest rate.", 2 - ENOUGH
    ),
)


def _draw_trends(results: Results) -> Plot:
    plot, labels = Plot(list(VARIANTS)), ("h · first sharpness", "change, %")
    for problem, mine in groups(runs_of(results), "problem"):
        edge = mine["first sharpness"].mean()
        for quantity in QUANTITIES:
            for time, here in mine.groupby("time"):
                title = f"{problem}, {quantity}, t = {time:g}"
                table = here.pivot(index=["variant", "rate"], columns="seed", values=quantity)
                if "counter-term" not in table.index:  # stopped before
                    continue
                base = table.loc["counter-term"].iloc[0]
                for variant in table.index.unique(0):
                    change = 100 * (table.loc[variant] / base - 1)
                    band = change.min(axis=1), change.max(axis=1)
                    x = edge * change.index.to_numpy()
                    plot.line(title, variant, x, change.mean(axis=1), labels, band=band)
    return plot


FIGURES = (
    Figure(
        "trends",
        _draw_trends,
        "Gradient norm and sharpness at equal flow time, as percentage changes from the run with "
        "the counter-term at the smallest rate, paired by seed; mean and range of the seeds. "
        "Gradient flow would give flat lines.",
        _falls_by,
    ),
)

_TRENDS = {
    "problem": ("problem", "its name"),
    "quantity": ("quantity", "the quantity whose trend is measured"),
    "time": ("time", "flow time at which it is measured"),
    "edge": (
        "h·sharpness to",
        "the largest rate of the fit times the initial sharpness, mean over seeds; gradient "
        "descent is stable below 2",
    ),
    "slope": ("slope", "of the logarithm of the quantity over the rate, mean over seeds"),
    "change": ("change", "relative change that this slope gives at the largest rate"),
    "falling": ("falling", "seeds in which the slope is negative"),
    "open": ("open", "seeds without a trend: not finite, or a change of the size of rounding"),
    "seeds": ("seeds", "their number"),
    "removed": (
        "removed",
        "by the counter-term: 1 - |its slope| / |slope of gradient descent|, so a reversed trend "
        "does not count as removed",
    ),
    "by order 3": ("by order 3", "the same with the next term too"),
    "restored": ("restored", "slope of the explicit penalty divided by that of gradient descent"),
}
_ORDERS = {
    "path": ("path", "where iterates and flow are compared"),
    "method": ("method", "what makes the iterates"),
    "flow": ("flow", "order in h of the flow they are compared with; 1 is gradient flow"),
    "order": ("order", "of the error, by theory"),
    "observed": ("observed", "log2 of the ratio of errors at the two smallest step sizes"),
}
TABLES = (
    Table(
        "shares",
        "Trends with the rate at equal flow time, %, lowest to highest of the flow times",
        _shares,
        _TRENDS,
        ("problem", "quantity", "edge", "change", "removed", "by order 3"),
    ),
    Table("trends", "Trends at each flow time", lambda r: judge(_whole(r)), _TRENDS),
    Table("orders", "Error against h", functools.partial(_kind, "order"), _ORDERS, tuple(_ORDERS)),
    Table("runs", "Runs", functools.partial(_kind, "trend")),
    Table(
        "validation",
        "On held-out data",
        _validation,
        {name: (name, "") for name in ("problem", "time", "rate", *VARIANTS)},
    ),
)


def _method(results: Results) -> Mapping[str, str]:
    problems = "; ".join(problem.spoken for problem in build(results.settings.problems))
    return {
        "Iterates and flows": "Float64; flows by diffrax's Dopri8 at tight tolerance, with "
        "fields that share no code with the optimizers. An error is the distance at the end, "
        "divided by the distance from start to end.",
        "Variants": "gradient descent: x - h g. counter-term: x - h (g - (h/2) H g), which "
        "cancels the leading term of the drift. order 3: with (h²/6)(HHg + E'''(g, g)) too. "
        "explicit: the smallest rate k on E + ((h - k)/4)‖grad E‖², the penalty that rate h "
        "would add.",
        "Networks": f"{problems}. Of digits, {HELD_OUT} examples are held out.",
        "Rates": "The largest is about 1 over the initial sharpness; each of the others is half "
        "of the one before.",
        "Pairs": "All runs of a seed start at the same point and use all training examples in "
        "every step, so only the rate and the variant differ.",
    }


STUDY = Study(
    name="drift",
    question="Which flow does gradient descent follow, and how does that change a network?",
    summary="Compares iterates with flows and modified flows, and measures how gradient norm and "
    "sharpness change with the rate, with and without the counter-term. Two minutes; ten with "
    "--full.",
    settings=Settings,
    full=FULL,
    tasks=tasks,
    verdict=verdict,
    tables=TABLES,
    figures=FIGURES,
    claims=CLAIMS,
    method=_method,
    suite=SUITE,
    page="docs/drift-study.md",
)
run = STUDY.run
