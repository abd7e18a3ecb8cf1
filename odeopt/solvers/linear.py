"""The linear systems of implicit steps, with the curvature as matrix: exact, or matrix-free."""

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_flags, check_kind, check_least, check_static
from ..curvature import Rows, gauss_newton, gauss_newton_rows, no_diagonal, outputs_per_sample
from ..nystrom import LowRank, nystrom
from ..objective import LinearMap, Objective
from ..split import Split, split
from ..sums import is_split
from .systems import Exact, Iterative, LinearSolve, no_solve

Curvature = Literal["auto", "ggn", "hessian"]
Solve = Literal["auto", "exact", "cg"]

PRODUCTS = 10
"""The most curvature products of a solve, by default."""

_DENSE = 1000  # the largest matrix that "auto" decomposes
_ENTRIES = 2**24  # the most entries of a Jacobian that "auto" forms


class Curved(eqx.Module):
    """A module that takes products with the curvature B of a loss."""

    curvature: eqx.AbstractVar[Curvature]
    fraction: eqx.AbstractVar[float]

    @property
    def is_hessian(self) -> bool:
        """Whether B is the Hessian of the whole loss."""
        return self.curvature == "hessian" and self.fraction == 1

    def is_gauss_newton(self, objective: Objective) -> bool:
        """Whether B is the Gauss-Newton matrix."""
        return self.curvature == "ggn" or (self.curvature == "auto" and objective.splits)

    def product(self, objective: Objective, params: PyTree[Array]) -> LinearMap:
        """`v -> B v` at `params`, linearized once."""
        if self.is_gauss_newton(objective):
            return gauss_newton(split(objective, self.fraction), params)
        if self.fraction == 1:
            return objective.product(params)
        parts = split(objective, self.fraction)

        def slope(params: PyTree[Array]) -> PyTree[Array]:
            return optax.tree.conj(jax.grad(lambda p: parts.loss(parts.predict(p)))(params))

        return jax.linearize(slope, params)[1]

    def product_cost(self, objective: Objective, gradient_cost: int) -> int:
        """The cost of a product in gradients: 2 for each gradient that it differentiates."""
        plain_loss = self.is_gauss_newton(objective) or self.fraction < 1
        return 2 if plain_loss else 2 * gradient_cost


