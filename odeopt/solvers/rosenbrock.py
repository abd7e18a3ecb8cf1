"""Rosenbrock methods: each stage solves a linear system with the curvature, no nonlinear one."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
import optimistix as optx
from jaxtyping import Array, Int, PyTree

from ..arrays import Scalar
from ..checks import is_whole
from ..flows import AbstractFlow, State
from ..objective import LinearMap, Objective
from ..sums import add, finite, inner, multiple, scaled
from .adapter import AbstractLinearized
from .linear import LinearSolve, LinearSolver, as_linear_solver
from .method import AbstractCurvatureMethod, AbstractMethod, CounterTerm, Model, Step, field_cost

_GAMMA = 1 - 1 / math.sqrt(2)  # makes the method of order 2 L-stable


class Rosenbrock(AbstractCurvatureMethod):
    r"""Linearly implicit Euler, or ROS2: one or two linear systems of the same matrix.

    Order 1: $x^+ = x + d$, $(I + hB)\,d = -h\nabla E(x)$: implicit Euler with a single Newton step.
    With the Gauss-Newton matrix it is the step of Levenberg and Marquardt with damping $1/h$; for
    $h \to \infty$ the Newton or Gauss-Newton step. Stability function $1/(1 + z)$, $z = h\lambda$.

    Order 2: with $W = I + \gamma hB$, $\gamma = 1 - 1/\sqrt2$: $Wk_1 = -\nabla E(x)$,
    $Wk_2 = -\nabla E(x + hk_1) - 2k_1$, $x^+ = x + \tfrac32hk_1 + \tfrac12hk_2$; its stability
    function is $(1 - (1 - 2\gamma)z)/(1 + \gamma z)^2$ (Verwer, Spee, Blom and Hundsdorfer, SIAM J.
    Sci. Comput. 20, 1999).

    Both keep their order with any B, and both are L-stable.

    Args:
      order: 1 or 2, which it has if the systems are solved accurately enough.
      solver: the curvature B, and how the systems are solved.

    Raises:
      ValueError: another order.
      TypeError: another kind of solver.
    """

    solver: LinearSolver
    order: int = eqx.field(static=True, default=1)

    def __init__(self, order: int = 1, solver: LinearSolver | None = None) -> None:
        if not is_whole(order) or order not in (1, 2):
            raise ValueError(f"order is {order}; there are Rosenbrock methods of order 1 and 2.")
        self.order, self.solver = order, as_linear_solver(solver)

    @property
    def counter_term(self) -> CounterTerm | None:  # type: ignore[override]
        """The penalty, where the curvature is the Hessian of the whole loss."""
        return "penalty" if self.solver.is_hessian else None

    @property
    def gradients_per_step(self) -> int:
        """The most by conjugate gradients; the state counts the actual number.

        The exact solve takes as many as the order, plus one for each output of a sample.
        """
        return self.order * (1 + self.solver.gradients)

    def init(self, flow: AbstractFlow, z: State) -> LinearSolve | tuple[LinearSolve, LinearSolve]:
        first = self.solver.init(z[0])
        return first if self.order == 1 else (first, self.solver.init(z[0]))

    def prepared(self, objective: Objective, z: State) -> tuple[AbstractMethod, int]:
        solver, used = self.solver.prepared(objective, z[0])
        return Rosenbrock(self.order, solver), used

    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: Any
    ) -> Step:
        """One step of size `h`; the unknowns are $hk_1$ and $hk_2$, of the size of a step."""
        params, aux = z
        solved = flow.potential(objective, h)
        cost = field_cost(flow, z, h)
        system = self.solver.system(solved, params, self.diagonal * h, cost)
        slope = solved.here(params)
        used: int | Int[Array, ""] = field_cost(flow, z, h, given=True) + system.setup
        model = None
        if self.order == 1:
            update, memory, taken = system.solve(memory, slope=(system.shift * h, slope))
            used += taken
            if solved is objective:
                model = Model(inner(slope, update), 0.5 * memory.quadratic_form, system.exact)
        else:
            one, first, taken = system.solve(memory[0], slope=(system.shift * h, slope))
            there = solved.at(1).gradient(add(params, one))
            terms = multiple(-system.shift * h, there), multiple(2 * system.shift, one)
            two, second, again = system.solve(memory[1], jax.tree.map(jnp.subtract, *terms))
            update, memory = _combined(one, two), (first, second)
            used += cost + taken + again
        return Step(update, aux, memory, None, model, used, finite(update, memory))

    @property
    def diagonal(self) -> float:
        r"""$\gamma$, the factor of $hB$ in the system."""
        return 1.0 if self.order == 1 else _GAMMA


def _combined(one: PyTree[Array], two: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a, b: 1.5 * a + 0.5 * b, one, two)


class LinearlyImplicitEuler(AbstractLinearized):
    r"""Linearly implicit Euler for any ODE: $(I - hJ)\,d = hf$, $y^+ = y + d$.

    Order 1, L-stable, one evaluation of the field. J is the Jacobian of the field in time and
    state together. It is never formed: lineax's GMRES needs only products with it.

    Args:
      linear_solver: another `lineax` solver, or tolerances for this one.
    """

    linear_solver: lineax.AbstractLinearSolver = lineax.GMRES(rtol=1e-5, atol=1e-8)
    method: ClassVar[Rosenbrock] = Rosenbrock(1)

    @property
    def gradients_per_step(self) -> int:
        """One for each system; products with its Jacobian come on top."""
        return self.method.order

    def move(
        self, h: Array, f: Array, jacobian: LinearMap, field: Callable[[Array], Array]
    ) -> tuple[Array, diffrax.RESULTS]:
        """Solve one system; at order 2 a second one, with the field after the first increment."""
        order, gamma = self.method.order, self.method.diagonal

        def matrix(v: Array) -> Array:
            return v - scaled(gamma * h, jacobian(v))

        structure = jax.eval_shape(lambda: f)
        operator = lineax.FunctionLinearOperator(matrix, structure)

        def solved(right: Array) -> tuple[Array, lineax.RESULTS]:
            found = lineax.linear_solve(operator, right, self.linear_solver, throw=False)
            return found.value, found.result

        update, result = solved(scaled(h, f))
        if order == 2:
            two, second = solved(scaled(h, field(update)) - 2 * update)
            result = lineax.RESULTS.where(result == lineax.RESULTS.successful, second, result)
            update = _combined(update, two)
        return update, diffrax.RESULTS.promote(optx.RESULTS.promote(result))


class Rosenbrock2(LinearlyImplicitEuler):
    r"""ROS2 for any ODE: order 2, L-stable, two evaluations of the field.

    Like `LinearlyImplicitEuler`, with two systems that share a matrix: see `Rosenbrock`.
    """

    method: ClassVar[Rosenbrock] = Rosenbrock(2)
