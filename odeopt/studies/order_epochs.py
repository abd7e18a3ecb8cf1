"""Palindromic epochs: their order as a splitting method, and whether networks gain by them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from scipy import stats

from .. import adam, euler, heavy_ball, heun, ordering
from .accuracy import halved
from .drift_trends import held_out
from .engine import Claim, Figure, Lab, Results, compared, each, groups, statistics
from .engine.drawing import Plot
from .engine.optimizers import entry
from .engine.problem import Problem, held_out_of
from .engine.race import Race
from .engine.ratios import INCOMPARABLE, check_start, negative
from .engine.store import Record
from .engine.tuner import TUNING_SEED, Grid
from .experiments import train as train_by
from .order_rest import Batched
from .problems import build
from .reference import solve

TIME = 1.0
COARSEST = 8
"""Epochs over the flow time `TIME`."""

Splitting = tuple[Callable[[int], ordering.BatchOrder], Callable, int]

SPLITTINGS: dict[str, Splitting] = {
    "Heun, forward": (ordering.forward, heun, 1),
    "Heun, palindromic": (functools.partial(ordering.palindromic, seed=None), heun, 2),
    "Euler, forward": (ordering.forward, euler, 1),
    "Euler, palindromic": (functools.partial(ordering.palindromic, seed=None), euler, 1),
}
"""Order of the epochs, the step on each batch, and the order that follows for the flow of all."""

OPTIMIZERS = {
    "momentum": lambda: entry("momentum", lambda rate: heavy_ball(rate, 0.9), unit=0.1),
    "Adam": lambda: entry("Adam", adam, unit=0.01),
}
RATES: dict[str, tuple[float, ...]] = {"momentum": (0.1, 0.3), "Adam": (0.003, 0.01)}
"""Of the network; on a problem of one's own they are tuned, for each order."""
ORDERS = {"reshuffled": ordering.reshuffled, "palindromic": ordering.palindromic}
BATCH, EPOCHS, SEEDS = 64, 40, 5
MARGIN = 0.2
"""How near an observed order must come to the expected one."""


def orders(problem: Batched) -> list[Record]:
    """Distance to the flow of the mean loss at a fixed time, for each splitting."""
    start = problem.start(0)
    falls = lambda t, y, _: jax.tree.map(jnp.negative, jax.grad(problem.of_all)(y))  # noqa: E731
    ys = solve(falls, start, TIME, first=0.01, rtol=1e-12, atol=1e-13)
    end = jax.tree.map(lambda y: y[-1], ys)

    def error(order: Callable, solver: Callable, count: int) -> Any:
        numbers = jnp.asarray(np.concatenate([order(len(problem.rows))(e) for e in range(count)]))
        opt = solver(TIME / len(numbers))
        last = jax.jit(lambda numbers: train_by(opt, problem.of_batch, start, numbers)[0])(numbers)
        return optax.tree.norm(optax.tree.sub(last, end))

    return [
        {
            **{"kind": "order", "splitting": name, "order": expected},
            **halved(functools.partial(error, order, solver), COARSEST, TIME / len(problem.rows)),
        }
        for name, (order, solver, expected) in SPLITTINGS.items()
    ]


@functools.cache
def network() -> Problem:
    """The digits network, some examples held out, with the share of these that it gets wrong."""
    problem = held_out(build(["digits-ce"])[0])
    return dataclasses.replace(problem, name="network", batch_size=BATCH)


def train(
    problem: Problem,
    optimizer: str,
    order: str,
    rate: float | None,
    lab: Lab,
    epochs: int = EPOCHS,
    seeds: int = SEEDS,
) -> list[Record]:
    """A problem by one optimizer in one order: a record a seed; seeds share starts and batches.

    Without a rate it is tuned, on a seed that is not reported.
    """
    if rate is None:
        check_start(problem, problem.initial_loss)
    known = {field.name: getattr(problem, field.name) for field in dataclasses.fields(Problem)}
    known["name"] += f", {order}"
    ordered = Batched(**known, order=ORDERS[order])
    ends, one = len(ordered.rows) * (1 + np.arange(epochs)), OPTIMIZERS[optimizer]()
    fresh = range(rate is None, seeds + (rate is None))
    race = Race(lab, ordered, one, int(ends[-1]), [TUNING_SEED, *fresh], points=ends.tolist())
    if rate is None:
        rate = race.tune(Grid.quarter_decades(one.unit, dtype=problem.dtype)).best
    else:
        optimizer = f"{optimizer} {rate:g}"
    about = {"kind": "network", "problem": problem.name, "optimizer": optimizer, "order": order}
    return [
        {
            **about,
            "learning_rate": rate,
            "seed": r["seed"],
            "losses": r["loss"][1:],
            "loss": r["final_loss"],
            "held_out": held_out_of(r["ends"]["last"]),
            "gradients": r["gradients"],
        }
        for r in race.runs((float(problem.dtype(rate)), seed) for seed in fresh)
    ]


