"""The methods of `Implicit` as diffrax solver classes for any ODE, with a root finder."""

from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import lineax
import optimistix as optx
from jaxtyping import Array, PyTree

from ..lanczos import flatten, unflatten
from .adapter import AbstractAdapter, Adapted, FlatTerm, Reached, Stepped
from .implicit import Implicit


class Inexact(lineax.GMRES):
    """GMRES that always succeeds with its last iterate, since Newton's method then judges it.

    Its tolerances are for each entry of the right-hand side; rounding in float32 may exceed them.
    """

    def compute(self, state: Any, vector: Array, options: dict[str, Any]) -> Any:
        """The last iterate; a system without unknowns counts as solved."""
        if not jnp.size(vector):
            return vector, lineax.RESULTS.successful, {}
        solution, _, stats = super().compute(state, vector, options)
        return solution, lineax.RESULTS.successful, stats


class ImplicitEuler(Adapted, diffrax.ImplicitEuler):
    """diffrax's implicit Euler, by Newton's method and GMRES: no Jacobian is formed.

    Order 1, L-stable. Args as for `diffrax.ImplicitEuler`; the default root finder needs no
    tolerances from a step-size controller.
    """

    # In float32 the residual of a stiff field is mostly rounding: the increment alone ends Newton.
    root_finder: optx.AbstractRootFinder = optx.Newton(  # type: ignore[misc]
        rtol=1e-5, atol=1e-6, linear_solver=Inexact(1e-5, 1e-8), cauchy_termination=False
    )

    method: ClassVar[Implicit] = Implicit("euler")
    stability_limit: ClassVar[float] = method.stability_limit
    gradients_per_step: ClassVar[None] = None  # as many as the root finder takes

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: Any, solver_state: Any, made_jump: Any
    ) -> Stepped:
        """One step; the unknown is one real vector."""
        flat, start = FlatTerm(terms, y0), flatten(y0)
        found, error, _, _, result = super().step(flat, t0, t1, start, args, None, made_jump)
        y1 = unflatten(found, y0)
        return y1, unflatten(error, y0), {"y0": y0, "y1": y1}, None, result


class AbstractHalved(AbstractAdapter, diffrax.AbstractImplicitSolver):
    """Half a step of implicit Euler, and half a step of explicit Euler before or after it."""

    root_finder: optx.AbstractRootFinder = ImplicitEuler.root_finder  # type: ignore[misc]
    root_find_max_steps: int = 10  # type: ignore[misc]

    method: ClassVar[Implicit]
    gradients_per_step: ClassVar[None] = None

    def half(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Reached:
        """The implicit half."""
        solver = ImplicitEuler(self.root_finder, self.root_find_max_steps)
        y1, *_, result = solver.step(terms, t0, t1, y0, args, None, False)
        return Reached(y1, result)


class ImplicitMidpoint(AbstractHalved):
    """The implicit midpoint rule for any ODE: order 2, A-stable, symplectic, conserves quadratics.

    Half a step of implicit Euler to the midpoint, extrapolated to the full step.
    """

    method: ClassVar[Implicit] = Implicit("midpoint")

    def reached(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Reached:
        middle, result, _ = self.half(terms, t0, t0 + (t1 - t0) / 2, y0, args)
        return Reached(jax.tree.map(lambda m, y: m + (m - y), middle, y0), result)


class Trapezoidal(AbstractHalved):
    """The trapezoidal rule (Crank and Nicolson's) for any ODE: order 2, A-stable.

    Half a step of explicit Euler, then half a step of implicit Euler.
    """

    method: ClassVar[Implicit] = Implicit("trapezoidal")

    def reached(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Reached:
        between = t0 + (t1 - t0) / 2
        moved = terms.vf_prod(t0, y0, args, terms.contr(t0, between))
        middle = jax.tree.map(jnp.add, y0, moved)
        return self.half(terms, between, t1, middle, args)
