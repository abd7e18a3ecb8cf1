"""One optimizer on one problem, compiled once: gradients and seconds to a target."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..engine.problem import Params, Problem
from .entries import Entry

POINTS = 200
"""Most points of a recorded curve, equally spaced in the logarithm of the gradients."""
JUDGED = 28
"""Gradients after which the full batch is looked at where steps see mini-batches, for nothing."""

Target = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        target: The loss at which it ends.
        reached: Gradients up to and including the one whose loss is at most `target`; infinite
            for a miss.
        spent: Gradients spent when it ended.
        steps: Steps made.
        seconds: Wall time, compilation aside.
        initial: Full-batch loss at the start.
        final: At the end.
        rise: The largest rise of the loss in a step, relative to the loss; negative if it always
            fell. Infinite where a loss was not finite, NaN on mini-batches.
        gradients: Of the points of the curve.
        loss: Full-batch loss there.
    """

    target: float
    reached: float
    spent: int
    steps: int
    seconds: float
    initial: float
    final: float
    rise: float
    gradients: np.ndarray
    loss: np.ndarray

    @property
    def status(self) -> str:
        """One of "reached", "missed", "diverged": ended above its start, or not finite."""
        if np.isfinite(self.reached):
            return "reached"
        return "missed" if self.final <= self.initial else "diverged"


class _Run(NamedTuple):
    params: Params
    state: Any
    value: jax.Array  # of the step's own batch
    grads: Params
    spent: jax.Array
    steps: jax.Array
    seen: jax.Array  # the full-batch loss that was last looked at
    due: jax.Array  # gradients at which it is looked at again
    rise: jax.Array
    curve: tuple[jax.Array, jax.Array]


class Runs:
    """Runs of one optimizer on one problem, for any seed, and any rate where it has one.

    Args:
        problem: The problem; it and everything else wants x64 enabled.
        entry: The optimizer.
        budget: The most gradients of a run.
        target: `target(initial loss)`, the loss at which a run ends.
        choice: The setting of an entry with `choices`.
        most: The most steps of a run, where gradients are not what ends it.

    Attributes:
        compile_seconds: Time spent in tracing and compiling.
    """

    def __init__(
        self,
        problem: Problem,
        entry: Entry,
        budget: int,
        target: Target,
        choice: int | None = None,
        most: int | None = None,
    ) -> None:
        self.problem, self.entry, self.budget = problem, entry, budget
        self._target, self._choice = target, choice
        self._most = np.iinfo(np.int32).max if most is None else most
        self._data = tuple(jnp.asarray(array) for array in problem.data)
        begin = time.perf_counter()
        self._program = jax.jit(self._run).lower(*self._arguments(1.0, 0, budget)).compile()
        self.compile_seconds = time.perf_counter() - begin
        # A first step, or the first run would also pay for what libraries set up when called.
        jax.block_until_ready(self._program(*self._arguments(entry.unit, 0, 2)))

    def run(self, rate: float, seed: int, limit: int | None = None) -> Outcome:
        """Make one run; `limit` gradients end it before the budget does."""
        limit = self.budget if limit is None else min(limit, self.budget)
        arguments = self._arguments(rate, seed, limit)
        begin = time.perf_counter()
        found = jax.block_until_ready(self._program(*arguments))
        seconds = time.perf_counter() - begin
        found = jax.tree.map(np.asarray, found)
        target, seen, spent, steps, initial, final, rise, (at, loss) = found
        there = at > 0
        arrived = bool(seen <= target) and int(spent) <= limit
        return Outcome(
            target=float(target),
            reached=int(spent) if arrived else float("inf"),
            spent=int(spent),
            steps=int(steps),
            seconds=seconds,
            initial=float(initial),
            final=float(final),
            rise=float(rise),
            gradients=at[there],
            loss=loss[there].astype(float),
        )

    def _arguments(self, rate: float, seed: int, limit: int) -> tuple:
        problem = self.problem
        table = problem.batches(seed, self.budget)
        return (
            np.asarray(rate, problem.dtype),
            problem.init(seed),
            None if table is None else jnp.asarray(table),
            self._data,
            np.int32(limit),
        )

    def _run(self, rate, start, table, data, limit):  # type: ignore[no-untyped-def]
        problem, entry = self.problem, self.entry
        setting = rate if self._choice is None else self._choice
        optimizer = optax.with_extra_args_support(entry.make(setting))
        evaluate = jax.value_and_grad(problem.loss)
        of_state = optax.value_and_grad_from_state(problem.loss)

        def batch_of(step: jax.Array) -> Any:
            if table is None:
                return data
            return tuple(array[table[step % len(table)]] for array in data)

        def one_step(run: _Run) -> _Run:
            updates, state = optimizer.update(
                run.grads,
                run.state,
                run.params,
                value=run.value,
                grad=run.grads,  # what optax's line searches ask for
                value_fn=problem.loss,
                batch=batch_of(run.steps),
            )
            params = optax.apply_updates(run.params, updates)
            batch = batch_of(run.steps + 1)
            if entry.line_search:
                value, grads = of_state(params, batch, state=state)
            else:
                value, grads = evaluate(params, batch)
            spent = run.spent + jnp.asarray(entry.cost(run.state, state), jnp.int32)
            seen, due = value, run.due
            rise = jnp.nan_to_num((value - run.seen) / jnp.abs(run.seen), nan=jnp.inf)
            if table is not None:
                now = spent >= run.due
                look = lambda: problem.loss(params, data)  # noqa: E731
                seen = jax.lax.cond(now, look, lambda: run.seen)
                due = jnp.where(now, spent + JUDGED, run.due)
                rise = jnp.full_like(rise, jnp.nan)
            rise = jnp.maximum(run.rise, rise)
            curve = self._noted(run.curve, spent, seen)
            return _Run(params, state, value, grads, spent, run.steps + 1, seen, due, rise, curve)

        def goes_on(run: _Run) -> jax.Array:
            # A batch whose loss is not finite ends a run before the full batch is looked at.
            return (
                (run.seen > target)
                & jnp.isfinite(run.seen)
                & jnp.isfinite(run.value)
                & (run.spent < limit)
                & (run.steps < self._most)
            )

        value, grads = evaluate(start, batch_of(jnp.int32(0)))
        initial = value if table is None else problem.loss(start, data)
        target = self._target(initial)
        one = jnp.int32(1)
        empty = jnp.zeros(POINTS, jnp.int32), jnp.zeros(POINTS, initial.dtype)
        first = _Run(
            params=start,
            state=optimizer.init(start),
            value=value,
            grads=grads,
            spent=one,
            steps=jnp.int32(0),
            seen=initial,
            due=one + JUDGED,
            rise=jnp.full_like(initial, -jnp.inf),
            curve=self._noted(empty, one, initial),
        )
        last = jax.lax.while_loop(goes_on, one_step, first)
        final = last.seen if table is None else problem.loss(last.params, data)
        return target, last.seen, last.spent, last.steps, initial, final, last.rise, last.curve

    def _noted(
        self, curve: tuple[jax.Array, jax.Array], spent: jax.Array, loss: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The curve with a point in the slot of so many gradients; a later one takes its place."""
        share = jnp.log(spent.astype(float)) / np.log(max(self.budget, 2))
        slot = jnp.clip((POINTS - 1) * share, 0, POINTS - 1).astype(jnp.int32)
        return curve[0].at[slot].set(spent), curve[1].at[slot].set(loss)
