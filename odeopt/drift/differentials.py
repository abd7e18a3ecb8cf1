"""Elementary differentials of a vector field on trees, and sums of them."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeAlias

import jax
import jax.numpy as jnp
import kauri
import optax
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..kernels import combination
from .trees import Coefficients, check_tree, children

VectorField: TypeAlias = Callable[[PyTree[Array]], PyTree[Array]]
"""`y -> dy/dt`, a tree like `y`."""

SteppedField: TypeAlias = Callable[[PyTree[Array], Scalar | float], PyTree[Array]]
"""`(y, h) -> dy/dt`: a field that depends on the step size."""


Rest = ParamSpec("Rest")
Function: TypeAlias = Callable[Concatenate[PyTree[Array], Rest], PyTree[Array]]


def fitting(function: Function[Rest], name: str, such_as: str) -> Function[Rest]:
    """A field or step map whose values have the dtypes of `y`, its first argument.

    When called, it raises a `ValueError` if its value is not a tree like `y`.
    """

    def checked(y: PyTree[Array], *rest: Rest.args, **more: Rest.kwargs) -> PyTree[Array]:
        value = function(y, *rest, **more)
        shapes, expected = jax.tree.map(jnp.shape, (value, y))
        found: Any = jax.tree.structure(value)
        if shapes != expected or found != jax.tree.structure(y):
            raise ValueError(
                f"The {name} returned arrays of shape {shapes} for y of shape {expected}: it must "
                f"return a tree like y, as `{such_as}`."
            )
        return optax.tree.cast_like(value, y)

    return checked


def fitting_field(field: VectorField) -> VectorField:
    """A field whose values are checked and cast to the dtypes of `y`."""
    return fitting(field, "field", "lambda y: jax.tree.map(jnp.negative, jax.grad(loss)(y))")


def derivatives_along(
    direction: VectorField,
    function: VectorField,
    y: PyTree[Array],
    count: int,
    known: PyTree[Array] | None = None,
) -> list[PyTree[Array]]:
    """The function and its first derivatives along a field, by nested JVPs, which any step allows.

    `known` is the direction at `y`, if that is at hand; it is then not differentiated.
    """
    if count == 0:
        return [function(y)]
    tangent = optax.tree.cast_like(direction(y) if known is None else known, y)
    lower, tangents = jax.jvp(
        lambda y: derivatives_along(direction, function, y, count - 1), (y,), (tangent,)
    )
    return [*lower, tangents[-1]]


def elementary_differentials(
    field: VectorField, y: PyTree[Array], trees: Iterable[kauri.Tree]
) -> dict[kauri.Tree, PyTree[Array]]:
    r"""The elementary differential $F(t)(y)$ of a field for each of some trees.

    $F(\bullet) = f$ and $F([t_1,\dots,t_k]) = f^{(k)}(F(t_1),\dots,F(t_k))$, by Jacobian-vector
    products nested $k$ deep for $k$ children, so a tree costs about $2^k$ evaluations of `field`.
    Every subtree is evaluated once. Works on any tree of arrays.

    Args:
      field: $f$.
      y: the point.
      trees: rooted trees, e.g. the keys of `modified_equation`.

    Returns:
      A tree like `y` for each of `trees`.

    Raises:
      TypeError: something that is not a rooted tree.
      ValueError: a field whose values are not trees like `y`.

    Reference: Butcher, Numerical Methods for Ordinary Differential Equations, section 310.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> cubic, bushy = odeopt.drift.tree("123"), odeopt.drift.tree("122")
      >>> found = odeopt.drift.elementary_differentials(lambda y: y**2, 3.0, [cubic, bushy])
      >>> float(found[cubic]), float(found[bushy])  # f'f'f = 4 y^4 and f''(f, f) = 2 y^4
      (324.0, 162.0)
    """
    y, field = jax.tree.map(jnp.asarray, y), fitting_field(field)
    trees = [*trees]
    for tree in trees:
        check_tree(tree)
    known: dict[kauri.Tree, PyTree[Array]] = {}
    return {tree: _differential(field, y, tree, known) for tree in trees}


def b_series(coefficients: Coefficients, field: VectorField) -> SteppedField:
    r"""The vector field that tree coefficients describe, $\sum_t h^{|t|-1}b(t)F(t)/\sigma(t)$.

    Args:
      coefficients: $b$, e.g. from `modified_equation` or `modifying_integrator`.
      field: $f$.

    Returns:
      `(y, h) -> dy/dt`. Terms that differ in one child of the root share their outermost
      derivative, which is linear in it; leaves are summed in at least float32. Costs 1 evaluation
      of the field for its value and $2^k$ for every $k$-fold derivative.

    Raises:
      TypeError: a key that is not a rooted tree.
      ValueError: from the returned field: values of `field` that are not trees like `y`.

    Examples:
      >>> import odeopt
      >>> table = odeopt.drift.modified_equation(odeopt.solvers.Euler(), 2)
      >>> float(odeopt.drift.b_series(table, lambda y: -y)(1.0, 0.1))  # -y - (h/2) y
      -1.0499999523162842
    """
    for tree in coefficients:
        check_tree(tree)
    field = fitting_field(field)

    def sum_at(y: PyTree[Array], h: Scalar | float) -> PyTree[Array]:
        y = jax.tree.map(jnp.asarray, y)
        return series(coefficients, field, y, jnp.asarray(h, float), {})

    return sum_at


def series(
    coefficients: Coefficients,
    field: VectorField,
    y: PyTree[Array],
    h: Scalar | float,
    known: dict[kauri.Tree, PyTree[Array]],
) -> PyTree[Array]:
    """The sum of `b_series` at `y`; `known` holds differentials that are already known."""
    # all children of the root except the last -> (weight, last child)
    groups: dict[tuple[kauri.Tree, ...], list[tuple[float | Array, kauri.Tree]]] = {}
    total: list[tuple[float | Array, PyTree[Array]]] = []
    for tree, coefficient in coefficients.items():
        if coefficient == 0:
            continue
        weight = float(coefficient / tree.sigma()) * h ** (tree.nodes() - 1)
        below = sorted(children(tree), key=lambda t: (t.nodes(), repr(t)))
        if below:
            groups.setdefault(tuple(below[:-1]), []).append((weight, below[-1]))
        else:
            total.append((float(coefficient), _differential(field, y, tree, known)))
    for shared, ends in groups.items():
        directions = [_differential(field, y, child, known) for child in shared]
        last = [_differential(field, y, child, known) for _, child in ends]
        directions.append(combination([weight for weight, _ in ends], last))
        total.append((1.0, _derivative(field, directions)(y)))
    return combination([weight for weight, _ in total], [term for _, term in total])


def _differential(
    field: VectorField, y: PyTree[Array], tree: kauri.Tree, known: dict[kauri.Tree, PyTree[Array]]
) -> PyTree[Array]:
    if tree not in known:
        directions = [_differential(field, y, child, known) for child in children(tree)]
        known[tree] = _derivative(field, directions)(y)
    return known[tree]


def _derivative(field: VectorField, directions: Sequence[PyTree[Array]]) -> VectorField:
    """`y -> f^(k)(y)(v_1, ..., v_k)` for fixed directions."""
    for direction in directions:
        field = functools.partial(_directional, field, direction)
    return field


def _directional(field: VectorField, direction: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
    return jax.jvp(field, (y,), (direction,))[1]
