"""Pallas kernels against what XLA makes of the same formula, on the GPU or TPU that there is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import odeopt
from odeopt import kernels
from odeopt.kernels import choice

from .models import update_step
from .timing import Loop, Row, paired, ratio

LEAVES = (1, 60, 300)
ROWS, COLUMNS = 31_500, 320  # 10M parameters, their rows divided among the leaves
AIM = "0.95"  # from here on a kernel is worth an entry in `odeopt.kernels.MEASURED`
RATE = 1e-3
RK4 = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
Carry = tuple[Any, ...]
Side = tuple[Callable[..., Any], Carry, tuple[Any, ...]]  # step, carry, rest


def timings(
    rounds: int,
    kernel: str = "pallas",
    dtypes: Sequence[Any] = (jnp.float32, jnp.bfloat16),
    leaves: Sequence[int] = LEAVES,
    rows: int = ROWS,
) -> Iterator[Row]:
    """Each kernel over its reference, update and apply."""
    for dtype in dtypes:
        for count in leaves:
            tree = {str(i): jnp.ones((rows // count, COLUMNS), dtype) for i in range(count)}
            for name, side in SIDES.items():
                if name == "rounding" and dtype != jnp.bfloat16:
                    continue
                ours, theirs = (_loop(*side(tree, form)) for form in (kernel, "jnp"))
                where = f"{rows * COLUMNS:.2g} parameters, {count} leaves, {dtype.__name__}"
                yield ratio(
                    "kernels", f"{name}, {kernel} / jnp, {where}", paired(ours, theirs, rounds), AIM
                )


def _loop(step: Callable[..., Any], carry: Carry, rest: tuple[Any, ...]) -> Loop:
    return Loop(step, carry, *rest)


def _optimizer(factory: Callable[..., Any], **kwargs: Any) -> Callable[[Any, str], Side]:
    def side(tree: Any, kernel: Any) -> Side:
        optimizer = kernels.using(kernel, factory(RATE, **kwargs))
        return update_step(optimizer), (tree, optimizer.init(tree)), (_half(tree), None)

    return side


def _combination(tree: Any, kernel: str) -> Side:
    def step(carry: Carry, *slopes: Any) -> Carry:
        with choice.chosen(kernel):
            update = kernels.combination([RATE * w for w in RK4], slopes)
        return (jax.tree.map(jnp.add, carry[0], update),)

    return step, (tree,), (_half(tree),) * 4


def _rounding(tree: Any, kernel: str) -> Side:
    def step(carry: Carry, updates: Any) -> Carry:
        params, number = carry
        with choice.chosen(kernel):
            return kernels.add_rounded(params, updates, number), number + 1

    updates = jax.tree.map(lambda p: jnp.full_like(p, RATE, jnp.float32), tree)
    return step, (tree, jnp.zeros([], jnp.int32)), (updates,)


def _half(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: 0.5 * leaf, tree)


SIDES: dict[str, Callable[[Any, str], Side]] = {
    "combination": _combination,
    "momentum": _optimizer(odeopt.heavy_ball),
    "adam": _optimizer(odeopt.adam),
    "exponential_adam": _optimizer(odeopt.strang_adam, weight_decay=1e-4),
    "rounding": _rounding,
}
