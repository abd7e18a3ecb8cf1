"""Who takes part in the study of learning rates that need no tuning."""

import dataclasses
from collections.abc import Callable
from typing import Any

import optax
from optax import contrib

from ... import stepsize, zoo
from ...state import step_params
from ..engine.problem import Params
from ..names import lookup


def _params(state: Any, params: Params) -> Params:
    return params


@dataclasses.dataclass(frozen=True)
class Rival:
    """An optimizer of one gradient a step.

    Attributes:
        name: The name on the command line and in every record.
        make: `make(rate)`, an optax transformation; the rate may be traced.
        tuned: Whether `rate` is a learning rate that is tuned on each problem. Otherwise it is
            the size of the first step, left at `unit`.
        unit: The middle of the first grid of rates.
        read: `read(state, params)`: the parameters that the optimizer hands out.
    """

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    tuned: bool = True
    unit: float = 1e-2
    read: Callable[[Any, Params], Params] = _params


def _momentum(momentum: float, nesterov: bool = False) -> Callable[[Any], Any]:
    return lambda rate: optax.sgd(rate, momentum=momentum, nesterov=nesterov)


TUNED: dict[str, Rival] = {
    rival.name: rival
    for rival in (
        Rival("sgd", optax.sgd, unit=1e-1),
        Rival("momentum-.9", _momentum(0.9), unit=1e-1),
        Rival("momentum-.99", _momentum(0.99)),
        Rival("nesterov-.99", _momentum(0.99, nesterov=True)),
        Rival("adam", optax.adam),
        Rival("adam-.98", lambda rate: optax.adam(rate, b1=0.98, b2=0.98)),
        Rival("nadam-.95", lambda rate: optax.nadam(rate, b1=0.95, b2=0.99)),
        Rival(
            "schedule-free",
            lambda rate: contrib.schedule_free_adamw(rate, weight_decay=0.0),
            read=contrib.schedule_free_eval_params,
        ),
        Rival("prodigy", contrib.prodigy, unit=1.0),
    )
}
"""Each with its learning rate tuned; Prodigy's is a factor of its own estimate."""


def _log_time_adam(first: Any) -> optax.GradientTransformation:
    return zoo.log_time_adam(first=first)


def _adam_with_angle(first: Any) -> optax.GradientTransformation:
    # Adam does better with a negative angle counted in full.
    return zoo.adam(stepsize.angle(first=first, shrink=1.0), b1=0.98, b2=0.98)


UNTUNED: dict[str, Rival] = {
    rival.name: rival
    for rival in (
        Rival("log-time-adam", _log_time_adam, tuned=False, unit=1e-3, read=step_params),
        Rival("adam-.98-angle", _adam_with_angle, tuned=False, unit=1e-3, read=step_params),
    )
}
"""With nothing tuned: the question, and Adam with the same controller."""


def find(name: str) -> Rival:
    """The optimizer of that name; a `ValueError` says the nearest names where there is none."""
    return lookup("rival", name, {**TUNED, **UNTUNED})
