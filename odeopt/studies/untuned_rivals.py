"""Who takes part in the study of learning rates that need no tuning."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import optax
from optax import contrib

from .. import stepsize, zoo
from .engine.optimizers import Entry, entry, find


def _momentum(momentum: float, nesterov: bool = False) -> Callable[[Any], Any]:
    return lambda rate: optax.sgd(rate, momentum=momentum, nesterov=nesterov)


TUNED: dict[str, Entry] = {
    one.name: one
    for one in (
        dataclasses.replace(find("sgd"), unit=1e-1),
        Entry("momentum-.9", _momentum(0.9), unit=1e-1),
        Entry("momentum-.99", _momentum(0.99), unit=1e-2),
        Entry("nesterov-.99", _momentum(0.99, nesterov=True), unit=1e-2),
        dataclasses.replace(find("adam"), unit=1e-2),
        Entry("adam-.98", lambda rate: optax.adam(rate, b1=0.98, b2=0.98), unit=1e-2),
        Entry("nadam-.95", lambda rate: optax.nadam(rate, b1=0.95, b2=0.99), unit=1e-2),
        Entry(
            "schedule-free",
            lambda rate: contrib.schedule_free_adamw(rate, weight_decay=0.0),
            read=contrib.schedule_free_eval_params,
            unit=1e-2,
        ),
        Entry("prodigy", contrib.prodigy),
    )
}
"""Each with its learning rate tuned; Prodigy's is a factor of its own estimate."""
QUICK_RIVALS = ("nesterov-.99", "adam", "adam-.98", "schedule-free")


def _adam_with_angle(first: Any) -> optax.GradientTransformation:
    # Adam does better with a negative angle counted in full.
    return zoo.adam(stepsize.angle(first=first, shrink=1.0), b1=0.98, b2=0.98)


QUESTION = "log_time_adam"
"""The untuned optimizer that the study asks about."""


@functools.cache
def untuned() -> tuple[Entry, ...]:
    """With nothing tuned: the question, and Adam with the same controller."""
    asked = dataclasses.replace(find(QUESTION), tuned=False, unit=1e-3)
    return asked, entry("adam-.98-angle", _adam_with_angle, tuned=False, unit=1e-3)
