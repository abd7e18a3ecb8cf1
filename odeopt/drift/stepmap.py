r"""The modified field of any step map, by differentiation in the step size, without trees."""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_counts
from ..flows import GradientFlow
from ..kernels import combination
from ..objective import Objective
from ..solvers import Solver, as_method
from ..sums import add, multiple, scaled
from .differentials import (
    SteppedField,
    VectorField,
    b_series,
    derivatives_along,
    fitting,
    fitting_field,
)
from .trees import Pair, butcher, check_order, modified_equation

StepMap: TypeAlias = Callable[[PyTree[Array], Scalar | float], PyTree[Array]]
r"""$\Phi$: `(y, h) -> y` after one step of size `h`, differentiable in both."""


def fitting_step(step: StepMap) -> StepMap:
    """A step map whose values are checked and cast to the dtypes of `y`."""
    return fitting(step, "step map", "lambda y, h: y + h * field(y)")


def modified_field(
    step_or_solver: StepMap | Solver | Pair,
    field: VectorField | None,
    order: int,
    *,
    by: Literal["trees", "step"] | None = None,
) -> SteppedField:
    r"""The vector field that the iterates of a step really follow, up to $O(h^p)$.

    One step $\Phi_h$ is, up to $O(h^{p+1})$, the flow for a time $h$ of a field
    $f_h = \sum_{j\le p} h^{j-1}f_j$: the iterates follow $f_h$ with order $p$. There are two
    independent derivations, which agree to rounding:

    - `by="step"`, for any step map. Where the flow is $e^{hf_h}$, its logarithm is a sum of
      forward differences of the iterates $y_k = \Phi_h^k(y)$,
      $$hf_h(y) = \sum_{n=1}^{p}\frac{(-1)^{n+1}}{n}\Delta^n y_0 + O(h^{p+1}).$$
      Nested derivatives give its first $p$ Taylor coefficients in $h$.
    - `by="trees"`, for a Runge-Kutta method: the elementary differentials of `modified_equation`.

    Args:
      step_or_solver: a step map `(y, h) -> y`, with any memory of the step (momentum, moments) part
        of `y`; or a solver, see `modified_equation`, or any other odeopt method or solver class.
      field: for a solver, the vector field $f$ that it steps. A step map ignores it (pass None):
        its $f_1$ is the derivative of the step.
      order: $p$, 1 to 6. Costs about $p2^p$ steps, or the evaluations of `drift.b_series`.
      by: None for trees if there is a tableau, steps otherwise.

    Returns:
      `(y, h) -> dy/dt`, a tree like `y`; differentiable, and usable in `diffrax.ODETerm`.

    Raises:
      ValueError: an order outside 1 to 6; `by="trees"` without a tableau; a solver without a field.
        From the returned field: a step or a field whose values are not trees like `y`.
      TypeError: something that is neither a solver nor callable.

    Reference: the logarithm of the shift is classical (finite differences); its use here and its
    equality with the trees are derived here and tested in `tests/drift/test_agreement.py`.

    Examples:
      >>> import odeopt
      >>> field = lambda y: -y
      >>> euler = odeopt.drift.modified_field(odeopt.solvers.Euler(), field, 3)
      >>> step = odeopt.drift.modified_field(lambda y, h: y - h * y, None, 3)
      >>> round(float(euler(1.0, 0.1)), 6), round(float(step(1.0, 0.1)), 6)  # log(1 - h) / h
      (-1.053333, -1.053333)
    """
    check_order(order=order)
    if by not in (None, "trees", "step"):
        raise ValueError(f'by is {by!r}; it is "trees", "step" or None.')
    if callable(step_or_solver) and not isinstance(step_or_solver, type):
        if by == "trees":
            raise ValueError('A step map has no tree coefficients: drop by="trees".')
        return _from_step(step_or_solver, order)
    if field is None:
        raise ValueError(
            "A solver has a modified field of some vector field: pass it, "
            "`modified_field(solver, lambda y: -jax.grad(loss)(y), order)`."
        )
    solver: Any = step_or_solver
    if by == "trees" or (by is None and _has_tableau(solver)):
        return b_series(modified_equation(solver, order), field)
    return _from_step(step_map(solver, field, iterations=max(order - 1, 1)), order)


