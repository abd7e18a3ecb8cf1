"""Tuned rivals at full strength: optax's optimizers with schedules and an averaged read-out.

Names are `optimizer+schedule`. Every rival is read out at its last iterate and at a running mean.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree
from optax import contrib

import odeopt

from .optimizers import Entry

WARM_UP = 0.05
"""The share of the steps in which the rate of `cosine`, and of schedule-free AdamW, rises."""
MEMORY = 0.05
"""The share of the steps that the running mean remembers."""

SCHEDULES: dict[str, Callable[[int], optax.Schedule]] = {  # of the number of steps
    "constant": lambda steps: optax.constant_schedule(1.0),
    "linear": lambda steps: optax.linear_schedule(1.0, 0.0, steps),
    "cosine": lambda steps: optax.warmup_cosine_decay_schedule(0.0, 1.0, _warm_up(steps), steps),
}
"""What the rate is multiplied with: 1, linear to 0, warm-up and cosine to 0."""

OPTIMIZERS: dict[str, tuple[float, Callable[[Any], optax.GradientTransformation]]] = {
    "momentum": (1e-1, lambda rate: optax.sgd(rate, momentum=0.9)),
    "nesterov-.99": (1e-2, lambda rate: optax.sgd(rate, momentum=0.99, nesterov=True)),
    "adam": (1e-2, optax.adam),
    "adam-.98": (1e-2, lambda rate: optax.adam(rate, b1=0.98, b2=0.98)),
    "nadam-.95": (1e-2, lambda rate: optax.nadam(rate, b1=0.95, b2=0.99)),
    "adamw": (1e-2, lambda rate: optax.adamw(rate, weight_decay=0.1)),
    "muon": (1e-2, contrib.muon),
    "muon-decay": (1e-2, lambda rate: contrib.muon(rate, weight_decay=0.1)),
    "soap": (1e-2, odeopt.soap),  # optax has none
}
"""The middle of the first grid of rates, and the optimizer of a rate or schedule."""

RIVALS = (*(f"{name}+{schedule}" for name in OPTIMIZERS for schedule in SCHEDULES), "schedule-free")
"""All names. Schedule-free AdamW has its own warm-up and needs no schedule."""


def rival(name: str, steps: int) -> Entry:
    """That one of `RIVALS` for runs of so many steps, read out also at a running mean."""
    return averaged(scheduled(name, steps), steps)


def scheduled(name: str, steps: int) -> Entry:
    """The same without the running mean."""
    optimizer, _, schedule = name.partition("+")
    if optimizer == "schedule-free":
        make = functools.partial(
            contrib.schedule_free_adamw, warmup_steps=_warm_up(steps), weight_decay=0.0
        )
        return Entry(name, make, read=contrib.schedule_free_eval_params, unit=1e-2)
    (unit, of), factor = OPTIMIZERS[optimizer], SCHEDULES[schedule](steps)
    return Entry(name, lambda rate: of(lambda n: rate * factor(n)), unit=unit)


class Averaged(NamedTuple):
    """State of an optimizer, the running mean of its parameters, and the number of steps."""

    inner: Any
    mean: PyTree[Array]
    steps: Array


def averaged(entry: Entry, steps: int) -> Entry:
    """The entry, read out also at a running mean of its parameters, as "averaged".

    The mean is a plain one at first and then forgets at the rate of `MEMORY` of the steps.
    """
    least = 1 / max(1.0, MEMORY * steps)

    def make(rate: Any) -> optax.GradientTransformationExtraArgs:
        optimizer = optax.with_extra_args_support(entry.make(rate))

        def init(params: PyTree[Array]) -> Averaged:
            return Averaged(optimizer.init(params), params, jnp.zeros([], jnp.int32))

        def update(
            grads: PyTree[Array], state: Averaged, params: PyTree[Array], **extra: Any
        ) -> tuple[PyTree[Array], Averaged]:
            updates, inner = optimizer.update(grads, state.inner, params, **extra)
            now = entry.read(inner, optax.apply_updates(params, updates))
            weight = jnp.maximum(1 / (1.0 + state.steps), least)
            mean = jax.tree.map(lambda m, x: m + weight.astype(x.dtype) * (x - m), state.mean, now)
            return updates, Averaged(inner, mean, state.steps + 1)

        return optax.GradientTransformationExtraArgs(init, update)

    return dataclasses.replace(
        entry,
        make=make,
        read=lambda state, params: entry.read(state.inner, params),
        also={"averaged": lambda state, params: state.mean},
        cost=lambda before, after: entry.cost(before.inner, after.inner),
    )


def names(asked: Iterable[str]) -> list[str]:
    """Names of rivals: of an optimizer alone, with each schedule."""
    found: list[str] = []
    for name in asked:
        found += [f"{name}+{s}" for s in SCHEDULES] if name in OPTIMIZERS else [name]
    return found


def _warm_up(steps: int) -> int:
    return max(1, round(WARM_UP * steps))
