r"""Coefficients of modified equations and modifying integrators, one for each rooted tree.

The package kauri does the tree algebra, in exact arithmetic.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

import diffrax
import kauri
import numpy as np

from ..checks import is_whole
from ..solvers import Solver, as_method

Number: TypeAlias = int | float | Fraction
Pair: TypeAlias = tuple[Sequence[Sequence[Number]], Sequence[Number]]
"""A Butcher tableau `(A, b)`: the whole matrix and the weights, implicit methods included."""

Coefficients: TypeAlias = Mapping[kauri.Tree, Fraction | float]
"""A number for each rooted tree."""

MAX_ORDER = 6  # 37 trees, with derivatives nested up to five deep
_LARGEST_DENOMINATOR = 10**6
_ROUNDING = 1e-12  # rounding error of sums of products of about ten coefficients of size 1 to 30


def modified_equation(
    solver: Solver | Pair, order: int
) -> dict[kauri.Tree, Fraction] | dict[kauri.Tree, float]:
    r"""The modified equation that a Runge-Kutta method really solves, as a number for each tree.

    One step of size $h$ along $f$ is the exact flow, for a time $h$, of

    $$f_h = \sum_{|t| \le p} \frac{h^{|t|-1}}{\sigma(t)}\,b(t)\,F(t) + O(h^p),$$

    with $|t|$ the number of nodes of the tree, $\sigma(t)$ its symmetry (`t.sigma()`) and $F(t)$
    its elementary differential (`drift.elementary_differentials`). `drift.modified_field` gives the
    field $f_h$ itself.

    Args:
      solver: a `solvers.Tableau`, an explicit Runge-Kutta method or solver class (odeopt's or
        diffrax's), `solvers.ImplicitEuler()`, `ImplicitMidpoint()` or `Trapezoidal()`, a diagonally
        implicit diffrax solver, or a pair `(A, b)` of the whole matrix and the weights:
        `([[0.5]], [1])` is the implicit midpoint rule.
      order: the largest number of nodes, 1 to 6.

    Returns:
      $b(t)$ by `kauri.Tree`, smaller trees first: exact fractions if the tableau is rational
      (recognized from its floats up to denominators of a million), otherwise floats, rounded to an
      integer within 1e-12. `drift.tree("122")` makes a key.

    Raises:
      ValueError: an order outside 1 to 6; a method that is not a Runge-Kutta method; weights that
        do not sum to 1.
      TypeError: something that is not a solver.

    Reference: Chartier, Hairer and Vilmart, Found. Comput. Math. 10 (2010); Hairer, Lubich and
    Wanner, Geometric Numerical Integration, section IX.9. `tests/drift` compares with `stepmap`.

    Examples:
      >>> import odeopt
      >>> table = odeopt.drift.modified_equation(odeopt.solvers.Euler(), 3)
      >>> {odeopt.drift.levels(tree): str(b) for tree, b in table.items()}
      {'1': '1', '12': '-1/2', '123': '1/3', '122': '1/6'}
    """
    return _table(solver, order, inverse=False)


def modifying_integrator(
    solver: Solver | Pair, order: int
) -> dict[kauri.Tree, Fraction] | dict[kauri.Tree, float]:
    r"""The field to give to a Runge-Kutta method so that its steps follow $f$ itself.

    The inverse of `modified_equation`, in the same form and with the same arguments and errors:
    the method, applied to $\sum_{|t|\le p} h^{|t|-1} b(t)F(t)/\sigma(t)$, follows $\dot y = f(y)$
    with order $p$. `drift.corrected` builds that flow.

    Args:
      solver: see `modified_equation`.
      order: the largest number of nodes, 1 to 6.

    Examples:
      >>> import odeopt
      >>> table = odeopt.drift.modifying_integrator(odeopt.solvers.Midpoint(), 3)
      >>> {odeopt.drift.levels(tree): str(b) for tree, b in table.items()}
      {'1': '1', '12': '0', '123': '1/6', '122': '1/12'}
    """
    return _table(solver, order, inverse=True)


def tree(levels: str | Sequence[int]) -> kauri.Tree:
    """The rooted tree of a level sequence: 1 for the root, 2 for its children, and so on.

    Args:
      levels: a level sequence such as `"122"`, the root with two children, for $f''(f, f)$.

    Raises:
      ValueError: not the level sequence of a tree.

    Examples:
      >>> import odeopt
      >>> odeopt.drift.tree("1223").sigma(), odeopt.drift.tree("1223") == odeopt.drift.tree("1232")
      (1, True)
    """
    try:
        numbers = [int(level) for level in levels]
    except (TypeError, ValueError):
        numbers = [0]  # refused below
    if not numbers:
        raise ValueError("An empty sequence is not a tree with a root.")
    steps = itertools.pairwise(numbers)
    if numbers[0] != 1 or not all(2 <= level <= before + 1 for before, level in steps):
        raise ValueError(
            f"{levels!r} is no level sequence: it starts with 1, the root, and a node is at "
            'most one level below the one before it, as in "1223".'
        )
    path: list[list] = [[]]  # from above the root to the last node
    for level in numbers:
        path[level:] = [[]]
        path[level - 1].append(path[level])
    return kauri.Tree(path[0][0])


def levels(tree: kauri.Tree) -> str:
    """The level sequence of a rooted tree, the inverse of `tree`; children with fewer levels first.

    Args:
      tree: a rooted tree.

    Examples:
      >>> import kauri, odeopt
      >>> odeopt.drift.levels(kauri.Tree([[[]], []]))
      '1223'
    """
    check_tree(tree)

    def sequence(node: kauri.Tree, level: int) -> list[int]:
        below = sorted(sequence(child, level + 1) for child in children(node))
        return [level, *(entry for part in below for entry in part)]

    return "".join(map(str, sequence(tree, 1)))


def check_tree(tree: Any) -> None:
    """Raise a `TypeError` for anything but a rooted tree, such as a level sequence."""
    if not isinstance(tree, kauri.Tree):
        raise TypeError(f'{tree!r} is no rooted tree: write it as `odeopt.drift.tree("122")`.')


def children(tree: kauri.Tree) -> list[kauri.Tree]:
    """The subtrees below the root; none for a single node."""
    return [] if tree.nodes() == 1 else list(tree.unjoin())


def is_pair(solver: Any) -> bool:
    """Whether a solver is given by its coefficients `(A, b)`: an optimizer is a tuple too."""
    return type(solver) is tuple


def butcher(solver: Solver | Pair) -> Pair:
    """The checked pair `(A, b)` of a Runge-Kutta method; raises as `modified_equation` does."""
    if is_pair(solver):
        return _checked(solver)
    if isinstance(solver, diffrax.ImplicitEuler):
        return _checked(([[1]], [1]))
    tableau = getattr(solver, "tableau", solver)
    if isinstance(tableau, diffrax.ButcherTableau) and tableau.implicit:
        matrix = np.diag(np.asarray(tableau.a_diagonal, float))
        for i, row in enumerate(tableau.a_lower, start=1):
            matrix[i, :i] = row
        return _checked((matrix.tolist(), tableau.b_sol.tolist()))
    return _checked(as_method(solver).butcher())  # type: ignore[arg-type]


def check_order(**orders: int) -> None:
    """Raise a `ValueError` that names an order that is not an integer from 1 to 6."""
    for name, order in orders.items():
        if not is_whole(order) or not 1 <= order <= MAX_ORDER:
            raise ValueError(f"{name} is {order!r}; it must be an integer from 1 to {MAX_ORDER}.")


def _table(solver: Solver | Pair, order: int, *, inverse: bool) -> dict:
    check_order(order=order)
    a, b = butcher(solver)
    return dict(_computed(tuple(map(tuple, a)), tuple(b), order, inverse))


@functools.lru_cache(maxsize=256)
def _computed(a: tuple, b: tuple, order: int, inverse: bool) -> dict:
    rational = all(_rational(x) is not None for row in (*a, b) for x in row)
    rational = rational and sum(filter(None, map(_rational, b))) == 1
    number = _rational if rational else float
    method = kauri.RK([[number(x) for x in row] for row in a], [number(x) for x in b])
    phi, exact = method.elementary_weights_map(), kauri.Map(lambda t: Fraction(1, t.factorial()))
    # As in kauri's `Map.modified_equation`, but that has floats as weights of the exact flow.
    outer, inner = (exact, phi) if inverse else (phi, exact)
    weights = outer ^ (inner & kauri.cem.antipode)
    table = {t: weights(t) for t in kauri.trees_up_to_order(order) if t.nodes() > 0}
    if rational:
        return {t: Fraction(value) for t, value in table.items()}
    return {
        t: float(round(value) if abs(value - round(value)) < _ROUNDING else value)
        for t, value in table.items()
    }


def _rational(value: Number) -> Fraction | None:
    """The fraction with a small denominator that equals a coefficient, or None."""
    if isinstance(value, int | Fraction):
        return Fraction(value)
    guess = Fraction(value).limit_denominator(_LARGEST_DENOMINATOR)
    return guess if abs(float(guess) - value) <= 2 * np.spacing(abs(value)) else None


def _checked(pair: Any) -> Pair:
    parts = [np.asarray(part, object) for part in pair]  # NumPy's numbers become Python's
    shapes = [part.shape for part in parts]
    if len(shapes) != 2 or len(shapes[1]) != 1 or shapes[0] != 2 * shapes[1]:
        raise ValueError(
            "A tableau is a pair (A, b) of a square matrix and as many weights, such as "
            f"`([[0.5]], [1])`; this one has shapes {shapes}."
        )
    a, b = (part.tolist() for part in parts)
    for number in [*(x for row in a for x in row), *b]:
        if not isinstance(number, int | float | Fraction):
            raise TypeError(f"A tableau holds numbers or fractions, not {number!r}.")
    if not abs(sum(map(float, b)) - 1) < _ROUNDING:
        raise ValueError(f"Inconsistent tableau: b sums to {float(sum(b)):.12g}, not to 1.")
    return a, b
