"""What is claimed, the figures, and the verdict that thresholds give. Works on records only."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from ..records import Record
from .deviations import deviations, on_clock, same_steps

SAME = 0.01
"""Losses within this share of each other are called the same."""
NEAR = 0.1
"""For what is only known to a grid or fluctuates: boundaries of networks, the edge of stability,
observed orders, the size of momentum's error."""
AFTER = 64
"""The number of steps after which runs at different rates are compared."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        where: The problem, method and step size.
        value: What was measured.
        wanted: What it should be.
        holds: Whether it is.
    """

    where: str
    value: float
    wanted: str
    holds: bool


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, or a rival reading of a learning rate that would contradict one.

    Attributes:
        key: Its short name.
        says: The claim.
        rival: Whether it is a rival reading, which theory expects not to hold.
        criterion: What a single check asks for.
        checks: The comparisons.
        figures: Sentences with what was measured.
        range: Where it held, in words, if it held somewhere only.
    """

    key: str
    says: str
    rival: bool
    criterion: str
    checks: list[Check]
    figures: list[str]
    range: str

    @property
    def verdict(self) -> str:
        """Whether all checks held, none, or "in part"; "not measured" where there are none."""
        if not self.checks:
            return "not measured"
        held = sum(check.holds for check in self.checks)
        if held == len(self.checks):
            return "held"
        return "held only in part" if held else "did not hold"

    @property
    def sentence(self) -> str:
        """The verdict with its range and the share of comparisons that hold."""
        held = sum(check.holds for check in self.checks)
        count = f"{held} of {len(self.checks)}"
        partly = self.range if self.verdict == "held only in part" else ""
        return f"{self.verdict}{': ' + partly if partly else ''} ({count})"


def judge(records: Sequence[Record]) -> list[Claim]:
    """Every claim, in reading order."""
    return [claim(records) for claim in CLAIMS]


def table(claims: Sequence[Claim]) -> pd.DataFrame:
    """One row a claim."""
    return pd.DataFrame(
        {
            "claim": claim.key,
            "says": claim.says,
            "rival": claim.rival,
            "verdict": claim.verdict,
            "holds": sum(check.holds for check in claim.checks),
            "comparisons": len(claim.checks),
            "criterion": claim.criterion,
            "range": claim.range,
            "figures": " ".join(claim.figures),
        }
        for claim in claims
    )


def rich_table(claims: Sequence[Claim]) -> Table:
    """Claims, verdicts and figures for a terminal."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, show_lines=True)
    for heading in ("claim (rival readings in italics)", "verdict", "figures"):
        shown.add_column(heading, ratio=2 if heading == "figures" else 1)
    colors = {"held": "green", "did not hold": "red"}
    for claim in claims:
        says = f"[italic]{claim.says}[/]" if claim.rival else claim.says
        color = colors.get(claim.verdict, "yellow")
        shown.add_row(says, f"[{color}]{claim.sentence}[/]", " ".join(claim.figures))
    return shown


def _reach(rows: pd.DataFrame, size: str, value: str = "worst") -> float:
    """The largest size up to which every smaller one gave the same loss; 0 if none did."""
    ordered = rows.sort_values(size)
    same = (ordered[value].abs() <= SAME).cummin()
    return float(ordered[size][same].max()) if same.any() else 0.0


def _reaches(rows: pd.DataFrame, by: str, size: str) -> str:
    """The range over problems of `_reach`, for each value of a column."""
    found = []
    for name, mine in rows.groupby(by, sort=False):
        reach = [_reach(group, size) for _, group in mine.groupby("problem", sort=False)]
        low, high = (_number(x) for x in (min(reach), max(reach)))
        found.append(f"{low if low == high else f'{low} to {high}'} ({name})")
    return ", ".join(found)


def _each(rows: pd.DataFrame, by: str, value: str) -> str:
    """The worst value of each name: `euler 1.2%, rk4 3.4e-06%`."""
    worst = rows[value].abs().groupby(rows[by], sort=False).max()
    return ", ".join(f"{name} {_share(x)}" for name, x in worst.items())


def _number(x: float) -> str:
    """Two digits, the same for numbers that differ by rounding only."""
    return f"{float(f'{x:.9g}'):.2g}"


def _share(x: float) -> str:
    if not np.isfinite(x):
        return "not finite"
    return f"{100 * x:.2g} %" if x < 1 else f"a factor of {x + 1:.2g}"


