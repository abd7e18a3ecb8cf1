"""The problems of the stiff study, the loss that counts as arrived on each, and the budget."""

import dataclasses

import jax
import jax.numpy as jnp

from ..engine.problem import Problem

SUITE = "stiff-1"
"""Version of problems, targets and budgets. A change of any of them needs a new one."""

NEWTON_STEPS = 50
"""For the optimum of a convex loss; ten do, the others change nothing."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """Where a run ends.

    Attributes:
        level: The loss that counts as arrived; where `relative`, the part of the initial gap to
            the optimum that may be left.
        gradients: The most that a run may spend.
        relative: Whether `level` is such a part.
        convex: Whether the optimum is not zero, but found by Newton's method.
    """

    level: float
    gradients: int
    relative: bool = False
    convex: bool = False

    def optimum(self, problem: Problem) -> float:
        """The lowest loss, 0 unless `convex`; needs x64."""
        if not self.convex:
            return 0.0
        data = tuple(jnp.asarray(array) for array in problem.data)

        def newton(_: int, x: jax.Array) -> jax.Array:
            curvature = jax.hessian(problem.loss)(x, data)
            return x - jnp.linalg.solve(curvature, jax.grad(problem.loss)(x, data))

        start = jnp.zeros_like(problem.init(0))
        end = jax.jit(lambda x: jax.lax.fori_loop(0, NEWTON_STEPS, newton, x))(start)
        return float(problem.loss(end, data))

    def target(self, initial: jax.Array, optimum: float) -> jax.Array:
        """The loss at which a run with that initial loss has arrived."""
        if not self.relative:
            return jnp.full_like(initial, self.level)
        return optimum + self.level * (initial - optimum)

    def spoken(self) -> str:
        """The target in a few characters."""
        if not self.relative:
            return f"loss {self.level:g}"
        return f"{self.level:g} of the initial gap" + (" to the optimum" if self.convex else "")


GOALS: dict[str, Goal] = {
    "quadratic-kappa1e6": Goal(1e-5, 50_000, relative=True),
    "quadratic-diabetes2": Goal(1e-5, 50_000, relative=True),
    "logistic": Goal(1e-6, 50_000, relative=True, convex=True),
    "digits-mse": Goal(0.1, 3000),
    "digits-ce": Goal(0.01, 3000),
    "digits-mse-64": Goal(0.1, 3000),
    "digits-ce-64": Goal(0.01, 3000),
    "poisson": Goal(1e-6, 20_000),
    "burgers": Goal(1e-4, 6000),
    "mnist-5k": Goal(0.1, 400),
}
"""By the name of a problem of `studies.problems`, in the order of the tables."""
