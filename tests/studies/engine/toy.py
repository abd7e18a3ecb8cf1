"""A study that costs nothing: what the engine does with it is all that is tested."""

import dataclasses
import functools
import time

import numpy as np

from odeopt.studies.engine import (
    Check,
    Claim,
    Figure,
    Study,
    Table,
    Task,
    at_least,
    whole,
)
from odeopt.studies.engine.drawing import Plot


@dataclasses.dataclass(frozen=True)
class Settings:
    """Choices.

    Attributes:
        names: Letters, separated by commas.
        count: Numbers of each.
        pause: Seconds that each takes.
        loud: Changes nothing.
    """

    names: tuple[str, ...] = ("a", "b", "c")
    count: int = 4
    pause: float = 0.0
    loud: bool = False

    def __post_init__(self):
        at_least(self, count=1)


def _number(name, n, pause):
    time.sleep(pause)
    return [{"kind": "number", "name": name, "n": n, "x": np.sqrt(n + ord(name[0]))}]


def _work(settings, name, lab):
    found = []
    for n in range(settings.count):
        make = functools.partial(_number, name, n, settings.pause)
        found += lab.once(f"{name}/{n}", make)
    return found


def tasks(settings):
    found = [Task(name, functools.partial(_work, settings, name)) for name in settings.names]
    return [*found, whole("last", lambda: [{"kind": "end", "name": "[/red] <b>"}])]


def _draw(results):
    data = results.of("number")
    plot = Plot(settings_names := list(results.settings.names))
    for name in settings_names:
        mine = data[data["name"] == name]
        axes = plot.panel(f"panel <{name}>", "n", "x", rows=1)
        axes.plot(mine.n, mine.x, **plot.style(name))
        plot.strip(f"panel <{name}>").plot([1], [0], "x")
    plot.key("cross", marker="x")
    return plot


def _checks(results):
    return [
        Check(row.name, row.x, "positive", bool(row.x > 0))
        for row in results.of("number").itertuples()
    ]


STUDY = Study(
    name="toy",
    question="What is the root of a letter?",
    summary="Takes roots.",
    settings=Settings,
    full={"count": 8},
    tasks=tasks,
    verdict=lambda results: f"The largest root is {results.of('number').x.max():.3g} [/red] <i>.",
    tables=(
        Table(
            "roots",
            "Roots",
            lambda results: results.of("number"),
            {"name": ("letter", "a <letter>"), "n": ("n", ""), "x": ("root", "its root")},
            ("name", "n", "x"),
        ),
    ),
    figures=(Figure("roots", _draw, "Look at it.", lambda results: 'Roots "rise" & rise.'),),
    claims=(Claim("positive", "Roots are positive.", "x > 0", _checks, "Euclid"),),
    method=lambda results: {"Roots": "By numpy."},
)