def _span(values: Sequence[float]) -> str:
    """The lowest and the highest of shares."""
    return " to ".join(map(_share, (min(values), max(values)))) if values else "-"


def _checks(rows: pd.DataFrame, where: Callable[[pd.Series], str]) -> list[Check]:
    """One check a run: whether its loss is the flow's all along."""
    return [
        Check(where(row), row.worst, f"at most {SAME:g}", bool(row.worst <= SAME))
        for _, row in rows.iterrows()
    ]


def _of_family(records: Sequence[Record], *families: str) -> pd.DataFrame:
    rows = deviations(records)
    return rows[rows.family.isin(families)]


def _paths(records: Sequence[Record], family: str) -> list[Record]:
    return [r for r in records if r["kind"] == "path" and r["family"] == family]


def _at(row: pd.Series) -> str:
    return f"{row.problem}, {row.optimizer}, h·sharpness/R = {row.relative_rate:.3g}"


WITHIN = f"at every compared flow time the loss is within {SAME:.0%} of the flow's"


def flow_time(records: Sequence[Record]) -> Claim:
    """Below the limit flow time predicts the loss."""
    rows = _of_family(records, "solver")
    below = rows[rows.relative_rate < 1]
    return Claim(
        "flow time",
        "Below the stability limit the loss depends on flow time n·h only: it is the loss of "
        "gradient flow, whatever the step size and the solver.",
        False,
        WITHIN,
        _checks(below, _at),
        [
            f"Largest h·sharpness/R up to which it is, over the problems: "
            f"{_reaches(below, 'optimizer', 'relative_rate')}.",
            f"At the end of the path and anywhere below the limit the loss is off by at most: "
            f"{_each(below[below.problem.str.startswith('digits')], 'optimizer', 'end')} on the "
            f"network; {_each(below[~below.problem.str.startswith('digits')], 'optimizer', 'end')} "
            "on the quadratics.",
        ],
        f"up to h·sharpness/R = {_reaches(below, 'optimizer', 'relative_rate')}",
    )


def above_limit(records: Sequence[Record]) -> Claim:
    """Above the limit it does not."""
    rows = _of_family(records, "solver")
    above = rows[rows.relative_rate > 1]
    network = above[above.problem.str.startswith("digits")]
    return Claim(
        "above the limit",
        "Flow time predicts the loss above the limit, too.",
        True,
        WITHIN,
        _checks(above, _at),
        [
            f"Largest difference: {_each(above, 'problem', 'worst')}.",
            "On the network a start above the limit is survived, since the sharpness falls: at "
            f"the end of the path the loss is off by {_each(network, 'optimizer', 'end')}.",
        ],
        "for some runs above the limit",
    )


