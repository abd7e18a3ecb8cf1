"""Explicit Runge-Kutta: one stage loop for every tableau."""

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ..arrays import Scalar
from ..checks import check_flags, check_kind
from ..flows import AbstractFlow, State
from ..information import Information
from ..kernels import combination
from ..objective import Objective
from ..sums import add, multiple, widened
from .method import AbstractMethod, Step, field_cost
from .tableau import Tableau

LARGE = 4_000_000
"""Entries of parameters and auxiliary variables from which a loop over the stages is worth it."""


class ExplicitRungeKutta(AbstractMethod):
    r"""The explicit Runge-Kutta method of a tableau, one gradient a stage.

    $k_i = hf(z + \sum_{j<i} a_{ij}k_j)$, increment $\sum_i b_ik_i$. The first stage uses the given
    gradient, so a step evaluates `stages - 1` further ones. Stages that only serve the error
    estimate are dropped without `error`. Leaves below 32 bits are combined in float32.

    Args:
      tableau: the coefficients.
      error: also estimate the local error, $\sum_i b^{err}_ik_i$.
      scan: loop over the stages with `lax.scan`, where `grad_fn` gets a traced stage. This saves
        memory in large models, not compile time (`python -m benchmarks --only memory --only
        compile`): the loop keeps one vector beside the point of the stage if every row of the
        tableau continues a multiple of the row above (`heun`, `ssprk3`, `LowStorage4`; see
        `Tableau.recursion`), else the slopes that later rows use (one for `rk4`) and their sum.
        None: loop from `LARGE` numbers on if this saves memory, unless there is a `grad_fn`.

    Raises:
      ValueError: `error=True` and the tableau has no estimate.
      TypeError: an argument that is no `Tableau` (`as_method` also takes diffrax's).
    """

    tableau: Tableau = eqx.field(static=True)
    scan: bool | None = eqx.field(static=True, default=None)

    options: ClassVar[frozenset[str]] = frozenset({"stage_transform", "staged", "scan_stages"})

    def __init__(self, tableau: Tableau, *, error: bool = False, scan: bool | None = None) -> None:
        check_kind(Tableau, "solvers.Tableau(a, b)", tableau=tableau)
        check_flags(error=error)
        if error and tableau.b_error is None:
            raise ValueError(
                "This tableau has no error estimate, so its step size cannot be controlled by "
                "one. Use a pair that has one: heun, ralston, midpoint, bosh3, dopri5, tsit5."
            )
        self.tableau = tableau if error else tableau.without_error()
        self.scan = scan

    @property
    def has(self) -> Information:  # type: ignore[override]
        """An error estimate, if it was asked for."""
        return Information.NONE if self.tableau.b_error is None else Information.ERROR

    def with_options(self, **options: Any) -> "ExplicitRungeKutta":
        scan, error = options.get("scan_stages", self.scan), self.tableau.b_error is not None
        return ExplicitRungeKutta(self.tableau, error=error, scan=scan)

    @property
    def order(self) -> int:
        return self.tableau.order

    @property
    def stability_limit(self) -> float:
        return self.tableau.stability_limit

    @property
    def gradients_per_step(self) -> int:
        return self.tableau.stages

    def butcher(self) -> tuple[list[list[float]], list[float]]:
        return self.tableau.matrix.tolist(), list(self.tableau.b)

    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: tuple[()]
    ) -> Step:
        first = flow.increment(z, objective, h)
        further = len(self.tableau.b) - 1
        loop = self._scanned if further and self._scans(z, objective) else self._unrolled
        (update, moved), error = loop(flow, objective, z, h, first)
        gradients = field_cost(flow, z, h, given=True)
        if further:
            gradients += further * field_cost(flow, z, h)
        return Step(update, add(z[1], moved), memory, error, None, gradients)

    def increment(self, stage: int, slopes: Sequence[State]) -> State:
        """From the start of the step to the point of `stage`, or to the end after the last one."""
        weights = self.tableau.rows[stage]
        return slopes[0] if weights == (1.0,) else combination(weights, slopes)

    def _scans(self, z: State, objective: Objective) -> bool:
        """Whether to loop over the stages; by default, if this saves enough memory."""
        if self.scan is not None:
            return self.scan
        if objective.by_stage or sum([leaf.size for leaf in jax.tree.leaves(z)]) < LARGE:
            return False
        fewer = self.tableau.recursion is not None or self.tableau.lags == 1
        return fewer and self.tableau.stages > 2

    def _unrolled(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Array, first: State
    ) -> tuple[State, State | None]:
        slopes = [first]
        for i in range(1, len(self.tableau.b)):
            point = add(z, self.increment(i, slopes))
            slopes.append(flow.increment(point, objective.at(i), h))
        b_error = self.tableau.b_error
        error = None if b_error is None else combination(b_error, slopes)
        return self.increment(len(slopes), slopes), error

    def _scanned(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Array, first: State
    ) -> tuple[State, State | None]:
        """Loop over the stages; keep the slopes of later rows, or the register of a recursion."""
        tableau = self.tableau
        history: tuple[State, ...] = ()
        rows: Sequence[Any] = tableau.recent
        outputs = [w for w in (tableau.b, tableau.b_error) if w is not None]
        if tableau.recursion is not None:
            rows, outputs[0] = zip(*tableau.recursion, strict=True)
        else:
            zeros = jax.tree.map(jnp.zeros_like, first)
            history = (first, *[zeros] * (tableau.lags - 1))

        def accumulated(sums: list, weights: Array, slope: State) -> list:
            added = optax.tree.cast_like(slope, sums[0])
            return [add(t, multiple(w, added)) for t, w in zip(sums, weights, strict=True)]

        def body(carry: tuple, x: tuple) -> tuple:
            history, sums = carry
            stage, row, weights = x
            moved = combination(tuple(row), history) if history else sums[0]
            slope = flow.increment(add(z, moved), objective.at(stage), h)
            if history:
                history = (slope, *history[:-1])
            else:
                sums = [multiple(row, sums[0]), *sums[1:]]
            return (history, accumulated(sums, weights, slope)), None

        wide = jax.tree.map(jnp.zeros_like, widened(first))
        weights = jnp.asarray(outputs, float).T
        carry = history, accumulated([wide] * len(outputs), weights[0], first)
        xs = jnp.arange(1, tableau.stages), jnp.asarray(rows, float)[1:], weights[1:]
        (_, sums), _ = jax.lax.scan(body, carry, xs)
        increment, *error = optax.tree.cast_like(sums, [first] * len(sums))  # rounded once
        return increment, (error[0] if error else None)
