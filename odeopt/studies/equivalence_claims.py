"""In which sense a learning rate is a step size: claims, rival readings, and what decides them.

Works on records only.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .engine.store import Record
from .engine.study import Check, Claim
from .equivalence_paths import deviations, on_clock, same_steps, smallest

SAME = 0.01
"""Losses within this share of each other are called the same."""
NEAR = 0.1
"""For what is only known to a grid or fluctuates: boundaries of networks, the edge of stability,
observed orders, the size of momentum's error."""
AFTER = 64
"""The number of steps after which runs at different rates are compared."""
WITHIN = f"at every compared flow time the loss is within {SAME:.0%} of the flow's"
AT_MOST = f"at most {SAME:g}"

Measured = tuple[list[Check], str]
"""The comparisons, and a sentence with what was measured."""


def reach(rows: pd.DataFrame, size: str) -> tuple[float, float]:
    """The bracket of the size up to which the loss is the flow's at every smaller one.

    From the last size that is, 0 for none, to the first that is not, infinity for none.
    """
    ordered = rows.sort_values(size)
    same = (ordered["worst"] <= SAME).cummin()
    sizes = ordered[size]
    return max(sizes[same], default=0.0), min(sizes[~same], default=np.inf)


def _reaches(rows: pd.DataFrame, by: str, size: str) -> str:
    """`reach` of each value of a column, from the worst to the best problem."""
    found = []
    for name, mine in rows.groupby(by, sort=False):
        each = sorted(reach(group, size) for _, group in mine.groupby("problem"))
        ends = dict.fromkeys(_bracket(*bracket) for bracket in (each[0], each[-1]))
        found.append(f"{name}: {' (worst), '.join(ends)}{' (best)' if len(ends) > 1 else ''}")
    return "; ".join(found)


def _bracket(low: float, high: float) -> str:
    return f"{_digits(low)} or more" if np.isinf(high) else f"{_digits(low)} to {_digits(high)}"


def _digits(x: float) -> str:
    """Two of them, and no power of ten where zeros do."""
    return f"{float(f'{x:.2g}'):g}"


def _each(rows: pd.DataFrame, by: str, value: str) -> str:
    """The worst value of each name."""
    worst = rows[value].abs().groupby(rows[by], sort=False).max()
    return ", ".join(f"{name} {_share(x)}" for name, x in worst.items())


def _share(x: float) -> str:
    if not np.isfinite(x):
        return "not finite"
    return f"{_digits(100 * x)} %" if x < 1 else f"a factor of {_digits(x + 1)}"


def _span(checks: Sequence[Check]) -> str:
    values = [check.value for check in checks]
    return " to ".join(map(_share, (min(values), max(values))))


def _values(checks: Iterable[Check]) -> str:
    return ", ".join(f"{check.where.split(', ', 1)[1]} {check.value:.2f}" for check in checks)


def _all_along(rows: pd.DataFrame, where: Callable[[Any], str]) -> list[Check]:
    """One check a run: whether its loss is the flow's all along."""
    return [
        Check(where(row), row.worst, AT_MOST, bool(row.worst <= SAME)) for row in rows.itertuples()
    ]


def _of_family(records: Sequence[Record], *families: str) -> pd.DataFrame:
    rows = deviations(records)
    return rows[rows.family.isin(families)]


def _paths(records: Sequence[Record], family: str) -> list[Record]:
    return [r for r in records if r["kind"] == "path" and r["family"] == family]


def _kind(records: Sequence[Record], kind: str) -> list[Record]:
    return [r for r in records if r["kind"] == kind]


def _at(row: Any) -> str:
    return f"{row.problem}, {row.optimizer}, h·sharpness/R = {row.relative_rate:.3g}"


def flow_time(records: Sequence[Record]) -> Measured:
    """Below the limit flow time predicts the loss."""
    rows = _of_family(records, "solver")
    below = rows[rows.relative_rate < 1]
    return _all_along(below, _at), (
        f"The loss is the flow's up to h·sharpness/R in "
        f"{_reaches(below, 'optimizer', 'relative_rate')}, by problem. At the end of the path and "
        f"anywhere below the limit it is off by at most: {_each(below, 'optimizer', 'end')}."
    )


def above_limit(records: Sequence[Record]) -> Measured:
    """Above the limit it does not."""
    rows = _of_family(records, "solver")
    above = rows[rows.relative_rate > 1]
    return _all_along(above, _at), (
        f"Largest difference along a path: {_each(above, 'problem', 'worst')}; at its end: "
        f"{_each(above, 'problem', 'end')}."
    )


