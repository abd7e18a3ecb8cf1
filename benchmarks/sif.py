"""Small problems of CUTEst, in full batches: untuned optimizers against L-BFGS and tuned rivals.

`python -m benchmarks.sif FOLDER` runs every unconstrained problem of sif2jax with at most 100
unknowns, in float64, and writes `runs.csv` and `summary.csv` there. A problem that is in `runs.csv`
already is not run again. `--problems ROSENBR,BEALE` takes some of them. Needs
`odeopt-jax[studies,sif]`. `docs/benchmark.md` has what it found.

A run has 10,000 gradients or 5 seconds, without compilation, whichever ends first; the runs of a
tuned rival are made at once and have the seconds of all. A run has *solved* a problem to a level
when its loss is above the lowest known one by at most that share of the initial difference. The
lowest known one is the lowest of all runs, or the published one if that is lower. An optimizer is
*near* where it takes at most 4 times the gradients of the rival that takes the fewest.

Rivals: L-BFGS; Adam at a constant rate and with linear decay, on each problem and for each level at
the best of 13 rates; hypergradient descent, likewise at the best of 42 pairs of rates. The
gradients of these tunings are not counted.
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Float, Int

import odeopt
from odeopt.studies.engine.optimizers import Entry, entry, find
from odeopt.studies.engine.rivals import scheduled
from odeopt.studies.engine.steps import step_function
from odeopt.studies.stiff_runs import ENTRIES

GRADIENTS, SECONDS, CHUNK, MOST_UNKNOWNS = 10_000, 5.0, 250, 100
LEVELS = (1e-3, 1e-6)
NEAR = 4.0
RATES = 10.0 ** (np.arange(-8, 5) / 2)
"""Of Adam."""
PAIRS = np.array([(size, m) for size in 10.0 ** (np.arange(-16, 5) / 2) for m in (1.0, 10.0)])
"""AdaGrad's rates in hypergradient descent: of the step sizes and of the momentum."""
FIRST = {
    "log_time_adam": 1e-3,
    "linearly_implicit_euler": 1.0,
    "rosenbrock2": 1.0,
    "implicit_euler": 1.0,
}
"""First steps, at their defaults."""


class Problem(NamedTuple):
    """A loss of one vector, where its runs start, and the lowest published loss, if any."""

    name: str
    loss: Callable[[Array], Array]
    start: Array
    lowest: float = np.inf


class Hypergradient(NamedTuple):
    """Loss and gradient at the parameters, what was learned, and the last move."""

    value: Array
    grad: Array
    sizes: Array
    sizes_seen: Array
    momentum: Array
    momentum_seen: Array
    moved: Array


def hypergradient(sizes_rate: Any, momentum_rate: Any) -> optax.GradientTransformationExtraArgs:
    r"""Hypergradient descent with heavy-ball momentum, after arXiv:2502.11229.

    $x' = x - p \odot g + \beta d$ with $d$ the last move is taken if its loss is lower. A step size
    for each entry and the momentum descend along their gradients,
    $-g' \odot g/|g|^2$ and $\langle g', d\rangle/|g|^2$, by AdaGrad, from $p = 0$, $\beta = 0.95$.
    1 gradient a step, at the trial point. The heuristics by which the authors choose AdaGrad's
    rates are left out: here they are tuned.
    """

    def init(params: Array) -> Hypergradient:
        zeros, zero = jnp.zeros_like(params), jnp.zeros((), params.dtype)
        return Hypergradient(zero + jnp.inf, zeros, zeros, zeros, zero + 0.95, zero, zeros)

    def update(
        grads: Array, state: Hypergradient, params: Array, *, value: Array, value_fn: Any, **_: Any
    ) -> tuple[Array, Hypergradient]:
        trial = params - state.sizes * grads + state.momentum * state.moved
        there, slope = jax.value_and_grad(value_fn)(trial, None)
        length = jnp.vdot(grads, grads) + 1e-12
        down = slope * grads / length
        seen = state.sizes_seen + down**2
        along = -jnp.vdot(slope, state.moved) / length
        along_seen = state.momentum_seen + along**2
        momentum = state.momentum + momentum_rate * along / (jnp.sqrt(along_seen) + 1e-12)
        taken = there < value
        moved = jnp.where(taken, trial - params, 0.0)
        return moved, Hypergradient(
            jnp.where(taken, there, value),
            jnp.where(taken, slope, grads),
            state.sizes + sizes_rate * down / (jnp.sqrt(seen) + 1e-12),
            seen,
            jnp.clip(momentum, 0.0, 0.9995),
            along_seen,
            moved,
        )

    return optax.GradientTransformationExtraArgs(init, update)


class Contestant(NamedTuple):
    """An optimizer and the rates, or tuples of rates, at which it runs; by default it has none."""

    entry: Entry
    rates: Float[np.ndarray, "rates ..."] = np.full(1, np.nan)
    rival: bool = False


def contestants(gradients: int) -> list[Contestant]:
    """The rivals, then odeopt's optimizers that need no rate."""
    by_hypergradient = Entry(
        "hypergradient descent", lambda rate: hypergradient(*rate), line_search=True
    )
    adams = [scheduled(f"adam+{schedule}", gradients) for schedule in ("constant", "linear")]
    return [
        Contestant(ENTRIES["lbfgs"](), rival=True),
        *(Contestant(adam, RATES, rival=True) for adam in adams),
        Contestant(by_hypergradient, PAIRS, rival=True),
        Contestant(entry("untuned", lambda _: odeopt.untuned(gradients))),
        *(Contestant(find(name), np.array([first])) for name, first in FIRST.items()),
    ]


