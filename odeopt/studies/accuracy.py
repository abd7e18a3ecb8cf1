"""Observed order of a solver on a real training path: error against step size.

The path is gradient flow on digits (400 examples, squared error, float64) from seed 0; the
reference is diffrax's Dopri8 at tight tolerance, a code that shares nothing with our steps.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .engine.optimizers import Entry
from .engine.problem import Params, Problem
from .engine.runner import step_function
from .engine.store import Record
from .engine.study import Check, Claim, Results
from .problems import digits_data, mlp_init, squared_error

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


@dataclasses.dataclass(frozen=True)
class Order:
    """Errors of one solver.

    Attributes:
        step_sizes: Descending, each half the one before.
        errors: Distance to the reference at the end, relative to the length of the path.
        observed: log2 of the last ratio of errors.
    """

    step_sizes: list[float]
    errors: list[float]

    @property
    def observed(self) -> float:
        return float(np.log2(self.errors[-2] / self.errors[-1]))


def path_problem() -> Problem:
    """Squared error on the first 400 digits, in float64."""
    return Problem(
        name=PATH,
        title=f"gradient flow on digits, {EXAMPLES} examples, squared error",
        loss=squared_error,
        init=lambda seed: mlp_init(seed, np.float64),
        data=digits_data(np.float64, EXAMPLES),
    )


def observed_order(entry: Entry, coarsest: int, *, modified: bool = False) -> Order:
    """Run a solver over the path with `coarsest` steps and three times twice as many.

    Needs x64. Costs 15 * `coarsest` steps, and once a process the reference.

    Args:
        entry: The solver; its rate is flow time of gradient flow.
        coarsest: The lowest number of steps.
        modified: Measure the distance not to gradient flow but to the flow that Euler's method
            follows one order better, with the step size in it: see `flow_of`.
    """
    problem = path_problem()
    data = jax.tree.map(jnp.asarray, problem.data)
    start = problem.start(0)

    @jax.jit
    def end(rate: jax.Array, steps: int) -> jax.Array:
        optimizer = entry.make(rate)
        step = step_function(problem, optimizer)
        carry: tuple[Params, Any] = start, optimizer.init(start)
        carry = jax.lax.fori_loop(0, steps, lambda _, carry: step(*carry, data)[:2], carry)
        return ravel_pytree(carry[0])[0]

    flow = _path_flow(modified)
    counts = [coarsest * 2**halving for halving in range(HALVINGS + 1)]
    sizes = [FLOW_TIME / count for count in counts]
    errors = []
    for size, count in zip(sizes, counts, strict=True):
        first, last = flow([0.0, FLOW_TIME], size)
        miss = np.linalg.norm(np.asarray(end(size, count)) - last)
        errors.append(float(miss / np.linalg.norm(last - first)))
    return Order(sizes, errors)


def order_record(entry: Entry, nominal: int, coarsest: int, *, modified: bool = False) -> Record:
    """`observed_order` as a record, with the order that is expected."""
    seen = observed_order(entry, coarsest, modified=modified)
    about = {"problem": PATH, "optimizer": entry.name, "nominal_order": nominal}
    sizes = {"step_sizes": seen.step_sizes, "errors": seen.errors}
    return {"kind": "order", **about, **sizes, "observed_order": seen.observed}


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

    def field(_: Any, point: jax.Array, args: Any) -> jax.Array:
        data, h = args
        gradient = jax.grad(lambda flat: problem.full_loss(unravel(flat), data))
        if not modified:
            return -gradient(point)
        slope = gradient(point)
        return -slope - h / 2 * jax.jvp(gradient, (point,), (slope,))[1]

    @jax.jit
    def points(times: jax.Array, h: jax.Array) -> jax.Array:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Dopri8(),
            times[0],
            times[-1],
            (times[-1] - times[0]) / 1000,
            start,
            args=(data, h),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            saveat=diffrax.SaveAt(ts=times),
            max_steps=10_000,
        )
        assert solution.ys is not None
        return solution.ys

    return lambda times, h: np.asarray(points(np.asarray(times, float), h))


@functools.cache
def _path_flow(modified: bool) -> Flow:
    flow = flow_of(path_problem(), TOLERANCE, modified=modified)
    if modified:
        return flow
    path = flow([0.0, FLOW_TIME], 0.0)  # the same for every h: solved once
    return lambda times, h: path


def _orders_hold(results: Results) -> list[Check]:
    return [
        Check(r.optimizer, r.observed_order, f"{r.nominal_order} or more", holds)
        for r in results.of("order").itertuples()
        for holds in [bool(r.observed_order > r.nominal_order - 0.2)]
    ]


ORDERS_HOLD = Claim(
    "orders",
    "A solver of order p follows gradient flow with an error of order h^p.",
    "observed order above p - 0.2 over three halvings",
    _orders_hold,
)
