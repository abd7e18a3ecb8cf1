"""Runge-Kutta-Chebyshev methods: explicit, with a stability limit that grows as stages squared."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int, PyTree

from ..arrays import Scalar, real_dtype
from ..checks import check_static
from ..flows import AbstractFlow, State
from ..information import Information
from ..lanczos import flatten, mixed, normalized, unflatten
from ..loops import cond, fori_loop
from ..objective import Objective
from ..sums import add, multiple, scaled, widened
from .adapter import AbstractAdapter, FlatTerm, Reached
from .chebyshev import Coefficients, coefficients
from .method import AbstractMethod, Step, field_cost

_MARGIN = 1.2  # a safety factor of the estimated curvature, as in the RKC code
_FIRST = 24  # Hessian products of the first estimate, which starts from the gradient


class Sharpest(NamedTuple):
    """The estimate of the curvature that sets the number of stages."""

    value: Scalar  # lower bound of the Hessian's spectral radius; 0 before the first estimate
    vector: PyTree[Array]


class RungeKuttaChebyshev(AbstractMethod):
    r"""Runge-Kutta-Chebyshev: the stability limit grows with the square of the stages.

    With $f$ the field and $\delta_j$ the displacement from the start to stage j,
    $\delta_0 = 0$, $\delta_1 = \tilde\mu_1hf_0$,
    $\delta_j = \mu_j\delta_{j-1} + \nu_j\delta_{j-2} + \tilde\mu_jhf_{j-1} + \tilde\gamma_jhf_0$:
    one gradient a stage, the given one first. The loop keeps three vectors (four at order 2) and is
    compiled once. Leaves below 32 bits are combined in float32.

    Stable up to $h\lambda = R$: at order 1 $R = 2w_0T_s'(w_0)/T_s(w_0) \approx 1.93s^2$, at order 2
    about $0.65s^2$. Without damping, which lowers R a little (by 3 % at order 1 and the default),
    modes at the extrema of the polynomial would not decay.

    `stages=None` (for gradient flow only) takes the smallest number of stages whose limit is at
    least 1.2 times $h$ times the spectral radius of the Hessian. The power method estimates this
    radius, as in the RKC code: 24 products before the first step, one before every other, started
    from the last direction. Each product counts as 2 gradients. A step that would need more than
    `max_stages` is rejected.

    The arguments are those of `odeopt.rkc`.

    Raises:
      ValueError: fewer than 2 stages, another order, negative damping.
      TypeError: something that is not a Python number: a tracer, say.
    """

    stages: int | None = eqx.field(static=True)
    damping: float = eqx.field(static=True)
    max_stages: int = eqx.field(static=True)
    order: int = eqx.field(static=True, default=1)

    def __init__(
        self, stages: int | None = 10, order: int = 1, damping: float = 0.05, max_stages: int = 100
    ) -> None:
        counts: dict[str, Any] = {"stages": stages, "max_stages": max_stages}
        if stages is None:
            del counts["stages"]
        check_static({**counts, "order": order}, damping=damping)
        for name, number in counts.items():
            if number < 2:
                raise ValueError(
                    f"{name} is {number}; a stabilized method has at least 2 stages. For one "
                    "gradient a step use `odeopt.euler(learning_rate)`."
                )
        if order not in (1, 2):
            raise ValueError(f"order is {order}; a Runge-Kutta-Chebyshev method has order 1 or 2.")
        if not 0 <= damping < math.inf:
            raise ValueError(f"damping is {damping}; it must be at least 0: 0.05 is usual.")
        self.stages, self.order = stages, order
        self.damping, self.max_stages = float(damping), max_stages

    @property
    def stability_limit(self) -> float:
        """Where the Chebyshev polynomial leaves [-1, 1]; for `stages=None`, its largest value."""
        limit = self._coefficients(self.stages or self.max_stages).limit
        return limit if self.stages else limit / _MARGIN

    @property
    def gradients_per_step(self) -> int:
        """One for each stage; for `stages=None` the most (the state counts the actual number)."""
        return self.max_stages + 2 * _FIRST if self.stages is None else self.stages

    def check(self, flow: AbstractFlow) -> None:
        """Any flow that has a field; for `stages=None`, gradient flow only."""
        super().check(flow)
        if self.stages is None and Information.POTENTIAL not in flow.has:
            raise ValueError(
                "RungeKuttaChebyshev(stages=None) chooses its stages by the curvature of the loss, "
                f"which does not suit {type(flow).__name__}: give a number, `stages=10`."
            )

    def init(self, flow: AbstractFlow, z: State) -> Sharpest | tuple[()]:
        """No estimate yet. Memory: a copy of the parameters for `stages=None`, else nothing."""
        if self.stages is not None:
            return ()
        return Sharpest(jnp.zeros([], float), jax.tree.map(jnp.zeros_like, z[0]))

    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: Any
    ) -> Step:
        """One step of size `h`; the slopes are increments, which include the factor `h`."""
        first = flow.increment(z, objective, h)
        cost = field_cost(flow, z, h)
        used: int | Int[Array, ""] = field_cost(flow, z, h, given=True)
        stages: Any = self.stages
        ok: bool | Bool[Array, ""] = True

        def slope(stage: Array, time: Array, point: State) -> State:
            return flow.increment(point, objective.at(stage), h)

        if self.stages is None:
            memory, products = _sharpest(flow.potential(objective, h), z[0], memory)
            weight, rows, stages, ok = self._chosen(h * memory.value)
            used += 2 * cost * products
        else:
            weight, rows = self.scheme(float)
        used += cost * (stages - 1)
        moved = self.recurrence(slope, z, first, jnp.ones_like(h), weight, rows, stages)
        update, change = jax.tree.map(lambda e, k: e.astype(k.dtype), moved, first)
        return Step(update, add(z[1], change), memory, None, None, used, ok)

    def recurrence(
        self,
        slope: Callable[[Array, Array, PyTree[Array]], PyTree[Array]],
        start: PyTree[Array],
        first: PyTree[Array],
        h: Scalar,
        weight: Scalar,
        rows: Array,
        stages: Any,
    ) -> PyTree[Array]:
        r"""$\delta_s/h$, in float32 at least, for optimizers and for the diffrax class.

        `first` is the slope at `start`, `weight` its weight in the first stage, and `rows` are the
        coefficients of the other stages. `slope(stage, time, point)` gives their slopes, with the
        time in units of `h` from the start. `h` is 1 if slopes are increments.
        """

        def following(stage: Array, carry: tuple) -> tuple:
            (latest, before), row = carry, rows[stage - 1]
            point = jax.tree.map(lambda p, e: p + _scaled(h, e, p.dtype), start, latest)
            slopes = slope(stage, row[4], point)

            def leaf(e1: Array, e0: Array, k: Array, k0: Array) -> Array:
                mu, nu, at, at_start = row[:4].astype(e1.dtype)
                total = mu * e1 + nu * e0 + at * k.astype(e1.dtype)
                return total if self.order == 1 else total + at_start * k0.astype(e1.dtype)

            return jax.tree.map(leaf, latest, before, slopes, first), latest

        moved = multiple(weight, widened(first))
        begin = moved, jax.tree.map(jnp.zeros_like, moved)
        return fori_loop(1, stages, following, begin)[0]

    def butcher(self) -> tuple[list[list[float]], list[float]]:
        if self.stages is None:
            raise ValueError("RungeKuttaChebyshev(stages=None) has no tableau: give a number.")
        first, rows, _ = self._coefficients(self.stages)
        moved = np.zeros((self.stages + 1, self.stages))
        moved[1, 0] = first
        for j, (mu, nu, at, at_start, _) in enumerate(rows, start=1):
            moved[j + 1] = mu * moved[j] + nu * moved[j - 1]
            moved[j + 1, j] += at
            moved[j + 1, 0] += at_start
        return moved[:-1].tolist(), moved[-1].tolist()

    def scheme(self, dtype: Any) -> tuple[Array, Array]:
        """The weight of the first stage, and the coefficients of the others."""
        first, rows, _ = self._coefficients(self.stages)
        return jnp.asarray(first, dtype), jnp.asarray(rows, dtype)

    def _coefficients(self, stages: int | None) -> Coefficients:
        return coefficients(stages, self.order, self.damping)

    def _chosen(self, product: Scalar) -> tuple[Array, Array, Array, Bool[Array, ""]]:
        """The scheme for `h * curvature`, its number of stages, and whether that is allowed.

        The rows are tabulated, since a recurrence for them in float32 would lose too many digits.
        """
        known = [self._coefficients(s) for s in range(2, self.max_stages + 1)]
        table = np.zeros((len(known), len(known), 5))
        for rows, scheme in zip(table, known, strict=True):
            rows[: len(scheme.rows)] = scheme.rows
        limits = jnp.asarray([scheme.limit for scheme in known], float)
        stages = 2 + jnp.searchsorted(limits, _MARGIN * product)
        first = jnp.asarray([scheme.first for scheme in known], float)
        ok = stages <= self.max_stages
        stages = jnp.where(ok, stages, 2)
        # NaN, so that a step-size rule sees the failure too, in this step.
        weight = jnp.where(ok, first[stages - 2], jnp.nan)
        return weight, jnp.asarray(table, float)[stages - 2], stages, ok


def _sharpest(
    objective: Objective, params: PyTree[Array], last: Sharpest
) -> tuple[Sharpest, Int[Array, ""]]:
    """The estimate after one step of the power method (24 at first), and the number of products.

    If the new estimate is not positive and finite, the last one stays.
    """

    def after(products: int, start: PyTree[Array]) -> tuple[Sharpest, Array]:
        product = objective.product(params)
        first = Sharpest(jnp.zeros([], float), normalized(mixed(start, params))[1])
        new = fori_loop(
            0, products, lambda _, found: Sharpest(*normalized(product(found.vector))), first
        )
        good = (new.value > 0) & jnp.isfinite(new.value)
        return optax.tree.where(good, new, last), jnp.int32(products)

    return cond(
        last.value > 0,
        lambda: after(1, last.vector),
        lambda: after(_FIRST, objective.here(params)),
    )


def _scaled(h: Scalar, total: Array, dtype: Any) -> Array:
    """`h * total` rounded once, to `dtype`."""
    return scaled(h.astype(real_dtype(dtype)), total).astype(dtype)


class RKC(AbstractAdapter):
    """Runge-Kutta-Chebyshev for any ODE, without an error estimate; linear dense output.

    For stiff systems whose eigenvalues are near the negative real axis: diffusion, gradient flow.

    Args:
      stages: at least 2.
      order: 1 or 2.
      damping: as for `RungeKuttaChebyshev`.

    Raises:
      ValueError: as for `RungeKuttaChebyshev`; or `stages=None`, which is for optimizers only.
    """

    method: RungeKuttaChebyshev

    def __init__(self, stages: int = 10, order: int = 1, damping: float = 0.05) -> None:
        if stages is None:
            raise ValueError(
                "stages is None; stages are chosen by the curvature of a loss, which diffrax does "
                "not know: give a number, `RKC(stages=10)`, or use `odeopt.rkc(h, stages=None)`."
            )
        self.method = RungeKuttaChebyshev(stages, order, damping)

    def reached(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Reached:
        h = jnp.asarray(t1 - t0)
        forwards = terms.contr(jnp.zeros_like(h), jnp.ones_like(h))
        flat, start = FlatTerm(terms, y0), flatten(y0)
        displacement = self.method.recurrence(
            lambda stage, time, y: flat.vf_prod(t0 + time * h, y, args, forwards),
            start,
            flat.vf_prod(t0, start, args, forwards),
            h,
            *self.method.scheme(h.dtype),
            self.method.stages,
        )
        return Reached(unflatten(start + _scaled(h, displacement, start.dtype), y0))
