"""What `odeopt.monitor` adds to a loop at its defaults."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax

import odeopt

from .sharpness import BATCH, LENGTH, LETTERS, loss, transformer
from .timing import Call, Row, ratio

EVERY = inspect.signature(odeopt.monitor).parameters["every"].default
MOST_ROUNDS = 11  # a round takes seconds
OPTIMIZERS = {"optax.sgd": optax.sgd(0.01), "euler, with its drift": odeopt.euler(0.01)}


def monitored_loop(rounds: int) -> Iterator[Row]:
    """Time of as many steps as lie between two records, with one record, over that without."""
    shape = EVERY, BATCH, LENGTH + 1
    batches = [*jax.random.randint(jax.random.key(1), shape, 0, LETTERS)]
    for name, opt in OPTIMIZERS.items():
        watch = odeopt.monitor(opt, loss)
        sides = [Call(_loop(opt, seen, batches)) for seen in (watch, _unwatched)]
        for side in sides:
            side.seconds(2)  # the first record has more products
        pairs = [
            (sides[0].seconds(1), sides[1].seconds(1)) for _ in range(min(rounds, MOST_ROUNDS))
        ]
        row = f"loop with a record every {EVERY} steps / loop, {name}, transformer, batch {BATCH}"
        yield ratio("monitor", row, pairs, "1.15")


def _unwatched(*_: Any) -> None:
    """In place of a monitor."""


def _loop(
    opt: optax.GradientTransformation, watch: Callable[..., Any], batches: list[jax.Array]
) -> Callable[[], Any]:
    """A training loop as a user writes it, from where the last call ended."""
    params = transformer()
    state = opt.init(params)

    @jax.jit
    def train_step(params: Any, state: Any, batch: jax.Array) -> tuple[Any, Any]:
        updates, state = opt.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    def run() -> Any:
        nonlocal params, state
        for batch in batches:
            params, state = train_step(params, state, batch)
            watch(params, state, batch)
        return params

    return run
