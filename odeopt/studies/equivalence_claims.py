"""In which sense a learning rate is a step size: claims, rival readings, what decides them."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from .engine import Check, Claim, Results, compared
from .engine.store import Record
from .engine.tuner import bracket
from .engine.verdicts import Rows, interval
from .equivalence_paths import on_clock, relative, smallest

SAME = 0.01
"""Losses within this share of each other are called the same."""
NEAR = 0.1
"""For what is only known to a grid or fluctuates: boundaries of networks, the edge of stability,
observed orders, the size of momentum's error."""
AFTER = 64
"""The number of steps after which runs at different rates are compared."""
WITHIN = f"at every compared flow time the loss is within {SAME:.0%} of the flow's"

Checks = Callable[[Results], Sequence[Check]]


def reach(rows: pd.DataFrame, size: str) -> tuple[float, float]:
    """The bracket of the size up to which the loss is the flow's at every smaller one.

    From the last size that is, 0 for none, to the first that is not, infinity for none.
    """
    low, high = bracket(dict(zip(rows[size], ~(rows.worst <= SAME), strict=True)))
    return float(np.nan_to_num(low)), high


def _reaches(rows: Callable[[Results], pd.DataFrame], by: str, size: str) -> Callable[..., str]:
    """The finding that is `reach` of each value of a column, from the worst to the best problem."""

    def say(results: Results) -> str:
        found = []
        for name, mine in rows(results).groupby(by, sort=False):
            each = sorted(reach(group, size) for _, group in mine.groupby("problem"))
            ends = dict.fromkeys(_spoken(*ends) for ends in (each[0], each[-1]))
            label = name if isinstance(name, str) else f"{by} = {name:g}"
            found.append(f"{label}: {' (worst), '.join(ends)}{' (best)' if len(ends) > 1 else ''}")
        return (
            f"The loss is that of the flow up to this {_SIZES[size]}, by problem: "
            f"{'; '.join(found)}."
        )

    return say


_SIZES = {
    "relative_rate": "h·sharpness/R",
    "step_sharpness": "h/(1-b)·sharpness",
    "learning_rate": "h",
}


def _spoken(low: float, high: float) -> str:
    # Two digits, and no power of ten where zeros do.
    words = [f"{float(f'{x:.2g}'):g}" for x in (low, high)]
    return f"{words[0]} or more" if np.isinf(high) else " to ".join(words)


def _runs(family: str, condition: str = "") -> Callable[[Results], pd.DataFrame]:
    """The deviations of a family, as `equivalence_paths.deviations` gives them."""

    def rows(results: Results) -> pd.DataFrame:
        table = results.table("deviations")
        mine = table[table.family == family]
        return mine.query(condition) if condition else mine

    return rows


def _paths(results: Results, family: str) -> list[Record]:
    return [r for r in results.kind("path") if r["family"] == family]


def _same(rows: Rows, where: str, value: str = "worst") -> Checks:
    """Whether a difference is so small that losses are the same."""
    return compared(rows, where, value, f"at most {SAME:g}", lambda r: r[value] <= SAME)


def _near_one(rows: Rows, where: str, value: str, margin: float) -> Checks:
    wanted = f"1 ± {margin:g}"
    return compared(rows, where, value, wanted, lambda r: abs(r[value] - 1) <= margin)


