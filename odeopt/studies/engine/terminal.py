"""What a terminal of 80 columns shows of a study: the verdict, then its tables. Uses rich."""

from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from .study import Results


def show(results: Results, console: Console) -> None:
    """Print the verdict, what must be known of it, claims and tables."""
    for paragraph in (results.verdict, *results.notices):
        console.print(Text(paragraph))
    if results.claims:
        console.print(grid(results.judged[["claim", "verdict", "holds"]]))
    for table in results.study.tables:
        data = results.table(table.name)
        if table.terminal and len(data):
            headings = {name: heading for name, (heading, _) in table.columns.items()}
            shown = data[[name for name in table.terminal if name in data]]
            console.print(Text(f"\n{table.title}", style="bold"))
            console.print(grid(shown.rename(columns=headings)))


def grid(data: pd.DataFrame) -> Grid:
    """A table whose numbers are whole: only words may be folded."""
    found = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in data:
        numbers = pd.api.types.is_numeric_dtype(data[name])
        style: Any = {"justify": "right" if numbers else "left", "no_wrap": numbers}
        found.add_column(Text(str(name)), overflow="fold", **style)
    for row in data.itertuples(index=False):
        found.add_row(*(Text(cell(value)) for value in row))
    return found


def cell(value: Any) -> str:
    """A value as tables say it: three digits, a dash where there is none, "miss" for infinity."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float | np.floating):
        return "miss" if np.isinf(value) else f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return str(value)
