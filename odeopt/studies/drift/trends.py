"""Gradient norm and sharpness at equal flow time, over learning rates, with drift and without.

Every seed starts all runs at the same point, so that rates and variants are compared in pairs.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float, PyTree

from ... import diagnostics, drift, flows, ode_optimizer, solvers
from ..engine.problem import Problem
from ..problems import logits_of
from ..records import Record

QUANTITIES = ("gradient norm", "sharpness")


def penalized(strength: float) -> flows.AbstractFlow:
    """Gradient flow of E + strength ‖grad E‖^2."""
    return drift.regularized(flows.GradientFlow(), jnp.asarray(strength))


THIRD = drift.corrected(flows.GradientFlow(), solvers.Euler(), 3, clip=None)
"""Gradient flow with the counter-terms of Euler's method to order 3."""

# What stands for a rate, where the smallest is another: a step size and a flow.
VARIANTS: dict[str, Callable[[float, float], tuple[float, flows.AbstractFlow]]] = {
    "gradient descent": lambda rate, smallest: (rate, flows.GradientFlow()),
    "counter-term": lambda rate, smallest: (rate, penalized(-rate / 4)),
    "counter-term, order 3": lambda rate, smallest: (rate, THIRD),
    "explicit": lambda rate, smallest: (smallest, penalized((rate - smallest) / 4)),
}
"""Plain; with g - (h/2) Hg; with the next term too; at the smallest rate, with the penalty that
makes up for the rest."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run on a problem.

    Attributes:
        rates: Learning rates, ascending.
        times: Flow times at which to record, ascending multiples of every rate.
    """

    rates: tuple[float, ...]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        for time in self.times:
            for rate in self.rates:
                if abs(time / rate - round(time / rate)) > 1e-6:
                    raise ValueError(f"Flow time {time:g} is no multiple of the rate {rate:g}.")


# At the largest rate, h times the initial sharpness is about 1.
QUICK = {
    "digits-mse": Plan((0.00625, 0.0125, 0.025, 0.05), (2.5, 10.0)),
    "digits-ce": Plan((0.05, 0.1, 0.2, 0.4), (4.0, 20.0)),
}
FULL = {
    "digits-mse": Plan((0.003125, 0.00625, 0.0125, 0.025, 0.05), (2.5, 10.0, 20.0)),
    "digits-ce": Plan((0.025, 0.05, 0.1, 0.2, 0.4), (4.0, 20.0, 80.0)),
}
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


class Bench:
    """A full-batch digits network, compiled once, from the same points for every run.

    Args:
        problem: The network.
        plan: Rates and times.
        seeds: How many initial points: seeds 1 to that number.
    """

    def __init__(self, problem: Problem, plan: Plan, seeds: int) -> None:
        self.problem, self.plan, self.seeds = problem, plan, range(1, seeds + 1)
        starts = [problem.init(seed) for seed in self.seeds]
        self._start = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
        self._train = jax.jit(functools.partial(train, problem))
        self._measure = jax.jit(functools.partial(measure, problem))

    def run(self, variant: str, rate: float) -> list[Record]:
        """Train with what stands for a rate: one record for each time and seed.

        A record has `loss`, `gradient norm`, `sharpness`, `test error`, `drift` (‖Hg‖/2‖g‖: times
        the rate, the drift against the gradient), and `first sharpness`, that of its start.
        """
        step_size, flow = VARIANTS[variant](rate, self.plan.rates[0])
        # Of one dtype for all rates, or they would compile anew.
        h = jnp.asarray(step_size, self.problem.dtype)
        params, before, records = self._start, 0.0, []
        first = self._measure(params)["sharpness"]
        for time in self.plan.times:
            params = self._train(params, flow, h, round((time - before) / step_size))
            before = time
            found = self._measure(params)
            for i, seed in enumerate(self.seeds):
                about: Record = {"kind": "trend", "problem": self.problem.name, "variant": variant}
                about |= {"rate": rate, "time": time, "seed": seed}
                about["first sharpness"] = float(first[i])
                records.append(about | {name: float(value[i]) for name, value in found.items()})
        return records


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


def judge(runs: pd.DataFrame) -> pd.DataFrame:
    """Does implicit regularization exist, does the counter-term remove it, the penalty restore it?

    A quantity *falls* with the rate: the slope of gradient descent, its mean over seeds and in how
    many of them it is negative. The counter-term *removes* of that trend: 1 less the size of its
    mean slope against that of gradient descent (a trend turned around counts as not removed). The
    explicit term *restores*: its mean slope over that of gradient descent.

    All are leading terms in the rate, so they are read for several largest rates.

    Returns:
        One row for each problem, time, quantity and largest rate from the second on: `largest`,
        `edge` (that rate times the first sharpness, mean over seeds), `slope`, `change` (of the
        quantity, at that rate, by gradient descent), `falling`, `seeds`, `removed`,
        `by order 3` (the same of the counter-term of that order), `restored`.
    """
    rows = []
    for problem, mine in runs.groupby("problem", sort=False):
        edge = mine["first sharpness"].mean()
        for largest in sorted(mine["rate"].unique())[1:]:
            found = slopes(mine, largest).groupby(["time", "quantity"], sort=False)
            for (time, quantity), group in found:
                means = group.groupby("variant")["slope"].mean()
                plain = group[group["variant"] == "gradient descent"]["slope"]
                rows.append(
                    {
                        "problem": problem,
                        "time": time,
                        "quantity": quantity,
                        "largest": largest,
                        "edge": edge * largest,
                        "slope": plain.mean(),
                        "change": np.expm1(plain.mean() * largest),
                        "falling": int((plain < 0).sum()),
                        "seeds": len(plain),
                        "removed": 1 - abs(means["counter-term"] / plain.mean()),
                        "by order 3": 1 - abs(means["counter-term, order 3"] / plain.mean()),
                        "restored": means["explicit"] / plain.mean(),
                    }
                )
    return pd.DataFrame(rows)