def step_count(records: Sequence[Record]) -> Claim:
    """The number of steps does not predict the loss."""
    checks = []
    for (problem, optimizer), mine in _groups(_paths(records, "solver")).items():
        losses = {}
        for r in mine:
            per_point = round(r["times"][-1] / r["step"]) // (len(r["times"]) - 1)
            if r["relative_rate"] < 1 and AFTER % per_point == 0:
                losses[r["relative_rate"]] = r["loss"][AFTER // per_point]
        spread = max(losses.values()) / min(losses.values()) - 1
        where = f"{problem}, {optimizer}, {len(losses)} rates below the limit"
        checks.append(Check(where, spread, f"at most {SAME:g}", spread <= SAME))
    values = [check.value + 1 for check in checks]
    return Claim(
        "number of steps",
        "The number of steps predicts the loss.",
        True,
        f"after {AFTER} steps the losses at different rates are within {SAME:.0%}",
        checks,
        [
            f"After {AFTER} steps the highest loss is {min(values, default=np.nan):.2g} to "
            f"{max(values, default=np.nan):.2g} times the lowest."
        ],
        "for some methods",
    )


def _groups(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    found: dict[tuple[str, str], list[Record]] = {}
    for r in records:
        found.setdefault((r["problem"], r["optimizer"]), []).append(r)
    return found


def boundary(records: Sequence[Record]) -> Claim:
    """On quadratics the boundary is at R, for momentum at 2 (1 + b)."""
    checks: list[Check] = []
    off: dict[str, list[float]] = {}
    for r in records:
        if r["kind"] == "limit":
            measured = np.nan if r["measured_limit"] is None else r["measured_limit"]
            ratio = measured / r["R"]
            where = f"{r['problem']}, {r['optimizer']}, R = {r['R']:.4g}"
            checks.append(Check(where, ratio, f"1 ± {SAME:g}", bool(abs(ratio - 1) <= SAME)))
            off.setdefault(f"{r['optimizer']} (R = {r['R']:.4g})", []).append(measured)
    each = ", ".join(
        f"{name} {'/'.join(f'{x:.4g}' for x in values)}" for name, values in off.items()
    )
    return Claim(
        "boundary",
        "A run on a quadratic is stable exactly while h·sharpness < R: the solver's own number, "
        "2(1+b) with heavy-ball momentum b, 2(1+b)/(1+2b) with Nesterov's.",
        False,
        f"measured limit over R is 1 ± {SAME:g} (measured to half a percent)",
        checks,
        [f"Measured h·sharpness at the limit: {each}."],
        "for some methods",
    )


def network_boundary(records: Sequence[Record]) -> Claim:
    """On a network the initial sharpness does not tell the boundary."""
    checks = []
    for r in records:
        if r["kind"] == "boundary":
            rates, diverged = r["relative_rates"], list(r["diverged"])
            first = diverged.index(True) if True in diverged else len(rates)
            low = rates[first - 1] if first else 0.0
            high = rates[first] if first < len(rates) else np.inf
            holds = low <= 1 + NEAR and high >= 1 - NEAR
            wanted = f"{low:.2f} to {high:.2f} contains 1 ± {NEAR:g}"
            where = f"{r['problem']}, {r['optimizer']}"
            checks.append(Check(where, float(np.sqrt(low * high)), wanted, bool(holds)))
    each = ", ".join(f"{c.where.split(', ')[1]} {c.value:.2f}" for c in checks)
    held = ", ".join(c.where.split(", ")[1] for c in checks if c.holds)
    return Claim(
        "boundary of a network",
        "The same holds on a network, with the sharpness of its initial point.",
        False,
        f"the bracket of the largest stable h·sharpness/R (steps of 19 %) contains 1 ± {NEAR:g}",
        checks,
        [f"Largest stable rate in units of R / initial sharpness: {each}."],
        f"for {held}",
    )


def edge(records: Sequence[Record]) -> Claim:
    """Training brings the sharpness to R / h."""
    checks = []
    for r in records:
        if r["kind"] == "sharpness":
            trace = np.array(r["sharpness"], float) * r["learning_rate"] / r["R"]
            whole = len(trace) == 1 + 20 and r["gradients"][-1] > 0
            late = float(np.median(trace[-len(trace) // 4 :])) if whole else np.nan
            where = f"{r['problem']}, {r['optimizer']}"
            checks.append(Check(where, late, f"1 ± {NEAR:g}", bool(abs(late - 1) <= NEAR)))
    each = ", ".join(f"{c.where.split(', ')[1]} {c.value:.2f}" for c in checks)
    return Claim(
        "edge of stability",
        "Full-batch training of a network brings its sharpness to R/h, each method to its own R, "
        "and keeps it there.",
        False,
        f"the median of sharpness·h/R over the last quarter of 800 steps is 1 ± {NEAR:g}",
        checks,
        [f"Sharpness·h/R there: {each}."],
        f"for {', '.join(c.where.split(', ')[1] for c in checks if c.holds)}",
    )


def whole_curves(records: Sequence[Record]) -> Claim:
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
            checks.append(Check(where, off, f"at most {SAME:g}", off <= SAME))
    values = [check.value for check in checks]
    return Claim(
        "whole curves in h/R",
        "At equal h·sharpness/R, methods with different R have the same loss after equally many "
        "steps: h/R predicts whole curves.",
        True,
        f"after equally many steps the loss is within {SAME:.0%} of Euler's",
        checks,
        [f"Largest difference to Euler along a curve, from run to run: {_span(values)}."],
        "for some runs",
    )


def orders(records: Sequence[Record], key: str = "order") -> Claim:
    """Orders of accuracy on a training path."""
    return _orders(
        records,
        "order",
        "The error against gradient flow after a fixed flow time falls with the order of the "
        "method on a real training path: 1, 2, 4; with momentum, on the clock n·h/(1-b), 1.",
        lambda name: "own flow" not in name,
    )


def modified(records: Sequence[Record]) -> Claim:
    """Euler follows its modified flow to order 2."""
    return _orders(
        records,
        "modified flow",
        "Gradient descent follows the flow of E + (h/4)‖grad E‖² one order better: 2.",
        lambda name: "own flow" in name,
    )


def _orders(records: Sequence[Record], key: str, says: str, takes: Callable[[str], bool]) -> Claim:
    checks = []
    for r in records:
        if r["kind"] == "order" and takes(r["optimizer"]):
            seen, nominal = r["observed_order"], r["nominal_order"]
            wanted = f"{nominal} ± {NEAR:g}"
            checks.append(Check(r["optimizer"], seen, wanted, bool(abs(seen - nominal) <= NEAR)))
    each = ", ".join(f"{check.where} {check.value:.2f}" for check in checks)
    return Claim(
        key,
        says,
        False,
        f"log2 of the last ratio of errors, as the step is halved, is the order ± {NEAR:g}",
        checks,
        [f"Observed: {each}."],
        f"for {', '.join(check.where for check in checks if check.holds)}",
    )


def momentum_clock(records: Sequence[Record]) -> Claim:
    """Momentum's effective step."""
    rows = _of_family(records, "momentum")
    return Claim(
        "momentum's clock",
        "A step of heavy-ball momentum is a step of h/(1-b): its loss is that of gradient flow at "
        "flow time n·h/(1-b).",
        False,
        WITHIN,
        _checks(
            rows,
            lambda row: (
                f"{row.problem}, {row.optimizer}, h/(1-b)·sharpness = {row.step_sharpness:.3g}"
            ),
        ),
        [
            "Largest h/(1-b)·sharpness up to which it is, over the problems: "
            f"{_reaches(rows, 'optimizer', 'step_sharpness')}; the stability limit would allow "
            + ", ".join(
                f"{2 * (1 + b) / (1 - b):.3g} for b = {b:g}" for b in sorted(set(rows.momentum))
            )
            + ".",
        ],
        f"up to h/(1-b)·sharpness = {_reaches(rows, 'optimizer', 'step_sharpness')}",
    )


def momentum_rate(records: Sequence[Record]) -> Claim:
    """Momentum's rate alone is not its step."""
    checks = [
        _rival_clock(r, 1 - r["momentum"], f"{r['problem']}, {r['optimizer']}")
        for r in _smallest(_paths(records, "momentum"))
    ]
    return Claim(
        "momentum's rate",
        "The learning rate h of momentum, without the factor 1/(1-b), is its step.",
        True,
        f"at the smallest measured step the loss is within {SAME:.0%} of the flow's at n·h",
        checks,
        [_largest(checks)],
        "for some runs",
    )


def _smallest(records: Sequence[Record]) -> list[Record]:
    """The run with the smallest step of each problem, optimizer and b1."""
    found: dict[tuple, Record] = {}
    for r in sorted(records, key=lambda r: -r["step"]):
        found[r["problem"], r["optimizer"], r.get("b1")] = r
    return list(found.values())


def _rival_clock(record: Record, factor: float, where: str) -> Check:
    off = float(np.abs(on_clock(record, factor)).max())
    return Check(where, off, f"at most {SAME:g}", off <= SAME)


def _largest(checks: Sequence[Check]) -> str:
    """The largest differences, one a check, as a range."""
    return f"Largest difference along a path: {_span([check.value for check in checks])}."


def momentum_error(records: Sequence[Record]) -> Claim:
    """Momentum's error is (1 + b) / (1 - b) times Euler's."""
    rows = _of_family(records, "solver", "momentum")
    euler = {
        (row.problem, round(row.step_sharpness, 9)): row.end
        for row in rows[rows.optimizer == "euler"].itertuples()
    }
    checks = []
    for row in rows[rows.family == "momentum"].itertuples():
        twin = euler.get((row.problem, round(row.step_sharpness, 9)))
        if twin is not None:
            theory = (1 + row.momentum) / (1 - row.momentum)
            factor = float(np.log1p(row.delayed_end) / np.log1p(twin))
            where = f"{row.problem}, {row.optimizer}, h/(1-b)·sharpness = {row.step_sharpness:.2g}"
            holds = abs(factor / theory - 1) <= NEAR
            checks.append(Check(where, factor, f"{theory:.4g} ± {NEAR:.0%}", bool(holds)))
    failed = [f"{check.where}: {check.value:.3g}" for check in checks if not check.holds]
    spans: dict[str, list[float]] = {}
    for check in checks:
        spans.setdefault(check.wanted, []).append(check.value)
    return Claim(
        "momentum's error",
        "At equal effective step, momentum is off gradient flow by (1+b)/(1-b) times as much as "
        "gradient descent: 3 for b = .5, 19 for .9, 199 for .99. The clock starts from rest: n "
        "steps count as h/(1-b) times n - b(1-bⁿ)/(1-b).",
        False,
        "the ratio of the differences of log loss at the end of the path is (1+b)/(1-b) "
        f"± {NEAR:.0%}",
        checks,
        [
            "Measured ratios: "
            + "; ".join(
                f"{min(values):.3g} to {max(values):.3g} ({wanted} wanted)"
                for wanted, values in spans.items()
            )
            + "."
        ],
        f"everywhere but at {'; '.join(failed)}",
    )


def adam_rate(records: Sequence[Record]) -> Claim:
    """Adam's rate is its step whatever b1."""
    rows = _of_family(records, "adam rate")
    rows = rows.assign(name=[f"b1 = {b1:g}" for b1 in rows.b1])
    smallest = rows[rows.learning_rate == rows.learning_rate.min()]
    return Claim(
        "Adam's rate",
        "Adam averages its gradient with weights that sum to one, so a step of Adam is a step of "
        "h, whatever b1: its loss at n·h is that of the flow that has no b1.",
        False,
        WITHIN,
        _checks(rows, lambda row: f"{row.problem}, b1 = {row.b1:g}, h = {row.learning_rate:.3g}"),
        [
            f"Largest h up to which it is: {_reaches(rows, 'name', 'learning_rate')}, 0 for none.",
            f"At the smallest rate the largest difference is: {_each(smallest, 'name', 'worst')}; "
            f"the one at the end of the path: {_each(smallest, 'name', 'end')}.",
        ],
        f"up to h = {_reaches(rows, 'name', 'learning_rate')}",
    )


def adam_like_momentum(records: Sequence[Record]) -> Claim:
    """Adam's step is not h / (1 - b1)."""
    checks = [
        _rival_clock(r, 1 / (1 - r["b1"]), f"{r['problem']}, b1 = {r['b1']:g}")
        for r in _smallest(_paths(records, "adam rate"))
        if r["b1"]
    ]
    return Claim(
        "Adam's rate over 1-b1",
        "As with momentum, a step of Adam is a step of h/(1-b1).",
        True,
        f"at the smallest measured rate the loss is within {SAME:.0%} of the flow's at n·h/(1-b1)",
        checks,
        [_largest(checks)],
        "for some b1",
    )


def adam_constants(records: Sequence[Record]) -> Claim:
    """Adam's betas are time constants."""
    rows = _of_family(records, "adam constants").sort_values("learning_rate")
    ratio = (rows.worst.shift(-1) / rows.worst).iloc[:-1]
    rates = (rows.learning_rate.shift(-1) / rows.learning_rate).iloc[:-1]
    order = np.log(ratio) / np.log(rates)
    return Claim(
        "Adam's time constants",
        "Adam's betas are time constants, tau = -h/ln(b): with b = exp(-h/tau) at every rate, the "
        "loss depends on flow time n·h only, and is that of Adam's flow.",
        False,
        WITHIN,
        _checks(rows, _rate),
        [
            f"Largest difference: {_by_rate(rows)}; it falls with order "
            f"{order.min():.2f} to {order.max():.2f} in h."
        ],
        f"up to h = {_reach(rows, 'learning_rate'):.2g}",
    )


def adam_betas(records: Sequence[Record]) -> Claim:
    """Constant betas are not one flow."""
    rows = _of_family(records, "adam betas").sort_values("learning_rate")
    return Claim(
        "Adam's betas",
        "With the same betas at every rate, the loss depends on flow time n·h only.",
        True,
        WITHIN,
        _checks(rows, _rate),
        [
            f"Largest difference to the flow of h = 0.001: {_by_rate(rows)}; smaller steps do not "
            "mend it, since they shorten the time constants."
        ],
        f"up to h = {_reach(rows, 'learning_rate'):.2g}",
    )


def _rate(row: pd.Series) -> str:
    return f"{row.problem}, h = {row.learning_rate:.3g}"


def _by_rate(rows: pd.DataFrame) -> str:
    return ", ".join(f"{_share(r.worst)} at h = {r.learning_rate:.3g}" for r in rows.itertuples())


CLAIMS: tuple[Callable[[Sequence[Record]], Claim], ...] = (
    *(flow_time, step_count, above_limit),
    *(boundary, network_boundary, edge, whole_curves),
    *(orders, modified),
    *(momentum_clock, momentum_rate, momentum_error),
    *(adam_rate, adam_like_momentum, adam_constants, adam_betas),
)
"""In reading order: flow time, limits, orders, momentum, Adam; rivals behind what they contest."""
