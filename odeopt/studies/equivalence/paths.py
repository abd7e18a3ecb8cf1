"""Loss along runs with many step sizes, at common flow times, with the loss of the flow beside.

May use: `odeopt.studies` (sweeps, problems, accuracy), diffrax for the flows.
"""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ..accuracy import flow_of
from ..engine.optimizers import Entry
from ..engine.problem import Problem
from ..engine.runner import POINTS, Runner
from ..records import Record
from .methods import TAU1, TAU2, adam, decay, momentum_of

INTERVAL = 3.2
"""Flow time between two compared points, times the sharpness. With one step an interval every
method here is above its limit (RK4's is 2.79), with two none is."""
SOLVER_STEPS = {
    "euler": (1, 2, 4, 8, 16, 32, 64),
    "heun": (1, 2, 4, 8, 16, 32),
    "rk4": (1, 2, 4, 8),
}
"""Steps an interval: down to where the method is close to the flow."""
MOMENTUM_STEPS = {0.5: (4, 16, 64), 0.9: (4, 32, 128), 0.99: (64, 256, 1024, 4096)}
RELATIVE_STEPS = {0.8: 2, 0.2: 8}
"""Steps between two recorded points of runs at h * sharpness / R = 0.8 and 0.2."""

ADAM_INTERVAL = 4e-3
"""Flow time between two compared points of Adam, whose flow has units of its own."""
ADAM_STEPS = (2, 4, 8, 16, 32)
ADAM_RATE_STEPS = (4, 16, 64)
ADAM_B1 = (0.0, 0.5, 0.9)


FlowLosses = Callable[[np.ndarray], np.ndarray]
"""Losses along gradient flow from seed 0 at ascending times, the first of which is 0."""


def flow_losses(problem: Problem) -> FlowLosses:
    """In closed form on a quadratic, else by an independent solver, compiled once for 61 times."""
    data = tuple(jnp.asarray(array) for array in problem.data)
    start, unravel = ravel_pytree(problem.init(0))
    if problem.quadratic:  # whose minimum is zero
        hessian = np.asarray(jax.hessian(problem.loss)(start, data))
        slope = np.asarray(jax.grad(problem.loss)(start, data))
        eigenvalues, modes = np.linalg.eigh(hessian)
        weights = (modes.T @ slope) ** 2 / (2 * eigenvalues)
        return lambda times: np.exp(-2 * np.outer(times, eigenvalues)) @ weights
    points = flow_of(problem, 1e-11)
    losses = jax.jit(jax.vmap(lambda point: problem.loss(unravel(point), data)))
    return lambda times: np.asarray(losses(points(list(times), 0.0)))


def follow(sweep: Runner, flow: FlowLosses, sharpness: float) -> list[Record]:
    """One record for each step size: losses of the run and of the flow at `POINTS` flow times.

    A step of momentum counts as h / (1 - b) of flow time. `delayed_flow_loss` is the flow's loss
    on a clock that also knows the start from rest: n steps along a constant gradient move as far
    as the flow does in h / (1 - b) times n - b (1 - b^n) / (1 - b).
    """
    entry, b = sweep.entry, momentum_of(sweep.entry)
    times = np.arange(POINTS + 1) * INTERVAL / sharpness
    flow_loss, found = flow(times), []
    for per_interval in MOMENTUM_STEPS[b] if b else SOLVER_STEPS[entry.name]:
        step = INTERVAL / sharpness / per_interval
        gradients = per_interval * POINTS * entry.gradients_per_step
        (curve,) = sweep.run([(step * (1 - b), 0)], gradients)
        record = _about(sweep, "momentum" if b else "solver", step, sharpness)
        found.append({**record, "times": times, "loss": curve.loss, "flow_loss": flow_loss})
        if b:
            delay = b * (1 - b**curve.steps) / (1 - b)
            found[-1]["delayed_flow_loss"] = flow(step * (curve.steps - delay))
    return found


def same_relative_steps(sweep: Runner, sharpness: float) -> list[Record]:
    """Runs at common h * sharpness / R; point by point they have made equally many steps."""
    entry, b = sweep.entry, momentum_of(sweep.entry)
    assert entry.limit is not None
    found = []
    for share, count in RELATIVE_STEPS.items():
        rate = share * entry.limit / sharpness
        (curve,) = sweep.run([(rate, 0)], count * POINTS * entry.gradients_per_step)
        record = _about(sweep, "relative", rate / (1 - b), sharpness)
        found.append({**record, "steps": curve.steps, "loss": curve.loss})
    return found


