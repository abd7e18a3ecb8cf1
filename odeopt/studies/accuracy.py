"""Observed order of a solver on a real training path: error against step size.

The path is gradient flow on digits (400 examples, squared error, float64) from seed 0.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .engine.optimizers import Entry
from .engine.problem import Problem
from .engine.steps import advance
from .engine.store import Record
from .problems import digits_data, mlp_init, squared_error
from .reference import solve

PATH = "digits-path"
FLOW_TIME = 0.8
"""Longer paths forget their early errors and need far smaller steps to become asymptotic."""
EXAMPLES = 400
HALVINGS = 3
TOLERANCE = 1e-13
Flow = Callable[[Sequence[float]], np.ndarray]


def path_problem() -> Problem:
    """Squared error on the first 400 digits, in float64."""
    return Problem(
        name=PATH,
        title=f"gradient flow on digits, {EXAMPLES} examples, squared error",
        loss=squared_error,
        init=mlp_init(np.float64),
        data=digits_data(np.float64, EXAMPLES),
    )


def halved(error: Callable[[int], Any], coarsest: int, time: float) -> Record:
    """Errors at a fixed `time`, `error(steps)`, in `coarsest` steps and three times twice as many.

    Returns `step_sizes`, each half the one before; `errors`; `observed`, log2 of the last ratio.
    """
    counts = [coarsest * 2**halving for halving in range(HALVINGS + 1)]
    errors = [float(error(count)) for count in counts]
    sizes, observed = [time / count for count in counts], float(np.log2(errors[-2] / errors[-1]))
    return {"step_sizes": sizes, "errors": errors, "observed": observed}


def order_record(entry: Entry, nominal: int, coarsest: int) -> Record:
    """Errors of a solver over the path, relative to its length, beside the `nominal` order.

    Needs x64. Costs 15 * `coarsest` steps, and once a process the reference. The entry's rate is
    the flow time of gradient flow.
    """
    problem = path_problem()
    data, start = jax.tree.map(jnp.asarray, problem.data), problem.start(0)
    first, last = _ends()

    @jax.jit
    def end(rate: jax.Array, steps: int) -> jax.Array:
        return ravel_pytree(advance(problem, entry.make(rate), steps, data, start)[0])[0]

    def error(count: int) -> Any:
        miss = np.linalg.norm(np.asarray(end(FLOW_TIME / count, count)) - last)
        return miss / np.linalg.norm(last - first)

    found = halved(error, coarsest, FLOW_TIME)
    observed = found.pop("observed")
    about = {"kind": "order", "problem": PATH, "optimizer": entry.name, "nominal_order": nominal}
    return {**about, **found, "observed_order": observed}


def flat(problem: Problem) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """The start of seed 0 as a vector, and the loss on all data as a function of such a vector."""
    data = jax.tree.map(jnp.asarray, problem.data)
    start, unravel = ravel_pytree(problem.start(0))
    return start, lambda vector: problem.full_loss(unravel(vector), data)


@functools.cache
def _ends() -> np.ndarray:
    return flow_of(path_problem(), TOLERANCE)([0.0, FLOW_TIME])


def flow_of(problem: Problem, tolerance: float) -> Flow:
    """Full-batch gradient flow from seed 0, by diffrax's Dopri8.

    The tolerance, relative and absolute, is at least 100 roundings of the parameters' dtype.
    Returns `points(times)`: flat parameters of shape (times, size) at ascending times, from the
    start on; infinite where the flow takes too many steps.
    """
    start, loss = flat(problem)
    tolerance = max(tolerance, 100 * float(jnp.finfo(start.dtype).eps))

    @jax.jit
    def points(times: jax.Array) -> jax.Array:
        along, first = lambda t, point, _: -jax.grad(loss)(point), (times[-1] - times[0]) / 1000
        return solve(along, start, times, first=first, rtol=tolerance, throw=False)

    return lambda times: np.asarray(points(np.asarray(times, float)))
