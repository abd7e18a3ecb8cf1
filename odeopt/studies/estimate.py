"""How long a study will take, from one measured gradient of each problem."""

import dataclasses
import time

import jax
import jax.numpy as jnp

from .engine.optimizers import Entry
from .engine.problem import Problem

# A sweep compiles loops around a step whose stages repeat the gradient's kernels, and some of its
# runs stop early. Rough factors, read off quick studies: an estimate within a factor of 2 is meant.
COMPILE_PER_GRADIENT = 2.0
COMPILE_PER_STAGE = 0.3
SHARE_OF_BUDGET = 0.85


@dataclasses.dataclass(frozen=True)
class Cost:
    """Seconds to compile a gradient and to evaluate one."""

    compile: float
    gradient: float

    def sweep(self, gradients: int, entry: Entry) -> float:
        """Seconds for runs with so many gradients together, compilation included; 0 for none."""
        stages = entry.gradients_per_step - 1
        compiling = self.compile * (COMPILE_PER_GRADIENT + COMPILE_PER_STAGE * stages)
        return compiling + SHARE_OF_BUDGET * gradients * self.gradient if gradients else 0.0


def calibrate(problem: Problem) -> Cost:
    """Compile and time the gradient of a problem; takes a fraction of a second."""
    params = problem.init(0)
    batch = tuple(jnp.asarray(array[: problem.batch_size]) for array in problem.data)
    begin = time.perf_counter()
    gradient = jax.jit(jax.value_and_grad(problem.loss)).lower(params, batch).compile()
    compiling = time.perf_counter() - begin
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        jax.block_until_ready(gradient(params, batch))
        seconds.append(time.perf_counter() - begin)
    return Cost(compiling, sorted(seconds)[5])


def spoken(seconds: float) -> str:
    """A duration for people, not more exact than an estimate is."""
    if seconds < 90:
        return f"{max(1, round(seconds)):.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
