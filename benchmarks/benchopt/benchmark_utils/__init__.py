"""What the solvers share: optax steps on a problem, with one call of benchopt for each gradient."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from benchopt import BaseSolver

from odeopt.studies.engine.optimizers import Entry
from odeopt.studies.engine.problem import Problem
from odeopt.studies.engine.steps import step_function

jax.config.update("jax_enable_x64", True)  # quadratics are made in float64, networks in float32


class CountedSolver(BaseSolver):
    """An optimizer of the studies, for which benchopt's iterations are gradients.

    benchopt is called once before each gradient. Between the gradients of one step it sees the
    parameters from before the step, and a step that the budget cannot pay for does not count.
    """

    sampling_strategy = "callback"
    gradients = 1  # the budget, of which the objective says how large it is
    learning_rate: float | None

    @abstractmethod
    def make_entry(self) -> Entry:
        """The optimizer, whose schedules end after `gradients` gradients."""

    def set_objective(self, problem: Problem, gradients: int, seed: int) -> None:
        self.gradients = gradients
        self.entry = self.make_entry()
        rate = self.entry.unit if self.learning_rate is None else self.learning_rate
        optimizer = self.entry.make(problem.dtype(rate))
        step = step_function(problem.objective, optimizer)
        data, rows = jax.tree.map(jnp.asarray, problem.data), problem.batches(seed, gradients)
        params = problem.start(seed)
        self.start = params, optimizer.init(params)

        @jax.jit
        def move(carry: Any, n: int, data: Any, chosen: Any) -> Any:
            batch = data if chosen is None else jax.tree.map(lambda array: array[chosen], data)
            key = jax.random.fold_in(jax.random.key(seed), n)
            return step(*carry, batch, **({"key": key} if problem.takes_key else {}))[:2]

        def advance(carry: Any, n: int) -> Any:
            return jax.block_until_ready(move(carry, n, data, None if rows is None else rows[n]))

        self.advance = advance

    def warm_up(self) -> None:
        """Compile, in time that is not counted."""
        self.run_once(2)

    def get_next(self, stop_val: int) -> int:
        """The gradients after which to look again: half as many more, the whole budget at last."""
        return min(max(stop_val + 1, 3 * stop_val // 2), self.gradients)

    def run(self, callback: Callable[[], bool]) -> None:
        self.carry, left, n = self.start, self.gradients, 0
        while callback() and left:
            moved = self.advance(self.carry, n)
            cost = self._cost(moved)
            paid = min(cost, left)
            left, n = left - paid, n + 1
            if not all(callback() for _ in range(paid - 1)):
                return
            if paid == cost:
                self.carry = moved

    def _cost(self, moved: Any) -> int:
        if self.entry.counted:
            return int(self.entry.cost(self.carry[1], moved[1]))
        return self.entry.gradients_per_step

    def get_result(self) -> dict[str, Any]:
        params, state = self.carry
        return {"params": self.entry.read(state, params)}
