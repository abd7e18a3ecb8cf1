"""Explicit Runge-Kutta: one stage loop for every tableau. May use: `odeopt.flows`, `.kernels`."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..flows import AbstractFlow, State
from ..kernels import Kernel, check_kernel, combination
from ..objective import Gradient
from .method import AbstractMethod, Step
from .tableau import Tableau

LARGE = 4_000_000
"""Parameters from which stages are looped over where that saves memory."""


class ExplicitRungeKutta(AbstractMethod):
    r"""The explicit Runge-Kutta method of a tableau, one gradient a stage.

    $k_i = f(z + h\sum_{j<i} a_{ij}k_j)$, increment $h\sum_i b_ik_i$. The first stage uses the
    gradient that the caller already has, so a step evaluates `stages - 1` further ones.

    Stages that only serve the error estimate are dropped unless `error` asks for one. Leaves
    below 32 bits are combined in float32 and rounded once.

    Args:
      tableau: the coefficients.
      error: also estimate the local error, $h\sum_i b^{err}_ik_i$.
      scan: loop over the stages with `lax.scan` instead of unrolling them. Where every row of the
        tableau continues a multiple of the one above (`heun`, `ssprk3`, `LowStorage4`:
        `Tableau.recursion`), one vector is kept beside the point of the stage; else the slopes that
        the tableau looks back on (one for `rk4`) and their sum. That saves memory in large models,
        not compile time (`python -m benchmarks --only memory --only compile`). `grad_fn` then
        sees a traced stage. None: from `LARGE` parameters on where it saves memory, unless there is
        a `grad_fn` or `kernel="pallas"`.
      kernel: what combines the slopes (`odeopt.kernels`), except within a scan.

    Raises:
      ValueError: `error=True` and the tableau has no estimate; a `kernel` that there is not.
    """

    tableau: Tableau = eqx.field(static=True)
    scan: bool | None = eqx.field(static=True, default=None)
    kernel: str = eqx.field(static=True, default="auto")

    def __init__(
        self,
        tableau: Tableau,
        *,
        error: bool = False,
        scan: bool | None = None,
        kernel: Kernel = "auto",
    ) -> None:
        check_kernel(kernel)
        if error and tableau.b_error is None:
            raise ValueError(
                "This tableau has no error estimate, so its step size cannot be controlled by "
                "one. Use a pair that has: heun, ralston, midpoint, bosh3, dopri5, tsit5."
            )
        self.tableau = tableau if error else tableau.without_error()
        self.scan = scan
        self.kernel = kernel

    @property
    def order(self) -> int:
        """Order of accuracy, from the order conditions."""
        return self.tableau.order

    @property
    def stability_limit(self) -> float:
        """Real-axis stability limit, from the stability polynomial."""
        return self.tableau.stability_limit

    @property
    def gradients_per_step(self) -> int:
        """One for each stage."""
        return self.tableau.stages

    def step(
        self,
        flow: AbstractFlow,
        gradient: Gradient,
        z: State,
        h: Float[Array, ""],
        memory: tuple[()],
    ) -> Step:
        """One step of size `h`."""
        first = flow.field(z, gradient.stage(0), h)
        loop = self._unrolled
        if self._scans(z, gradient):
            loop = self._scanned if self.tableau.recursion is None else self._one_register
        (update, moved), error = loop(flow, gradient, z, h, first)
        return Step(update, jax.tree.map(jnp.add, z[1], moved), error, memory)

    def increment(self, stage: int, h: Float[Array, ""], slopes: Sequence[State]) -> State:
        """From the start of the step to the point of `stage`; to its end if there is none."""
        rows = (*self.tableau.a, self.tableau.b)
        return combination(h, rows[stage], slopes, kernel=self.kernel)

    def _scans(self, z: State, gradient: Gradient) -> bool:
        """Whether to loop over the stages; by itself, where that saves memory worth having."""
        if self.scan is not None:
            return self.scan and self.tableau.stages > 1
        fewer = self.tableau.recursion is not None or self.tableau.lags == 1
        unrolled = gradient.by_stage or self.kernel == "pallas"
        size = sum(leaf.size for leaf in jax.tree.leaves(z))
        return fewer and self.tableau.stages > 2 and size >= LARGE and not unrolled

    def _one_register(
        self, flow: AbstractFlow, gradient: Gradient, z: State, h: Array, first: State
    ) -> tuple[State, State | None]:
        """The loop of a tableau that is a `recursion`: of the way to its stage, nothing else."""
        tableau, s = self.tableau, self.tableau.stages
        assert tableau.recursion is not None
        weights = [*zip(*tableau.recursion, strict=True), tableau.b_error or (0.0,) * s]
        keep, add, estimate = (jnp.asarray(row, float) for row in weights)
        wide = jax.tree.map(lambda k: jnp.zeros_like(k, _accumulator(k.dtype)), first)
        error = None if tableau.b_error is None else _add_scaled(wide, estimate[0], first)

        def body(carry: tuple, x: tuple) -> tuple:
            way, error = carry
            stage, keep, add, estimate = x
            point = jax.tree.map(lambda p, d: p + _scaled(h, d, p.dtype), z, way)
            slope = flow.field(point, gradient.stage(stage), h)
            kept = jax.tree.map(lambda d: keep.astype(_real(d.dtype)) * d, way)
            error = None if error is None else _add_scaled(error, estimate, slope)
            return (_add_scaled(kept, add, slope), error), None

        carry = _add_scaled(wide, add[0], first), error
        xs = jnp.arange(1, s), keep[1:], add[1:], estimate[1:]
        way, error = gradient.scan(body, carry, xs, length=s - 1)

        def scaled(total: PyTree[Array]) -> State:
            return jax.tree.map(lambda d, k: _scaled(h, d, k.dtype), total, first)

        return scaled(way), (None if error is None else scaled(error))

    def _unrolled(
        self, flow: AbstractFlow, gradient: Gradient, z: State, h: Array, first: State
    ) -> tuple[State, State | None]:
        slopes = [first]
        for i in range(1, self.tableau.stages):
            point = jax.tree.map(jnp.add, z, self.increment(i, h, slopes))
            slopes.append(flow.field(point, gradient.stage(i), h))
        b_error = self.tableau.b_error
        error = None
        if b_error is not None:
            error = combination(h, b_error, slopes, kernel=self.kernel)
        return self.increment(self.tableau.stages, h, slopes), error

    def _scanned(
        self, flow: AbstractFlow, gradient: Gradient, z: State, h: Array, first: State
    ) -> tuple[State, State | None]:
        tableau = self.tableau
        a, s = tableau.matrix, tableau.stages
        lags = tableau.lags
        # row i of `recent`: the weights of the slopes 1, 2, ..., `lags` stages ago
        recent = [
            [a[i, i - lag] if lag <= i else 0.0 for lag in range(1, lags + 1)] for i in range(s)
        ]
        outputs = [w for w in (tableau.b, tableau.b_error) if w is not None]

        def accumulate(sums: list, weights: Array, slope: State) -> list:
            return [_add_scaled(total, w, slope) for total, w in zip(sums, weights, strict=True)]

        def body(carry: tuple, x: tuple) -> tuple:
            history, sums = carry
            stage, row, weights = x
            point = jax.tree.map(jnp.add, z, combination(h, tuple(row), history))
            slope = flow.field(point, gradient.stage(stage), h)
            return ((slope, *history[:-1]), accumulate(sums, weights, slope)), None

        zeros = jax.tree.map(jnp.zeros_like, first)
        wide = jax.tree.map(lambda k: jnp.zeros_like(k, _accumulator(k.dtype)), first)
        weights = jnp.asarray(outputs, float).T
        carry = (first, *[zeros] * (lags - 1)), accumulate([wide] * len(outputs), weights[0], first)
        xs = jnp.arange(1, s), jnp.asarray(recent, float)[1:], weights[1:]
        _, sums = gradient.scan(body, carry, xs, length=s - 1)
        increment, *error = [
            jax.tree.map(lambda total, k: _scaled(h, total, k.dtype), total, first)
            for total in sums
        ]
        return increment, (error[0] if error else None)


def _add_scaled(total: PyTree[Array], weight: Array, tree: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(
        lambda t, k: t + weight.astype(_real(t.dtype)) * k.astype(t.dtype), total, tree
    )


def _scaled(h: Array, total: Array, dtype: jnp.dtype) -> Array:
    # The step size is rounded to the leaf's dtype first, as optax does.
    return (h.astype(_real(dtype)).astype(_real(total.dtype)) * total).astype(dtype)


def _accumulator(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _real(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.finfo(dtype).dtype
