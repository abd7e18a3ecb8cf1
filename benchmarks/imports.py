"""How long it takes to import odeopt, beside what it needs in any case."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from .timing import Row, ratio

_KEEPING = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
_NEEDED = "import optax, diffrax"


def imports(rounds: int) -> Iterator[Row]:
    """Fresh interpreters in turn; who goes first alternates."""
    sides = (f"{_NEEDED}, odeopt", _NEEDED)
    for side in sides:
        _seconds(side)  # writes the bytecode, and fills the file cache
    pairs = []
    for index in range(rounds):
        order = sides if index % 2 else sides[::-1]
        taken = {side: _seconds(side) for side in order}
        pairs.append((taken[sides[0]], taken[sides[1]]))
    yield ratio("import", "import optax, diffrax, odeopt / import optax, diffrax", pairs, "1.10")


def _seconds(statement: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=_KEEPING)
    return time.perf_counter() - begin
