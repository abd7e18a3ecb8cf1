"""Gradient norm and sharpness at equal flow time, over learning rates, with drift and without.

Every seed starts all runs at the same point, so that rates and variants are compared in pairs.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float, PyTree

from ... import diagnostics, drift, flows, ode_optimizer, solvers
from ..problem import Problem
from ..problems import PROBLEMS, build, logits_of

QUANTITIES = ("gradient norm", "sharpness")


def penalized(strength: float) -> flows.AbstractFlow:
    """Gradient flow of E + strength ‖grad E‖^2."""
    return drift.regularized(flows.GradientFlow(), jnp.asarray(strength))


# What stands for a rate, where the smallest is another: a step size and a flow.
VARIANTS: dict[str, Callable[[float, float], tuple[float, flows.AbstractFlow]]] = {
    "gradient descent": lambda rate, smallest: (rate, flows.GradientFlow()),
    "counter-term": lambda rate, smallest: (rate, penalized(-rate / 4)),
    "explicit": lambda rate, smallest: (smallest, penalized((rate - smallest) / 4)),
}
"""Plain; with g - (h/2) Hg; at the smallest rate, with the penalty that makes up for the rest."""

# Flow times are multiples of every rate. At the largest, h times the initial sharpness is about 1.
RATES = {"digits-mse": (0.00625, 0.0125, 0.025, 0.05), "digits-ce": (0.05, 0.1, 0.2, 0.4)}
TIMES = {"digits-mse": (2.5, 10.0, 40.0), "digits-ce": (4.0, 20.0, 80.0)}
HELD_OUT = 497


def held_out(problem: Problem, examples: int = HELD_OUT) -> Problem:
    """The full-batch problem without so many examples, which become its validation data."""
    order = np.random.default_rng(0).permutation(len(problem.data[0]))
    rest, kept = order[examples:], order[:examples]
    return dataclasses.replace(
        problem,
        data=tuple(array[rest] for array in problem.data),
        validation=tuple(array[kept] for array in problem.data),
        batch_size=None,
    )


def train(
    problem: Problem,
    params: PyTree[Array],
    flow: flows.AbstractFlow,
    step_size: Array,
    steps: Array,
) -> PyTree[Array]:
    """Euler's method along `flow`, full batch, from parameters of several seeds, stacked."""
    opt = ode_optimizer(flow, solvers.Euler(), step_size)

    def one(params: PyTree[Array]) -> PyTree[Array]:
        def step(_: Array, carry: tuple) -> tuple:
            params, state = carry
            grads = jax.grad(problem.loss)(params, problem.data)
            updates, state = opt.update(
                grads, state, params, value_fn=problem.loss, batch=problem.data
            )
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, steps, step, (params, opt.init(params)))[0]

    return jax.vmap(one)(params)


def measure(problem: Problem, params: PyTree[Array]) -> dict[str, Float[Array, " seeds"]]:
    """What is recorded, of each seed."""

    def one(params: PyTree[Array]) -> dict[str, Array]:
        loss, grads = jax.value_and_grad(problem.loss)(params, problem.data)
        sharpness = diagnostics.sharpness(problem.loss, params, products=32, batch=problem.data)
        found = {
            "loss": loss,
            "gradient norm": optax.tree.norm(grads),
            "sharpness": sharpness.value,
            "drift": diagnostics.drift(problem.loss, params, 1.0, batch=problem.data).relative,
        }
        if problem.validation:
            kept = tuple(map(jnp.asarray, problem.validation))
            wrong = logits_of(params, kept).argmax(axis=-1) != kept[1].argmax(axis=-1)
            found["test error"] = jnp.mean(wrong)
        return found

    return jax.vmap(one)(params)


