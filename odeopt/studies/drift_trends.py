"""Gradient norm and sharpness at equal flow time, over learning rates, with and without drift."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float, PyTree

from .. import diagnostics, drift, flows, ode_optimizer, solvers
from . import spectra
from .drift_orders import THIRD
from .engine.problem import Problem, held_out_of
from .engine.store import Record
from .engine.study import groups
from .experiments import error_rate, walk

QUANTITIES = ("gradient norm", "sharpness")


def penalized(strength: float) -> flows.AbstractFlow:
    """Gradient flow of E + strength ‖grad E‖^2."""
    return drift.regularized(flows.GradientFlow(), jnp.asarray(strength))


# What stands for a rate, where the smallest is another: a step size and a flow.
VARIANTS: dict[str, Callable[[float, float], tuple[float, flows.AbstractFlow]]] = {
    "gradient descent": lambda rate, smallest: (rate, flows.GradientFlow()),
    "counter-term": lambda rate, smallest: (rate, penalized(-rate / 4)),
    "counter-term, order 3": lambda rate, smallest: (rate, THIRD),
    "explicit": lambda rate, smallest: (smallest, penalized((rate - smallest) / 4)),
}
"""Plain; with g - (h/2) Hg; with the next term too; at the smallest rate, with the penalty that
makes up for the rest."""

# The largest rate, at which h times the initial sharpness is about 1, and the numbers of its steps
# at which to look. Smaller rates take more steps to the same flow times.
PLANS = {"digits-mse": (0.05, (50, 200, 400)), "digits-ce": (0.4, (10, 50, 200))}
OWN_STEPS = (50, 200, 400)
"""The same of a user's problem."""
HELD_OUT = 497


