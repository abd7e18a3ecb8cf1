"""Observed order of a solver on a real training path: error against step size.

The path is gradient flow on digits (400 examples, squared error, float64) from seed 0; the
reference is diffrax's Dopri8 at tight tolerance, a code that shares nothing with our steps.
"""

import dataclasses
import functools
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from .entries import Entry
from .problems import Params, Problem, digits_data, mlp_init, squared_error
from .sweep import step_function

PATH = "digits-path"
FLOW_TIME = 0.8
"""Longer paths forget their early errors and need far smaller steps to become asymptotic."""
EXAMPLES = 400
HALVINGS = 3


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
        dtype=np.float64,
    )


def observed_order(entry: Entry, coarsest: int) -> Order:
    """Run a solver over the path with `coarsest` steps and three times twice as many.

    Needs x64. Costs 15 * `coarsest` steps, and once a process the reference.
    """
    problem = path_problem()
    data = tuple(jnp.asarray(array) for array in problem.data)
    start = problem.init(0)

    @jax.jit
    def end(rate: jax.Array, steps: int) -> jax.Array:
        optimizer = entry.make(rate)
        step = step_function(problem, optimizer)
        carry: tuple[Params, Any] = start, optimizer.init(start)
        carry = jax.lax.fori_loop(0, steps, lambda _, carry: step(*carry, data), carry)
        return ravel_pytree(carry[0])[0]

    reference = _reference()
    length = np.linalg.norm(reference - ravel_pytree(start)[0])
    counts = [coarsest * 2**halving for halving in range(HALVINGS + 1)]
    sizes = [FLOW_TIME / count for count in counts]
    ends = [np.asarray(end(size, count)) for size, count in zip(sizes, counts, strict=True)]
    return Order(sizes, [float(np.linalg.norm(last - reference) / length) for last in ends])


@functools.cache
def _reference() -> np.ndarray:
    problem = path_problem()
    data = tuple(jnp.asarray(array) for array in problem.data)
    start, unravel = ravel_pytree(problem.init(0))

    def field(_: Any, point: jax.Array, data: Any) -> jax.Array:
        return -jax.grad(lambda flat: problem.loss(unravel(flat), data))(point)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        0.0,
        FLOW_TIME,
        0.01,
        start,
        args=data,
        stepsize_controller=diffrax.PIDController(rtol=1e-13, atol=1e-14),
        max_steps=10_000,
    )
    assert solution.ys is not None
    return np.asarray(solution.ys[0])
