"""A study as a list of tasks, each kept when it is done; and tables on a terminal. Uses rich."""

from collections.abc import Callable, Sequence

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .folder import Folder
from .records import Record, clean
from .report import text

Task = tuple[str, Callable[[], list[Record]]]
"""A name, which tells it from others, and what makes its records."""


def work(todo: Sequence[Task], folder: Folder, console: Console) -> list[Record]:
    """Do what is not yet in the folder, and return all records.

    One line of the file is one task, so that a kill leaves whole tasks.
    """
    done = {line["task"] for line in folder.records}
    columns = (TextColumn("{task.description:40}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(todo))
        for name, make in todo:
            progress.update(bar, description=name)
            if name not in done:
                folder.add([{"kind": "task", "task": name, "records": clean(make())}])
            progress.advance(bar)
    return [record for line in folder.records for record in line["records"]]


def console_table(title: str, frame: pd.DataFrame) -> Table:
    """A data frame for a terminal."""
    table = Table(title=title)
    for name in frame.columns:
        table.add_column(str(name))
    for row in frame.itertuples(index=False):
        table.add_row(*(text(value) for value in row))
    return table