def _steps(results: Results) -> pd.DataFrame:
    """How far losses at different rates are apart after equally many steps."""
    found: dict[tuple[str, str], list[float]] = {}
    for r in _paths(results, "solver"):
        losses = found.setdefault((r["problem"], r["optimizer"]), [])
        per_point = round(r["times"][-1] / r["step"]) // (len(r["times"]) - 1)
        if r["relative_rate"] < 1 and AFTER % per_point == 0:
            losses.append(r["loss"][AFTER // per_point])
    rows = [
        (*pair, len(x), relative([0, max(x)], [0, min(x)])[0]) for pair, x in found.items() if x
    ]
    return pd.DataFrame(rows, columns=["problem", "optimizer", "rates", "spread"])


def _limits(results: Results) -> pd.DataFrame:
    return pd.DataFrame(
        {**r, "ratio": np.nan if r["measured_limit"] is None else r["measured_limit"] / r["R"]}
        for r in results.kind("limit")
    )


def _boundaries(results: Results) -> pd.DataFrame:
    """Between which rates runs on a network begin to diverge, in units of R over its sharpness."""
    rows = []
    for r in results.kind("boundary"):
        low, high = bracket(dict(zip(r["relative_rates"], r["diverged"], strict=True)))
        low = float(np.nan_to_num(low))
        middle = float(np.sqrt(low * high)) if np.isfinite(high) else low
        about = {"middle": middle, "interval": interval(low, high)}
        rows.append({**r, "low": low, "high": high, **about})
    return pd.DataFrame(rows)


def edges(results: Results) -> pd.DataFrame:
    """Sharpness times h / R over the last quarter of training."""
    rows = []
    for r in results.kind("sharpness"):
        trace = np.array(r["sharpness"], float) * r["learning_rate"] / r["R"]
        whole = len(trace) == 1 + 20 and r["gradients"][-1] > 0
        rows.append({**r, "late": np.median(trace[-len(trace) // 4 :]) if whole else np.nan})
    return pd.DataFrame(rows)


def _relative(results: Results) -> pd.DataFrame:
    """How far curves at equal h / R are from Euler's."""
    runs = _paths(results, "relative")
    key = lambda r: (r["problem"], round(r["relative_rate"], 9))  # noqa: E731
    euler = {key(r): r for r in runs if r["optimizer"] == "euler"}
    return pd.DataFrame(
        {**r, "off": np.abs(relative(r["loss"], euler[key(r)]["loss"])).max()}
        for r in runs
        if r["optimizer"] != "euler" and key(r) in euler
    )


def _on(family: str, factor: Callable[[Record], float]) -> Callable[[Results], pd.DataFrame]:
    """How far the smallest steps of a family are from the flow on a rival clock."""
    return lambda results: pd.DataFrame(
        {**r, "off": np.abs(on_clock(r, factor(r))).max()}
        for r in smallest(_paths(results, family))
        if factor(r) != 1
    )


def _errors(results: Results) -> pd.DataFrame:
    """Momentum's difference to the flow over that of gradient descent with the same step."""
    rows = results.table("deviations")
    rows = rows.assign(step=rows.step_sharpness.astype(float).round(9))
    euler = rows[rows.optimizer == "euler"][["problem", "step", "end"]]
    found = rows[rows.family == "momentum"].drop(columns="end").merge(euler, on=["problem", "step"])
    found = found[found.end != 0]
    b = found.momentum.astype(float)
    factor = np.log1p(found.delayed_end) / np.log1p(found.end)
    return found.assign(factor=factor, theory=(1 + b) / (1 - b))


_AT = "{problem}, {optimizer}, h·sharpness/R = {relative_rate:.3g}"
_BELOW, _MOMENTUM, _ADAM = _runs("solver", "relative_rate < 1"), _runs("momentum"), "adam rate"
_RATE = "{problem}, h = {learning_rate:.3g}"
CLAIMS = (
    Claim(
        "flow time",
        "Below the stability limit the loss depends only on flow time n·h: it is the loss of "
        "gradient flow, for any step size and solver.",
        WITHIN,
        _same(_BELOW, _AT),
        finding=_reaches(_BELOW, "optimizer", "relative_rate"),
    ),
    Claim(
        "number of steps",
        "Rival: the number of steps predicts the loss.",
        f"after {AFTER} steps the losses at different rates are within {SAME:.0%}",
        _same(_steps, "{problem}, {optimizer}, {rates} rates below the limit", "spread"),
    ),
    Claim(
        "above the limit",
        "Rival: flow time predicts the loss also above the limit.",
        WITHIN,
        _same(_runs("solver", "relative_rate > 1"), _AT),
    ),
    Claim(
        "boundary",
        "A run on a quadratic is stable if and only if h·sharpness < R. R is a number of the "
        "solver: 2(1+b) with heavy-ball momentum b, 2(1+b)/(1+2b) with Nesterov's.",
        f"measured limit over R is 1 ± {SAME:g} (measured to half a percent)",
        _near_one(_limits, "{problem}, {optimizer}, R = {R:.4g}", "ratio", SAME),
    ),
    Claim(
        "boundary of a network",
        "The same holds on a network, with the sharpness of its initial point.",
        f"the interval of the largest stable h·sharpness/R (steps of 19 %) meets 1 ± {NEAR:g}",
        compared(
            _boundaries,
            "{problem}, {optimizer}",
            "middle",
            f"{{interval}} contains 1 ± {NEAR:g}",
            lambda r: r["low"] <= 1 + NEAR and r["high"] >= 1 - NEAR,
        ),
    ),
    Claim(
        "edge of stability",
        "Full-batch training of a network brings its sharpness to R/h, with the R of each "
        "method, and keeps it there.",
        f"the median of sharpness·h/R over the last quarter of 800 steps is 1 ± {NEAR:g}",
        _near_one(edges, "{problem}, {optimizer}", "late", NEAR),
    ),
    Claim(
        "whole curves in h/R",
        "Rival: at equal h·sharpness/R, methods with different R have the same loss after equally "
        "many steps: h/R predicts whole curves.",
        f"after equally many steps the loss is within {SAME:.0%} of Euler's",
        _same(
            _relative,
            "{problem}, {optimizer} against euler, h·sharpness/R = {relative_rate:.2g}",
            "off",
        ),
    ),
    Claim(
        "order",
        "On a real training path the error against gradient flow after a fixed flow time has the "
        "order of the method: 1, 2, 4; with momentum, at flow time n·h/(1-b), 1.",
        f"log2 of the last ratio of errors, as the step is halved, is the order ± {NEAR:g}",
        compared(
            "order",
            "{optimizer}",
            "observed_order",
            f"{{nominal_order}} ± {NEAR:g}",
            lambda r: abs(r["observed_order"] - r["nominal_order"]) <= NEAR,
        ),
    ),
    Claim(
        "momentum's clock",
        "A step of heavy-ball momentum is a step of h/(1-b): its loss is that of gradient flow at "
        "flow time n·h/(1-b).",
        WITHIN,
        _same(_MOMENTUM, "{problem}, {optimizer}, h/(1-b)·sharpness = {step_sharpness:.3g}"),
        finding=_reaches(_MOMENTUM, "optimizer", "step_sharpness"),
    ),
    Claim(
        "momentum's rate",
        "Rival: the learning rate h of momentum, without the factor 1/(1-b), is its step.",
        f"at the smallest measured step the loss is within {SAME:.0%} of the flow's at n·h",
        _same(_on("momentum", lambda r: 1 - r["momentum"]), "{problem}, {optimizer}", "off"),
    ),
    Claim(
        "momentum's error",
        "At equal effective step, the error of momentum against gradient flow is (1+b)/(1-b) "
        "times that of gradient descent: 3 for b = 0.5, 19 for 0.9, 199 for 0.99. Momentum "
        "starts from rest: n steps cover a flow time of h/(1-b) times n - b(1-bⁿ)/(1-b).",
        "the ratio of the differences of log loss at the end of the path is (1+b)/(1-b) "
        f"± {NEAR:.0%}",
        compared(
            _errors,
            "{problem}, {optimizer}, h/(1-b)·sharpness = {step_sharpness:.2g}",
            "factor",
            f"{{theory:.4g}} ± {NEAR:.0%}",
            lambda r: abs(r["factor"] / r["theory"] - 1) <= NEAR,
        ),
    ),
    Claim(
        "Adam's rate",
        "Adam averages its gradient with weights that sum to one, so a step of Adam is a step of "
        "h for any b1: its loss at n·h is that of the flow without b1.",
        WITHIN,
        _same(_runs(_ADAM), "{problem}, b1 = {b1:g}, h = {learning_rate:.3g}"),
        finding=_reaches(_runs(_ADAM), "b1", "learning_rate"),
    ),
    Claim(
        "Adam's rate over 1-b1",
        "Rival: as with momentum, a step of Adam is a step of h/(1-b1).",
        f"at the smallest measured rate the loss is within {SAME:.0%} of the flow's at n·h/(1-b1)",
        _same(_on(_ADAM, lambda r: 1 / (1 - r["b1"])), "{problem}, b1 = {b1:g}", "off"),
    ),
    Claim(
        "Adam's time constants",
        "Adam's betas are time constants, tau = -h/ln(b): with b = exp(-h/tau) at every rate, "
        "the loss depends only on flow time n·h and is that of Adam's flow.",
        WITHIN,
        _same(_runs("adam constants"), _RATE),
        finding=_reaches(_runs("adam constants"), "optimizer", "learning_rate"),
    ),
    Claim(
        "Adam's betas",
        "Rival: with the same betas at every rate, the loss depends only on flow time n·h.",
        WITHIN,
        _same(_runs("adam betas"), _RATE),
    ),
)
"""In reading order: flow time, limits, orders, momentum, Adam; rivals behind what they contest."""
