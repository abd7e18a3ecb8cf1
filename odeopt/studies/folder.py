"""The folder of one study: its settings, its records, and who may write there."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .records import Record, append, clean, read, write_text

RUNS = "runs.jsonl"
SETTINGS = "settings.json"


class Folder:
    """Opens a results folder, new or resumed; without a path, records stay in memory.

    Args:
        path: The folder; is made where it does not exist.
        settings: Everything that decides the results. Must be equal to those of a resumed study.
        resume: Whether to go on with what is there.
        notice: Is called with sentences that a user should read.

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
    ) -> None:
        self.path = path
        self.records: list[Record] = []
        if path is None:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            held = any(path.iterdir())
            if held and not resume:
                raise ValueError(
                    f"{path} is not empty. Continue the study in it with --resume, or choose "
                    "another folder with --out."
                )
            if (path / RUNS).exists() or (path / SETTINGS).exists():
                _check_settings(path, clean(settings))
            append(path / RUNS, [])  # says now, not after the first run, if it cannot be written
            if not (path / SETTINGS).exists():
                write_text(path / SETTINGS, json.dumps(clean(settings), indent=2) + "\n")
            self.records = read(path / RUNS, notice)
        except OSError as error:
            raise ValueError(
                f"cannot write to {path} ({error.strerror}); choose another folder with --out."
            ) from error

    def add(self, records: Iterable[Record]) -> None:
        """Keep records, on disk before this returns."""
        new = [clean(record) for record in records]
        if self.path is not None:
            append(self.path / RUNS, new)
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