def compare(results: Results) -> pd.DataFrame:
    """One row a problem and optimizer: palindromic over reshuffled, paired by seed."""
    rows = list[dict[str, Any]]()
    for (problem, optimizer), mine in groups(results.of("network"), ["problem", "optimizer"]):
        loss = mine.pivot(index="seed", columns="order", values="loss").astype(float).fillna(np.inf)
        held = mine.assign(held_out=mine.held_out.astype(float)).groupby("order").held_out.mean()
        if set(loss) != set(ORDERS):
            continue
        rates = mine.groupby("order").learning_rate.first()
        comparable = not negative(loss.to_numpy())
        ratio = loss.palindromic / (loss.reshuffled if comparable else np.nan)
        lower = int((loss.palindromic < loss.reshuffled).sum())
        low, high = statistics.paired_ratio(loss.palindromic, loss.reshuffled)
        interval = f"{low:.2f} to {high:.2f}"
        rows.append(
            {
                "problem": problem,
                "optimizer": optimizer,
                "rates": " and ".join(f"{rates[order]:.3g}" for order in ORDERS),
                "reshuffled": loss.reshuffled.median(),
                "palindromic": loss.palindromic.median(),
                "comparable": comparable,
                "ratio": float(stats.gmean(ratio)),
                "low": low,
                "high": high,
                "interval": interval if comparable else INCOMPARABLE,
                "lowest": ratio.min(),
                "highest": ratio.max(),
                "lower": lower,
                "seeds": len(ratio),
                "lower of seeds": f"{lower} of {len(ratio)}",
                "held_out_reshuffled": held.reshuffled,
                "held_out_palindromic": held.palindromic,
            }
        )
    return pd.DataFrame(rows)


CLAIMS = (
    Claim(
        "splitting",
        "Palindromic epochs are Strang's splitting: they have order 2 if the step on each batch "
        "has.",
        f"observed order within {MARGIN} of the expected one",
        compared(
            "order",
            "{splitting}",
            "observed",
            "{order}",
            lambda r: abs(r["observed"] - r["order"]) < MARGIN,
        ),
    ),
    Claim(
        "gains",
        "Palindromic order ends at a lower training loss than reshuffling.",
        "90 % interval of the ratio of final losses, paired by seed, is below 1",
        compared(
            "networks",
            "{problem}, {optimizer}",
            "ratio",
            "below 1",
            lambda r: r["high"] < 1 or (False if r["low"] >= 1 else None),
        ),
    ),
)


def _draw_networks(results: Results) -> Plot:
    plot, labels = Plot(list(ORDERS)), ("epoch", "loss")
    for (problem, optimizer), both in groups(results.of("network"), ["problem", "optimizer"]):
        log = "" if negative(np.array(list(both.losses), float)) else "y"
        for order, mine in groups(both, "order"):
            losses, title = np.array(list(mine.losses), float), f"{problem}, {optimizer}"
            mean = stats.gmean(losses) if log else losses.mean(axis=0)
            epoch, band = 1 + np.arange(losses.shape[1]), (losses.min(axis=0), losses.max(axis=0))
            plot.line(title, order, epoch, mean, labels, log=log, band=band)
    return plot


NETWORKS = Figure(
    "networks",
    _draw_networks,
    "Loss on all training data after each epoch: geometric mean and range of the seeds (mean "
    "on a linear axis where a loss is below zero).",
    each(
        "Final loss of palindromic order, divided by that of reshuffled order",
        "networks",
        "{problem} with {optimizer} {ratio:.2f} ({interval})",
    ),
)
