"""Linear systems of the curvature at one point: exact, or by conjugate gradients."""

import abc
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from ..arrays import Scalar
from ..curvature import (
    Diagonal,
    Rows,
    conjugate_gradients,
    gauss_newton_rows,
    outputs_per_sample,
    refined,
)
from ..nystrom import LowRank
from ..objective import LinearMap
from ..split import Split
from ..sums import add, inner, is_split, multiple, widened


class LinearSolve(NamedTuple):
    """What a linear solve left behind.

    Attributes:
      direction: its solution, where the next one starts; `()` where none does.
      products: curvature products that it took; 0 where it was exact.
      residual: what is left of its right-hand side, relative.
      quadratic_form: `d.Bd` of the solution d, with the curvature B.
      diagonal: the estimate of the diagonal of B that preconditions; `()` where none does.
    """

    direction: PyTree[Array]
    products: Int[Array, ""]
    residual: Scalar
    quadratic_form: Scalar
    diagonal: Diagonal | tuple[()] = ()


class AbstractSystem(abc.ABC):
    r"""$(\text{shift} + \text{weight}\,B)\,x = r$ at one point, prepared for several r.

    Attributes:
      setup: gradients that its preparation has cost.
      exact: whether it is solved to rounding.
    """

    setup: int = 0
    exact: bool = False

    @abc.abstractmethod
    def solve_for_step(
        self,
        amount: Scalar,
        slope: PyTree[Array],
        last: LinearSolve,
        beside: PyTree[Array] | None = None,
    ) -> tuple[PyTree[Array], LinearSolve]:
        """The solution for `beside - amount * slope`, with `slope` the gradient at the point."""

    @abc.abstractmethod
    def solve(self, right: PyTree[Array], last: LinearSolve) -> tuple[PyTree[Array], LinearSolve]:
        """The solution for `right`."""

    @abc.abstractmethod
    def cost(self, found: LinearSolve) -> int | Int[Array, ""]:
        """Gradients that a solve has cost."""


class Iterative(AbstractSystem):
    """By conjugate gradients."""

    def __init__(
        self,
        product: LinearMap,
        shift: Scalar,
        weight: Scalar,
        params: PyTree[Array],
        cost: int,
        most: int,
        tolerance: float | Scalar,
        precondition: bool,
        low_rank: LowRank | None,
        setup: int,
    ) -> None:
        self._low_rank, self.setup = low_rank, setup
        self._product, self._shift, self._weight = product, shift, weight
        self._params, self._cost = params, cost
        self._most, self._tolerance, self._precondition = most, tolerance, precondition
        self._map = lambda v: jax.tree.map(
            operator.add, multiple(shift, v), multiple(weight, product(v))
        )

    def solve_for_step(
        self,
        amount: Scalar,
        slope: PyTree[Array],
        last: LinearSolve,
        beside: PyTree[Array] | None = None,
    ) -> tuple[PyTree[Array], LinearSolve]:
        right = multiple(-amount, slope)
        return self.solve(right if beside is None else add(right, beside), last)

    def solve(self, right: PyTree[Array], last: LinearSolve) -> tuple[PyTree[Array], LinearSolve]:
        diagonal: Any = last.diagonal
        metric: LinearMap | None = None
        if self._low_rank is not None:
            metric = functools.partial(self._low_rank.solve, self._shift, self._weight)
        elif self._precondition:
            diagonal = refined(diagonal, self._product, self._params)
            value = diagonal.value
            metric = lambda r: jax.tree.map(self._divided, r, value)  # noqa: E731
        found = conjugate_gradients(
            self._map,
            right,
            optax.tree.cast_like(last.direction, right),  # restored, it may have another dtype
            products=self._most,
            tolerance=self._tolerance,
            preconditioner=metric,
        )
        x = found.value
        form = inner(x, found.image) - self._shift * inner(x, x)
        form = jnp.where(self._weight > 0, form / self._weight, 0.0)
        return x, LinearSolve(x, found.products, found.residual, form, diagonal)

    def cost(self, found: LinearSolve) -> Int[Array, ""]:
        return self._cost * (found.products + int(self._precondition))

    def _divided(self, residual: Array, diagonal: Array) -> Array:
        return residual / (self._shift + self._weight * jnp.abs(diagonal)).astype(diagonal.dtype)


def split_parts(parts: Split, params: PyTree[Array]) -> bool:
    """Whether samples or parameters are known to be split over devices."""
    return any(is_split(jnp.asarray(leaf)) for leaf in jax.tree.leaves((parts.samples, params)))


def exact_rows(parts: Split, params: PyTree[Array]) -> tuple[Rows, int]:
    """What exact solves go through, and its gradients: as many as a sample has outputs."""
    if any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(params)):
        raise TypeError('solve="exact" takes real parameters only: pass solve="cg".')
    if split_parts(parts, params):
        raise ValueError(
            'solve="exact" forms one matrix of all samples and parameters, which are split '
            'over devices here: pass solve="cg", or "auto", which then is the same.'
        )
    return gauss_newton_rows(parts, params), outputs_per_sample(parts, params)[1]


class Exact(AbstractSystem):
    """By Cholesky's decomposition."""

    exact = True

    def __init__(self, rows: Rows, shift: Scalar, weight: Scalar, setup: int) -> None:
        self._rows, self._shift, self._weight, self.setup = rows, shift, weight, setup
        self._invert = rows.factored(shift, weight)

    def solve_for_step(
        self,
        amount: Scalar,
        slope: PyTree[Array],
        last: LinearSolve,
        beside: PyTree[Array] | None = None,
    ) -> tuple[PyTree[Array], LinearSolve]:
        g = ravel_pytree(widened(slope))[0]
        amount = -amount.astype(g.dtype)
        other = jnp.zeros_like(g) if beside is None else ravel_pytree(widened(beside))[0]
        x = self._invert(amount * self._rows.remainder(g) + other, amount * self._rows.image)
        return self._solved(x, amount * g + other, last)

    def solve(self, right: PyTree[Array], last: LinearSolve) -> tuple[PyTree[Array], LinearSolve]:
        flat = ravel_pytree(widened(right))[0]
        return self._solved(self._invert(flat, jnp.zeros_like(self._rows.image)), flat, last)

    def _solved(
        self, x: Float[Array, " n"], right: Float[Array, " n"], last: LinearSolve
    ) -> tuple[PyTree[Array], LinearSolve]:
        a = self._rows.matrix
        image = a @ x
        shift, weight = self._shift.astype(x.dtype), self._weight.astype(x.dtype)
        norm = jnp.linalg.norm(right)
        left = jnp.linalg.norm(shift * x + weight * (image @ a) - right)
        tree = self._rows.unravel(x)
        return tree, last._replace(
            direction=tree if jax.tree.leaves(last.direction) else last.direction,
            products=jnp.zeros([], jnp.int32),
            residual=(left / jnp.where(norm > 0, norm, 1.0)).astype(float),
            quadratic_form=jnp.sum(image**2).astype(float),
        )

    def cost(self, found: LinearSolve) -> int:
        return 0
