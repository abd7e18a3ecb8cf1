"""Implicit methods of gradient flow, as minimization."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from ..arrays import Scalar
from ..checks import check_least
from ..flows import AbstractFlow, State
from ..loops import while_loop
from ..objective import Objective
from ..sums import add, finite, inner, multiple, norm
from .linear import LinearSolve, LinearSolver, as_linear_solver, known_count
from .method import AbstractCurvatureMethod, CounterTerm, Step, field_cost

Kind = Literal["euler", "midpoint", "trapezoidal"]

_HALF = Fraction(1, 2)
_SCHEMES: dict[str, tuple[int, Any]] = {  # order and Butcher tableau
    "euler": (1, ([[1]], [1])),
    "midpoint": (2, ([[_HALF]], [1])),
    "trapezoidal": (2, ([[0, 0], [_HALF, _HALF]], [_HALF, _HALF])),
}
_SUFFICIENT = 1e-4  # Armijo: a trial must bring this fraction of the decrease the slope predicts
_SHORTEST, _LONGEST = 0.1, 0.5  # bounds of the factor that shortens a refused trial
_TRIALS = 30
_ROUNDINGS = 10.0  # a predicted decrease below so many roundings of the loss is not visible in it


class Proximal(NamedTuple):
    """The result of the minimization in an implicit step.

    Attributes:
      iterations: number of Newton steps.
      evaluations: number of gradients at trial points.
      residual: norm of the gradient of the proximal objective at the end over that at the start.
      solve: the last linear solve; its `products` are those of the whole step.
    """

    iterations: Int[Array, ""]
    evaluations: Int[Array, ""]
    residual: Scalar
    solve: LinearSolve


class Implicit(AbstractCurvatureMethod):
    r"""Implicit Euler, the implicit midpoint rule, or the trapezoidal rule, by minimization.

    The step of implicit Euler is the proximal point
    $\mathrm{prox}_h(x) = \arg\min_y E(y) + \|y - x\|^2/(2h)$, whose gradient vanishes where
    $y = x - h\nabla E(y)$. The other methods take half such a step: the midpoint rule is
    $x^+ = 2\,\mathrm{prox}_{h/2}(x) - x$, the trapezoidal rule
    $x^+ = \mathrm{prox}_{h/2}(x - \tfrac h2\nabla E(x))$.

    Newton's method minimizes the proximal objective P, starting at x. An iteration solves
    $(B + I/h)\,d = -\nabla P(y)$ and backtracks along d (by a parabola, by a factor of 0.1 to 0.5
    each time) until Armijo's condition holds or, if the decrease is below the rounding of the loss,
    until the gradient of P is halved. P never rises, whatever h, the accuracy of the solves and the
    number of iterations: for implicit Euler always $E(x^+) + \|x^+ - x\|^2/(2h) \le E(x)$.

    Stability functions, with $z = h\lambda$: $1/(1+z)$ for implicit Euler, which is L-stable;
    $(1 - z/2)/(1 + z/2)$ for the others, where a mode of large z alternates and hardly decays.

    Args:
      kind: "euler", "midpoint" or "trapezoidal".
      solver: which curvature B, and how the systems of Newton's method are solved.
      iterations: the most Newton steps; None for 5.
      tolerance: Newton steps end when the gradient of P is this fraction of that at the start.

    Raises:
      ValueError: an unknown kind, fewer than 1 iteration, a negative tolerance.
    """

    kind: Kind = eqx.field(static=True)
    solver: LinearSolver
    iterations: int = eqx.field(static=True)
    tolerance: float | Scalar

    counter_term: ClassVar[CounterTerm | None] = "penalty"

    def __init__(
        self,
        kind: Kind = "euler",
        solver: LinearSolver | None = None,
        iterations: int | None = None,
        tolerance: float | Scalar = 1e-2,
    ) -> None:
        if kind not in _SCHEMES:
            raise ValueError(f"kind is {kind!r}; pass one of {', '.join(_SCHEMES)}.")
        self.kind, self.tolerance = kind, tolerance
        self.solver = as_linear_solver(solver)
        self.iterations = known_count("iterations", iterations, 5)
        if self.iterations < 1:
            raise ValueError(f"iterations is {iterations}; a step needs at least 1.")
        check_least(0, tolerance=tolerance)

    @property
    def order(self) -> int:
        """1 for Euler, 2 for the others, if the minimization is accurate enough."""
        return _SCHEMES[self.kind][0]

    @property
    def gradients_per_step(self) -> int:
        """The most with conjugate gradients and full Newton steps; the state has the actual number.

        Shortening a Newton step costs one more gradient for each trial.
        """
        return 1 + self.iterations * (1 + self.solver.gradients)

    def butcher(self) -> tuple[Sequence[Sequence[Any]], Sequence[Any]]:
        return _SCHEMES[self.kind][1]

    def init(self, flow: AbstractFlow, z: State) -> Proximal:
        none = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), jnp.zeros([], float)
        return Proximal(*none, self.solver.init(z[0]))

    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: Proximal
    ) -> Step:
        params, aux = z
        objective = flow.potential(objective, h)
        cost = field_cost(flow, z, h)
        slope = objective.here(params)
        length = h if self.kind == "euler" else 0.5 * h
        ahead = length if self.kind == "trapezoidal" else jnp.zeros_like(h)
        center = multiple(-ahead, slope)
        update, memory, used, sane = self._proximal(
            objective.at(1), params, slope, length, center, memory, cost
        )
        if self.kind == "midpoint":
            update = jax.tree.map(lambda u: 2 * u, update)
        used += field_cost(flow, z, h, given=True)
        return Step(update, aux, memory, gradients=used, finite=sane & finite(update, memory))

    def _proximal(
        self,
        objective: Objective,
        params: PyTree[Array],
        slope: PyTree[Array],
        h: Scalar,
        center: PyTree[Array],
        memory: Proximal,
        cost: int,
    ) -> tuple[PyTree[Array], Proximal, Int[Array, ""], Bool[Array, ""]]:
        r"""The increment u that minimizes $E(x + u) + \|u - c\|^2/(2h)$, starting at $u = 0$.

        `cost` is that of one gradient, or of one loss. The last two results are the total cost, and
        whether loss and gradient at $x$ are finite; if they are not, $u$ is 0. All is divided by
        $(1 + h)/h$, so that no step size is too large or too small.
        """
        shift, weight = 1 / (1 + h), h / (1 + h)

        def at(u: PyTree[Array], loss: Scalar, slope: PyTree[Array]) -> "_Point":
            apart = jax.tree.map(jnp.subtract, u, center)
            descent = add(multiple(weight, slope), multiple(shift, apart))
            value = weight * loss.astype(float) + 0.5 * shift * inner(apart, apart)
            return _Point(u, value, slope, descent, norm(descent))

        zero = jax.tree.map(jnp.zeros_like, slope)
        given = objective.given_value()
        value = objective.value(params) if given is None else given
        start, sane = at(zero, value, slope), finite((value, slope))
        rounding = _ROUNDINGS * float(jnp.finfo(value.dtype).eps)

        def unfinished(carry: tuple) -> Bool[Array, ""]:
            here, memory, moved, _ = carry
            left = here.norm > self.tolerance * start.norm
            return moved & left & (memory.iterations < self.iterations)

        def newton(carry: tuple) -> tuple:
            here, memory, _, used = carry
            point = add(params, here.displacement)
            system = self.solver.system(objective, point, h, cost)
            minus = multiple(-shift, jax.tree.map(jnp.subtract, here.displacement, center))
            direction, solve, taken = system.solve(memory.solve, minus, (weight, here.slope))
            direction = optax.tree.cast_like(direction, here.displacement)
            promised = inner(here.descent, direction)
            # A decrease too small to see in the loss can be seen in its gradient.
            unseen = jnp.abs(promised) <= rounding * jnp.abs(here.value)

            def shorter(search: "_Search") -> "_Search":
                moved = add(here.displacement, multiple(search.length, direction))
                trial = at(moved, *objective.value_and_gradient(add(params, moved)))
                rise = trial.value - here.value
                enough = rise <= _SUFFICIENT * search.length * promised
                enough |= unseen & (trial.norm < 0.5 * here.norm)
                curved = rise / search.length - promised
                least = jnp.where(curved > 0, -0.5 * promised / curved, 0.0) * jnp.ones_like(rise)
                ratio = jnp.clip(jnp.nan_to_num(least), _SHORTEST, _LONGEST)
                length = jnp.where(enough, search.length, search.length * ratio)
                return _Search(length, trial, enough, search.trials + 1)

            def refused(search: "_Search") -> Bool[Array, ""]:
                return ~search.enough & (search.trials < _TRIALS)

            begin = _Search(jnp.ones([], float), here, ~(promised < 0), jnp.int32(0))
            search = while_loop(refused, shorter, begin)
            moved = search.enough & (promised < 0)
            after = optax.tree.where(moved, search.point, here)
            return (
                after,
                Proximal(
                    memory.iterations + 1,
                    memory.evaluations + search.trials,
                    after.norm / jnp.where(start.norm > 0, start.norm, 1.0),
                    solve._replace(products=memory.solve.products + solve.products),
                ),
                moved,
                used + system.setup + taken + cost * search.trials,
            )

        none = jnp.int32(0)
        last = memory.solve._replace(products=none)
        fresh = Proximal(none, none, jnp.ones([], float), last)
        used = jnp.int32(cost if given is None else 0)
        carry = start, fresh, sane & jnp.isfinite(start.value) & jnp.isfinite(h), used
        here, memory, _, used = while_loop(unfinished, newton, carry)
        fell = here.value <= start.value  # False by rounding only
        return optax.tree.where(fell, here.displacement, zero), memory, used, sane


class _Point(NamedTuple):
    """A point of the minimization; P and its gradient are divided by $(1 + h)/h$."""

    displacement: PyTree[Array]
    value: Scalar  # of P
    slope: PyTree[Array]  # gradient of the loss
    descent: PyTree[Array]  # gradient of P
    norm: Scalar  # of `descent`


class _Search(NamedTuple):
    """The state of a line search."""

    length: Scalar
    point: _Point
    enough: Bool[Array, ""]
    trials: Int[Array, ""]
