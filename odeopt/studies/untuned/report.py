"""One self-contained HTML page about the study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..report import command_line, embedded, render, rows
from . import tables
from .figures import CAPTIONS

SUMMARY = {
    "problem": "problem",
    "optimizer": "optimizer",
    "rate": "rate",
    "rates": "rates tried",
    "loss_median": "final loss, median",
    "loss_min": "lowest",
    "loss_max": "highest",
    "validation_median": "held out, median",
    "diverged": "diverged",
    "runs": "of runs",
}
VERDICT = {
    "problem": "problem",
    "optimizer": "untuned",
    "loss": "its loss",
    "rival": "best tuned",
    "rival_loss": "its loss ",
    "ratio": "ratio",
    "ahead": "ahead",
    "share": "pairs of seeds",
    "validation": "held out",
    "rival_validation": "of that rival",
    "lowest_validation": "lowest of all tuned",
}
FIRST_STEPS = {
    "problem": "problem",
    "optimizer": "untuned",
    "loss_low": "lowest loss",
    "loss_high": "highest",
    "spread": "spread",
    "steady": f"below {tables.FACTOR:.0f}",
    "worst": "highest from",
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
        f"{late} optimizers on problems are not done, because time was over; what is missing is "
        "left out of the tables, and --resume makes it."
    ]
    page = render(
        "untuned/report.html.jinja",
        answer=tables.answer(result.verdict, result.first_steps),
        notices=notices if late else [],
        verdict=rows(result.verdict, VERDICT, tables.text),
        first_steps=rows(result.first_steps, FIRST_STEPS, tables.text),
        summary=rows(result.summary, SUMMARY, tables.text),
        figures=embedded(figures, CAPTIONS),
        settings=result.settings,
        titles=result.titles,
        checksums={record["problem"]: record["data_checksum"] for record in result.records},
        seconds=result.seconds,
        command=command_line(
            "untuned", result.settings, ("problems", "rivals", "seeds", "gradients")
        ),
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
