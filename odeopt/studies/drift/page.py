"""One self-contained HTML page about the study."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..records import write_text
from ..report import cells, embedded, render
from . import trends
from .figures import CAPTIONS


def write(result: Any, out: Path, figures: Mapping[str, Path]) -> Path:
    """Writes `report.html`, which needs no network and no other file.

    Args:
        result: A `study.Result`.
        out: An existing folder.
        figures: What `figures.draw` returned.

    Returns:
        The page's path.
    """
    page = render(
        "drift/page.html.jinja",
        answer=result.answer,
        figures=embedded(figures, CAPTIONS),
        orders=cells(result.orders.drop(columns=["step_sizes", "errors"])),
        verdict=cells(result.verdict),
        test=cells(_test(result.runs)),
        titles=result.titles,
        held_out=trends.HELD_OUT,
        plans=result.settings["plans"],
        seeds=result.settings["seeds"],
        seconds=result.seconds,
        versions=result.settings["versions"],
        command=command(result.settings),
    )
    write_text(out / "report.html", page)
    return out / "report.html"


def command(settings: Mapping[str, Any]) -> str:
    """The command line that makes the same study."""
    plans = settings["plans"]
    full = all(len(plan["rates"]) == len(trends.FULL[name].rates) for name, plan in plans.items())
    words = ["odeopt", "drift", "--full" if full else "--quick"]
    return shlex.join([*words, "--problems", ",".join(plans), "--seeds", str(settings["seeds"])])


def _test(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean test error, a column for each variant, at the last flow time."""
    last = runs[runs["time"] == runs.groupby("problem")["time"].transform("max")]
    table = last.pivot_table(
        index=["problem", "time", "rate"], columns="variant", values="test error", sort=False
    )
    return table.reset_index()
