"""One self-contained HTML page about the study."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..records import write_text
from ..report import cells, command_line, embedded, render
from . import epochs, rest
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
        "order/page.html.jinja",
        answer=result.answer,
        figures=embedded(figures, CAPTIONS),
        rest=cells(result.rest),
        orders=cells(result.orders),
        networks=cells(result.networks),
        titles=result.titles,
        seeds=result.settings["seeds"],
        rate=rest.RATE,
        steps=rest.STEPS,
        last=rest.LAST,
        network_seeds=epochs.SEEDS,
        epochs=epochs.EPOCHS,
        batch=epochs.BATCH,
        seconds=result.seconds,
        versions=result.settings["versions"],
        command=command_line("order", result.settings, ("problems", "seeds")),
    )
    write_text(out / "report.html", page)
    return out / "report.html"