def held_out(problem: Problem, examples: int = HELD_OUT) -> Problem:
    """The digits network without so many examples, on which its error is measured."""
    order = np.random.default_rng(0).permutation(len(problem.data[0]))
    rest, kept = order[examples:], order[:examples]
    return dataclasses.replace(
        problem,
        data=tuple(array[rest] for array in problem.data),
        validation=tuple(array[kept] for array in problem.data),
        metric=lambda params, kept: {
            "validation": error_rate(params, tuple(map(jnp.asarray, kept)))
        },
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
    loss = lambda params: problem.full_loss(params, problem.data)  # noqa: E731
    return jax.vmap(lambda params: walk(opt, loss, params, steps))(params)


def measure(problem: Problem, params: PyTree[Array]) -> dict[str, Float[Array, " seeds"]]:
    """What is recorded, of each seed."""
    loss_of, data = problem.full_loss, {"data": problem.data}

    def one(params: PyTree[Array]) -> dict[str, Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, **data)
        found = {
            "loss": loss,
            "gradient norm": optax.tree.norm(grads),
            "sharpness": diagnostics.sharpness(loss_of, params, products=32, **data).value,
            "drift": diagnostics.drift(loss_of, params, 1.0, **data).relative,
        }
        if jax.tree.leaves(problem.validation):
            measured = problem.measured(params, problem.data, problem.validation)
            found["validation"] = held_out_of(measured)
        return found

    return jax.vmap(one)(params)


class Bench:
    """A network, compiled once, from the same points for every run: seeds 1 to `seeds`.

    The largest rate is halved so many times, and the first `times` flow times are looked at.
    """

    def __init__(self, problem: Problem, seeds: int, halvings: int, times: int) -> None:
        self._plan = PLANS.get(problem.name)
        self.problem = held_out(problem) if self._plan else problem
        self.seeds, self.halvings, self.times = range(1, seeds + 1), halvings, times
        self._train = jax.jit(functools.partial(train, self.problem))
        self._measure = jax.jit(functools.partial(measure, self.problem))

    @functools.cached_property
    def plan(self) -> tuple[float, tuple[int, ...]]:
        """The largest rate and its steps; of a user's problem one over its first sharpness."""
        if self._plan:
            return self._plan
        return float(f"{1 / spectra.sharpness_of(self.problem, 1):.2g}"), OWN_STEPS

    def run(self, variant: str, halving: int) -> list[Record]:
        """Train with what stands for a rate: one record for each time and seed.

        `drift` is ‖Hg‖/2‖g‖ (times the rate, the drift against the gradient), and `validation` the
        metric where examples are held out.
        """
        largest, counts = self.plan
        rate = largest / 2**halving
        step_size, flow = VARIANTS[variant](rate, largest / 2**self.halvings)
        # Of one dtype for all rates, or they would compile anew.
        h = jnp.asarray(step_size, self.problem.dtype)
        starts = [self.problem.start(seed) for seed in self.seeds]
        params, before, records = jax.tree.map(lambda *x: jnp.stack(x), *starts), 0.0, []
        first = self._measure(params)["sharpness"]
        for count in counts[: self.times]:
            time = largest * count
            params = self._train(params, flow, h, round((time - before) / step_size))
            before = time
            found = self._measure(params)
            about: Record = {"kind": "trend", "problem": self.problem.name, "variant": variant}
            rounding = float(np.finfo(self.problem.dtype).eps)
            about |= {"rate": rate, "time": time, "rounding": rounding}
            for i, seed in enumerate(self.seeds):
                own = {"seed": seed, "first sharpness": float(first[i])}
                own |= {name: float(value[i]) for name, value in found.items()}
                records.append(about | own)
        return records


def slopes(runs: pd.DataFrame, largest: float = np.inf) -> pd.DataFrame:
    """How fast the logarithm of each quantity grows with the rate: least squares, seed by seed.

    Of rates up to `largest`. One row for each problem, time, quantity, variant and seed, with its
    `slope`: NaN where a quantity is not positive.
    """
    keys = ["problem", "time", "variant", "seed"]
    rows = []
    for key, group in runs[runs["rate"] <= largest].groupby(keys, sort=False):
        for quantity in QUANTITIES:
            known = (group[quantity] > 0).all() and np.isfinite(group[quantity]).all()
            slope = np.polyfit(group["rate"], np.log(group[quantity]), 1)[0] if known else np.nan
            rows.append((*key, quantity, slope))
    return pd.DataFrame(rows, columns=[*keys, "quantity", "slope"])


def judge(runs: pd.DataFrame) -> pd.DataFrame:
    """Does implicit regularization exist, does the counter-term remove it, the penalty restore it?

    A quantity *falls* with the rate: the slope of gradient descent, its mean over seeds and in how
    many of them it is negative. The counter-term *removes* of that trend: 1 less the size of its
    mean slope against that of gradient descent (a trend turned around counts as not removed). The
    explicit term *restores*: its mean slope over that of gradient descent. No trend is what is not
    finite, or changes by less than the root of the rounding: it is `open`, and shares of it NaN.

    All are leading terms in the rate, so they are read for several largest rates: one row for each
    problem, time, quantity and largest rate from the second on.
    """
    rows = []
    for problem, mine in groups(runs, "problem"):
        edge = mine["first sharpness"].mean()
        least = np.sqrt(mine.get("rounding", pd.Series([np.finfo(np.float32).eps])).max())
        for largest in sorted(mine["rate"].unique())[1:]:
            found = slopes(mine, largest).groupby(["time", "quantity"], sort=False)
            for (time, quantity), group in found:
                means = group.groupby("variant")["slope"].mean().reindex(VARIANTS)
                plain = group[group["variant"] == "gradient descent"]["slope"]
                known = abs(np.expm1(plain * largest)) >= least
                mean = plain.mean()
                trend = mean if abs(np.expm1(mean * largest)) >= least else np.nan
                rows.append(
                    {
                        "problem": problem,
                        "time": time,
                        "quantity": quantity,
                        "largest": largest,
                        "edge": edge * largest,
                        "slope": mean,
                        "change": np.expm1(mean * largest),
                        "falling": int((known & (plain < 0)).sum()),
                        "open": int((~known).sum()),
                        "seeds": len(plain),
                        "removed": 1 - abs(means["counter-term"] / trend),
                        "by order 3": 1 - abs(means["counter-term, order 3"] / trend),
                        "restored": means["explicit"] / trend,
                    }
                )
    return pd.DataFrame(rows)
