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


class ExplicitRungeKutta(AbstractMethod):
    r"""The explicit Runge-Kutta method of a tableau, one gradient a stage.

    $k_i = f(z + h\sum_{j<i} a_{ij}k_j)$, increment $h\sum_i b_ik_i$. The first stage uses the
    gradient that the caller already has, so a step evaluates `stages - 1` further ones.

    Stages that only serve the error estimate are dropped unless `error` asks for one. Leaves
    below 32 bits are combined in float32 and rounded once.

    Args:
      tableau: the coefficients.
      error: also estimate the local error, $h\sum_i b^{err}_ik_i$.
      scan: loop over the stages with `lax.scan` instead of unrolling them: no more slopes are
        kept than the tableau looks back on (one for `rk4`). That saves memory in large models,
        not compile time (`python -m benchmarks --only memory --only compile`). `grad_fn` then
        sees a traced stage.
      kernel: what combines the slopes (`odeopt.kernels`), except within a scan.

    Raises:
      ValueError: `error=True` and the tableau has no estimate; a `kernel` that there is not.
    """

    tableau: Tableau = eqx.field(static=True)
    scan: bool = eqx.field(static=True, default=False)
    kernel: str = eqx.field(static=True, default="auto")

    def __init__(
        self,
        tableau: Tableau,
        *,
        error: bool = False,
        scan: bool = False,
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
        loop = self._scanned if self.scan and self.tableau.stages > 1 else self._unrolled
        (update, moved), error = loop(flow, gradient, z, h, first)
        return Step(update, jax.tree.map(jnp.add, z[1], moved), error, memory)

    def increment(self, stage: int, h: Float[Array, ""], slopes: Sequence[State]) -> State:
        """From the start of the step to the point of `stage`; to its end if there is none."""
        rows = (*self.tableau.a, self.tableau.b)
        return combination(h, rows[stage], slopes, kernel=self.kernel)

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
        lags = max(i - j for i in range(s) for j in range(i) if a[i, j] != 0)
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