class LinearSolver(Curved):
    r"""How the linear systems of a step are solved.

    Args:
      curvature: B. "ggn": the generalized Gauss-Newton matrix, positive semi-definite where the
        loss is convex in the outputs; `value_fn` must be an `odeopt.composite`. "hessian": for any
        loss; conjugate gradients stop when they detect that it is indefinite. "auto": "ggn" if
        `value_fn` is a `composite`, else "hessian".
      solve: "exact": Cholesky's decomposition in the space of outputs or of parameters, whichever
        is smaller, from the Jacobian of every sample by itself ("ggn" only; if samples interact, as
        in batch normalization, write `composite(..., samples=())`). "cg": conjugate gradients that
        start at the last solution. "auto": exact if the matrix has at most 1,000 rows, the Jacobian
        has at most 16 million entries and costs no more gradients than `products` do, and neither
        samples nor parameters are known to be split over devices.
      products: the most curvature products of one solve, beside one for its start; None for 10.
      tolerance: the relative residual at which conjugate gradients stop.
      fraction: the share of the samples, counted from the first, on which the curvature is taken
        (products then cost less than is counted). `value_fn` must be a `composite` whose loss is a
        mean. None for all samples.
      precondition: precondition conjugate gradients with shift + weight |diag B|; each solve takes
        one more product to estimate the diagonal.
      rank: precondition conjugate gradients with shift + weight times an approximation of B of this
        rank (Nystrom's, with the same random directions every time). It takes `rank` products
        before the first solve at a point, and memory for about 4.5 times `rank` copies of the
        parameters. None for 0: no preconditioner.

    Raises:
      ValueError: an unknown name; `solve="exact"` with the Hessian, or with options of conjugate
        gradients; fewer than 1 product, a negative tolerance, a fraction outside (0, 1], a negative
        rank, or a rank with `precondition`.
      TypeError: `products`, `fraction` or `rank` that are known at run time only.
    """

    curvature: Curvature = eqx.field(static=True)
    solve: Solve = eqx.field(static=True)
    products: int = eqx.field(static=True)
    tolerance: float | Scalar
    fraction: float = eqx.field(static=True)
    precondition: bool = eqx.field(static=True)
    rank: int = eqx.field(static=True)
    # None: computed for each system
    rows: Rows | None = eqx.field(repr=False)
    low_rank: LowRank | None = eqx.field(repr=False)

    def __init__(
        self,
        curvature: Curvature = "auto",
        solve: Solve = "auto",
        products: int | None = None,
        tolerance: float | Scalar = 1e-3,
        fraction: float | None = None,
        precondition: bool = False,
        rank: int | None = None,
    ) -> None:
        check_flags(precondition=precondition)
        self.solve, self.tolerance, self.precondition = solve, tolerance, precondition
        self.rank, self.rows, self.low_rank = known_count("rank", rank, 0), None, None
        self.curvature, self.products, self.fraction = checked(curvature, products, fraction)
        if solve not in ("auto", "exact", "cg"):
            raise ValueError(f'solve is {solve!r}; pass "auto", "exact" or "cg".')
        if solve == "exact" and curvature == "hessian":
            raise ValueError(
                'solve="exact" uses the Jacobian of every sample, which gives the Gauss-Newton '
                'matrix and not the Hessian: pass curvature="ggn", or solve="cg".'
            )
        if solve == "exact" and (products is not None or precondition or self.rank):
            raise ValueError(
                'solve="exact" takes no products of curvature: leave out products, precondition '
                'and rank, or pass solve="cg".'
            )
        if self.rank < 0 or (self.rank and precondition):
            raise ValueError(
                f"rank is {self.rank} and precondition {precondition}; pass a rank of at least 0, "
                "or precondition=True, not both."
            )
        check_least(0, tolerance=tolerance)

    @property
    def gradients(self) -> int:
        """The most gradients that one solve by preconditioned conjugate gradients costs."""
        return 2 * (self.products + 1 + self.precondition + self.rank)

    def init(self, params: PyTree[Array]) -> LinearSolve:
        """No solve yet. Memory: one copy of the parameters, none with `solve="exact"`."""
        direction = () if self.solve == "exact" else jax.tree.map(jnp.zeros_like, params)
        return no_solve(direction, no_diagonal(params) if self.precondition else ())

    def prepared(
        self, objective: Objective, params: PyTree[Array], gradient_cost: int = 1
    ) -> tuple["LinearSolver", int]:
        """The solver with its Jacobian or sketch for all systems at `params`, and their cost."""
        parts = self._exact(objective, params)
        if parts is not None:
            rows, cost = gauss_newton_rows(parts, params), outputs_per_sample(parts, params)[1]
            return eqx.tree_at(lambda s: s.rows, self, rows, is_leaf=lambda x: x is None), cost
        if not self.rank:
            return self, 0
        made = nystrom(self.product(objective, params), params, self.rank)
        cost = self.product_cost(objective, gradient_cost) * made.rank
        return eqx.tree_at(lambda s: s.low_rank, self, made, is_leaf=lambda x: x is None), cost

    def system(
        self, objective: Objective, params: PyTree[Array], h: Scalar, gradient_cost: int
    ) -> Exact | Iterative:
        """`(I + hB) / (1 + h)` at `params`, so that no large step overflows.

        `gradient_cost`: gradients of the loss that one gradient of `objective` costs.
        """
        shift, weight = 1 / (1 + h), h / (1 + h)
        solver, setup = self, 0
        if self.rows is None and self.low_rank is None:
            solver, setup = self.prepared(objective, params, gradient_cost)
        if solver.rows is not None:
            return Exact(solver.rows, shift, weight, setup)
        product = self.product(objective, params)
        cost = self.product_cost(objective, gradient_cost)
        return Iterative(product, shift, weight, params, solver, cost, setup)

    def _exact(self, objective: Objective, params: PyTree[Array]) -> Split | None:
        """The split into model and loss if the solve is exact, else None."""
        exact = self.solve == "exact"
        if self.solve == "cg" or not (exact or self.is_gauss_newton(objective)):
            return None
        parts = split(objective, self.fraction)
        leaves = jax.tree.leaves(params)
        complex_ = any(map(jnp.iscomplexobj, leaves))
        divided = any(is_split(jnp.asarray(x)) for x in jax.tree.leaves((parts.samples, params)))
        if not exact and (complex_ or divided):
            return None
        if complex_:
            raise TypeError('solve="exact" takes real parameters only: pass solve="cg".')
        if divided:
            raise ValueError(
                'solve="exact" forms one matrix of all samples and parameters, which are split '
                'over devices here: pass solve="cg", or "auto", which then means "cg".'
            )
        if exact:
            return parts
        size = sum(leaf.size for leaf in leaves)
        samples, width = outputs_per_sample(parts, params)
        rows = samples * width
        small = min(rows, size) <= _DENSE and rows * size <= _ENTRIES
        return parts if small and width <= 2 * self.products else None


def as_linear_solver(solver: LinearSolver | None) -> LinearSolver:
    """The solver, by default `LinearSolver()`; a `TypeError` if it is no linear solver."""
    solver = LinearSolver() if solver is None else solver
    check_kind(LinearSolver, 'solvers.LinearSolver(solve="cg")', solver=solver)
    return solver


def known_count(name: str, number: int | None, default: int) -> int:
    """A number that fixes shapes or lengths of loops; `default` for None.

    `optax.inject_hyperparams` would trace a number, but leaves None as it is.

    Raises:
      TypeError: a number that is traced, or no whole number.
    """
    if number is None:
        return default
    check_static({name: number})
    return int(number)


def checked(
    curvature: Curvature, products: int | None, fraction: float | None
) -> tuple[Curvature, int, float]:
    """The options of curvature products, checked, and with the defaults in place of None."""
    if fraction is not None:
        check_static({}, fraction=fraction)
    products = known_count("products", products, PRODUCTS)
    fraction = 1.0 if fraction is None else float(fraction)
    if curvature not in ("auto", "ggn", "hessian"):
        raise ValueError(f'curvature is {curvature!r}; pass "auto", "ggn" or "hessian".')
    if products < 1:
        raise ValueError(f"products is {products}; a step needs at least 1 curvature product.")
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction is {fraction}; it must be in (0, 1]: 1 takes every sample.")
    return curvature, products, fraction
