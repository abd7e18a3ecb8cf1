"""The flow and the loss that an epoch of mini-batches, or a round of tasks, follows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_flags, check_least
from ..losses import Losses, LossSum, with_rows
from ..sums import inner, scaled
from .differentials import SteppedField


def epoch_flow(value_fn: Losses, /, *, ordered: bool = True, **batches: Any) -> SteppedField:
    r"""The flow that an epoch of stochastic gradient descent follows, to one more order.

    For m batches with $g = \tfrac1m\sum_kg_k$, where batch j comes before batch k:

    $$\dot x = -g - \frac h{2m}\sum_kH_kg_k + \frac h{2m}\sum_{j<k}(H_kg_j - H_jg_k).$$

    The first sum is the gradient of a penalty, $\tfrac h{4m}\sum_k\|g_k\|^2$; it alone remains in
    the mean over all batch orders (Smith, Dherin, Barrett and De, arXiv:2101.12176). The second sum
    consists of the Lie brackets of the given batch order; it cancels over an epoch and its reverse.
    An epoch lasts $mh$, the sum of its learning rates. A list of losses is a round of tasks
    (arXiv:2311.00235, there with $h$ for a round). Derived here from the commutator of two steps.

    The local order is 3 in the mean over all batch orders. For a given batch order the global order
    is 2 (`ordered`), or 1 without the brackets. Costs 2 gradients and a Hessian product a batch;
    with $P_k = \sum_{j<k}g_j$ all the brackets are $\sum_kH_k(2P_k + g_k - mg)$. Memory: 6 copies
    of the parameters.

    Args:
      value_fn: the loss of a batch, `value_fn(params, ...)`; or a list of losses, one a task.
      ordered: whether to include the brackets of the order in which the batches come.
      batches: arguments of `value_fn`, by name, with one row for each batch; `full_params` too,
        without rows. (For a list of losses: arguments that are forwarded to all unchanged.)

    Returns:
      `field(y, h)`; for diffrax `ODETerm(lambda t, y, h: field(y, h))`, with `args=h`.

    Raises:
      ValueError: from the field: arguments without rows, or with different numbers of rows.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x, scale: 0.5 * scale * x**2
      >>> field = odeopt.drift.epoch_flow(loss, scale=jnp.array([1.0, 3.0]))
      >>> field(jnp.array(1.0), 0.1)  # -2 - (0.1 / 4) (1 + 9): fields on a line commute
      Array(-2.25, dtype=float32)
    """
    check_flags(ordered=ordered)

    def field(y: PyTree[Array], h: float | Scalar) -> PyTree[Array]:
        parts = _parts_of(value_fn, batches)
        zeros = jax.tree.map(jnp.zeros_like, y)
        total = parts.total(y) if ordered else zeros

        def body(carry: tuple, row: PyTree[Array]) -> tuple:
            before, weighted = carry

            def gradient(p: PyTree[Array]) -> PyTree[Array]:
                return parts.gradient(p, row)

            if ordered:  # penalty and brackets in one product: -g_k + (2 P_k + g_k - m g)
                direction = jax.tree.map(lambda b, t: 2 * b - t, before, total)
                g, product = jax.jvp(gradient, (y,), (direction,))
            else:
                g, linear = jax.linearize(gradient, y)
                product = linear(jax.tree.map(jnp.negative, g))
            return jax.tree.map(jnp.add, before, g), jax.tree.map(jnp.add, weighted, product)

        total, weighted = parts.fold(body, (zeros, zeros))
        mean, factor = jnp.asarray(-1 / parts.number, float), 0.5 * jnp.asarray(h, float)
        return jax.tree.map(lambda g, b: scaled(mean, g - scaled(factor, b)), total, weighted)

    return field


def epoch_loss(value_fn: Losses, learning_rate: float | Scalar) -> Callable[..., Scalar]:
    r"""The loss that an epoch of stochastic gradient descent lowers, in the mean over batch orders.

    $\tfrac1m\sum_k\bigl(E_k + \tfrac h4\|\nabla E_k\|^2\bigr)$ over m batches
    (arXiv:2101.12176); with one batch this is the modified loss of gradient descent
    (arXiv:2009.11162). Its gradient flow is `epoch_flow(value_fn, ordered=False, ...)`. The term of
    one random batch (pass only that batch) is an unbiased estimate of it. So to train at a small
    rate as if at the rate h, minimize this loss batch by batch, with h minus the small rate in
    place of h.

    Its value costs a gradient a batch, its gradient, by `jax.grad`, about 3. The memory is that of
    one batch, since batches are evaluated again in the backward pass.

    Args:
      value_fn: the loss of a batch, or a list of losses, one a task.
      learning_rate: h.

    Returns:
      `(params, **batches) -> scalar`; every argument has one row for each batch
      (for a list of losses, the arguments of the losses).

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x, scale: 0.5 * scale * x**2
      >>> total = odeopt.drift.epoch_loss(loss, 0.1)
      >>> float(total(jnp.array(1.0), scale=jnp.array([1.0, 3.0])).round(4))  # 1 + 0.025 * 5
      1.125
    """
    check_least(0, learning_rate=learning_rate)

    def loss(params: PyTree[Array], /, **batches: Any) -> Scalar:
        parts = _parts_of(value_fn, batches)

        def body(sum_: Array, row: PyTree[Array]) -> Array:
            g = parts.gradient(params, row)
            penalty = 0.25 * learning_rate * inner(g, g)
            return sum_ + parts.value(params, row) + penalty

        return parts.fold(jax.checkpoint(body), jnp.zeros([], float)) / parts.number

    return loss


def _parts_of(value_fn: Losses, batches: dict[str, Any]) -> LossSum:
    return LossSum.of(value_fn, with_rows(batches) if callable(value_fn) else (), batches)
