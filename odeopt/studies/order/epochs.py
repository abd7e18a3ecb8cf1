"""Palindromic epochs: their order as a splitting method, and whether networks gain by them."""

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

from ... import adam, euler, heavy_ball, heun, ordering
from ..drift_trends import held_out
from ..engine.problem import Problem
from ..problems import build, logits_of
from ..records import Record
from .rest import Convex

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
    """The digits network, some examples held out."""
    return held_out(build(["digits-ce"])[0])


def train(optimizer: str, order: str, epochs: int = EPOCHS, seeds: int = SEEDS) -> list[Record]:
    """Digits by one optimizer in one order: a record a seed; seeds share starts and batches."""
    problem, opt = network(), OPTIMIZERS[optimizer]()
    count = len(problem.data[0]) // BATCH
    rows = [rows[: count * BATCH].reshape(count, BATCH, -1) for rows in problem.data]
    pixels, labels = problem.validation[0], problem.validation[1].argmax(axis=1)

    def one(params: PyTree[Array], numbers: Int[Array, "epochs batches"]) -> tuple[Array, Array]:
        def step(carry: tuple, i: Array) -> tuple:
            params, state = carry
            batch = tuple(jnp.asarray(array)[i] for array in rows)
            updates, state = opt.update(jax.grad(problem.loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        def epoch(carry: tuple, numbers: Array) -> tuple:
            carry, _ = jax.lax.scan(step, carry, numbers)
            return carry, problem.loss(carry[0], problem.data)

        start = params, opt.init(params)
        end: Any = jax.lax.scan(epoch, start, numbers)
        (last, _), losses = end
        wrong = logits_of(last, (pixels,)).argmax(axis=1) != labels
        return losses, jnp.mean(wrong)

    starts = [problem.init(seed) for seed in range(seeds)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    numbers = [[ORDERS[order](count, s)(e) for e in range(epochs)] for s in range(seeds)]
    losses, wrong = jax.jit(jax.vmap(one))(stacked, jnp.asarray(numbers))
    about = {"kind": "network", "optimizer": optimizer, "order": order}
    return [
        {
            **about,
            "seed": seed,
            "losses": losses[seed],
            "loss": float(losses[seed, -1]),
            "test error": float(wrong[seed]),
            "gradients": epochs * count,
        }
        for seed in range(seeds)
    ]


def compare(records: list[Record]) -> pd.DataFrame:
    """One row an optimizer: palindromic over reshuffled, paired by seed.

    Columns: median `loss` of each order, their `ratio` (geometric mean of the seeds, `lowest`,
    `highest`), in how many `seeds` the palindromic one is `lower`, mean test errors in percent.
    """
    if not records:
        return pd.DataFrame()
    runs = pd.DataFrame(records)
    rows = []
    for optimizer in dict.fromkeys(runs["optimizer"]):
        mine = runs[runs["optimizer"] == optimizer]
        loss = mine.pivot(index="seed", columns="order", values="loss")
        ratio = loss["palindromic"] / loss["reshuffled"]
        error = 100 * mine.groupby("order")["test error"].mean()
        rows.append(
            {
                "optimizer": optimizer,
                "reshuffled": loss["reshuffled"].median(),
                "palindromic": loss["palindromic"].median(),
                "ratio": float(np.exp(np.log(ratio).mean())),
                "lowest": ratio.min(),
                "highest": ratio.max(),
                "lower": int((ratio < 1).sum()),
                "seeds": len(ratio),
                "test error, reshuffled, %": error["reshuffled"],
                "test error, palindromic, %": error["palindromic"],
            }
        )
    return pd.DataFrame(rows)
