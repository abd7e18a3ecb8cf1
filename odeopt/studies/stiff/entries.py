"""Who takes part in the stiff study, and what a step of each costs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax

from ... import stepsize, zoo
from ..names import lookup


def _one(before: Any, after: Any) -> Any:
    return 1


def _counted(before: Any, after: Any) -> Any:
    return after.gradients - before.gradients


def _line_search(before: Any, after: Any) -> Any:
    return optax.tree.get(after, "num_linesearch_steps")


@dataclasses.dataclass(frozen=True)
class Entry:
    """An optimizer that takes part.

    Attributes:
        name: The name on the command line and in every record.
        make: `make(setting)`, an optax transformation. A learning rate may be traced.
        tuned: Whether the setting is chosen on each problem. Otherwise it is the size of the first
            step, left at `unit`.
        rival: Whether the solvers are compared with it.
        unit: The middle of the first grid of rates.
        choices: What the setting is chosen from, where it is no rate.
        cost: `cost(before, after)` of the states around a step: its gradients, the one with which
            the next step begins instead of the one with which it began itself.
        line_search: Whether value and gradient of the next step are in the state already, and
            mean nothing on another mini-batch.
        weight: Seconds of one of its gradients over those of the problem's own, roughly: linear
            algebra counts as no gradient.
    """

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    tuned: bool = True
    rival: bool = False
    unit: float = 1.0
    choices: tuple[int, ...] = ()
    cost: Callable[[Any, Any], Any] = _counted
    line_search: bool = False
    weight: float = 1.0


def _rival(name: str, make: Callable[[Any], Any], unit: float) -> Entry:
    return Entry(name, make, rival=True, unit=unit, cost=_one)


def _controlled(name: str, make: Callable[..., Any], **options: Any) -> Entry:
    """A solver under `gain_ratio`, with nothing tuned."""
    return Entry(
        name,
        lambda first: make(stepsize.gain_ratio(first=first), **options),
        tuned=False,
        weight=1.0 if "solve" in options else 10.0,
    )


ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _rival("sgd", optax.sgd, 1e-1),
        _rival("momentum", lambda rate: optax.sgd(rate, momentum=0.9), 1e-1),
        _rival("adam", optax.adam, 1e-2),
        Entry(
            "lbfgs",
            lambda memory: optax.lbfgs(memory_size=memory),
            rival=True,
            choices=(10, 50),
            cost=_line_search,
            line_search=True,
        ),
        Entry("rkc", zoo.rkc, unit=10.0),
        Entry("rkc-auto", lambda rate: zoo.rkc(rate, stages=None), unit=10.0),
        _controlled("linearly_implicit_euler", zoo.linearly_implicit_euler),
        _controlled("linearly_implicit_euler-cg", zoo.linearly_implicit_euler, solve="cg"),
        _controlled("rosenbrock2", zoo.rosenbrock2),
        _controlled("exponential_euler", zoo.exponential_euler),
        _controlled("implicit_euler", zoo.implicit_euler),
    )
}
"""Everything that `--solvers` knows, in the order of the tables.

Rivals: optax's, SGD, momentum .9 and Adam with their rates tuned, L-BFGS with a memory of 10 or 50.
Solvers: `rkc` with 10 stages, and with as many as a step asks for, their rates tuned; the others
under `gain_ratio`, with nothing tuned.
"""

FIXED = Entry("implicit_euler, fixed step", zoo.implicit_euler, tuned=False)
"""Implicit Euler with its rate as it is, of which the loss must not rise whatever that is."""


def find(name: str) -> Entry:
    """The entry of that name; a `ValueError` says the nearest names where there is none."""
    return lookup("solver", name, ENTRIES)
