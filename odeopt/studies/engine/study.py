"""A study as a declaration, and the engine that makes it: work, store, tables, claims, verdict.

Uses pandas and rich; knows no problem and no optimizer.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ...checks import is_whole
from ..names import lookup
from . import store as files
from .drawing import Plot
from .load import preload
from .runner import local_devices
from .settings import chosen, idle, spoken, versions
from .store import FORMAT, Record, Store
from .verdicts import Claim, Verdict
from .work import Lab, Task, TimeOver


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a study: a CSV file, and part of the report.

    Attributes:
        name: Of the file.
        title: Its heading.
        make: `make(results)`, a data frame; an empty one is left out of the report.
        columns: Columns that people see: heading and meaning (shown on hover) of each.
        terminal: Columns that the terminal shows, six at most; none leaves the table out there.
        note: A paragraph below it.
    """

    name: str
    title: str
    make: "Callable[[Results], pd.DataFrame]"
    columns: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    terminal: Sequence[str] = ()
    note: str = ""


CHECK_COLUMNS = {
    "claim": ("claim", "its short name"),
    "where": ("where", "problem, method and setting"),
    "value": ("value", "what was measured"),
    "wanted": ("wanted", "what the value should be"),
    "holds": ("holds", "whether the value is as wanted; a dash if the measurement does not decide"),
}
CHECKS = Table(
    "checks",
    "Every comparison behind the claims",
    lambda results: pd.DataFrame(
        {"claim": verdict.claim.name, **dataclasses.asdict(check)}
        for verdict in results.claims
        for check in verdict.checks
    ),
    CHECK_COLUMNS,
)
"""A table for studies whose claims rest on many comparisons."""