def step_count(records: Sequence[Record]) -> Measured:
    """The number of steps does not predict the loss."""
    found: dict[tuple[str, str], dict[float, float]] = {}
    for r in _paths(records, "solver"):
        losses = found.setdefault((r["problem"], r["optimizer"]), {})
        per_point = round(r["times"][-1] / r["step"]) // (len(r["times"]) - 1)
        if r["relative_rate"] < 1 and AFTER % per_point == 0:
            losses[r["relative_rate"]] = r["loss"][AFTER // per_point]
    checks = []
    for (problem, optimizer), losses in found.items():
        spread = max(losses.values()) / min(losses.values()) - 1
        where = f"{problem}, {optimizer}, {len(losses)} rates below the limit"
        checks.append(Check(where, spread, AT_MOST, spread <= SAME))
    values = [check.value + 1 for check in checks]
    return checks, (
        f"After {AFTER} steps the highest loss is {_digits(min(values, default=np.nan))} to "
        f"{_digits(max(values, default=np.nan))} times the lowest."
    )


def boundary(records: Sequence[Record]) -> Measured:
    """On quadratics the boundary is at R, for momentum at 2 (1 + b)."""
    checks = []
    for r in _kind(records, "limit"):
        measured = np.nan if r["measured_limit"] is None else r["measured_limit"]
        ratio, where = measured / r["R"], f"{r['problem']}, {r['optimizer']}, R = {r['R']:.4g}"
        checks.append(Check(where, ratio, f"1 ± {SAME:g}", bool(abs(ratio - 1) <= SAME)))
    values = [check.value for check in checks] or [np.nan]
    return checks, f"Measured over theory: {min(values):.4g} to {max(values):.4g}."


def network_boundary(records: Sequence[Record]) -> Measured:
    """On a network the initial sharpness does not tell the boundary."""
    checks, each = [], []
    for r in _kind(records, "boundary"):
        rates, diverged = r["relative_rates"], list(r["diverged"])
        first = diverged.index(True) if True in diverged else len(rates)
        low = rates[first - 1] if first else 0.0
        high = rates[first] if first < len(rates) else np.inf
        holds = low <= 1 + NEAR and high >= 1 - NEAR
        wanted = f"{low:.2f} to {high:.2f} contains 1 ± {NEAR:g}"
        where, middle = f"{r['problem']}, {r['optimizer']}", float(np.sqrt(low * high))
        checks.append(Check(where, middle, wanted, bool(holds)))
        each.append(f"{r['optimizer']} {low:.2f} to {high:.2f}")
    return checks, (
        f"Stable up to a rate, in units of R / initial sharpness, in: {', '.join(each)}."
    )


def edge(records: Sequence[Record]) -> Measured:
    """Training brings the sharpness to R / h."""
    checks = []
    for r in _kind(records, "sharpness"):
        trace = np.array(r["sharpness"], float) * r["learning_rate"] / r["R"]
        whole = len(trace) == 1 + 20 and r["gradients"][-1] > 0
        late = float(np.median(trace[-len(trace) // 4 :])) if whole else np.nan
        where = f"{r['problem']}, {r['optimizer']}"
        checks.append(Check(where, late, f"1 ± {NEAR:g}", bool(abs(late - 1) <= NEAR)))
    return checks, f"Sharpness·h/R there: {_values(checks)}."


def whole_curves(records: Sequence[Record]) -> Measured:
    """Curves at equal h / R are not the same."""
    runs = {
        (r["problem"], r["optimizer"], round(r["relative_rate"], 9)): r
        for r in _paths(records, "relative")
    }
    checks = []
    for (problem, optimizer, rate), r in runs.items():
        if optimizer != "euler" and (problem, "euler", rate) in runs:
            off = float(np.abs(same_steps(r, runs[problem, "euler", rate])).max())
            where = f"{problem}, {optimizer} against euler, h·sharpness/R = {rate:.2g}"
            checks.append(Check(where, off, AT_MOST, off <= SAME))
    return checks, (checks and f"Largest difference to Euler along a curve: {_span(checks)}.") or ""


def _orders(takes: Callable[[str], bool], records: Sequence[Record]) -> Measured:
    checks = []
    for r in _kind(records, "order"):
        if takes(r["optimizer"]):
            seen, nominal = r["observed_order"], r["nominal_order"]
            near = bool(abs(seen - nominal) <= NEAR)
            checks.append(Check(r["optimizer"], seen, f"{nominal} ± {NEAR:g}", near))
    each = ", ".join(f"{check.where} {check.value:.2f}" for check in checks)
    return checks, f"Observed: {each}."


def orders(records: Sequence[Record]) -> Measured:
    """Orders of accuracy on a training path."""
    return _orders(lambda name: "own flow" not in name, records)


def modified(records: Sequence[Record]) -> Measured:
    """Euler follows its modified flow to order 2."""
    return _orders(lambda name: "own flow" in name, records)


def momentum_clock(records: Sequence[Record]) -> Measured:
    """Momentum's effective step."""
    rows = _of_family(records, "momentum")
    size = "step_sharpness"
    checks = _all_along(
        rows, lambda r: f"{r.problem}, {r.optimizer}, h/(1-b)·sharpness = {r.step_sharpness:.3g}"
    )
    limits = rows.assign(limit=rows.R / (1 - rows.momentum)).groupby("optimizer").limit.first()
    allowed = ", ".join(f"{limit:.3g} for {name}" for name, limit in limits.items())
    return checks, (
        f"The loss is the flow's up to h/(1-b)·sharpness in {_reaches(rows, 'optimizer', size)}, "
        f"by problem; the stability limit would allow {allowed}."
    )


def momentum_rate(records: Sequence[Record]) -> Measured:
    """Momentum's rate alone is not its step."""
    checks = [
        _rival_clock(r, 1 - r["momentum"], f"{r['problem']}, {r['optimizer']}")
        for r in smallest(_paths(records, "momentum"))
    ]
    return checks, (checks and f"Largest difference along a path: {_span(checks)}.") or ""


def _rival_clock(record: Record, factor: float, where: str) -> Check:
    off = float(np.abs(on_clock(record, factor)).max())
    return Check(where, off, AT_MOST, off <= SAME)


def momentum_error(records: Sequence[Record]) -> Measured:
    """Momentum's error is (1 + b) / (1 - b) times Euler's."""
    rows = _of_family(records, "solver", "momentum")
    euler = {
        (row.problem, round(row.step_sharpness, 9)): row.end
        for row in rows[rows.optimizer == "euler"].itertuples()
    }
    checks, spans = [], dict[str, list[float]]()
    for row in rows[rows.family == "momentum"].itertuples():
        twin = euler.get((row.problem, round(row.step_sharpness, 9)))
        if twin is not None:
            theory = (1 + row.momentum) / (1 - row.momentum)
            factor = float(np.log1p(row.delayed_end) / np.log1p(twin))
            where = f"{row.problem}, {row.optimizer}, h/(1-b)·sharpness = {row.step_sharpness:.2g}"
            holds, wanted = abs(factor / theory - 1) <= NEAR, f"{theory:.4g} ± {NEAR:.0%}"
            checks.append(Check(where, factor, wanted, bool(holds)))
            spans.setdefault(wanted, []).append(factor)
    each = "; ".join(f"{min(v):.3g} to {max(v):.3g} ({w} wanted)" for w, v in spans.items())
    return checks, f"Measured ratios: {each}."


def adam_rate(records: Sequence[Record]) -> Measured:
    """Adam's rate is its step whatever b1."""
    rows = _of_family(records, "adam rate")
    rows = rows.assign(name=[f"b1 = {b1:g}" for b1 in rows.b1])
    least = rows[rows.learning_rate == rows.learning_rate.min()]
    checks = _all_along(rows, lambda r: f"{r.problem}, b1 = {r.b1:g}, h = {r.learning_rate:.3g}")
    return checks, (
        f"The loss is the flow's up to h in {_reaches(rows, 'name', 'learning_rate')}. At the "
        f"smallest rate the largest difference is {_each(least, 'name', 'worst')}; at the end of "
        f"the path {_each(least, 'name', 'end')}."
    )


def adam_like_momentum(records: Sequence[Record]) -> Measured:
    """Adam's step is not h / (1 - b1)."""
    checks = [
        _rival_clock(r, 1 / (1 - r["b1"]), f"{r['problem']}, b1 = {r['b1']:g}")
        for r in smallest(_paths(records, "adam rate"))
        if r["b1"]
    ]
    return checks, (checks and f"Largest difference along a path: {_span(checks)}.") or ""


def adam_constants(records: Sequence[Record]) -> Measured:
    """Adam's betas are time constants."""
    rows = _of_family(records, "adam constants").sort_values("learning_rate")
    ratio = (rows.worst.shift(-1) / rows.worst).iloc[:-1]
    rates = (rows.learning_rate.shift(-1) / rows.learning_rate).iloc[:-1]
    order = np.log(ratio) / np.log(rates)
    return _all_along(rows, _rate), (
        f"Largest difference: {_by_rate(rows)}; it falls with order {order.min():.2f} to "
        f"{order.max():.2f} in h."
    )


def adam_betas(records: Sequence[Record]) -> Measured:
    """Constant betas are not one flow."""
    rows = _of_family(records, "adam betas").sort_values("learning_rate")
    return _all_along(rows, _rate), (
        f"Largest difference to the flow of h = 0.001: {_by_rate(rows)}; smaller steps do not mend "
        "it, since they shorten the time constants."
    )


def _rate(row: Any) -> str:
    return f"{row.problem}, h = {row.learning_rate:.3g}"


def _by_rate(rows: pd.DataFrame) -> str:
    return ", ".join(f"{_share(r.worst)} at h = {r.learning_rate:.3g}" for r in rows.itertuples())


def _claim(
    name: str, measure: Callable[[Sequence[Record]], Measured], says: str, criterion: str = WITHIN
) -> Claim:
    return Claim(
        name,
        says,
        criterion,
        lambda results: measure(results.records)[0],
        finding=lambda results: measure(results.records)[1],
    )


ORDER = f"log2 of the last ratio of errors, as the step is halved, is the order ± {NEAR:g}"
CLAIMS = (
    _claim(
        "flow time",
        flow_time,
        "Below the stability limit the loss depends on flow time n·h only: it is the loss of "
        "gradient flow, whatever the step size and the solver.",
    ),
    _claim(
        "number of steps",
        step_count,
        "Rival: the number of steps predicts the loss.",
        f"after {AFTER} steps the losses at different rates are within {SAME:.0%}",
    ),
    _claim(
        "above the limit",
        above_limit,
        "Rival: flow time predicts the loss above the limit, too.",
    ),
    _claim(
        "boundary",
        boundary,
        "A run on a quadratic is stable exactly while h·sharpness < R: the solver's own number, "
        "2(1+b) with heavy-ball momentum b, 2(1+b)/(1+2b) with Nesterov's.",
        f"measured limit over R is 1 ± {SAME:g} (measured to half a percent)",
    ),
    _claim(
        "boundary of a network",
        network_boundary,
        "The same holds on a network, with the sharpness of its initial point.",
        f"the bracket of the largest stable h·sharpness/R (steps of 19 %) contains 1 ± {NEAR:g}",
    ),
    _claim(
        "edge of stability",
        edge,
        "Full-batch training of a network brings its sharpness to R/h, each method to its own R, "
        "and keeps it there.",
        f"the median of sharpness·h/R over the last quarter of 800 steps is 1 ± {NEAR:g}",
    ),
    _claim(
        "whole curves in h/R",
        whole_curves,
        "Rival: at equal h·sharpness/R, methods with different R have the same loss after equally "
        "many steps: h/R predicts whole curves.",
        f"after equally many steps the loss is within {SAME:.0%} of Euler's",
    ),
    _claim(
        "order",
        orders,
        "The error against gradient flow after a fixed flow time falls with the order of the "
        "method on a real training path: 1, 2, 4; with momentum, on the clock n·h/(1-b), 1.",
        ORDER,
    ),
    _claim(
        "modified flow",
        modified,
        "Gradient descent follows the flow of E + (h/4)‖grad E‖² one order better: 2.",
        ORDER,
    ),
    _claim(
        "momentum's clock",
        momentum_clock,
        "A step of heavy-ball momentum is a step of h/(1-b): its loss is that of gradient flow at "
        "flow time n·h/(1-b).",
    ),
    _claim(
        "momentum's rate",
        momentum_rate,
        "Rival: the learning rate h of momentum, without the factor 1/(1-b), is its step.",
        f"at the smallest measured step the loss is within {SAME:.0%} of the flow's at n·h",
    ),
    _claim(
        "momentum's error",
        momentum_error,
        "At equal effective step, momentum is off gradient flow by (1+b)/(1-b) times as much as "
        "gradient descent: 3 for b = 0.5, 19 for 0.9, 199 for 0.99. The clock starts from rest: n "
        "steps count as h/(1-b) times n - b(1-bⁿ)/(1-b).",
        "the ratio of the differences of log loss at the end of the path is (1+b)/(1-b) "
        f"± {NEAR:.0%}",
    ),
    _claim(
        "Adam's rate",
        adam_rate,
        "Adam averages its gradient with weights that sum to one, so a step of Adam is a step of "
        "h, whatever b1: its loss at n·h is that of the flow that has no b1.",
    ),
    _claim(
        "Adam's rate over 1-b1",
        adam_like_momentum,
        "Rival: as with momentum, a step of Adam is a step of h/(1-b1).",
        f"at the smallest measured rate the loss is within {SAME:.0%} of the flow's at n·h/(1-b1)",
    ),
    _claim(
        "Adam's time constants",
        adam_constants,
        "Adam's betas are time constants, tau = -h/ln(b): with b = exp(-h/tau) at every rate, the "
        "loss depends on flow time n·h only, and is that of Adam's flow.",
    ),
    _claim(
        "Adam's betas",
        adam_betas,
        "Rival: with the same betas at every rate, the loss depends on flow time n·h only.",
    ),
)
"""In reading order: flow time, limits, orders, momentum, Adam; rivals behind what they contest."""
