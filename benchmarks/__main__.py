"""`python -m benchmarks`: one table, and the same as JSON."""

import argparse
import dataclasses
import itertools
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import jax

from . import kernels, reference, steps
from .calls import calls
from .imports import imports
from .memory import memory
from .monitor import monitored_loop
from .rules import rules
from .sharded import sharded
from .sharpness import sharpness_calls
from .soap import soap_steps
from .sweep import sweep
from .timing import QUICK_ROUNDS, ROUNDS, Row

BENCHMARKS = {
    "gradients": steps.gradients,
    "dots": steps.dot_counts,
    "correction": steps.corrections,
    "updates": steps.updates,
    "memory": memory,
    "compile": steps.compile_time,
    "calls": calls,
    "diffrax": steps.foreign,
    "curvature": steps.curvature,
    "sharpness": sharpness_calls,
    "rules": rules,
    "soap": soap_steps,
    "monitor": monitored_loop,
    "import": imports,
    "sharded": sharded,
    "sweep": sweep,
}
HEADINGS = ("ratio", "median", "quartiles", "rounds", "time", "aim", "was", "")


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    only: list[str]
    quick: bool
    json: Path | None
    gpu: bool

    @classmethod
    def parse(cls, arguments: list[str]) -> "Options":
        parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
        parser.add_argument(
            "--only", action="append", choices=BENCHMARKS, help="one group; may be repeated"
        )
        parser.add_argument(
            "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, not {ROUNDS}"
        )
        parser.add_argument(
            "--json",
            type=Path,
            metavar="FILE",
            help="also write the rows here, in place of their groups",
        )
        parser.add_argument(
            "--gpu", action="store_true", help="only the Pallas kernels, on a GPU or TPU"
        )
        parsed = parser.parse_args(arguments)
        return cls(parsed.only or list(BENCHMARKS), parsed.quick, parsed.json, parsed.gpu)

    def rows(self) -> Iterator[Row]:
        """What is asked for, row by row."""
        rounds = QUICK_ROUNDS if self.quick else ROUNDS
        if self.gpu:
            return kernels.timings(rounds)
        return itertools.chain.from_iterable(BENCHMARKS[name](rounds) for name in self.only)


def line(row: Row, known: dict[str, Row]) -> tuple[str, ...]:
    """The cells of a row, beside the reference run."""
    spread = f"{row.low:.3f} to {row.high:.3f}" if row.rounds else "exact"
    used = "" if row.seconds is None else f"{1e3 * row.seconds:.3g} ms"
    was = f"{known[row.name].value:.3f}" if row.name in known else ""
    cells = row.name, f"{row.value:.3f}", spread, str(row.rounds or ""), used, row.aim
    return *cells, was, reference.verdict(row, known)


def environment() -> dict[str, object]:
    """What the figures depend on."""
    packages = ("jax", "jaxlib", "optax", "diffrax", "numpy")
    return {
        **{name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


def main(arguments: list[str]) -> None:
    """Measure, print each row as it is known, write the file."""
    options = Options.parse(arguments)
    if options.gpu and jax.default_backend() == "cpu":
        print("no GPU found")
        return
    begin = time.perf_counter()
    about = environment()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    widths = (88, 8, 18, 6, 9, 5, 8, 6)
    known = reference.load()
    rows: list[Row] = []
    for cells in (HEADINGS, tuple("-" * width for width in widths)):
        print(_aligned(cells, widths))
    for row in options.rows():
        rows.append(row)
        print(_aligned(line(row, known), widths), flush=True)
    print(
        f"{time.perf_counter() - begin:.0f} s. A ratio is of two sides timed in turn in this "
        "process, median and quartiles over rounds; time is the numerator's."
    )
    worse = [row.name for row in rows if reference.verdict(row, known) == "worse"]
    if worse:
        print(f"Worse than the reference run beyond the noise: {'; '.join(worse)}.")
    if options.json is not None:
        reference.write(options.json, about, rows)


def _aligned(cells: tuple[str, ...], widths: tuple[int, ...]) -> str:
    first, *others = (
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join((first, *others)).rstrip()


if __name__ == "__main__":
    main(sys.argv[1:])