def _about(sweep: Runner, family: str, step: float, sharpness: float) -> Record:
    entry, b = sweep.entry, momentum_of(sweep.entry)
    assert entry.limit is not None
    return {
        "kind": "path",
        "family": family,
        "problem": sweep.problem.name,
        "optimizer": entry.name,
        "momentum": b,
        "R": entry.limit,
        "learning_rate": step * (1 - b),
        "step": step,
        "step_sharpness": step * sharpness,
        "relative_rate": step * (1 - b) * sharpness / entry.limit,
    }


def adam_rates(problem: Problem) -> list[Record]:
    """Adam with several b1, the second moment's time constant fixed, beside the flow without b1."""
    times = np.arange(POINTS + 1) * ADAM_INTERVAL
    flow_loss, found = adam_flow(problem, times, tau1=0.0), []
    for b1 in ADAM_B1:
        entry = adam(functools.partial(_constant, b1), decay(TAU2))
        for record in _adam_paths(problem, entry, ADAM_RATE_STEPS):
            found.append({**record, "family": "adam rate", "b1": b1, "flow_loss": flow_loss})
    return found


def adam_constants(problem: Problem) -> list[Record]:
    """Adam at many rates, once with its time constants fixed and once with its betas fixed."""
    times = np.arange(POINTS + 1) * ADAM_INTERVAL
    flow_loss, found = adam_flow(problem, times, tau1=TAU1), []
    entries = {
        "adam constants": adam(decay(TAU1), decay(TAU2)),
        "adam betas": adam(functools.partial(_constant, 0.9), functools.partial(_constant, 0.999)),
    }
    for family, entry in entries.items():
        for record in _adam_paths(problem, entry, ADAM_STEPS):
            found.append({**record, "family": family, "flow_loss": flow_loss})
    return found


def _constant(beta: float, rate: Any) -> float:
    return beta


def _adam_paths(problem: Problem, entry: Entry, steps: tuple[int, ...]) -> list[Record]:
    sweep = Runner(problem, entry, POINTS, [0], 1)
    times = np.arange(POINTS + 1) * ADAM_INTERVAL
    found = []
    for per_interval in steps:
        rate = ADAM_INTERVAL / per_interval
        (curve,) = sweep.run([(rate, 0)], per_interval * POINTS)
        record: Record = {"kind": "path", "problem": problem.name, "optimizer": entry.name}
        record |= {"learning_rate": rate, "step": rate}
        found.append({**record, "times": times, "loss": curve.loss})
    return found


def adam_flow(problem: Problem, times: np.ndarray, tau1: float) -> np.ndarray:
    """Loss along Adam's flow with bias correction, from seed 0.

    m' = (g - m) / tau1, v' = (g^2 - v) / TAU2, x' = -mh / (sqrt(vh) + 1e-8) with
    mh = m / (1 - exp(-t / tau1)) and likewise vh; with tau1 = 0, mh = g. The limit of Adam for
    h -> 0 at fixed time constants, as its betas exp(-h / tau) show.
    """
    data = tuple(jnp.asarray(array) for array in problem.data)
    start, unravel = ravel_pytree(problem.init(0))

    def corrected(moment: jax.Array, limit: jax.Array, t: Any, tau: float) -> jax.Array:
        # At t = 0 the moments are 0 / 0; their limits are those of the first step.
        late = t > 0
        return jnp.where(late, moment / jnp.where(late, -jnp.expm1(-t / tau), 1.0), limit)

    def field(t: Any, state: Any, data: Any) -> Any:
        point, m, v = state
        g = jax.grad(lambda flat: problem.loss(unravel(flat), data))(point)
        mh = corrected(m, g, t, tau1) if tau1 else g
        vh = jnp.maximum(corrected(v, g * g, t, TAU2), 0.0)
        return -mh / (jnp.sqrt(vh) + 1e-8), (g - m) / tau1 if tau1 else 0 * m, (g * g - v) / TAU2

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        0.0,
        times[-1],
        1e-5,
        (start, jnp.zeros_like(start), jnp.zeros_like(start)),
        args=data,
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-7),
        saveat=diffrax.SaveAt(ts=jnp.asarray(times)),
        max_steps=20_000,
    )
    assert solution.ys is not None
    losses = jax.vmap(lambda point: problem.loss(unravel(point), data))(solution.ys[0])
    return np.asarray(losses)
