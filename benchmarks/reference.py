"""The committed run, and what is worse than it beyond the noise."""

import json
from pathlib import Path
from typing import Any

from .timing import Row

FILE = Path(__file__).parent / "reference.json"
_EXACT, _TIMED = 1.01, 1.10  # times the reference: rounding of counts, drift of machines
_SCALARS = 1e-5  # copies of the parameters that a few more scalars are


def load(file: Path = FILE) -> dict[str, Row]:
    """Rows by name; none if there is no such file."""
    if not file.exists():
        return {}
    rows = (Row(**row) for row in json.loads(file.read_text())["rows"])
    return {row.name: row for row in rows}


def verdict(row: Row, reference: dict[str, Row]) -> str:
    """ "worse" or "better" where the quartiles of both runs are apart, else nothing.

    Ratios are of two sides on one machine, so they compare across machines where seconds do not.
    An aim that says ">" is better where it is larger.
    """
    known = reference.get(row.name)
    if known is None:
        return "new" if reference else ""
    margin = _TIMED if row.rounds else _EXACT
    more = row.low > known.high * margin + _SCALARS
    less = row.high * margin + _SCALARS < known.low
    if row.aim.startswith(">"):
        more, less = less, more
    return "worse" if more else "better" if less else ""


def write(file: Path, environment: dict[str, Any], rows: list[Row]) -> None:
    """Environment and rows as JSON; rows of other groups that the file has are kept."""
    kept = [r for r in load(file).values() if r.group not in {row.group for row in rows}]
    content = {"environment": environment, "rows": [row._asdict() for row in [*kept, *rows]]}
    file.write_text(json.dumps(content, indent=1) + "\n")
