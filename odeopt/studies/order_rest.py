"""Do the iterates come to rest, what does it cost, and is the loss lower for it?

Convex problems with weight decay, in float64; every seed draws the same batches for all methods.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, Bool, Float, Int, PyTree
from scipy.stats import wilcoxon

from .. import euler, ordering
from . import data
from .engine import Check, Claim, Figure, Results, compared, each, groups, statistics
from .engine.drawing import Plot
from .engine.problem import Problem
from .engine.store import Record
from .experiments import walk

SIZE = 16
"""Examples of a batch."""
RATE, DECAY = 0.1, 1.0
STEPS = 300
FLOOR = 1e-12
"""Distances below it are rounding."""
LAST = 64
"""Distances are averaged over so many last steps: whole windows."""
KEPT = 300
"""Points of a curve."""
CHANCE = 0.01
"""Two samples with a p-value below it count as different."""
CONTRACTION = 1 - RATE * DECAY
"""What a step multiplies distances by in directions in which the data's loss is flat."""


@dataclasses.dataclass(frozen=True, eq=False)
class Batched(Problem):
    """A problem whose mini-batches are the same in every epoch.

    Attributes:
        order: `order(batches, seed)`, the numbers of the batches in each epoch.
    """

    order: Callable[[int, int], ordering.BatchOrder] = ordering.reshuffled

    @functools.cached_property
    def rows(self) -> Int[np.ndarray, "batches size"]:
        """The examples of each batch."""
        size = self.batch_size or self.examples
        return np.arange(self.examples // size * size, dtype=np.int32).reshape(-1, size)

    def batches(self, seed: int, steps: int) -> Int[np.ndarray, "steps size"]:
        """The examples of each step."""
        return self.rows[by_epochs(self.order)(len(self.rows), steps, seed)]

    def of_batch(self, params: PyTree[Array], batch: Int[Array, ""]) -> Float[Array, ""]:
        """The loss of the batch of that number."""
        rows = jnp.asarray(self.rows)[batch]
        return self.objective(params, jax.tree.map(lambda x: jnp.asarray(x)[rows], self.data))

    def of_all(self, params: PyTree[Array]) -> Float[Array, ""]:
        """The loss of all data."""
        return self.full_loss(params, self.data)

    @functools.cached_property
    def least(self) -> float:
        """The lowest loss, by gradient descent, which halves its excess at least every 7 steps."""
        return float(self.of_all(walk(euler(RATE), self.of_all, self.start(0), 500)))


def _convex(title: str, loss: Callable[..., Array], start: PyTree[Array], *arrays: Any) -> Batched:
    """A convex problem with weight decay, of whole batches in a random order."""
    rows = np.random.default_rng(0).permutation(len(arrays[0]))[: len(arrays[0]) // SIZE * SIZE]
    title = f"{title}, batch {SIZE}, weight decay {DECAY:g}"
    init, batches = lambda seed: jax.tree.map(jnp.asarray, start), tuple(x[rows] for x in arrays)
    sizes: dict[str, Any] = {"batch_size": SIZE, "weight_decay": DECAY, "x64": True}
    return Batched(loss, init, batches, title=title, **sizes)


def regression() -> Batched:
    """Least squares on the diabetes data."""

    def loss(params: Array, batch: tuple[Array, Array]) -> Array:
        return 0.5 * jnp.mean((batch[0] @ params - batch[1]) ** 2)

    title = "linear regression, diabetes, 10 features"
    return _convex(title, loss, np.zeros(10), *data.standardized("diabetes"))


def softmax() -> Batched:
    """Softmax regression on digits."""

    def loss(params: PyTree[Array], batch: tuple[Array, Array]) -> Array:
        logits = batch[0] @ params["w"] + params["b"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    start = {"w": np.zeros((64, 10)), "b": np.zeros(10)}
    return _convex("softmax regression, digits", loss, start, *data.load("digits"))


PROBLEMS = {"regression": regression, "softmax": softmax}


def drawn(batches: int, steps: int, seed: int) -> np.ndarray:
    """Independent batch numbers."""
    return np.random.default_rng(seed).integers(batches, size=steps).astype(np.int32)


def by_epochs(order: Callable[..., ordering.BatchOrder]) -> Callable[[int, int, int], np.ndarray]:
    """Batch numbers of an order of epochs."""

    def numbers(batches: int, steps: int, seed: int) -> np.ndarray:
        epochs = order(batches, seed)
        return np.concatenate([epochs(e) for e in range(-(-steps // batches))])[:steps]

    return numbers


@dataclasses.dataclass(frozen=True)
class Method:
    """How batches act.

    Attributes:
        order: `(batches, steps, seed) -> numbers`.
        backward: Arguments of `ordering.backward`, `None` for forward order.
        averaged: Whether an average of the iterates takes their place: `optax.ema` over about the
            last fifth of the run.
        times: So many times the steps of the others.
    """

    order: Callable[[int, int, int], np.ndarray] = drawn
    backward: dict[str, Any] | None = None
    averaged: bool = False
    times: float = 1.0


METHODS = {
    "forward": Method(),
    "forward, one order": Method(by_epochs(lambda batches, _: ordering.forward(batches))),
    "reshuffled": Method(by_epochs(ordering.reshuffled)),
    "palindromic": Method(by_epochs(ordering.palindromic)),
    "backward, window 8": Method(backward={"window": 8}),
    "bracket, window 2": Method(backward={"window": 2, "method": "bracket"}),
    "bracket, window 8": Method(backward={"window": 8, "method": "bracket"}),
    "linearized, window 8": Method(backward={"window": 8, "method": "linearized"}),
    "backward, window 64": Method(backward={"window": 64}),
    "backward, full": Method(backward={}),
    "averaged": Method(averaged=True),
    "averaged, equal gradients": Method(averaged=True, times=(STEPS + 1) / 2),
}
"""`forward` and all below `palindromic` draw their batches independently."""


def run(
    problem: Batched, name: str, seeds: int, steps: int = STEPS, first: int = 0
) -> list[Record]:
    """Seeds from `first` on of one method: means of curves, a number of each kind for a seed."""
    method = METHODS[name]
    steps = round(method.times * steps)
    opt = euler(RATE)
    if method.backward is not None:
        about: dict[str, Any] = {"example": {"batch": 0}, **method.backward}
        opt = ordering.backward(opt, **about if "window" in about else {**about, "steps": steps})
    ema = optax.ema(1 - 5 / steps) if method.averaged else optax.identity()
    kept = np.unique(np.geomspace(1, steps, KEPT).round().astype(int)) - 1
    start = problem.start(0)

    def one(numbers: Int[Array, " steps"], wanted: Bool[Array, " steps"]) -> tuple[Array, ...]:
        def step(carry: tuple, x: tuple[Array, Array]) -> tuple:
            params, state, mean, seen, tail = carry
            i, wanted = x
            # None: where no gradient is needed here, none is counted.
            grads = jax.grad(problem.of_batch)(params, i) if method.backward is None else None
            updates, state = opt.update(grads, state, params, value_fn=problem.of_batch, batch=i)
            params = optax.apply_updates(params, updates)
            now, mean = ema.update(params, mean)
            distance = optax.tree.norm(optax.tree.sub(now, seen))
            tail = tail.add(now, state.steps > steps - steps // 3)
            loss = jax.lax.cond(wanted, lambda: problem.of_all(now), lambda: jnp.zeros([]))
            return (params, state, mean, now, tail), (distance, loss, state.gradients)

        carry: tuple = (start, opt.init(start), ema.init(start), start, Tail.of(start))
        end: Any = jax.lax.scan(step, carry, (numbers, wanted))
        (*_, tail), found = end
        return (*found, tail.spread)

    numbers = np.stack(
        [method.order(len(problem.rows), steps, first + seed) for seed in range(seeds)]
    )
    wanted = jnp.asarray(np.isin(np.arange(steps), kept))
    runs = jax.jit(jax.vmap(one, (0, None)))(jnp.asarray(numbers), wanted)
    distances, losses, gradients, spread = (np.asarray(x) for x in runs)
    excess = losses[:, kept] - problem.least
    geometric = np.exp(np.log(np.maximum(distances, 1e-300)).mean(axis=0))
    return [
        {
            "kind": "rest",
            "method": name,
            "steps": kept + 1,
            "gradients": gradients[0, kept],
            "distances": geometric[kept],
            "excess": excess.mean(axis=0),
            "rate": decay_rate(geometric),
            "used": gradients[0, -1],
            "least distance": distances.min(axis=1),
            "last distance": distances[:, -1],
            "mean distance": distances[:, -LAST:].mean(axis=1),
            "spread": spread,
            "last excess": excess[:, -1],
        }
    ]


class Tail(NamedTuple):
    """Welford's running variance, which keeps its digits where points come to rest.

    The number of points, their mean, and the sum of their squared distances from it.
    """

    number: Int[Array, ""]
    mean: PyTree[Array]
    square: Float[Array, ""]

    @classmethod
    def of(cls, like: PyTree[Array]) -> "Tail":
        """No points yet."""
        return cls(jnp.int32(0), optax.tree.zeros_like(like), jnp.zeros([]))

    def add(self, point: PyTree[Array], wanted: Bool[Array, ""]) -> "Tail":
        """With one more point, if it is wanted."""
        number = self.number + wanted
        before = optax.tree.sub(point, self.mean)
        mean = optax.tree.add_scale(self.mean, wanted / jnp.maximum(number, 1), before)
        added = optax.tree.vdot(before, optax.tree.sub(point, mean))
        return Tail(number, mean, self.square + jnp.where(wanted, added, 0))

    @property
    def spread(self) -> Float[Array, ""]:
        """Root mean square distance from the mean."""
        return jnp.sqrt(self.square / self.number)


def decay_rate(distances: np.ndarray) -> float:
    """The factor by which distances shrink a step, by least squares; NaN where they do not."""
    steps = np.arange(len(distances))[distances > FLOOR]
    if len(steps) == len(distances) or len(steps) < 3:
        return float("nan")
    return float(np.exp(np.polyfit(steps, np.log(distances[steps]), 1)[0]))


def summarize(results: Results) -> pd.DataFrame:
    """One row a problem and method; `least_distance` is the least of any step and seed.

    `p` is that of Wilcoxon's signed-rank test: runs of a seed draw the same batches.
    """
    records = results.kind("rest")
    forward = {r["problem"]: r["last excess"] for r in records if r["method"] == "forward"}
    rows = []
    for r in records:
        excess, other, p = np.array(r["last excess"], float), forward.get(r["problem"]), np.nan
        if METHODS[r["method"]].backward is not None and other is not None:
            p = 1.0 if np.array_equal(excess, other) else float(wilcoxon(excess, other).pvalue)
        rows.append(
            {
                "problem": r["problem"],
                "method": r["method"],
                "gradients": r["used"],
                "distance": np.mean(np.array(r["mean distance"], float)),
                "last_distance": np.mean(np.array(r["last distance"], float)),
                "least_distance": np.min(np.array(r["least distance"], float)),
                "rate": np.nan if r["rate"] is None else r["rate"],
                "spread": np.mean(np.array(r["spread"], float)),
                "excess": excess.mean(),
                "error": excess.std(ddof=1) / np.sqrt(len(excess)),
                "p": p,
            }
        )
    return pd.DataFrame(rows)


def _method(results: Results, name: str) -> pd.DataFrame:
    """The rows of the methods whose names begin like that."""
    rest = results.table("rest")
    return rest[rest.method.str.startswith(name)] if len(rest) else rest


def alike(results: Results) -> pd.DataFrame:
    """The tests of backward order against forward order, corrected, and whether each could fail."""
    rows = _method(results, "backward")
    rows = rows.assign(p=statistics.holm(rows.get("p", ()))).dropna(subset="p")
    return rows.assign(decides=len(rows) * 2.0 ** (1 - results.settings.seeds) < CHANCE)


def _averages(results: Results) -> list[Check]:
    found = list[Check]()
    for problem, mine in groups(results.table("rest"), "problem"):
        rows = mine.set_index("method")
        if {"averaged", "backward, full"} <= set(rows.index):
            average, full = rows.loc["averaged"], rows.loc["backward, full"]
            gap, error = full.excess - average.excess, np.hypot(full.error, average.error)
            holds = bool(gap > 0) if abs(gap) > 2 * error else None
            found.append(Check(str(problem), average.excess, f"below {full.excess:.3g}", holds))
    return found


CLAIMS = (
    Claim(
        "rest",
        "If every step contracts, the iterates of backward order converge at the rate of the "
        "contraction.",
        f"distances of full backward order shrink to {FLOOR:g} by a factor of at most 1 - h · "
        f"weight decay = {CONTRACTION:g} a step",
        compared(
            lambda r: _method(r, "backward, full"),
            "{problem}",
            "rate",
            f"at most {CONTRACTION:g}",
            lambda r: r["rate"] <= CONTRACTION,
        ),
    ),
    Claim(
        "alike",
        "Neither backward nor forward order has lower losses than the other.",
        f"p of the signed-rank test of the final losses, corrected by Holm, at least {CHANCE:g}; "
        "open where there are too few seeds for a lower one; replayed windows and full order",
        compared(
            alike,
            "{problem}, {method}",
            "p",
            f"at least {CHANCE:g}",
            lambda r: bool(r["p"] >= CHANCE) if r["decides"] else None,
        ),
    ),
    Claim(
        "average",
        "An average of forward iterates has a lower loss than full backward order.",
        "mean loss lower by more than two standard errors",
        _averages,
    ),
)


def _curves(results: Results, x: str, y: str, label: str) -> Plot:
    plot, top = Plot(height=3.6), dict[str, float]()
    log, lowest = ("y", 1e-17) if y == "distances" else ("xy", 1e-6)
    for r in results.kind("rest"):
        if y == "distances" and r["method"] == "averaged, equal gradients":  # it has other steps
            continue
        values, problem = np.array(r[y], float), r["problem"]
        axes = plot.line(problem, r["method"], r[x], values, (x, label), log=log)
        top[problem] = max(values[0], top.get(problem, 0))
        axes.set_ylim(lowest, 10 * top[problem])
    return plot


EXCESS = Figure(
    "excess",
    lambda results: _curves(results, "gradients", "excess", "loss above the minimum"),
    "Loss on all data minus the minimum, mean of the seeds, against all gradients. Curves that "
    "leave the frame have diverged.",
    each("Loss above the least", "rest", "{problem}, {method} {excess:.2g} ± {error:.1g}"),
)
DISTANCES = Figure(
    "distances",
    lambda results: _curves(results, "steps", "distances", "distance between iterates"),
    "Distance between successive iterates, geometric mean of the seeds. Backward order converges "
    "at the rate of the contraction. A window starts again at every checkpoint. An average moves "
    "less and less.",
    each(
        "Factor by which distances shrink a step, if they do",
        lambda results: results.table("rest").dropna(subset="rate"),
        "{problem}, {method} {rate:.3f}",
    ),
)
