"""Pages of the studies that are not yet declarations. Uses jinja2 and pandas."""

import base64
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd


def text(value: Any, digits: int = 3) -> str:
    """A table cell."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float | np.floating):
        return "miss" if np.isinf(value) else f"{value:.{digits}g}"
    return str(value)


def command_line(study: str, settings: Mapping[str, Any], options: Sequence[str]) -> str:
    """The command line of a study with these of its settings, but for those that are empty."""
    words = ["odeopt", study]
    for option in options:
        value = settings.get(option)
        if not value:
            continue
        joined = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words += [f"--{option.replace('_', '-')}", joined]
    return shlex.join(words)


def rows(
    table: pd.DataFrame, columns: Mapping[str, str], spoken: Callable[[Any], str]
) -> list[dict[str, str]]:
    """The rows of a table under these headings, numbers as `spoken` says."""

    def cell(value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        return value if isinstance(value, str) else spoken(value)

    return [
        {heading: cell(row[name]) for name, heading in columns.items()}
        for row in table.to_dict(orient="records")
    ]


def render(template: str, **values: Any) -> str:
    """A page from one of the templates of this folder; everything in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("odeopt.studies", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def embedded(figures: Mapping[str, Path], captions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Captions, and PNG files as text that a page can hold."""
    return [
        (captions[name], base64.b64encode(file.read_bytes()).decode())
        for name, file in figures.items()
    ]
