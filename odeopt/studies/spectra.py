"""Eigenvalues of the Hessian: at the initial point, along training; the largest stable rate."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..diagnostics import spectrum
from .engine import Claim, compared
from .engine.optimizers import Entry
from .engine.problem import Params, Problem
from .engine.runner import Runner
from .engine.steps import advance
from .engine.store import Record
from .engine.tuner import bracket

MATVECS = 24
"""Hessian-vector products of one Lanczos run (counted as 2 gradients each): the largest
eigenvalue of the digits networks then moves by less than 1e-4 of itself."""

LIMIT_RUNS = 20
LIMIT_STEPS = 600
"""Half a percent above its limit plain gradient descent grows by 1 % a step: 400 times in 600."""

NEAR = 0.01
"""How near a measured limit is to theory's, on a grid of 1 %."""

TRACE_RATE = 1.3
"""A learning rate in units of R / initial sharpness: sharpness first falls below R/h, since the
initial point is not typical, and then rises to it."""
TRACE_STEPS, TRACE_POINTS = 800, 20


def measured_limit(runner: Runner, limit: float, sharpness: float) -> float:
    """The largest stable h * lambda_max on a quadratic, to 0.5 %: from a 1 % grid around `limit`.

    The middle between the first unstable rate and the one below; NaN if that is not on the grid.
    """
    relative = 1 + (np.arange(LIMIT_RUNS) - LIMIT_RUNS / 2 + 0.5) / 100
    gradients = LIMIT_STEPS * runner.entry.gradients_per_step
    curves = runner.run([(x * limit / sharpness, 0) for x in relative], gradients)
    unstable = [curve.diverged for curve in curves]
    low, high = bracket(dict(zip(relative, unstable, strict=True)))
    return float(limit * (low + high) / 2) if np.isfinite(high) else float("nan")


def eigenvalues(problem: Problem, seed: int) -> np.ndarray:
    """Eigenvalues of the full-batch Hessian at a seed's initial point, ascending.

    All of them for quadratics (a dense Hessian), else `MATVECS` Ritz values, whose largest is
    the sharpness.
    """
    params = problem.start(seed)
    data = jax.tree.map(jnp.asarray, problem.data)
    if problem.quadratic:
        flat, tree = ravel_pytree(params)
        values = np.linalg.eigvalsh(jax.hessian(lambda x: problem.full_loss(tree(x), data))(flat))
    else:
        values = np.asarray(_ritz(problem)(params, data))
    if not np.isfinite(values).all():
        raise ValueError(
            f"problem {problem.name!r}: its curvature at the initial point of seed {seed} is NaN "
            "or infinite: no optimizer can start there; change init= or the data."
        )
    return values


def sharpness_of(problem: Problem, seed: int) -> float:
    """The largest eigenvalue there, in which a study measures step sizes.

    Raises:
        ValueError: It is not positive.
    """
    largest = float(eigenvalues(problem, seed)[-1])
    if not largest > 0:
        raise ValueError(
            f"problem {problem.name!r}: its largest curvature at the initial point of seed {seed} "
            f"is {largest:.3g}, and step sizes are measured in units of one over it: start where "
            "the loss curves upwards."
        )
    return largest


def _ritz(problem: Problem) -> Callable[[Params, Any], jax.Array]:
    return _ritz_of(problem.objective if not problem.takes_key else problem.full_loss)


@functools.cache
def _ritz_of(loss: Callable[..., jax.Array]) -> Callable[[Params, Any], jax.Array]:
    # One compilation a loss, shared by its full-batch and mini-batch problems.
    def values(params: Params, data: Any) -> jax.Array:
        return spectrum(lambda p: loss(p, data), params, products=MATVECS).values

    return jax.jit(values)


def trace_record(
    problem: Problem, entry: Entry, sharpness: float, share: float = TRACE_RATE
) -> Record:
    """Sharpness along one full-batch run on seed 0, at a share of the stability limit there.

    The entry has a limit; `sharpness` is that of the initial point. The record has the gradients
    used, the products of the observation aside, and the sharpness there, up to the first not
    finite.
    """
    assert entry.limit is not None
    data = jax.tree.map(jnp.asarray, problem.data)
    rate = problem.dtype(share * entry.limit / sharpness)
    optimizer = entry.make(rate)
    go_on = jax.jit(functools.partial(advance, problem, optimizer))
    params = problem.start(0)
    state, steps = optimizer.init(params), 0
    used, values = [], []
    for end in np.arange(TRACE_POINTS + 1) * TRACE_STEPS // TRACE_POINTS:
        params, state = go_on(int(end) - steps, data, params, state)
        steps, largest = int(end), float(_ritz(problem)(params, data)[-1])
        if not np.isfinite(largest):
            break
        used.append(steps * entry.gradients_per_step)
        values.append(largest)
    about: Record = {"kind": "sharpness", "problem": problem.name, "optimizer": entry.name}
    about |= {"R": entry.limit, "learning_rate": float(rate)}
    return {**about, "gradients": used, "sharpness": values}


LIMITS_HOLD = Claim(
    "limits",
    "On a quadratic a step is stable up to h·sharpness = R.",
    f"measured limit within {NEAR:.0%} of R, on a grid of 1 %",
    compared(
        "limit",
        "{problem}, {optimizer}",
        "measured_limit",
        "{R:.4g}",
        lambda r: bool(r["measured_limit"]) and abs(r["measured_limit"] / r["R"] - 1) <= NEAR,
    ),
)
