"""Claims: what a study can contradict, the comparisons that decide, and the word that follows."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from .study import Results

Rows: TypeAlias = "str | Callable[[Results], pd.DataFrame]"
"""A table of the study, or a kind of its records, by name; or a function that gives a frame."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison of a claim: the `value` measured at `where`, a problem, method and setting.

    `holds` says whether it is as `wanted`, in words; `None` where the measurement leaves it open.
    """

    where: str
    value: float
    wanted: str
    holds: bool | None


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence that a study can contradict, and what decides it, fixed beforehand.

    Attributes:
        name, says: Its short name, and the claim itself.
        criterion: What a single comparison asks for.
        checks: `checks(results)`, the comparisons; none where nothing was measured.
        source: Where it comes from, if not from odeopt.
        finding: `finding(results)`, one or two sentences with what was measured; by default the
            lowest and the highest value.
    """

    name: str
    says: str
    criterion: str
    checks: "Callable[[Results], Sequence[Check]]"
    source: str = ""
    finding: "Callable[[Results], str]" = lambda results: ""

    def judge(self, results: "Results") -> "Verdict":
        """The verdict on what was found."""
        checks = self.checks(results) if results.records else []
        measured = f"Measured: {span([check.value for check in checks])}."
        return Verdict(self, checks, (self.finding(results) or measured) if checks else "")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim and its comparisons."""

    claim: Claim
    checks: Sequence[Check]
    finding: str = ""

    @property
    def word(self) -> str:
        """Whether all comparisons hold, none, some, or whether they leave it open."""
        known = [check.holds for check in self.checks if check.holds is not None]
        if not known:
            return "open" if self.checks else "not measured"
        if len(set(known)) > 1:
            return "holds in part"
        word = "holds" if known[0] else "does not hold"
        return word if len(known) == len(self.checks) else f"{word} where it was decided"

    @property
    def row(self) -> dict[str, Any]:
        """For the table of claims."""
        held = sum(check.holds is True for check in self.checks)
        undecided = sum(check.holds is None for check in self.checks)
        return {
            "claim": self.claim.says,
            "verdict": self.word,
            "holds": f"{held} of {len(self.checks)}" + f", {undecided} open" * bool(undecided),
            "found": self.finding,
            "criterion": self.claim.criterion,
            "source": self.claim.source,
        }


def rows_of(results: "Results", rows: Rows) -> Iterator[dict[str, Any]]:
    """The rows that are meant, as dicts by column."""
    frame = results.frame(rows) if isinstance(rows, str) else rows(results)
    yield from frame.to_dict(orient="records")


def compared(
    rows: Rows, where: str, value: str, wanted: str, holds: Callable[[Any], Any]
) -> "Callable[[Results], list[Check]]":
    """The `checks` of a claim with one comparison a row.

    The fields of `Check`: `where` and `wanted` with columns in braces, `value` a column, and
    `holds(row)`.
    """

    def check(row: dict[str, Any]) -> Check:
        held = holds(row)
        held = held if held is None else bool(held)
        return Check(where.format(**row), row[value], wanted.format(**row), held)

    return lambda results: [check(row) for row in rows_of(results, rows)]


def each(words: str, rows: Rows, text: str) -> "Callable[[Results], str]":
    """The `finding` that is these words and then every row, with columns in braces, or "none"."""

    def say(results: "Results") -> str:
        found = ", ".join(text.format(**row) for row in rows_of(results, rows))
        return f"{words}: {found or 'none'}."

    return say


def interval(low: float, high: float) -> str:
    """Between which two numbers, or that there is no upper one."""
    return f"{low:.2f} or more" if np.isinf(high) else f"{low:.2f} to {high:.2f}"


def span(values: Any) -> str:
    """From the lowest to the highest of some values, three digits; those not finite aside."""
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not len(known):
        return "nothing finite"
    return " to ".join(dict.fromkeys(f"{value:.3g}" for value in (known.min(), known.max())))
