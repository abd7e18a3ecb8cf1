"""Losses of runs with many step sizes at common flow times, with the loss of the flow beside."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import odeopt

from .accuracy import flat, flow_of, order_record
from .engine.optimizers import Entry, Make, entry, find
from .engine.problem import Problem
from .engine.refusals import refuse
from .engine.runner import POINTS, Runner
from .engine.store import Record
from .reference import solve

TAU1, TAU2 = (float(-1e-3 / np.log(b)) for b in (0.9, 0.999))
"""Adam's time constants: its default betas at a learning rate of 0.001, by tau = -h / ln(b)."""

INTERVAL = 3.2
"""Flow time between two compared points, times the sharpness. With one step an interval every
method here is above its limit (RK4's is 2.79), with two none is."""
SOLVER_STEPS = {
    "euler": (1, 2, 4, 8, 16, 32, 64),
    "heun": (1, 2, 4, 8, 16, 32),
    "rk4": (1, 2, 4, 8),
}
"""Steps an interval: down to where the method is close to the flow."""
SOLVERS = tuple(SOLVER_STEPS)
MOMENTUM_STEPS = {0.5: (4, 16, 64), 0.9: (4, 32, 128), 0.99: (64, 256, 1024, 4096)}
RELATIVE_STEPS = {0.8: 2, 0.2: 8}
"""Steps between two recorded points of runs at h * sharpness / R = 0.8 and 0.2."""

ADAM_INTERVAL = 4e-3
"""Flow time between two compared points of Adam, whose flow has units of its own."""
ADAM_STEPS = (2, 4, 8, 16, 32)
ADAM_RATE_STEPS = (4, 16, 64)
ADAM_B1 = (0.0, 0.5, 0.9)

ORDERS = {"euler": 128, "heun": 128, "rk4": 64, "heavy ball 0.5": 128, "heavy ball 0.9": 256}
"""Steps over the path of `accuracy` from which a method is asymptotic."""


def heavy_ball(b: float, make: Callable[..., Any] = odeopt.heavy_ball) -> Entry:
    """Heavy ball, `v+ = b v + g, x+ = x - h v+`, or another optimizer with momentum b."""
    name = f"{make.__name__.replace('_', ' ')} {b:g}"
    return entry(name, lambda rate: make(rate, b), hyperparameters={"momentum": b})


def limited() -> list[Entry]:
    """Everything that has a stability limit in h * lambda."""
    return [*map(find, SOLVERS), *map(heavy_ball, MOMENTUM_STEPS), heavy_ball(0.9, odeopt.nesterov)]


def momentum_of(one: Entry) -> float:
    """b, zero for a solver of gradient flow."""
    return one.hyperparameters.get("momentum", 0.0)


def decay(h: Any, time_constant: float) -> Any:
    """The beta of a moving average with that time constant, exp(-h / tau)."""
    return jnp.exp(-h / time_constant)


FlowLosses = Callable[[np.ndarray], np.ndarray]
"""Losses along gradient flow from seed 0 at ascending times, the first of which is 0."""


def flow_losses(problem: Problem) -> FlowLosses:
    """In closed form on a quadratic whose minimum is 0, else by an independent solver."""
    start, loss = flat(problem)
    if problem.quadratic:
        eigenvalues, modes = np.linalg.eigh(np.asarray(jax.hessian(loss)(start)))
        weights = (modes.T @ np.asarray(jax.grad(loss)(start))) ** 2 / (2 * eigenvalues)
        if np.isclose(weights.sum(), loss(start), rtol=1e-6):  # its minimum is zero
            return lambda times: np.exp(-2 * np.outer(times, eigenvalues)) @ weights
    points, losses = flow_of(problem, 1e-11), jax.jit(jax.vmap(loss))
    return lambda times: _reached(problem, losses(points(list(times))))


def _reached(problem: Problem, losses: Any) -> np.ndarray:
    """Losses along a flow; refuses a problem whose flow does not come to the end."""
    found = np.asarray(losses)
    if not np.isfinite(found).all():
        refuse(
            problem,
            "its gradient flow takes too many steps. Is its loss smooth? Of a network write "
            "jax.nn.softplus or jnp.tanh for jax.nn.relu.",
        )
    return found


