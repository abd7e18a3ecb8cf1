"""Results on disk: one JSON line a record, appended so that a killed study loses nothing.

Pure standard library; knows nothing of what the records mean.
"""

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class CorruptRecordsError(ValueError):
    """A line of a results file, other than a torn last one, cannot be read."""


def clean(value: Any) -> Any:
    """`value` as plain JSON: arrays as lists, numbers that are not finite as `None`."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def append(path: Path, records: Iterable[Record]) -> None:
    """Append records with one write, one line each, and wait until the disk has them.

    Lines that a kill leaves are whole, except perhaps the last one, which `read` drops.
    """
    text = "".join(json.dumps(clean(record), allow_nan=False) + "\n" for record in records)
    data = memoryview(text.encode())
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        while data:  # a signal or a full pipe may cut a write short
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, notice: Callable[[str], None] = lambda _: None) -> list[Record]:
    """Read all records; a last line without its end is dropped from the file, with a notice.

    Args:
        path: The file; no records where it does not exist.
        notice: Is called with one sentence if a torn line was dropped.

    Raises:
        CorruptRecordsError: If any other line is not a record. The file is left as it is.
    """
    if not path.exists():
        return []
    data = path.read_bytes()
    lines = data.split(b"\n")
    torn = lines.pop()
    records = [_parse(path, number, line) for number, line in enumerate(lines, start=1)]
    if torn:
        os.truncate(path, len(data) - len(torn))
        notice(
            f"{path}: dropped an unfinished last line ({len(torn)} bytes of line "
            f"{len(lines) + 1}); that run is made again."
        )
    return records


def _parse(path: Path, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError:  # not JSON, or not UTF-8
        record = None
    if not isinstance(record, dict) or "kind" not in record:
        raise CorruptRecordsError(
            f"{path}, line {number} is not a result: {line[:60]!r}. Nothing was changed. "
            f"Delete that line (sed -i '{number}d' {path}) and run again with --resume, "
            "which makes the lost run again; or choose another --out."
        )
    return record


def write_text(path: Path, text: str) -> None:
    """Replace a file at once: readers and kills see the old text or the new, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    temporary.write_text(text)
    temporary.replace(path)