def step_map(solver: Solver | Pair, field: VectorField, *, iterations: int = 1) -> StepMap:
    r"""One step of a solver along a vector field, as a function `(y, h) -> y`.

    Args:
      solver: see `modified_equation`; or any odeopt method, or solver class with a `method`.
      field: $f$.
      iterations: number of fixed-point iterations $k_i \leftarrow f(y + h\sum_j a_{ij}k_j)$, from
        $k_i = f(y)$, for the stages of an implicit tableau. Each makes one more power of $h$ exact;
        they converge where $h$ times the curvature is small.

    Raises:
      TypeError: something that is not a solver.
      ValueError: a method that carries parameters or slopes from step to step, so its step is not a
        function of `y` alone. From the step: a field whose values are not trees like `y`.

    Examples:
      >>> import odeopt
      >>> step = odeopt.drift.step_map(odeopt.solvers.RK4(), lambda y: -y)
      >>> round(float(step(1.0, 0.1)), 4)  # exp(-h)
      0.9048
    """
    check_counts(iterations=iterations)
    field = fitting_field(field)
    if isinstance(solver, tuple) or _is_implicit(solver):
        return _implicit_step(butcher(solver), field, iterations)
    # Scan the stages: nested derivatives would repeat unrolled stages.
    method = as_method(solver).with_options(scan_stages=True)

    # A method may keep numbers of its last solve, but not trees.
    memory = jax.eval_shape(lambda y: method.init(GradientFlow(), (y, ())), jnp.ones(2))
    if any(leaf.shape for leaf in jax.tree.leaves(memory)):
        raise ValueError(
            f"{type(method).__name__} remembers ({type(memory).__name__}), so its step depends on "
            "more than y: pass a step map `(y, h) -> y` in which its memory is part of y, "
            "`drift.modified_field(step, None, order)`."
        )

    def step(y: PyTree[Array], h: Scalar | float) -> PyTree[Array]:
        y = jax.tree.map(jnp.asarray, y)

        def gradient(point: PyTree[Array], stage: int | Array = 0) -> PyTree[Array]:
            return jax.tree.map(jnp.negative, field(point))

        flow, z = GradientFlow(), (y, ())
        memory = method.init(flow, z)
        objective = Objective({"grad_fn": gradient}, gradient(y))
        return add(y, method.step(flow, objective, z, jnp.asarray(h, float), memory).update)

    return step


def _implicit_step(pair: Pair, field: VectorField, iterations: int) -> StepMap:
    a, b = [[float(x) for x in row] for row in pair[0]], [float(x) for x in pair[1]]

    def step(y: PyTree[Array], h: Scalar | float) -> PyTree[Array]:
        y, h = jax.tree.map(jnp.asarray, y), jnp.asarray(h, float)

        def moved(weights: list[float], slopes: list[PyTree[Array]]) -> PyTree[Array]:
            return add(y, combination(weights, [multiple(h, slope) for slope in slopes]))

        def improved(slopes: list[PyTree[Array]], _: None) -> tuple[list[PyTree[Array]], None]:
            return [field(moved(row, slopes)) for row in a], None

        slopes, _ = jax.lax.scan(improved, [field(y)] * len(b), None, length=iterations)
        return moved(b, slopes)

    return step


def _from_step(step: StepMap, order: int) -> SteppedField:
    weights, step = _logarithm(order), fitting_step(step)

    def interpolated(y: PyTree[Array], h: Scalar) -> PyTree[Array]:
        """`h f_h` up to `O(h^(p+1))`: the slope at 0 of the polynomial through p steps."""

        def body(carry: tuple, weight: Array) -> tuple[tuple, None]:
            point, total = carry
            point = step(point, h)
            total = jax.tree.map(lambda t, x, start: t + scaled(weight, x - start), total, point, y)
            return (point, total), None

        zero = jax.tree.map(jnp.zeros_like, y)
        (_, total), _ = jax.lax.scan(body, (y, zero), jnp.asarray(weights, float))
        return total

    def modified(y: PyTree[Array], h: Scalar | float) -> PyTree[Array]:
        y = jax.tree.map(jnp.asarray, y)
        h = jnp.asarray(h, float)
        _, *derivatives = derivatives_along(
            jnp.ones_like, lambda k: interpolated(y, k), jnp.zeros_like(h), order
        )
        powers = [h ** (j - 1) / math.factorial(j) for j in range(1, order + 1)]
        return combination(powers, derivatives)

    return modified


def _logarithm(order: int) -> list[float]:
    r"""The weights of `y_1 - y_0, ..., y_p - y_0` in $\sum_{n\le p}(-1)^{n+1}\Delta^n/n$.

    $\Delta^n = \sum_k (-1)^{n-k}\binom nk\Phi^k$; its weights, with the weight of `y_0`, sum to 0.
    """
    return [
        sum((-1) ** (k + 1) * math.comb(n, k) / n for n in range(k, order + 1))
        for k in range(1, order + 1)
    ]


def _is_implicit(solver: Solver) -> bool:
    a, _ = butcher(solver) if _has_tableau(solver) else ((), ())
    return any(x != 0 for i, row in enumerate(a) for x in row[i:])


def _has_tableau(solver: Any) -> bool:
    try:
        butcher(solver)
    except ValueError:
        return False
    return True