def follow(sweep: Runner, flow: FlowLosses, sharpness: float) -> list[Record]:
    """One record for each step size: losses of the run and of the flow at `POINTS` flow times.

    A step of momentum counts as h / (1 - b) of flow time. `delayed_flow_loss` is the flow's loss on
    a clock that knows the start from rest: n steps count as n - b (1 - b^n) / (1 - b).
    """
    one, b = sweep.entry, momentum_of(sweep.entry)
    times = np.arange(POINTS + 1) * INTERVAL / sharpness
    flow_loss, found = flow(times), []
    for per_interval in MOMENTUM_STEPS[b] if b else SOLVER_STEPS[one.name]:
        step = INTERVAL / sharpness / per_interval
        gradients = per_interval * POINTS * one.gradients_per_step
        (curve,) = sweep.run([(step * (1 - b), 0)], gradients)
        record = _about(sweep, "momentum" if b else "solver", step, sharpness)
        found.append({**record, "times": times, "loss": curve.loss, "flow_loss": flow_loss})
        if b:
            delay = b * (1 - b**curve.steps) / (1 - b)
            found[-1]["delayed_flow_loss"] = flow(step * (curve.steps - delay))
    return found


def same_relative_steps(sweep: Runner, sharpness: float) -> list[Record]:
    """Runs at common h * sharpness / R; point by point they have made equally many steps."""
    one, b = sweep.entry, momentum_of(sweep.entry)
    assert one.limit is not None
    found = []
    for share, count in RELATIVE_STEPS.items():
        rate = share * one.limit / sharpness
        (curve,) = sweep.run([(rate, 0)], count * POINTS * one.gradients_per_step)
        about = _about(sweep, "relative", rate / (1 - b), sharpness)
        found.append({**about, "steps": curve.steps, "loss": curve.loss})
    return found


def _about(sweep: Runner, family: str, step: float, sharpness: float) -> Record:
    one, b = sweep.entry, momentum_of(sweep.entry)
    assert one.limit is not None
    return {
        "kind": "path",
        "family": family,
        "problem": sweep.problem.name,
        "optimizer": one.name,
        "momentum": b,
        "R": one.limit,
        "learning_rate": step * (1 - b),
        "step": step,
        "step_sharpness": step * sharpness,
        "relative_rate": step * (1 - b) * sharpness / one.limit,
    }


def adam_rates(problem: Problem) -> list[Record]:
    """Adam with several b1, the second moment's time constant fixed, beside the flow without b1."""
    runs = [
        ({"family": "adam rate", "b1": b}, lambda h, b=b: odeopt.adam(h, b, decay(h, TAU2)))
        for b in ADAM_B1
    ]
    return _adam_paths(problem, runs, ADAM_RATE_STEPS, tau1=0.0)


def adam_constants(problem: Problem) -> list[Record]:
    """Adam at many rates, once with its time constants fixed and once with its betas fixed."""
    runs = [
        ({"family": "adam constants"}, lambda h: odeopt.adam(h, decay(h, TAU1), decay(h, TAU2))),
        ({"family": "adam betas"}, lambda h: odeopt.adam(h, 0.9, 0.999)),
    ]
    return _adam_paths(problem, runs, ADAM_STEPS, tau1=TAU1)


def _adam_paths(
    problem: Problem, runs: Sequence[tuple[Record, Make]], steps: Sequence[int], tau1: float
) -> list[Record]:
    times = np.arange(POINTS + 1) * ADAM_INTERVAL
    flow_loss, found = adam_flow(problem, times, tau1), []
    for about, make in runs:
        sweep = Runner(problem, Entry("adam", make), POINTS, [0])
        for per_interval in steps:
            rate = ADAM_INTERVAL / per_interval
            (curve,) = sweep.run([(rate, 0)], per_interval * POINTS)
            record = {"kind": "path", "problem": problem.name, "optimizer": "adam", **about}
            record |= {"learning_rate": rate, "step": rate, "times": times, "loss": curve.loss}
            found.append({**record, "flow_loss": flow_loss})
    return found


