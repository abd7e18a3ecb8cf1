"""Results on disk: one JSON line a piece of work, appended, so that a killed study loses nothing.

Standard library only; knows nothing of what the records mean.
"""

import fcntl
import itertools
import json
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

Record = dict[str, Any]

FORMAT = 2
"""Of the folder; odeopt 0.1 wrote none."""
RUNS, SETTINGS = "runs.jsonl", "settings.json"


class StoreError(ValueError):
    """A results folder that cannot be used; one line says what to do."""


def clean(value: Any) -> Any:
    """`value` as plain JSON: arrays as lists, numbers that are not finite as `None`."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: readers and kills see the old text or the new, never a part.

    Raises a `StoreError` if it cannot be written; the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _told(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def default_path(resume: bool, name: str) -> Path:
    """The first folder of that name, or with a number, that is free; to resume, the last in use."""
    last = candidate = Path(name)
    numbers = itertools.count(2)
    while candidate.exists():
        last, candidate = candidate, Path(f"{name}-{next(numbers)}")
    return last if resume else candidate


class Store:
    """The results of one study, each piece under an id; without a path they stay in memory.

    Only one process writes to a folder, or to a share of it, at a time: the operating system holds
    the lock and releases it when the process ends, however it ends.

    Args:
        path: The folder; is made where it does not exist.
        settings: Everything that decides the results, the same where a study is resumed.
        resume: Whether to go on with what is there.
        share: `(i, n)`, the part of the study that this process makes, beside others in the same
            folder. It writes a file of its own; without a share those of all shares are read.
        notice: Is called with sentences that a user should read.

    Raises:
        StoreError: If the folder cannot be used. Nothing in it is changed then.
    """

    def __init__(
        self,
        path: Path | None,
        settings: Record,
        *,
        resume: bool = False,
        share: tuple[int, int] | None = None,
        notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        if share is not None and not 1 <= share[0] <= share[1]:
            raise StoreError(f"--share is {share[0]}/{share[1]}; it must be one of 1/n to n/n.")
        self.path, self._locks = path, ExitStack()
        self._found: dict[str, list[Record]] = {}
        self._file = RUNS if share is None else f"runs-{share[0]}-of-{share[1]}.jsonl"
        if path is None:
            return
        settings = clean(settings)
        with _told(path), ExitStack() as locks:
            path.mkdir(parents=True, exist_ok=True)
            names = {file.name for file in path.iterdir() if not file.name.startswith(".")}
            if share is not None:  # what the others have there does not matter
                names &= {self._file, RUNS, "summary.csv"}
            if names and not resume:
                raise StoreError(
                    f"{path} is not empty. Continue the study in it with --resume, or choose "
                    "another folder with --out."
                )
            known = (path / SETTINGS).exists()
            begun = share is not None or any(f.stat().st_size for f in path.glob("runs*.jsonl"))
            if begun if known else names:
                _compare(path, settings)
            locks.enter_context(_locked(path / ".lock", alone=share is None))
            files = [path / self._file]
            if share is not None:
                locks.enter_context(_locked(path / f".lock-{share[0]}-of-{share[1]}"))
            else:
                files += sorted(path.glob("runs-*-of-*.jsonl"))
                for part in path.glob("**/.*.part"):  # a kill left it in the middle of `write_text`
                    part.unlink()
            if not (known and begun):  # a study that ended before its first run binds nobody
                write_text(path / SETTINGS, json.dumps(settings, indent=2) + "\n")
            files[0].open("ab").close()  # fails now, not after the first run
            for file in files:
                for name, records in _read(file, notice):
                    self._found.setdefault(name, records)
            self._locks = locks.pop_all()

    def close(self) -> None:
        """Let other processes use the folder."""
        self._locks.close()

    def __len__(self) -> int:
        """Pieces of work that are there."""
        return len(self._found)

    def get(self, name: str) -> list[Record] | None:
        """The records of a piece of work, or None where it is not done."""
        return self._found.get(name)

    def has(self, prefix: str) -> bool:
        """Whether a piece of work is done whose name begins with that."""
        return any(name.startswith(prefix) for name in self._found)

    def add(self, name: str, records: Iterable[Record]) -> list[Record]:
        """Keep the records of a piece of work, on disk before this returns.

        Raises a `StoreError` if the disk is full or gone; what was kept before stays.
        """
        new = [clean(record) for record in records]
        if self.path is not None:
            with _told(self.path):
                _append(self.path / self._file, _line(name, new))
        self._found[name] = new
        return new


@contextmanager
def _locked(path: Path, alone: bool = True) -> Iterator[None]:
    """Hold the lock of that file, alone or beside others who do not ask to be alone."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StoreError(
                f"results folder {path.parent} is in use by process {file.read().strip() or '?'}; "
                "wait until it ends, or choose another folder with --out."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to {path} ({error.strerror or error}). What was written before "
            "is kept: mend that and go on with --resume, or choose another folder with --out."
        ) from error


def _line(name: str, records: list[Record]) -> bytes:
    text = json.dumps({"id": name, "records": records}, allow_nan=False)
    return f'{{"crc": {zlib.crc32(text.encode())}, {text[1:]}\n'.encode()


def _append(path: Path, line: bytes) -> None:
    """Lines that a kill leaves are whole, except perhaps the last one, which is dropped."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size, data = os.fstat(descriptor).st_size, memoryview(line)
        try:
            while data:  # a signal or a full pipe may cut a write short
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)


def _read(path: Path, notice: Callable[[str], None]) -> list[tuple[str, list[Record]]]:
    data = path.read_bytes()
    *lines, torn = data.split(b"\n")
    parsed = [_parse(path, number, line) for number, line in enumerate(lines, start=1)]
    if torn:
        os.truncate(path, len(data) - len(torn))
        notice(f"{path}: dropped an unfinished last line; that run is made again.")
    return parsed


def _parse(path: Path, number: int, line: bytes) -> tuple[str, list[Record]]:
    """Id and records of a line that is as it was written: its checksum says so."""
    try:
        stored = json.loads(line)
        name, records = stored["id"], stored["records"]
        if isinstance(name, str) and _line(name, records) == line + b"\n":
            return name, records
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise StoreError(
        f"{path}, line {number} is not as it was written: {line[:40].decode(errors='replace')!r}. "
        f"Nothing was changed. Delete that line (sed -i '{number}d' '{path}') and run again with "
        "--resume, which makes the lost run again; or choose another folder with --out."
    )


def _compare(path: Path, settings: Record) -> None:
    file = path / SETTINGS
    try:
        there = _flat(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, RecursionError, AttributeError):
        raise StoreError(
            f"{file} is missing or unreadable, so nobody knows how {RUNS} was made. "
            "Nothing was changed; choose another folder with --out."
        ) from None
    if there.get("format") != FORMAT:
        raise StoreError(
            f"{path} was written by another version of odeopt, whose results this one does not go "
            "on with; its report and tables stay as they are. Choose another folder with --out."
        )
    now = _flat(settings)
    pairs = {name: (there.get(name), now.get(name)) for name in there | now}
    different = [f"{name}: {a} there, {b} now" for name, (a, b) in pairs.items() if a != b]
    if different:
        raise StoreError(
            f"{path} holds a study with other settings ({'; '.join(different)}). "
            "Resume it with its own settings, or choose another folder with --out."
        )


def _flat(settings: Record) -> Record:
    """Settings and versions beside each other."""
    flat: Record = {}
    for key, value in settings.items():
        flat |= value if isinstance(value, dict) else {key: value}
    return flat
