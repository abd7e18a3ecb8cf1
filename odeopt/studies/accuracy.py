"""Observed order of a solver on a real training path: error against step size.

The path is gradient flow on digits (400 examples, squared error, float64) from seed 0; the
reference is diffrax's Dopri8 at tight tolerance, a code that shares nothing with our steps.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .engine import Claim, compared
from .engine.optimizers import Entry
from .engine.problem import Problem
from .engine.steps import advance
from .engine.store import Record
from .problems import digits_data, mlp_init, squared_error
from .reference import field, solve

PATH = "digits-path"
FLOW_TIME = 0.8
"""Longer paths forget their early errors and need far smaller steps to become asymptotic."""
EXAMPLES = 400
HALVINGS = 3
TOLERANCE = 1e-13
COARSEST_STEPS = {1: 128, 2: 128, 3: 64, 4: 64, 5: 16}
"""Steps over the path from which a solver of that order is asymptotic, three halvings staying above
rounding errors. Order 5 reaches these first: it still shows 6."""

Flow = Callable[[Sequence[float], float], np.ndarray]


def path_problem() -> Problem:
    """Squared error on the first 400 digits, in float64."""
    return Problem(
        name=PATH,
        title=f"gradient flow on digits, {EXAMPLES} examples, squared error",
        loss=squared_error,
        init=lambda seed: mlp_init(seed, np.float64),
        data=digits_data(np.float64, EXAMPLES),
    )


def order_record(entry: Entry, nominal: int, coarsest: int, *, modified: bool = False) -> Record:
    """Errors of a solver over the path with `coarsest` steps and three times twice as many.

    Needs x64. Costs 15 * `coarsest` steps, and once a process the reference.

    Args:
        entry: The solver; its rate is flow time of gradient flow.
        nominal: The order that is expected.
        coarsest: The lowest number of steps.
        modified: Measure the distance not to gradient flow but to the flow that Euler's method
            follows one order better, with the step size in it: see `flow_of`.

    Returns:
        A record with `step_sizes`, each half the one before; `errors`, distances to the reference
        at the end over the length of the path; `observed_order`, log2 of the last ratio of errors.
    """
    problem = path_problem()
    data, start = jax.tree.map(jnp.asarray, problem.data), problem.start(0)

    @jax.jit
    def end(rate: jax.Array, steps: int) -> jax.Array:
        optimizer = entry.make(rate)
        return ravel_pytree(advance(problem, optimizer, steps, data, start)[0])[0]

    flow = _path_flow(modified)
    counts = [coarsest * 2**halving for halving in range(HALVINGS + 1)]
    sizes = [FLOW_TIME / count for count in counts]
    errors = []
    for size, count in zip(sizes, counts, strict=True):
        first, last = flow([0.0, FLOW_TIME], size)
        miss = np.linalg.norm(np.asarray(end(size, count)) - last)
        errors.append(float(miss / np.linalg.norm(last - first)))
    return {
        "kind": "order",
        "problem": PATH,
        "optimizer": entry.name,
        "nominal_order": nominal,
        "step_sizes": sizes,
        "errors": errors,
        "observed_order": float(np.log2(errors[-2] / errors[-1])),
    }


def flow_of(problem: Problem, tolerance: float, *, modified: bool = False) -> Flow:
    """Full-batch gradient flow from seed 0, by a code that shares nothing with our steps.

    Args:
        problem: The problem.
        tolerance: Relative and absolute tolerance of diffrax's Dopri8.
        modified: The flow of E + (h/4) ‖grad E‖^2 instead, which gradient descent with step size
            h follows to order 2 (Barrett and Dherin, arXiv:2009.11162).

    Returns:
        `points(times, h)`: flat parameters of shape (times, size) at ascending times, the first
        of which is the start; without `modified`, h is ignored. Calls with the same times and any
        h compile once.
    """
    data = jax.tree.map(jnp.asarray, problem.data)
    start, unravel = ravel_pytree(problem.start(0))

    def along(_: Any, point: jax.Array, args: Any) -> jax.Array:
        data, h = args
        loss = lambda flat: problem.full_loss(unravel(flat), data)  # noqa: E731
        return field(loss, 2 if modified else 1)(point, h)

    @jax.jit
    def points(times: jax.Array, h: jax.Array) -> jax.Array:
        first = (times[-1] - times[0]) / 1000
        return solve(along, start, times, (data, h), first=first, rtol=tolerance)

    return lambda times, h: np.asarray(points(np.asarray(times, float), h))


@functools.cache
def _path_flow(modified: bool) -> Flow:
    flow = flow_of(path_problem(), TOLERANCE, modified=modified)
    if modified:
        return flow
    path = flow([0.0, FLOW_TIME], 0.0)  # the same for every h: solved once
    return lambda times, h: path


ORDERS_HOLD = Claim(
    "orders",
    "A solver of order p follows gradient flow with an error of order h^p.",
    "observed order above p - 0.2 over three halvings",
    compared(
        "order",
        "{optimizer}",
        "observed_order",
        "{nominal_order} or more",
        lambda r: r["observed_order"] > r["nominal_order"] - 0.2,
    ),
)
