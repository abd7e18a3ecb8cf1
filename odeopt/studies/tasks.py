"""A study as tasks, each kept when it is done; its tables on disk and on a terminal. Uses rich."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .folder import Folder
from .records import Record, clean, write_text
from .report import text

Task = tuple[str, Callable[[], list[Record]]]
"""A name, which tells it from others, and what makes its records."""

Do = Callable[[str, Callable[[], list[Record]]], list[Record] | None]
"""Does one task, if it is not yet in the folder; its records, or None where time is over."""


@contextlib.contextmanager
def doing(
    folder: Folder, console: Console, total: int, deadline: float | None = None
) -> Iterator[Do]:
    """A progress bar over `total` tasks, and what does one of them.

    One line of the file is one task, so that a kill leaves whole tasks. After the deadline, of
    `time.perf_counter`, nothing new is begun.
    """
    done = {line["task"]: line["records"] for line in folder.records}
    columns = (TextColumn("{task.description:40}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total)

        def do(name: str, make: Callable[[], list[Record]]) -> list[Record] | None:
            progress.update(bar, description=name)
            if name not in done:
                if deadline is not None and time.perf_counter() > deadline:
                    return None
                folder.add([{"kind": "task", "task": name, "records": clean(make())}])
                done[name] = folder.records[-1]["records"]
            progress.advance(bar)
            return done[name]

        yield do


def work(todo: Sequence[Task], folder: Folder, console: Console) -> list[Record]:
    """Do what is not yet in the folder, and return all records."""
    with doing(folder, console, len(todo)) as do:
        for name, make in todo:
            do(name, make)
    return records_of(folder)


def records_of(folder: Folder) -> list[Record]:
    """The records of all tasks."""
    return [record for line in folder.records for record in line["records"]]


def write_tables(path: Path, tables: Mapping[str, pd.DataFrame]) -> None:
    """Each table as `NAME.csv` in an existing folder."""
    for name, table in tables.items():
        write_text(path / f"{name}.csv", table.to_csv(index=False, float_format="%.8g"))


def console_table(title: str, frame: pd.DataFrame) -> Table:
    """A data frame for a terminal."""
    table = Table(title=title)
    for name in frame.columns:
        table.add_column(str(name))
    for row in frame.itertuples(index=False):
        table.add_row(*(text(value) for value in row))
    return table
