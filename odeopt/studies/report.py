"""One self-contained HTML page about a stability sweep. May use: jinja2, `odeopt.studies.plots`."""

import base64
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from odeopt.studies import plots


def largest_stable(runs: pd.DataFrame) -> pd.DataFrame:
    """The largest rate below which no run diverged, per problem and optimizer.

    Returns:
      Columns `rate`, `per_gradient` (rate over gradients a step) and `bracketed`: whether a larger
      rate of the grid diverged. Where none did, `rate` is only a lower bound.
    """
    rows = []
    for (problem, optimizer), mine in runs.groupby(["problem", "optimizer"], sort=False):
        by_rate = (mine.status == "diverged").groupby(mine.learning_rate).any()
        stable = by_rate.index[~by_rate.cummax()]
        rows.append({
            "problem": problem, "optimizer": optimizer,
            "rate": stable.max() if len(stable) else float("nan"),
            "per_gradient": (stable.max() if len(stable) else float("nan"))
            / mine.gradients_per_step.iloc[0],
            "bracketed": bool(len(stable) and by_rate.any()),
        })  # fmt: skip
    columns = ["problem", "optimizer", "rate", "per_gradient", "bracketed"]
    return pd.DataFrame(rows, columns=columns)


def write(result: Any, out: Path, figures: dict[str, Path]) -> Path:
    """Writes `report.html` with everything inside it.

    Args:
      result: a `stability.Result`.
      out: an existing folder.
      figures: what `plots.draw` returned.

    Returns:
      The page's path.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("odeopt.studies", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    images = [
        {
            "name": name,
            "caption": plots.CAPTIONS[name],
            "data": base64.b64encode(file.read_bytes()).decode(),
        }
        for name, file in figures.items()
    ]
    page = environment.get_template("report.html.jinja").render(
        figures=images, summary=result.summary, settings=result.settings, seconds=result.seconds
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path
