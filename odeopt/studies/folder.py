"""The folder of one study: its settings, its records, and who may write there."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .records import Record, append, clean, read, write_text

Share = tuple[int, int]
"""`(i, n)`: the i-th of n processes that make a study together, counted from 1."""

RUNS = "runs.jsonl"
SETTINGS = "settings.json"


class Folder:
    """Opens a results folder, new or resumed; without a path, records stay in memory.

    Args:
        path: The folder; is made where it does not exist.
        settings: Everything that decides the results. Must be equal to those of a resumed study.
        resume: Whether to go on with what is there.
        notice: Is called with sentences that a user should read.
        share: The part of the study that this process makes, beside others in the same folder. It
            writes and reads a file of its own; without a share the files of all shares are read.

    Raises:
        ValueError: If the folder cannot be written, holds something and `resume` is false, or
            holds a study with other settings. Nothing in it is changed then.
    """

    def __init__(
        self,
        path: Path | None,
        settings: dict[str, Any],
        resume: bool,
        notice: Callable[[str], None],
        share: Share | None = None,
    ) -> None:
        if share is not None and not 1 <= share[0] <= share[1]:
            raise ValueError(f"--share is {share[0]}/{share[1]}; it must be one of 1/n to n/n.")
        self.path, self._share = path, share
        self._own = RUNS if share is None else f"runs-{share[0]}-of-{share[1]}.jsonl"
        self.records: list[Record] = []
        if path is None:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {file.name for file in path.iterdir()}
            if share is not None:  # what the others have there does not matter
                names &= {self._own, RUNS, "summary.csv"}
            if names and not resume:
                raise ValueError(
                    f"{path} is not empty. Continue the study in it with --resume, or choose "
                    "another folder with --out."
                )
            if (path / self._own).exists() or (path / SETTINGS).exists():
                _check_settings(path, clean(settings))
            append(path / self._own, [])  # says now, not after the first run, if that is refused
            if not (path / SETTINGS).exists():
                write_text(path / SETTINGS, json.dumps(clean(settings), indent=2) + "\n")
            files = [path / self._own]
            if share is None:
                files += sorted(path.glob("runs-*-of-*.jsonl"))
            records = [record for file in files for record in read(file, notice)]
            if len(files) > 1:  # what every share must know, such as a spectrum, is there from each
                records = list({_key(record): record for record in records}.values())
            self.records = records
        except OSError as error:
            raise ValueError(
                f"cannot write to {path} ({error.strerror}); choose another folder with --out."
            ) from error

    def mine(self, index: int) -> bool:
        """Whether the work of that number is this process's."""
        return self._share is None or index % self._share[1] == self._share[0] - 1

    def add(self, records: Iterable[Record]) -> None:
        """Keep records, on disk before this returns."""
        new = [clean(record) for record in records]
        if self.path is not None:
            append(self.path / self._own, new)
        self.records += new


def default_path(resume: bool, name: str = "stability-report") -> Path:
    """A folder of that name, or the same with a number, in the current folder.

    The last one that exists where a study is resumed, else the first that does not.
    """
    last = candidate = Path(name)
    number = 1
    while candidate.exists():
        last, number = candidate, number + 1
        candidate = Path(f"{name}-{number}")
    return last if resume else candidate


def _key(record: Record) -> tuple[Any, ...]:
    """What no two records of a study have in common."""
    return tuple(
        record.get(name) for name in ("kind", "problem", "optimizer", "learning_rate", "seed")
    )


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    file = path / SETTINGS
    try:
        stored = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        raise ValueError(
            f"{file} is missing or unreadable, so nobody knows how {RUNS} was made. "
            "Nothing was changed; choose another folder with --out."
        ) from None
    different = [
        f"{name}: {stored.get(name)} there, {settings.get(name)} now"
        for name in {**stored, **settings}
        if stored.get(name) != settings.get(name)
    ]
    if different:
        raise ValueError(
            f"{path} holds a study with other settings ({'; '.join(different)}). "
            "Resume it with its own settings, or choose another folder with --out."
        )
