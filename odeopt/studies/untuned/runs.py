"""One optimizer on one problem, compiled once: losses and validation losses along its runs.

Other than `sweep`, it reads out what an optimizer hands to its user (an averaged iterate, say),
and evaluates that on held-out data as well.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

from ..engine.problem import Problem
from ..engine.runner import step_function
from .rivals import Rival

POINTS = 50
"""Points of a recorded curve, the initial one aside."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        steps: Steps of the recorded points, one gradient each.
        loss: Loss on all training examples at these points; NaN from the first one that is not
            finite, where the run stops.
        validation: The same on the held-out examples; NaN throughout where there are none.
        seconds: Wall time, compilation aside.
    """

    steps: np.ndarray
    loss: np.ndarray
    validation: np.ndarray
    seconds: float

    @property
    def final(self) -> float:
        """The loss after the last step, infinite where the run diverged: ended above its start."""
        last = float(self.loss[-1])
        return last if last <= self.loss[0] else float("inf")


class Runs:
    """Runs of one optimizer on one problem, for any rate and seed.

    Args:
        problem: The problem; it and everything else wants x64 enabled.
        rival: The optimizer.
        steps: Steps of a run, one gradient each.

    Attributes:
        compile_seconds: Time spent in tracing and compiling.
    """

    def __init__(self, problem: Problem, rival: Rival, steps: int) -> None:
        self.problem, self.rival, self.steps = problem, rival, steps
        self.at = np.arange(min(POINTS, steps) + 1) * steps // min(POINTS, steps)
        self._data = tuple(jnp.asarray(array) for array in problem.data)
        self._held = tuple(jnp.asarray(array) for array in problem.validation)
        begin = time.perf_counter()
        self._program = jax.jit(self._run).lower(*self._arguments(1.0, 0)).compile()
        self.compile_seconds = time.perf_counter() - begin

    def run(self, rate: float, seed: int) -> Curve:
        """Make one run; for an untuned optimizer `rate` is its first step size."""
        arguments = self._arguments(rate, seed)
        begin = time.perf_counter()
        loss, validation = jax.block_until_ready(self._program(*arguments))
        seconds = time.perf_counter() - begin
        return Curve(self.at, np.asarray(loss, float), np.asarray(validation, float), seconds)

    def _arguments(self, rate: float, seed: int) -> tuple:
        problem = self.problem
        table = problem.batches(seed, self.steps)
        return (
            np.asarray(rate, problem.dtype),
            problem.init(seed),
            None if table is None else jnp.asarray(table),
            self._data,
            self._held,
        )

    def _run(self, rate, start, table, data, held):  # type: ignore[no-untyped-def]
        problem, points = self.problem, jnp.asarray(self.at)
        optimizer = self.rival.make(rate)
        step = step_function(problem, optimizer)

        def one_step(index, carry):  # type: ignore[no-untyped-def]
            batch = data if table is None else tuple(array[table[index]] for array in data)
            return step(*carry, batch)[:2]

        def losses(carry):  # type: ignore[no-untyped-def]
            params, state = carry
            read = self.rival.read(state, params)
            missing = jnp.asarray(jnp.nan, problem.dtype)
            return problem.loss(read, data), problem.loss(read, held) if held else missing

        def until_next_point(carry):  # type: ignore[no-untyped-def]
            inner, point, curves, _ = carry
            inner = jax.lax.fori_loop(points[point], points[point + 1], one_step, inner)
            now = losses(inner)
            curves = tuple(c.at[point + 1].set(x) for c, x in zip(curves, now, strict=True))
            return inner, point + 1, curves, jnp.isfinite(now[0])

        def goes_on(carry):  # type: ignore[no-untyped-def]
            _, point, _, finite = carry
            return finite & (point < len(self.at) - 1)

        inner = start, optimizer.init(start)
        curves = tuple(jnp.full(len(self.at), jnp.nan, x.dtype).at[0].set(x) for x in losses(inner))
        carry = inner, jnp.int32(0), curves, jnp.bool_(True)
        return jax.lax.while_loop(goes_on, until_next_point, carry)[2]
