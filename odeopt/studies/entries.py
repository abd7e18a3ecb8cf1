"""Who takes part in a study: the zoo, rules for its step sizes, and optax's own baselines."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import optax

from .. import solvers, stepsize, zoo
from ..state import step_params
from .names import lookup


@dataclasses.dataclass(frozen=True)
class Entry:
    """An optimizer with what theory says about it.

    Attributes:
        name: The name on the command line and in every record.
        make: `make(learning_rate)`, an optax transformation; the rate may be traced.
        limit: R, the largest stable h * lambda on the real axis; `None` where there is none.
        order: Order of accuracy as a solver of gradient flow; `None` where it is not one.
        gradients_per_step: Gradients that one step costs; the least where it is `counted`.
        hyperparameters: Everything fixed besides the learning rate.
        read: `read(state, params)`: the parameters to evaluate, which are not always where the
            next gradient is taken.
        counted: Whether what a step costs is known only when it is made, from `state.gradients`.
    """

    name: str
    make: Callable[[Any], optax.GradientTransformation]
    limit: float | None
    order: int | None
    gradients_per_step: int = 1
    hyperparameters: dict[str, float] = dataclasses.field(default_factory=dict)
    read: Callable[[Any, Any], Any] = lambda state, params: params
    counted: bool = False


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


RK_MOMENTUM_LIMIT = 8.20171
"""`solvers.stability_limit` of RK4 on the heavy ball's flow at momentum .9."""


def _with_momentum(name: str, make: Callable[..., Any], limit: float | None, cost: int) -> Entry:
    # Their order is that of another flow than gradient flow.
    about = {"momentum": MOMENTUM}
    return Entry(name, lambda rate: make(rate, MOMENTUM), limit, None, cost, about, step_params)


def _without_limit(name: str, make: Callable[[Any], Any], cost: int = 1) -> Entry:
    return Entry(name, make, None, None, cost, read=step_params)


def _stabilized(name: str, order: int) -> Entry:
    method = solvers.RungeKuttaChebyshev(order=order)
    return Entry(
        name,
        lambda rate: zoo.rkc(rate, order=order),
        method.stability_limit,
        order,
        method.gradients_per_step,
    )


def _controlled(name: str, make: Callable[..., Any]) -> Entry:
    # The order is that of fixed steps.
    return Entry(
        name,
        lambda first: make(stepsize.gain_ratio(first=first)),
        None,
        None,
        read=step_params,
        counted=True,
    )


OTHERS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _with_momentum("heavy_ball", zoo.heavy_ball, 2 * (1 + MOMENTUM), 1),
        _with_momentum("nesterov", zoo.nesterov, 2 * (1 + MOMENTUM) / (1 + 2 * MOMENTUM), 1),
        _with_momentum("conformal_leapfrog", zoo.conformal_leapfrog, 4.0, 1),
        # Near a minimum its limit is the heavy ball's; far from one, steps are bounded anyhow.
        _with_momentum("relativistic", zoo.relativistic, None, 1),
        _with_momentum(
            "rk_momentum",
            lambda rate, momentum: zoo.rk_momentum(rate, momentum, solvers.RK4()),
            RK_MOMENTUM_LIMIT,
            4,
        ),
        _without_limit("rmsprop", zoo.rmsprop),
        _without_limit("adamw", zoo.adamw),
        _without_limit("strang_adam", zoo.strang_adam),
        _without_limit("rk_adam", lambda rate: zoo.rk_adam(rate, solvers.RK4()), 4),
        _without_limit(
            "euler@drift_adjusted", lambda cap: zoo.euler(stepsize.drift_adjusted(cap=cap)), 3
        ),
        _without_limit("euler@corridor", lambda cap: zoo.euler(stepsize.corridor(cap=cap))),
        _without_limit(
            "bosh3@embedded_error",
            lambda rtol: zoo.bosh3(stepsize.embedded_error(rtol, 0.1 * rtol)),
            4,
        ),
        # four products in every eighth step, the first estimate no dearer: a gradient a step
        _without_limit(
            "euler@sharpness",
            lambda safety: zoo.euler(stepsize.sharpness(safety, every=8, products=4, first=4)),
            2,
        ),
        _without_limit("adam@angle", lambda first: zoo.adam(stepsize.angle(first=first))),
        _without_limit("log_time_adam", lambda first: zoo.log_time_adam(first=first)),
        _stabilized("rkc", 1),
        _stabilized("rkc2", 2),
        _controlled("linearly_implicit_euler", zoo.linearly_implicit_euler),
        _controlled("rosenbrock2", zoo.rosenbrock2),
        _controlled("exponential_euler", zoo.exponential_euler),
        _controlled("implicit_euler", zoo.implicit_euler),
    )
}
"""The zoo's optimizers that are not explicit solvers of gradient flow, and `solver@rule`.

What a study varies as the learning rate of a rule is one of its arguments: the cap of
`drift_adjusted` and `corridor`, the tolerance of `embedded_error`, the safety of `sharpness`, the
first step of `angle`, and of `gain_ratio` for the linearly implicit methods. The cost of a step is
what the optimizer's state counts, Hessian products included.
"""


def entries() -> dict[str, Entry]:
    """Everything that `--solvers` knows: baselines, solvers of gradient flow, `OTHERS`.

    A zoo optimizer takes part as a solver of gradient flow if it needs nothing but a learning rate
    and `odeopt.solvers` has the solver class of the same name, which states its limit, order and
    cost.
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
    return table | OTHERS


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