def groups(frame: pd.DataFrame, by: str | list[str]) -> Any:
    """Pairs of key and rows, in the order in which the keys are met; none of an empty frame."""
    return frame.groupby(by, sort=False) if len(frame) else ()


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a study, and the `name` of its files.

    `draw(results)` draws it, without a panel where there is nothing to draw. The `caption` says
    what it shows, and `finding(results)`, in one sentence, what is seen: for those who do not.
    """

    name: str
    draw: "Callable[[Results], Plot]"
    caption: str
    finding: "Callable[[Results], str]"


@dataclasses.dataclass(frozen=True)
class Study:
    """A question and everything that answers it; `run` makes it.

    Attributes:
        name: Of the command.
        question: The title of the report.
        summary: What it does, in a sentence or two, for `--help`.
        settings: A frozen dataclass of the choices that decide the results, by default those of a
            quick study; it raises `ValueError` for what makes no sense. Its docstring becomes the
            help of the command line; of those that would change nothing beside the others, a
            property `idle` says what to write.
        full: What a full study has other than a quick one.
        tasks: `tasks(settings)`: all steps of work.
        verdict: `verdict(results)`: the answer in one or two plain sentences.
        tables: In reading order.
        figures: In reading order; the first one shows the verdict.
        claims: What is judged.
        method: `method(results)`: how it was measured, paragraphs under their headings.
        suite: Version of data and protocol; results of another one are not resumed.
        page: The page of the documentation.
        selection: Name of the setting, if any, that only says which parts to make: one folder takes
            them one after the other, the command line by position.
    """

    name: str
    question: str
    summary: str
    settings: type
    full: Mapping[str, Any]
    tasks: Callable[[Any], Sequence[Task]]
    verdict: "Callable[[Results], str]"
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    claims: Sequence[Claim] = ()
    method: "Callable[[Results], Mapping[str, str]]" = lambda results: {}
    suite: str = "1"
    page: str = ""
    selection: str = ""

    def choose(self, full: bool = False, **given: Any) -> Any:
        """The settings of a quick or full study, with what is given and not `None` instead.

        Raises a `ValueError` for one that is not there, makes no sense, or would change nothing.
        """
        fields = {field.name: field for field in dataclasses.fields(self.settings)}
        own = {}
        for name, value in given.items():
            default = lookup("setting", name, fields).default
            if value is not None:
                own[name] = chosen(name, default, value)
        taken = self.settings(**{**(self.full if full else {}), **own})
        for name, words in idle(taken).items():
            if name in own:
                raise ValueError(words)
        return taken

    def run(
        self,
        *,
        out: Path | str | None = None,
        full: bool = False,
        resume: bool = False,
        share: tuple[int, int] | None = None,
        devices: int = 1,
        max_minutes: float | None = None,
        console: Console | None = None,
        **settings: Any,
    ) -> "Results":
        """Make the study. JAX's precision is as before when it returns.

        Args:
            out: Folder for the records and tables; by default nothing is written.
            full: Everything, for longer, or a quick first answer.
            resume: Go on with what a stopped or killed study left in `out`.
            share: `(i, n)`: only every n-th task from the i-th on, as one of n processes with one
                folder. `resume` without a share then puts all together.
            devices: Devices of this process that runs are dealt out to, as of `local_devices`.
                Changes no result.
            max_minutes: Start nothing new after this time; `resume` makes the rest.
            console: Where to show progress and notices; silent by default.
            **settings: The study's own, instead of its defaults.

        Raises:
            ValueError: For an option that makes no sense, or a folder that cannot be used.
        """
        begin = time.perf_counter()
        console = console or Console(quiet=True)
        if max_minutes is not None and not chosen("max_minutes", 10.0, max_minutes) > 0:
            raise ValueError(f"--max-minutes must be positive, not {max_minutes:g}.")
        if share is not None and not (isinstance(share, tuple) and all(map(is_whole, share))):
            raise ValueError(f"share is {share!r}: write share=(1, 3) for the first of three.")
        if not isinstance(out, str | Path | None):
            raise ValueError(f"out is {out!r}: write the name of a folder, out='results'.")
        if out is None and (resume or share):
            what = "resume=True" if resume else "share="
            raise ValueError(f"{what} needs out=, the folder of the study.")
        where = local_devices(chosen("devices", 1, devices))
        path = None if out is None else Path(out)
        for name, setting in settings.items():
            settings[name] = tuple(setting) if isinstance(setting, Iterator) else setting
            preload(settings[name])
        with jax.enable_x64(True):
            taken = self.choose(full, **settings)
            about = self.about(taken)
            notice = functools.partial(console.print, markup=False, soft_wrap=True)
            kept = Store(path, about, resume=resume, share=share, notice=notice)
        if resume and share is None and not self.selection and not len(kept):
            notice(f"{path} has no results to go on with: the study begins anew.")
        with contextlib.closing(kept):
            lab = Lab(kept, where, begin + 60 * (max_minutes or float("inf")))
            records, unfinished = self._work(taken, lab, share, console)
            results = Results(self, taken, records, unfinished, time.perf_counter() - begin, path)
            if path is not None and share is None:
                self._write_tables(results, path)
        return results

    def _write_tables(self, results: "Results", path: Path) -> None:
        frames = {table.name: results.table(table.name) for table in self.tables}
        for name, rows in ({"claims": results.judged} | frames).items():
            if len(rows.columns):  # else there is nothing yet that a reader could parse
                text = rows.to_csv(index=False, float_format="%.6g")
                files.write_text(path / f"{name}.csv", text)

    def about(self, settings: Any) -> Record:
        """What is stored beside the results and compared on resume."""
        about = {"format": FORMAT, "study": self.name, "suite": self.suite}
        names = [field.name for field in dataclasses.fields(settings)]
        said = {name: spoken(getattr(settings, name)) for name in names if name != self.selection}
        return {**about, "settings": said, "versions": versions()}

    def _work(
        self, settings: Any, lab: Lab, share: tuple[int, int] | None, console: Console
    ) -> tuple[list[Record], list[str]]:
        with jax.enable_x64(True):
            tasks = list(self.tasks(settings))
        if share is not None:
            tasks = tasks[share[0] - 1 :: share[1]]
        records, unfinished = list[Record](), list[str]()
        columns = (TextColumn("{task.description:36}", markup=False), BarColumn(bar_width=20))
        bars = Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=console)
        with bars as progress:
            bar = progress.add_task("", total=sum(task.weight for task in tasks))
            for task in tasks:
                with jax.enable_x64(task.x64):
                    task.check(lab)
            for task in tasks:
                progress.update(bar, description=task.name[:36])
                try:
                    with jax.enable_x64(task.x64):
                        records += task.work(lab)
                except TimeOver:
                    unfinished.append(task.name)
                progress.advance(bar, task.weight)
        return records, unfinished


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Results:
    """What a study found.

    Attributes:
        study: The study.
        settings: The choices it was made with.
        records: Every record of the tasks that are finished, in their order.
        unfinished: Names of the tasks that there was no time for; what they have is kept.
        seconds: Wall time of the call, compilation included.
        out: Its folder.
    """

    study: Study
    settings: Any
    records: list[Record]
    unfinished: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    out: Path | None = None
    _tables: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        return f"<Results of {self.study.name}, {len(self.records)} records: {self.verdict}>"

    def kind(self, name: str) -> list[Record]:
        """The records of a kind."""
        return [record for record in self.records if record["kind"] == name]

    def of(self, kind: str) -> pd.DataFrame:
        """The records of a kind, one a row."""
        return pd.DataFrame(self.kind(kind))

    def frame(self, name: str) -> pd.DataFrame:
        """The table of that name, or else the records of that kind."""
        known = any(name == table.name for table in self.study.tables)
        return self.table(name) if known else self.of(name)

    def table(self, name: str) -> pd.DataFrame:
        """One of the study's tables."""
        if name not in self._tables:
            known = {table.name: table for table in self.study.tables}
            make = lookup("table", name, known).make
            self._tables[name] = make(self) if self.records else pd.DataFrame()
        return self._tables[name]

    @functools.cached_property
    def claims(self) -> list[Verdict]:
        """The claims, judged."""
        return [claim.judge(self) for claim in self.study.claims]

    @property
    def judged(self) -> pd.DataFrame:
        """The claims with their verdicts, one a row."""
        return pd.DataFrame(verdict.row for verdict in self.claims)

    @property
    def verdict(self) -> str:
        """The answer."""
        return self.study.verdict(self) if self.records else "No run was made: nothing to compare."

    @property
    def notices(self) -> list[str]:
        """What a reader must know before trusting a number."""
        if not self.unfinished:
            return []
        names = ", ".join(self.unfinished[:3]) + ", ..." * (len(self.unfinished) > 3)
        return [
            f"There was no time for {len(self.unfinished)} steps of work ({names}). "
            "The report leaves them out; --resume makes them."
        ]