def run(
    problem: Problem | str,
    *,
    rates: Sequence[float] | None = None,
    times: Sequence[float] | None = None,
    seeds: int = 5,
) -> pd.DataFrame:
    """Train at every rate, in every variant, to the same flow times.

    Args:
        problem: A full-batch digits network: its name in `PROBLEMS` (of which some examples are
            then held out), or a problem.
        rates: Learning rates; by default those of the problem.
        times: Flow times at which to record, multiples of every rate.
        seeds: Initial points.

    Returns:
        One row for each variant, rate, time and seed: loss, gradient norm, sharpness, drift
        (‖Hg‖/2‖g‖: times the rate, the size of the drift against the gradient), test error.

    Raises:
        ValueError: A name without default rates; a time that is no multiple of a rate.
    """
    if isinstance(problem, str):
        problem = held_out(build([problem])[0])
    if rates is None or times is None:
        if problem.name not in RATES:
            raise ValueError(
                f"{problem.name} has no rates here: pass rates= and times=, or take one of "
                f"{', '.join(name for name in PROBLEMS if name in RATES)}."
            )
        rates, times = rates or RATES[problem.name], times or TIMES[problem.name]
    rates, times = sorted(rates), sorted(times)
    for time in times:
        for rate in rates:
            if abs(time / rate - round(time / rate)) > 1e-6:
                raise ValueError(f"Flow time {time:g} is no multiple of the rate {rate:g}.")

    fit = jax.jit(functools.partial(train, problem))
    look = jax.jit(functools.partial(measure, problem))
    start = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[problem.init(seed) for seed in range(1, seeds + 1)]
    )
    rows = []
    for variant, choose in VARIANTS.items():
        for rate in rates:
            step_size, flow = choose(rate, rates[0])
            params, before = start, 0.0
            for time in times:
                params = fit(params, flow, step_size, round((time - before) / step_size))
                before = time
                found = {name: np.asarray(value) for name, value in look(params).items()}
                rows += [
                    {
                        "problem": problem.name,
                        "variant": variant,
                        "rate": rate,
                        "time": time,
                        "seed": seed + 1,
                        **{name: float(value[seed]) for name, value in found.items()},
                    }
                    for seed in range(seeds)
                ]
    return pd.DataFrame(rows)


def slopes(runs: pd.DataFrame, largest: float = np.inf) -> pd.DataFrame:
    """How fast the logarithm of each quantity grows with the rate: least squares, seed by seed.

    Args:
        runs: What `run` returned, of one or more problems.
        largest: Rates above are left out.

    Returns:
        One row for each problem, time, quantity, variant and seed, with its `slope`.
    """
    runs = runs[runs["rate"] <= largest]
    rows = []
    for (problem, time, variant, seed), group in runs.groupby(
        ["problem", "time", "variant", "seed"], sort=False
    ):
        for quantity in QUANTITIES:
            slope = np.polyfit(group["rate"], np.log(group[quantity]), 1)[0]
            rows.append((problem, time, quantity, variant, seed, slope))
    names = ["problem", "time", "quantity", "variant", "seed", "slope"]
    return pd.DataFrame(rows, columns=names)


def judge(runs: pd.DataFrame, largest: float = np.inf) -> pd.DataFrame:
    """The three sentences about implicit regularization, in figures.

    A quantity *falls* with the rate: the slope of gradient descent, its mean over seeds and in how
    many of them it is negative. The counter-term *removes* of that trend: 1 less the size of its
    mean slope against that of gradient descent (a trend turned around counts as not removed). The
    explicit term *restores*: its mean slope over that of gradient descent.

    Returns:
        One row for each problem, time and quantity: slope, falling, seeds, removed, restored.
    """
    found = slopes(runs, largest)
    rows = []
    for (problem, time, quantity), group in found.groupby(
        ["problem", "time", "quantity"], sort=False
    ):
        means = group.groupby("variant")["slope"].mean()
        plain = group[group["variant"] == "gradient descent"]["slope"]
        rows.append(
            {
                "problem": problem,
                "time": time,
                "quantity": quantity,
                "slope": plain.mean(),
                "falling": int((plain < 0).sum()),
                "seeds": len(plain),
                "removed": 1 - abs(means["counter-term"] / plain.mean()),
                "restored": means["explicit"] / plain.mean(),
            }
        )
    return pd.DataFrame(rows)
