"""A claim of a paper: an experiment, what its numbers must be, and the verdict that follows.

Works on plain numbers; knows no optimizer.
"""

import dataclasses
import inspect
import math
import re
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from .engine import Check
from .engine.drawing import Plot

REPRODUCED, IN_PART = "reproduced", "in part"
NOT_HERE, OUT_OF_REACH, NOT_RUN = "not reproduced here", "out of reach here", "not run"
SIGNIFICANT = 0.05
WORDS = (REPRODUCED, IN_PART, NOT_HERE, OUT_OF_REACH, NOT_RUN)

Found = Mapping[str, Any]
"""What an experiment found with one seed: numbers and lists of numbers by name."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """What a number of the experiment must be.

    Attributes:
        quantity: Its name.
        low: The least that it may be.
        high: The most that it may be.
        every: Whether it must hold for every seed; otherwise for their median.
        null: What it is of no effect: 1 of a ratio, 0 of a difference. It must then lie on the
            bound's side of that in more seeds than by chance (sign test, p <= 0.05).
    """

    quantity: str
    low: float = -math.inf
    high: float = math.inf
    every: bool = False
    null: float | None = None

    def __post_init__(self) -> None:
        if self.null is not None and self.low < self.null < self.high:
            raise ValueError(f"{self.quantity}: no effect, {self.null}, must not be within.")

    @property
    def wanted(self) -> str:
        """The bound in words."""
        words = f"{self.low:.4g} to {self.high:.4g}"
        if math.isinf(self.high):
            words = f"at least {self.low:.4g}"
        elif math.isinf(self.low):
            words = f"at most {self.high:.4g}"
        if self.every:
            return f"{words}, every seed"
        return words if self.null is None else f"{words}, sign test"

    def check(self, found: Sequence[Found]) -> Check:
        """Compare; the value is the median over seeds, or the worst seed where all must hold."""
        values = np.array([one[self.quantity] for one in found], float)  # None on disk is NaN
        worst = np.argmax(np.maximum(self.low - values, values - self.high))  # or a NaN
        value = float(values[worst] if self.every else np.median(values))
        holds = self.low <= value <= self.high
        if self.null is not None:
            agree = int(np.sum(values > self.null if self.low >= self.null else values < self.null))
            chance = binomtest(agree, len(values), alternative="greater").pvalue
            holds = holds and chance <= SIGNIFICANT
        return Check(self.quantity, value, self.wanted, bool(holds))


def near(quantity: str, value: float, margin: float) -> Bound:
    """`value` within `margin`, in the median over seeds."""
    return Bound(quantity, value - margin, value + margin)


@dataclasses.dataclass(frozen=True)
class Lines:
    """A figure: lists of the experiment against one of them, `x`; median and range of the seeds.

    The `label` is that of the vertical axis; logarithmic axes are `log`: "", "x", "y" or "xy".
    """

    x: str
    ys: Sequence[str]
    label: str
    log: str = ""

    def draw(self, found: Sequence[Found]) -> Plot:
        """One panel with a line for each name."""
        plot = Plot(width=5.0)
        for name in self.ys:
            x, rows = np.array(found[0][self.x], float), np.array([f[name] for f in found], float)
            median, band = np.median(rows, axis=0), (rows.min(axis=0), rows.max(axis=0))
            plot.line(self.label, name, x, median, (self.x, ""), log=self.log, band=band)
        return plot


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a paper says, and how it is asked here.

    Attributes:
        statement: Its first paragraph is the claim, the rest what a reader must know.
        papers: Where it comes from: keys of `papers.PAPERS`.
        experiment: `experiment(seed, full)`, in float64; numbers and lists of numbers by name.
        criterion: What the numbers must be, fixed before the run.
        control: What they would be if a wrong law held: none of these may hold. A comparison has
            no law to be wrong: there a bound names its null.
        seeds: How many, in a quick and in a full run; one where nothing is random, or where an
            experiment makes random runs of its own.
        seconds: An estimate of a quick and of a full run on one core.
        data: Names of the real data that it needs, keys of `data.SETS`.
        figure: What to draw, if anything.
        unreachable: Why it cannot be asked here, where it cannot; then there is no experiment.
    """

    statement: str
    papers: Sequence[str]
    experiment: Callable[[int, bool], Found] | None = None
    criterion: Sequence[Bound] = ()
    control: Sequence[Bound] = ()
    seeds: tuple[int, int] = (5, 10)
    seconds: tuple[float, float] = (5, 10)
    data: Sequence[str] = ()
    figure: Lines | None = None
    unreachable: str = ""

    @property
    def says(self) -> str:
        """The claim itself, in one line."""
        return " ".join(self.statement.split("\n\n")[0].split())

    @property
    def note(self) -> str:
        """What a reader must know beside it."""
        return " ".join(" ".join(self.statement.split("\n\n")[1:]).split())

    @property
    def version(self) -> str:
        """Changes with the code of its module, and of claims that this one takes something from."""
        if self.experiment is None:
            return ""
        return f"{zlib.crc32(_code(self.experiment.__module__).encode()):08x}"

    def judge(self, found: Sequence[Found], missing: str = "") -> "Judgement":
        """The verdict on what was found with each seed; `missing` names data that are not here."""
        if self.unreachable or missing:
            return Judgement(OUT_OF_REACH, self.unreachable or missing)
        if not found:
            return Judgement(NOT_RUN, "")
        checks = [bound.check(found) for bound in self.criterion]
        controls = [bound.check(found) for bound in self.control]
        fooled = [check for check in controls if check.holds]
        if fooled:
            reason = f"a wrong law passes too, so the experiment decides nothing: {_spoken(fooled)}"
            return Judgement(NOT_HERE, reason, checks, controls)
        missed = [check for check in checks if not check.holds]
        if not missed:
            return Judgement(REPRODUCED, _spoken(checks), checks, controls)
        held = [check for check in checks if check.holds]
        also = f"; as claimed: {_spoken(held)}" if held else ""
        word = IN_PART if held else NOT_HERE
        return Judgement(word, f"missed: {_spoken(missed)}{also}", checks, controls)

    def draw(self, found: Sequence[Found]) -> Plot:
        """The figure; an empty one without `figure`, or where nothing was found."""
        return self.figure.draw(found) if self.figure and found else Plot()


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A verdict, why, and the comparisons behind it."""

    word: str
    reason: str
    checks: Sequence[Check] = ()
    controls: Sequence[Check] = ()


def _code(name: str) -> str:
    """The source of a module without its docstring, then that of its neighbours that it imports."""
    module = sys.modules[name]
    code = inspect.getsource(module).replace(module.__doc__ or "", "")
    neighbours = re.findall(r"^from \.(\w+) import", code, re.MULTILINE)
    return code + "".join(_code(f"{module.__package__}.{other}") for other in neighbours)


def _spoken(checks: Sequence[Check]) -> str:
    def value(check: Check) -> str:
        return "not finite in a seed" if math.isnan(check.value) else f"{check.value:.4g}"

    return "; ".join(f"{c.where} {value(c)} (wanted {c.wanted})" for c in checks)
