r"""Linear systems $(\text{shift} + \text{weight}\,B)\,x = r$ at one point, prepared for several r.

`solve(last, right, slope)` gives the solution for $r$ = `right - amount * g`, its report, and its
cost in gradients beside `setup`, that of the preparation.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ..arrays import Scalar
from ..curvature import Diagonal, Rows, conjugate_gradients, refined
from ..objective import LinearMap
from ..sums import add, inner, multiple, widened

if TYPE_CHECKING:
    from .linear import LinearSolver

Slope = tuple[Scalar, PyTree[Array]]
"""`(amount, g)`: a multiple of the gradient g at the point of the system."""


class LinearSolve(NamedTuple):
    """The result of a linear solve.

    Attributes:
      direction: the solution, from which the next solve starts; `()` if it is not kept.
      products: number of curvature products; 0 for an exact solve.
      residual: the relative residual.
      quadratic_form: `d.Bd` of the solution d, with the curvature B.
      diagonal: the estimate of the diagonal of B for preconditioning; `()` without it.
    """

    direction: PyTree[Array]
    products: Int[Array, ""]
    residual: Scalar
    quadratic_form: Scalar
    diagonal: Diagonal | tuple[()] = ()


def no_solve(direction: PyTree[Array] = (), diagonal: Diagonal | tuple[()] = ()) -> LinearSolve:
    """No solve yet. Every number is an array of its own, so that it can be donated."""
    none = jnp.zeros([], jnp.int32)
    return LinearSolve(direction, none, jnp.zeros([], float), jnp.zeros([], float), diagonal)


@dataclasses.dataclass(frozen=True)
class Iterative:
    """A system solved by conjugate gradients, with the options of `solver`."""

    product: LinearMap
    shift: Scalar
    weight: Scalar
    params: PyTree[Array]
    solver: "LinearSolver"
    product_cost: int
    setup: int
    exact: ClassVar[bool] = False

    def solve(
        self, last: LinearSolve, right: PyTree[Array] | None = None, slope: Slope | None = None
    ) -> tuple[PyTree[Array], LinearSolve, Int[Array, ""]]:
        if slope is not None:
            step = multiple(-slope[0], slope[1])
            right = step if right is None else add(step, right)
        diagonal: Any = last.diagonal
        metric: LinearMap | None = None
        if self.solver.low_rank is not None:
            metric = functools.partial(self.solver.low_rank.solve, self.shift, self.weight)
        elif self.solver.precondition:
            diagonal = refined(diagonal, self.product, self.params)
            metric = lambda r: jax.tree.map(self._divided, r, diagonal.value)  # noqa: E731
        found = conjugate_gradients(
            self._map,
            right,
            optax.tree.cast_like(last.direction, right),  # a restored one may have another dtype
            products=self.solver.products,
            tolerance=self.solver.tolerance,
            preconditioner=metric,
        )
        x = found.value
        form = inner(x, found.image) - self.shift * inner(x, x)
        moves = self.weight > 0
        form = jnp.where(moves, form / jnp.where(moves, self.weight, 1.0), 0.0)
        cost = self.product_cost * (found.products + int(self.solver.precondition))
        return x, LinearSolve(x, found.products, found.residual, form, diagonal), cost

    def _map(self, v: PyTree[Array]) -> PyTree[Array]:
        image = multiple(self.weight, self.product(v))
        return jax.tree.map(operator.add, multiple(self.shift, v), image)

    def _divided(self, residual: Array, diagonal: Array) -> Array:
        size = jnp.abs(diagonal).astype(self.weight.dtype)
        return residual / (self.shift + self.weight * size).astype(residual.dtype)


@dataclasses.dataclass(frozen=True)
class Exact:
    """A system solved by Cholesky's decomposition."""

    rows: Rows
    shift: Scalar
    weight: Scalar
    setup: int
    exact: ClassVar[bool] = True

    @functools.cached_property
    def _invert(self) -> Callable[[Array, Array], Array]:
        return self.rows.factored(self.shift, self.weight)

    def solve(
        self, last: LinearSolve, right: PyTree[Array] | None = None, slope: Slope | None = None
    ) -> tuple[PyTree[Array], LinearSolve, int]:
        a, image = self.rows.matrix, self.rows.image
        beside = jnp.zeros(a.shape[1], a.dtype) if right is None else _flat(right)
        if slope is None:
            whole, x = beside, self._invert(beside, jnp.zeros_like(image))
        else:
            g = _flat(slope[1])
            amount = -slope[0].astype(g.dtype)
            whole = amount * g + beside
            x = self._invert(amount * self.rows.remainder(g) + beside, amount * image)
        pushed = a @ x
        shift, weight = self.shift.astype(x.dtype), self.weight.astype(x.dtype)
        norm = jnp.linalg.norm(whole)
        left = jnp.linalg.norm(shift * x + weight * (pushed @ a) - whole)
        tree, kept = self.rows.unravel(x), jax.tree.leaves(last.direction)
        report = last._replace(
            direction=optax.tree.cast_like(tree, last.direction) if kept else last.direction,
            products=jnp.zeros([], jnp.int32),
            residual=(left / jnp.where(norm > 0, norm, 1.0)).astype(float),
            quadratic_form=jnp.sum(pushed**2).astype(float),
        )
        return tree, report, 0


def _flat(tree: PyTree[Array]) -> Float[Array, " n"]:
    return ravel_pytree(widened(tree))[0]
