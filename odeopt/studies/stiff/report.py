"""One self-contained HTML page about the study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..report import command_line, embedded, render, rows
from . import tables
from .figures import CAPTIONS
from .goals import GOALS
from .work import STABLE_ON, SWEPT

SUMMARY = {
    "problem": "problem",
    "optimizer": "optimizer",
    "setting": "setting",
    "tried": "tried",
    "tuning": "gradients of tuning",
    "reached": "reached",
    "runs": "of runs",
    "gradients": "gradients, median",
    "gradients_min": "fewest",
    "gradients_max": "most",
    "seconds": "seconds, median",
    "seconds_min": "fewest ",
    "seconds_max": "most ",
    "loss": "final loss",
}
VERDICT = {
    "problem": "problem",
    "optimizer": "solver",
    "gradients": "gradients",
    "rival_gradients": "best rival's",
    "gradients_rival": "who",
    "gradients_won": "fewer",
    "seconds": "seconds",
    "rival_seconds": "best rival's ",
    "seconds_rival": "who ",
    "seconds_won": "fewer ",
}
SENSITIVITY = {
    "problem": "problem",
    "optimizer": "optimizer",
    "sensitivity": "sensitivity",
    "share": "of sgd's",
    "best": "best loss",
    "worst": "worst",
    "diverged": "diverged",
    "runs": "of runs",
}
STABLE = {
    "optimizer": "optimizer",
    "rate": "largest stable rate",
    "best": "best rate",
    "gradients": "gradients to the target, median",
}
"""Columns of the tables that the page shows, and their headings."""


def write(result: Any, out: Path, figures: Mapping[str, Path]) -> Path:
    """Writes `report.html` with everything inside it: it needs no network and no other file.

    Args:
        result: A `study.Result`.
        out: An existing folder.
        figures: What `figures.draw` returned.

    Returns:
        The page's path.
    """
    late = len(result.unfinished)
    notices = [
        f"{late} steps of work are not done, because time was over; what is missing is left out "
        "of the tables, and --resume makes it."
    ]
    page = render(
        "stiff/report.html.jinja",
        answer=tables.answer(result.records),
        notices=notices if late else [],
        verdict=rows(result.verdict, VERDICT, tables.text),
        sensitivity=rows(result.sensitivity, SENSITIVITY, tables.text),
        stable=rows(result.stable, STABLE, tables.text),
        summary=rows(result.summary, SUMMARY, tables.text),
        figures=embedded(figures, CAPTIONS),
        settings=result.settings,
        titles=result.titles,
        budgets={name: GOALS[name].gradients for name in result.settings["problems"]},
        swept=SWEPT,
        stable_on=STABLE_ON,
        checksums={record["problem"]: record["data_checksum"] for record in result.records},
        seconds=result.seconds,
        command=command_line("stiff", result.settings, ("problems", "solvers", "seeds")),
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
