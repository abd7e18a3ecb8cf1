"""Eigenvalues of the Hessian: at the initial point, and the largest one along training.

Lanczos is that of `odeopt.diagnostics`; this module says when it is asked.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..diagnostics import spectrum
from .entries import Entry
from .problem import Params, Problem
from .sweep import step_function

MATVECS = 24
"""Hessian-vector products of one Lanczos run (charged as 2 gradients each): the largest
eigenvalue of the digits networks then moves by less than 1e-4 of itself."""


def eigenvalues(problem: Problem, seed: int) -> np.ndarray:
    """Eigenvalues of the full-batch Hessian at a seed's initial point, ascending.

    All of them for quadratics (a dense Hessian), else `MATVECS` Ritz values, whose largest is
    the sharpness.
    """
    params = problem.init(seed)
    data = tuple(jnp.asarray(array) for array in problem.data)
    if problem.quadratic:
        return np.linalg.eigvalsh(np.asarray(jax.hessian(problem.loss)(params, data)))
    return np.asarray(_ritz(problem.loss)(params, data))


@functools.cache
def _ritz(loss: Callable[..., jax.Array]) -> Callable[[Params, Any], jax.Array]:
    # One compilation a loss, shared by its full-batch and mini-batch problems.
    def values(params: Params, data: Any) -> jax.Array:
        return spectrum(lambda p: loss(p, data), params, products=MATVECS).values

    return jax.jit(values)


def trace(
    problem: Problem, entry: Entry, rate: float, steps: int, points: int = 20
) -> tuple[list[int], list[float]]:
    """Sharpness along one full-batch training run on seed 0.

    Args:
        problem: A full-batch problem.
        entry: The optimizer.
        rate: Its learning rate.
        steps: Steps of the run.
        points: Observations after the initial one.

    Returns:
        Gradients spent, the Hessian-vector products of the observation aside, and the sharpness
        there, up to the first that is not finite.
    """
    data = tuple(jnp.asarray(array) for array in problem.data)
    optimizer = entry.make(np.asarray(rate, problem.dtype)[()])
    step = step_function(problem, optimizer)

    @jax.jit
    def advance(params: Params, state: Any, steps: int) -> tuple[Params, Any]:
        return jax.lax.fori_loop(0, steps, lambda _, carry: step(*carry, data), (params, state))

    params = problem.init(0)
    state = optimizer.init(params)
    at = np.arange(points + 1) * steps // points
    spent, sharpness = [], []
    for begin, end in zip(np.concatenate([[0], at[:-1]]), at, strict=True):
        params, state = advance(params, state, int(end - begin))
        largest = float(_ritz(problem.loss)(params, data)[-1])
        if not np.isfinite(largest):
            break
        spent.append(int(end) * entry.gradients_per_step)
        sharpness.append(largest)
    return spent, sharpness
