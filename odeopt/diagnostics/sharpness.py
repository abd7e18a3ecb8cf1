"""The largest curvature of a loss, and the curvature along the gradients of its batches."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..arguments import check_gradient, floating
from ..arrays import ratio
from ..checks import check_counts, check_flags
from ..lanczos import lanczos, start_vector
from ..losses import LossSum, with_rows
from ..objective import LinearMap, Objective
from ..sums import inner, levelled

Result = TypeVar("Result")


class Sharpness(NamedTuple):
    """An eigenvalue of the Hessian.

    Attributes:
      value: the eigenvalue; a Ritz value, so never above the largest eigenvalue.
      vector: its Ritz vector, of norm 1, a tree like the parameters: `start=` of the next call.
      residual: a bound on the distance of `value` from an eigenvalue.
    """

    value: Float[Array, ""]
    vector: PyTree[Array]
    residual: Float[Array, ""]


def sharpness(
    value_fn: Callable[..., Any],
    params: PyTree[Array],
    /,
    *,
    products: int = 24,
    start: PyTree[Array] | None = None,
    magnitude: bool = False,
    **arguments: Any,
) -> Sharpness:
    r"""The sharpness: the largest eigenvalue of the Hessian of a loss, by Lanczos' algorithm.

    A solver with stability limit $R$ is stable on gradient flow while
    $h\lambda_{max} \le R$, and training with step size $h$ often settles there.

    Costs `products` Hessian products, 2 gradients each, and the memory of `products` copies of the
    parameters, in at least float32 and split over devices like the parameters. A complex entry
    counts as a pair. Safe under `jit` and `vmap`.

    Needs no `jit`: the program is kept for later calls with the same function object, shapes and
    settings. Pass arrays that change, such as the batch, by name: values that `value_fn` closes
    over stay as they were in the first call.

    Args:
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`.
      params: where the curvature is taken.
      products: number of Hessian products. 24 give the largest eigenvalue of a small network with a
        relative error of 1e-4; after a warm start a few are enough.
      start: the start vector, a tree like the parameters: the vector of the last call. It is mixed
        with a tenth of a pseudo-random direction, which is the whole start if none is given.
      magnitude: return the largest eigenvalue in absolute value, with its sign.
      arguments: forwarded to `value_fn` by name, as `update` does; `full_params` too.

    Returns:
      `Sharpness(value, vector, residual)`; NaN where the Hessian is not finite.

    Raises:
      ValueError: parameters without entries, fewer than 1 product, a `start` unlike `params`.
      TypeError: an argument of `value_fn` that is missing, parameters that are not floating point.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x, scale: 0.5 * scale * jnp.sum(jnp.array([1.0, 4.0, 9.0]) * x**2)
      >>> found = odeopt.diagnostics.sharpness(loss, jnp.ones(3), scale=2.0)
      >>> found.value.round(4), abs(found.vector).round(3)
      (Array(18., dtype=float32), Array([0., 0., 1.], dtype=float32))
    """
    check_flags(magnitude=magnitude)
    params = floating(params)
    if start is not None:
        start = check_gradient(start, params, "start")
    return compiled(_sharpness, value_fn, params, arguments, products, start, magnitude)


def batch_sharpness(
    value_fn: Callable[..., Any], params: PyTree[Array], /, **batches: Any
) -> Float[Array, ""]:
    r"""The batch sharpness: the mean curvature of the loss of each batch along its own gradient.

    $\tfrac1m\sum_k\langle g_k, H_kg_k\rangle/\|g_k\|^2$ over m batches. For one batch it is at most
    the sharpness of that batch. Training in small batches is stable while it is below the limit
    that the sharpness has for the full batch (momentum at the stochastic edge, arXiv:2604.14108).

    Costs 3 gradients a batch: 1 and a Hessian product.

    Args:
      value_fn: the loss of a batch, `value_fn(params, ...)`, a scalar or `(scalar, aux)`.
      params: where the curvature is taken.
      batches: arguments of `value_fn`, by name, with one row for each batch; `full_params` too,
        without rows.

    Returns:
      The mean over batches; a batch whose gradient is 0 counts as 0.

    Raises:
      ValueError: arguments with different numbers of rows.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x, scale: 0.5 * scale * x**2
      >>> odeopt.diagnostics.batch_sharpness(loss, jnp.array(1.0), scale=jnp.array([1.0, 3.0]))
      Array(2., dtype=float32)
    """
    parts, params = LossSum.of(value_fn, with_rows(batches), batches), floating(params)

    def body(total: Array, row: PyTree[Array]) -> Array:
        g, product = jax.linearize(lambda p: parts.gradient(p, row), params)
        return total + along(product, g)

    return parts.fold(body, jnp.zeros([], float)) / parts.number


def _sharpness(
    value_fn: Callable[..., Any], params: PyTree[Array], arguments: dict[str, Any], *settings: Any
) -> Sharpness:
    return extreme(hessian(value_fn, params, arguments), params, *settings)


def extreme(
    product: LinearMap,
    params: PyTree[Array],
    products: int,
    start: PyTree[Array] | None,
    magnitude: bool = False,
) -> Sharpness:
    """The largest eigenvalue of a symmetric linear map on trees like the parameters."""
    check_counts(products=products)
    ritz = lanczos(product, start_vector(params, start), params, products)
    # The last of equal values: the missing ones repeat the smallest and have no vector.
    index = -1 - jnp.argmax(jnp.abs(ritz.values[::-1])) if magnitude else -1
    return Sharpness(ritz.values[index], ritz.vector(index, params), ritz.residuals[index])


def along(product: LinearMap, vector: PyTree[Array]) -> Float[Array, ""]:
    r"""The Rayleigh quotient $\langle v, Hv\rangle/\|v\|^2$; 0 where $v$ is 0."""
    v, _ = levelled(vector)
    return ratio(inner(v, product(v)), inner(v, v))


def hessian(
    value_fn: Callable[..., Any], params: PyTree[Array], arguments: dict[str, Any]
) -> LinearMap:
    """`vector -> H vector` at `params`."""
    return linearized_gradient(Objective.of(value_fn, arguments), params)[1]


def linearized_gradient(
    objective: Objective, params: PyTree[Array]
) -> tuple[PyTree[Array], LinearMap]:
    """The gradient and `vector -> H vector`, linearized once for many products.

    The linearization keeps only the results of matrix products and convolutions. It recomputes
    cheap operations, since reading their results from memory in every product would take longer.
    """
    kept = jax.checkpoint_policies.dots_saveable
    return jax.linearize(jax.checkpoint(objective.gradient, policy=kept), params)


def compiled(function: Callable[..., Result], *operands: Any) -> Result:
    """`function(*operands)` as one program, which later calls of the same kind reuse.

    Array leaves are arguments of the program; all other leaves are constants of it, functions by
    identity. So a new batch does not compile again, but a new function does. If a leaf cannot be
    hashed, the function is run without compilation.
    """
    try:
        hash(tuple(jax.tree.leaves(eqx.filter(operands, eqx.is_array, inverse=True))))
    except TypeError:
        return function(*operands)
    return eqx.filter_jit(function)(*operands)
