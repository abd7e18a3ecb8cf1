"""The work of a study: tasks, the lab that keeps each piece of them, and the end of time."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from .store import Record, Store


class TimeOver(Exception):
    """There is no time for more work."""


@dataclasses.dataclass(frozen=True)
class Lab:
    """Where a task makes its records, each piece of work once, and may deal out runs to `devices`.

    After the `deadline`, on the clock of `time.perf_counter`, no work is begun.
    """

    store: Store
    devices: Sequence[jax.Device] = ()
    deadline: float = float("inf")

    @property
    def time_is_over(self) -> bool:
        """Whether nothing new may be begun."""
        return time.perf_counter() > self.deadline

    def once(self, name: str, make: Callable[[], Sequence[Mapping[str, Any]]]) -> list[Record]:
        """The records of a piece of work; `make` makes them unless they are kept under its name.

        Raises `TimeOver` if it is not there and time is over.
        """
        found = self.store.get(name)
        if found is not None:
            return found
        if self.time_is_over:
            raise TimeOver
        return self.store.add(name, map(dict, make()))


@dataclasses.dataclass(frozen=True)
class Task:
    """One step of work.

    Attributes:
        name: What the progress bar says; of different steps it differs.
        work: Makes its records, or takes them from the lab where they are kept.
        weight: How long it takes, relative to the others.
        x64: Whether it runs with x64 enabled.
        check: `check(lab)`, before any work, raises a `ValueError` where this one would fail.
    """

    name: str
    work: Callable[[Lab], Sequence[Record]]
    weight: float = 1.0
    x64: bool = True
    check: Callable[[Lab], None] = lambda lab: None


def whole(
    name: str,
    make: Callable[[], Sequence[Mapping[str, Any]]],
    weight: float = 1.0,
    x64: bool = True,
) -> Task:
    """A task that is one piece of work: a kill loses all of it or nothing."""
    return Task(name, lambda lab: lab.once(name, make), weight, x64)
