"""One self-contained HTML page about the study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..records import write_text
from ..report import cells, command_line, embedded, render
from . import mixture, plane
from .figures import CAPTIONS
from .study import LAST, TUNING_SEED


def write(result: Any, out: Path, figures: Mapping[str, Path]) -> Path:
    """Writes `report.html`, which needs no network and no other file.

    Args:
        result: A `study.Result`.
        out: An existing folder.
        figures: What `figures.draw` returned.

    Returns:
        The page's path.
    """
    tuning = result.runs[result.runs["seed"] == TUNING_SEED] if len(result.runs) else result.runs
    page = render(
        "games/page.html.jinja",
        answer=result.answer,
        figures=embedded(figures, CAPTIONS),
        planes=cells(result.planes),
        summary=cells(result.summary),
        tuning=cells(_by_rate(tuning)),
        games=plane.GAMES,
        about={
            name: getattr(mixture, name.upper())
            for name in ("batch", "hidden", "latent", "samples", "enough", "near", "spread")
        },
        penalty=mixture.PENALTY,
        last=LAST,
        settings=result.settings,
        seconds=result.seconds,
        versions=result.settings["versions"],
        command=command_line("games", result.settings, ("methods", "seeds", "rounds")),
    )
    write_text(out / "report.html", page)
    return out / "report.html"


def _by_rate(tuning: pd.DataFrame) -> pd.DataFrame:
    """Modes at every rate, a row for each run of the tuning seed."""
    return tuning[["method", "rate", "modes", "share"]] if len(tuning) else tuning
