"""Rosenbrock methods: a linear system of the curvature a stage, and no nonlinear one.

May use: `odeopt.flows`, `.linear`.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ..flows import AbstractFlow, GradientFlow, State
from ..flows.flow import scaled
from ..objective import Gradient
from .linear import LinearSolve, LinearSolver
from .method import AbstractMethod, Step

_GAMMA = 1 - 1 / math.sqrt(2)  # makes Rosenbrock2 L-stable


class LinearlyImplicitEuler(AbstractMethod):
    r"""Linearly implicit Euler: $x^+ = x + d$, $(I + hB)\,d = -h\nabla E(x)$.

    Euler's implicit method after one step of Newton's. With the Gauss-Newton matrix it is the step
    of Levenberg and Marquardt with damping $1/h$; for $h \to \infty$ the Newton or Gauss-Newton
    step. Order 1 with any B; its stability function is $1/(1 + h\lambda)$.

    Args:
      solver: which curvature, and how the system is solved.
    """

    solver: LinearSolver = LinearSolver()

    @property
    def order(self) -> int:
        """1."""
        return 1

    @property
    def stability_limit(self) -> float:
        """Infinite: the method is L-stable."""
        return math.inf

    @property
    def gradients_per_step(self) -> int:
        """By conjugate gradients, at most: the state counts what was spent.

        The exact solve takes 1 and as many more as a sample has outputs.
        """
        return 1 + 2 * (self.solver.products + 1)

    def check(self, flow: AbstractFlow) -> None:
        """Gradient flow only."""
        _gradient_flow(flow, "LinearlyImplicitEuler")

    def init(self, z: State) -> LinearSolve:
        """No solve yet."""
        return self.solver.init(z[0])

    def step(
        self,
        flow: AbstractFlow,
        gradient: Gradient,
        z: State,
        h: Float[Array, ""],
        memory: LinearSolve,
    ) -> Step:
        """One step of size `h`."""
        params, aux = z
        system, scale = self.solver.system(gradient.stage(0), params, h)
        update, memory = system.downhill(scale * h, memory)
        return Step(update, aux, None, memory, _finite(update, memory))


class Rosenbrock2(AbstractMethod):
    r"""ROS2: two linear systems of the same matrix, order 2, L-stable.

    With $W = I + \gamma hB$, $\gamma = 1 - 1/\sqrt2$: $Wk_1 = -\nabla E(x)$,
    $Wk_2 = -\nabla E(x + hk_1) - 2k_1$, $x^+ = x + \tfrac32hk_1 + \tfrac12hk_2$. Order 2 with any
    B; its stability function is $(1 - (1 - 2\gamma)z)/(1 + \gamma z)^2$ at $z = h\lambda$ (Verwer,
    Spee, Blom and Hundsdorfer, SIAM J. Sci. Comput. 20, 1999).

    Args:
      solver: which curvature, and how the systems are solved.
    """

    solver: LinearSolver = LinearSolver()

    @property
    def order(self) -> int:
        """2, where the systems are solved to that."""
        return 2

    @property
    def stability_limit(self) -> float:
        """Infinite: the method is L-stable."""
        return math.inf

    @property
    def gradients_per_step(self) -> int:
        """By conjugate gradients, at most: the state counts what was spent.

        The exact solve takes 2 and as many more as a sample has outputs.
        """
        return 2 + 4 * (self.solver.products + 1)

    def check(self, flow: AbstractFlow) -> None:
        """Gradient flow only."""
        _gradient_flow(flow, "Rosenbrock2")

    def init(self, z: State) -> tuple[LinearSolve, LinearSolve]:
        """No solve yet."""
        return self.solver.init(z[0]), self.solver.init(z[0])

    def step(
        self,
        flow: AbstractFlow,
        gradient: Gradient,
        z: State,
        h: Float[Array, ""],
        memory: tuple[LinearSolve, LinearSolve],
    ) -> Step:
        """One step of size `h`; what is solved for is $hk_1$ and $hk_2$, of the size of a step."""
        params, aux = z
        system, scale = self.solver.system(gradient.stage(0), params, _GAMMA * h)
        one, first = system.downhill(scale * h, memory[0])
        there = gradient.stage(1)(jax.tree.map(jnp.add, params, one))
        right = jax.tree.map(lambda g, u: scaled(-scale * h, g) - scaled(2 * scale, u), there, one)
        two, second = system.solve(right, memory[1])
        update = jax.tree.map(lambda a, b: 1.5 * a + 0.5 * b, one, two)
        return Step(update, aux, None, (first, second), _finite(update, (first, second)))


def _gradient_flow(flow: AbstractFlow, method: str) -> None:
    """Refuse another flow."""
    if not isinstance(flow, GradientFlow):
        raise ValueError(
            f"{method} solves linear systems of the curvature, which is the Jacobian of gradient "
            f"flow and not that of {type(flow).__name__}: use `odeopt.flows.GradientFlow()`, or a "
            "splitting such as `odeopt.solvers.Lie()`."
        )


def _finite(*trees: PyTree[Array]) -> Bool[Array, ""]:
    """Whether every entry is."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trees)]
    return jnp.all(jnp.stack(leaves))
