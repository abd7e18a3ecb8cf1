"""Who takes part in a study: every explicit solver of the zoo, and optax's own baselines."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import optax

from .. import solvers, zoo
from .names import lookup


@dataclasses.dataclass(frozen=True)
class Entry:
    """An optimizer with what theory says about it.

    Attributes:
        name: The name on the command line and in every record.
        make: `make(learning_rate)`, an optax transformation; the rate may be traced.
        limit: R, the largest stable h * lambda on the real axis; `None` where there is none.
        order: Order of accuracy as a solver of gradient flow; `None` where it is not one.
        gradients_per_step: Gradients that one step costs.
        hyperparameters: Everything fixed besides the learning rate.
    """

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    limit: float | None
    order: int | None
    gradients_per_step: int = 1
    hyperparameters: dict[str, float] = dataclasses.field(default_factory=dict)


MOMENTUM = 0.9

BASELINES: dict[str, Entry] = {
    "sgd": Entry("sgd", optax.sgd, 2.0, 1),
    "momentum": Entry(
        "momentum",
        lambda learning_rate: optax.sgd(learning_rate, momentum=MOMENTUM),
        2 * (1 + MOMENTUM),
        None,
        hyperparameters={"momentum": MOMENTUM},
    ),
    "adam": Entry("adam", optax.adam, None, None, hyperparameters={"b1": 0.9, "b2": 0.999}),
}
"""Optax's own optimizers, under the names that the study gives them."""


def entries() -> dict[str, Entry]:
    """Everything that `--solvers` knows: the baselines, then the zoo's solvers of gradient flow.

    A zoo optimizer takes part if it needs nothing but a learning rate and `odeopt.solvers` has
    the solver class of the same name, which states its limit, order and cost.
    """
    classes = {name.lower(): value for name, value in vars(solvers).items() if _is_class(value)}
    table = dict(BASELINES)
    for name, make in vars(zoo).items():
        if name in table or name not in classes or not _needs_only_a_rate(make):
            continue
        solver = classes[name]()
        table[name] = Entry(
            name,
            make,
            float(solver.stability_limit),
            int(solver.order(None)),
            int(solver.gradients_per_step),
        )
    return table


def find(name: str) -> Entry:
    """The entry of that name; a `ValueError` says the nearest names where there is none."""
    return lookup("solver", name, entries())


def _is_class(value: object) -> bool:
    return inspect.isclass(value) and hasattr(value, "stability_limit")


def _needs_only_a_rate(make: object) -> bool:
    if not inspect.isfunction(make):
        return False
    required = [
        parameter.name
        for parameter in inspect.signature(make).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return required == ["learning_rate"]