def adam_flow(problem: Problem, times: np.ndarray, tau1: float) -> np.ndarray:
    """Loss along Adam's flow with bias correction, from seed 0.

    m' = (g - m) / tau1, v' = (g^2 - v) / TAU2, x' = -mh / (sqrt(vh) + 1e-8) with
    mh = m / (1 - exp(-t / tau1)) and likewise vh; with tau1 = 0, mh = g. The limit of Adam for
    h -> 0 at fixed time constants, as its betas exp(-h / tau) show.
    """
    start, loss = flat(problem)

    def corrected(moment: jax.Array, limit: jax.Array, t: Any, tau: float) -> jax.Array:
        # At t = 0 the moments are 0 / 0; their limits are those of the first step.
        late = t > 0
        return jnp.where(late, moment / jnp.where(late, -jnp.expm1(-t / tau), 1.0), limit)

    def field(t: Any, state: Any, _: None) -> Any:
        point, m, v = state
        g = jax.grad(loss)(point)
        mh = corrected(m, g, t, tau1) if tau1 else g
        vh = jnp.maximum(corrected(v, g * g, t, TAU2), 0.0)
        return -mh / (jnp.sqrt(vh) + 1e-8), (g - m) / tau1 if tau1 else 0 * m, (g * g - v) / TAU2

    begin = start, jnp.zeros_like(start), jnp.zeros_like(start)
    points, *_ = solve(field, begin, times, first=1e-5, rtol=1e-6, atol=1e-7, throw=False)
    return _reached(problem, jax.vmap(loss)(points))


def order(name: str) -> list[Record]:
    """Observed order of a method on the path of `accuracy`, on its own clock."""
    one = next(each for each in limited() if each.name == name)
    share = 1 - momentum_of(one)
    on_flow_time = Entry(name, lambda step: one.make(step * share))
    return [order_record(on_flow_time, one.order or 1, ORDERS[name])]


_COLUMNS = (
    *("family", "problem", "optimizer", "momentum", "b1", "R", "learning_rate", "step"),
    *("step_sharpness", "relative_rate", "worst", "end", "delayed_end"),
)


def deviations(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run that has a flow to be compared with; differences are infinite if it blew up."""
    rows = []
    for record in records:
        if record["kind"] != "path" or record["family"] == "relative":
            continue
        difference = relative(record["loss"], record["flow_loss"])
        delayed = relative(record["loss"], record.get("delayed_flow_loss", record["flow_loss"]))
        ends = {"worst": np.abs(difference).max(), "end": difference[-1]}
        about = {key: record.get(key) for key in _COLUMNS}
        rows.append({**about, **ends, "delayed_end": delayed[-1]})
    return pd.DataFrame(rows, columns=list(_COLUMNS))


ROUNDING = 1e-24
"""Part of the initial loss below which a loss in double precision is not known to a percent."""


def relative(loss: Any, reference: Any) -> np.ndarray:
    """Relative differences after the start; infinite where a loss is not finite.

    0 where both have come down to rounding.
    """
    first, second = np.array(loss, float)[1:], np.array(reference, float)[1:]
    vanished = np.maximum(first, second) <= ROUNDING * float(reference[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(vanished, 1.0, first / second)
    return np.where(np.isfinite(ratio), ratio - 1, np.inf)


def on_clock(record: Record, factor: float) -> np.ndarray:
    """Relative differences if a step were `factor` times as long in flow time as `record` says.

    The flow's loss is interpolated between the compared times, on a log scale; times beyond the
    last one are left out.
    """
    times = np.array(record["times"], float) * factor
    known = times <= record["times"][-1]
    flow = np.exp(np.interp(times, record["times"], np.log(record["flow_loss"])))
    return relative(np.array(record["loss"], float)[known], flow[known])


def smallest(records: Sequence[Record]) -> list[Record]:
    """The run with the smallest step of each problem, optimizer and b1."""
    ordered = sorted(records, key=lambda r: -r["step"])
    return list({(r["problem"], r["optimizer"], r.get("b1")): r for r in ordered}.values())
