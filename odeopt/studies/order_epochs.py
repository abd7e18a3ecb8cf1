"""Palindromic epochs: their order as a splitting method, and whether networks gain by them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float, Int, PyTree

from .. import adam, euler, heavy_ball, heun, ordering
from .drift_trends import held_out
from .engine import Check, Claim, Figure, Results, statistics
from .engine.drawing import Plot, plain_log
from .engine.problem import Params, Problem
from .engine.store import Record
from .order_rest import Convex
from .problems import build, logits_of

TIME = 1.0
COARSEST, HALVINGS = 8, 3
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
    "momentum 0.1": lambda: heavy_ball(0.1, 0.9),
    "momentum 0.3": lambda: heavy_ball(0.3, 0.9),
    "Adam 0.003": lambda: adam(0.003),
    "Adam 0.01": lambda: adam(0.01),
}
ORDERS = {"reshuffled": ordering.reshuffled, "palindromic": ordering.palindromic}
BATCH, EPOCHS, SEEDS = 64, 40, 5
MARGIN = 0.2
"""How near an observed order must come to the expected one."""


def orders(problem: Convex) -> list[Record]:
    """Distance to the flow of the mean loss at a fixed time, for each splitting."""
    start = jax.tree.map(jnp.asarray, problem.params)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, _: jax.tree.map(jnp.negative, jax.grad(problem.of_all)(y))),
        diffrax.Dopri8(), 0.0, TIME, 0.01, start,
        stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-13),
    )  # fmt: skip
    assert solution.ys is not None
    end = jax.tree.map(lambda y: y[-1], solution.ys)
    counts = [COARSEST * 2**k for k in range(HALVINGS + 1)]
    sizes = [TIME / (problem.batches * count) for count in counts]
    found: list[Record] = []
    for name, (order, solver, expected) in SPLITTINGS.items():
        errors = []
        for count, h in zip(counts, sizes, strict=True):
            epochs = order(problem.batches)
            numbers = np.concatenate([epochs(e) for e in range(count)])
            errors.append(float(_distance(problem, solver(h), numbers, end)))
        observed = float(np.log2(errors[-2] / errors[-1]))
        about = {"kind": "order", "splitting": name, "order": expected, "observed": observed}
        found.append({**about, "step_sizes": sizes, "errors": errors})
    return found


def _distance(
    problem: Convex,
    opt: optax.GradientTransformationExtraArgs,
    numbers: np.ndarray,
    end: PyTree[Array],
) -> Float[Array, ""]:
    def step(carry: tuple, i: Array) -> tuple:
        params, state = carry
        grads = jax.grad(problem.of_batch)(params, i)
        updates, state = opt.update(grads, state, params, value_fn=problem.of_batch, i=i)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def last(numbers: Int[Array, " steps"]) -> PyTree[Array]:
        start = jax.tree.map(jnp.asarray, problem.params)
        return jax.lax.scan(step, (start, opt.init(start)), numbers)[0][0]

    ends = last(jnp.asarray(numbers))
    return jnp.asarray(optax.tree.norm(jax.tree.map(jnp.subtract, ends, end)))


@functools.cache
def network() -> Problem:
    """The digits network, some examples held out, with the share of these that it gets wrong."""

    def wrong(params: Params, validation: tuple[Array, Array]) -> Array:
        return jnp.mean(
            logits_of(params, validation).argmax(axis=1) != validation[1].argmax(axis=1)
        )

    problem = held_out(build(["digits-ce"])[0])
    return dataclasses.replace(problem, name="network", metric=wrong, batch_size=BATCH)


def train(
    problem: Problem, optimizer: str, order: str, epochs: int = EPOCHS, seeds: int = SEEDS
) -> list[Record]:
    """A problem by one optimizer in one order: a record a seed; seeds share starts and batches."""
    opt, size = OPTIMIZERS[optimizer](), problem.batch_size
    assert size is not None
    count = problem.examples // size
    rows = jax.tree.map(
        lambda array: np.reshape(array[: count * size], (count, size, *array.shape[1:])),
        problem.data,
    )

    def one(params: PyTree[Array], numbers: Int[Array, "epochs batches"]) -> tuple[Array, Array]:
        def step(carry: tuple, i: Array) -> tuple:
            params, state = carry
            batch = jax.tree.map(lambda array: jnp.asarray(array)[i], rows)
            noise = jax.random.fold_in(jax.random.key(0), state.steps)
            key = {"key": noise} if problem.takes_key else {}
            grads = jax.grad(problem.objective)(params, batch, **key)
            updates, state = opt.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def epoch(carry: tuple, numbers: Array) -> tuple:
            carry, _ = jax.lax.scan(step, carry, numbers)
            return carry, problem.full_loss(carry[0], problem.data)

        end: Any = jax.lax.scan(epoch, (params, opt.init(params)), numbers)
        (last, _), losses = end
        if not jax.tree.leaves(problem.validation):
            return losses, jnp.array(jnp.nan)
        return losses, problem.held_out(last, problem.validation)

    starts = [problem.start(seed) for seed in range(seeds)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    numbers = [[ORDERS[order](count, s)(e) for e in range(epochs)] for s in range(seeds)]
    losses, held = jax.jit(jax.vmap(one))(stacked, jnp.asarray(numbers))
    about = {"kind": "network", "problem": problem.name, "optimizer": optimizer, "order": order}
    return [
        {
            **about,
            "seed": seed,
            "losses": losses[seed],
            "loss": float(losses[seed, -1]),
            "held_out": float(held[seed]),
            "gradients": epochs * count,
        }
        for seed in range(seeds)
    ]


def compare(results: Results) -> pd.DataFrame:
    """One row a problem and optimizer: palindromic over reshuffled, paired by seed.

    Columns: median `loss` of each order, their `ratio` (geometric mean of the seeds, its 90 %
    interval `low` to `high`, `lowest` and `highest` seed), in how many `seeds` the palindromic one
    is `lower`, and means of the metric on held-out data.
    """
    runs, rows = results.of("network"), list[dict[str, Any]]()
    for (problem, optimizer), mine in (
        runs.groupby(["problem", "optimizer"], sort=False) if len(runs) else ()
    ):
        loss = mine.pivot(index="seed", columns="order", values="loss").astype(float)
        held = mine.assign(held_out=mine.held_out.astype(float)).groupby("order").held_out.mean()
        if set(loss) != set(ORDERS):
            continue
        ratio = loss.palindromic / loss.reshuffled
        interval = statistics.equivalent(loss.palindromic, loss.reshuffled, 2, paired=True)
        rows.append(
            {
                "problem": problem,
                "optimizer": optimizer,
                "reshuffled": loss.reshuffled.median(),
                "palindromic": loss.palindromic.median(),
                "ratio": float(np.exp(np.log(ratio).mean(skipna=False))),
                "low": interval.low,
                "high": interval.high,
                "interval": f"{interval.low:.2f} to {interval.high:.2f}",
                "lowest": ratio.min(),
                "highest": ratio.max(),
                "lower": int((ratio < 1).sum()),
                "seeds": len(ratio),
                "lower of seeds": f"{int((ratio < 1).sum())} of {len(ratio)}",
                "held_out_reshuffled": held.reshuffled,
                "held_out_palindromic": held.palindromic,
            }
        )
    return pd.DataFrame(rows)


def _as_expected(results: Results) -> list[Check]:
    return [
        Check(r.splitting, r.observed, f"{r.order}", bool(abs(r.observed - r.order) < MARGIN))
        for r in results.of("order").itertuples()
    ]


def _gains(results: Results) -> list[Check]:
    return [
        Check(
            f"{r.problem}, {r.optimizer}",
            r.ratio,
            "below 1",
            True if r.high < 1 else False if r.low >= 1 else None,
        )
        for r in results.table("networks").itertuples()
    ]


CLAIMS = (
    Claim(
        "splitting",
        "Palindromic epochs are Strang's splitting: order 2, if the step on each batch has it.",
        f"observed order within {MARGIN} of the expected one",
        _as_expected,
    ),
    Claim(
        "gains",
        "Palindromic order ends at a lower training loss than reshuffling.",
        "90 % interval of the ratio of last losses, paired by seed, below 1",
        _gains,
    ),
)


def _draw_orders(results: Results) -> Plot | None:
    records = [r for r in results.records if r["kind"] == "order"]
    plot = Plot([r["splitting"] for r in records], width=6.5)
    for r in records:
        axes = plot.panel("linear regression", "h", "error at the end")
        axes.loglog(r["step_sizes"], r["errors"], **plot.style(r["splitting"]))
        plain_log(axes, r["step_sizes"])
    return plot if records else None


def _draw_networks(results: Results) -> Plot | None:
    runs = results.of("network")
    plot = Plot(list(ORDERS))
    for (problem, optimizer, order), mine in (
        runs.groupby(["problem", "optimizer", "order"], sort=False) if len(runs) else ()
    ):
        losses = np.array(list(mine.losses), float)
        epoch = 1 + np.arange(losses.shape[1])
        axes = plot.panel(f"{problem}, {optimizer}", "epoch", "loss")
        axes.semilogy(epoch, np.exp(np.log(losses).mean(axis=0)), **plot.style(order, markevery=5))
        plot.band(axes, order, epoch, losses.min(axis=0), losses.max(axis=0))
    return plot if len(runs) else None


SPLITTING = Figure(
    "orders",
    _draw_orders,
    "Distance to the flow of the mean loss at a fixed time against h. Palindromic epochs are "
    "Strang's splitting: of order 2, if the step on each batch is.",
    lambda results: (
        "Observed orders: "
        + ", ".join(f"{r.splitting} {r.observed:.2f}" for r in results.of("order").itertuples())
        + "."
    ),
)
NETWORKS = Figure(
    "networks",
    _draw_networks,
    "Loss of all training data after each epoch: geometric mean and range of the seeds.",
    lambda results: (
        "Last loss of palindromic over reshuffled order: "
        + ", ".join(
            f"{r.optimizer} {r.ratio:.2f} ({r.interval})"
            for r in results.table("networks").itertuples()
        )
        + "."
    ),
)