class Walk(NamedTuple):
    """Gradients so far and loss after each step, one row a rate, and the seconds of all."""

    gradients: Int[np.ndarray, "rates steps"]
    losses: Float[np.ndarray, "rates steps"]
    seconds: float


def walk(problem: Problem, contestant: Contestant, gradients: int, seconds: float) -> Walk:
    """Run an optimizer at all its rates at once, up to so many gradients or seconds each."""
    one, rates = contestant.entry, jnp.asarray(contestant.rates)
    loss = lambda params, batch: problem.loss(params)  # noqa: E731

    def chunk(rate: Array, carry: Any) -> Any:
        step = step_function(loss, one.make(rate), line_search=one.line_search)

        def body(carry: Any, _: Any) -> Any:
            params, state = carry
            params, new, _ = step(params, state, None)
            cost = one.cost(state, new) if one.counted else one.gradients_per_step
            return (params, new), (jnp.asarray(cost), loss(one.read(new, params), None))

        return jax.lax.scan(body, carry, length=CHUNK)

    def begin(rate: Array) -> Any:
        return problem.start, one.make(rate).init(problem.start)

    if len(rates) == 1:  # a batch of one would evaluate both branches of every condition
        begin, chunk = functools.partial(begin, rates[0]), functools.partial(chunk, rates[0])
    else:
        begin = functools.partial(jax.vmap(begin), rates)
        chunk = functools.partial(jax.vmap(chunk), rates)
    carry = jax.jit(begin)()
    run = jax.jit(chunk).lower(carry).compile()
    found: list[tuple[np.ndarray, np.ndarray]] = []
    since, used = time.perf_counter(), 0
    while not found or (used < gradients and time.perf_counter() - since < seconds * len(rates)):
        carry, out = run(carry)
        costs, losses = (np.atleast_2d(np.asarray(x)) for x in out)
        found.append((costs, losses))
        used += int(costs.sum(axis=1).min())
    elapsed = time.perf_counter() - since
    costs, losses = (np.concatenate(x, axis=1) for x in zip(*found, strict=True))
    return Walk(costs.cumsum(axis=1), np.where(np.isfinite(losses), losses, np.inf), elapsed)


def race(
    problem: Problem,
    taking_part: Iterable[Contestant],
    gradients: int = GRADIENTS,
    seconds: float = SECONDS,
) -> list[dict[str, Any]]:
    """A row for each optimizer: the fewest gradients to each level over its rates."""
    walks = [(one, walk(problem, one, gradients, seconds)) for one in taking_part]
    first = float(problem.loss(problem.start))
    lowest = min(problem.lowest, first, *(walked.losses.min() for _, walked in walks))
    rows = []
    for one, walked in walks:
        row: dict[str, Any] = {
            "problem": problem.name,
            "unknowns": problem.start.size,
            "optimizer": one.entry.name,
            "rival": one.rival,
        }
        for level in LEVELS:
            there = walked.losses <= lowest + level * (first - lowest)
            there &= walked.gradients <= gradients
            row[f"to {level:g}"] = np.where(there, walked.gradients, np.inf).min()
        rows.append(row | {"loss": walked.losses.min(), "seconds": walked.seconds})
    return [row | {"initial": first, "lowest": lowest} for row in rows]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """For each optimizer and level: problems solved, and those on which it is near."""
    rows = []
    for level in LEVELS:
        to = runs.pivot(index="problem", columns="optimizer", values=f"to {level:g}")
        to = to[np.isfinite(to).any(axis=1)]
        best = to[runs[runs.rival].optimizer.unique()].min(axis=1)
        for name in runs.optimizer.unique():
            solved = np.isfinite(to[name])
            near = solved & (to[name] <= NEAR * best)
            fewest = solved & (to[name] <= to.min(axis=1))
            rows.append(
                {
                    "level": level,
                    "optimizer": name,
                    "solved": solved.sum(),
                    "near": near.sum(),
                    "fewest": fewest.sum(),
                    "problems": len(to),
                    "near_share": near.mean(),
                }
            )
    return pd.DataFrame(rows)


def problems(names: Iterable[str]) -> Iterator[Problem]:
    """Those of sif2jax with these names, or all."""
    # Its import builds all problems, which takes most of a minute.
    import sif2jax  # noqa: PLC0415

    asked = set(names)
    for one in sif2jax.unconstrained_minimisation_problems:
        start = jnp.asarray(one.y0)
        if start.size > MOST_UNKNOWNS or (asked and one.name not in asked):
            continue
        known = one.expected_objective_value
        loss = functools.partial(lambda one, params: one.objective(params, one.args), one)
        yield Problem(one.name, loss, start, np.inf if known is None else float(known))


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.sif", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--problems", default="", help="names, separated by commas")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    path = asked.folder / "runs.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    done = {row["problem"] for row in rows}
    with jax.enable_x64(True):
        taking_part = contestants(GRADIENTS)
        for problem in problems(filter(None, asked.problems.split(","))):
            if problem.name in done:
                continue
            rows += race(problem, taking_part)
            pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6g")
            print(problem.name, flush=True)
    found = summary(pd.read_csv(path))
    found.to_csv(asked.folder / "summary.csv", index=False, float_format="%.4g")
    print(found.to_string(index=False))


if __name__ == "__main__":
    main()
