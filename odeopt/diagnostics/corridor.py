"""Whether gradient flow runs straight."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

from ..arrays import ratio
from ..objective import Objective
from ..sums import norm


def corridor(
    value_fn: Callable[..., Any], params: PyTree[Array], /, **arguments: Any
) -> Float[Array, ""]:
    r"""The corridor measure $\|Hg\|/\|g\|$: 0 where gradient flow runs straight.

    Along gradient flow $\ddot x = Hg$, so where this vanishes over a piece of the path (a corridor)
    the path is a straight line, run at constant speed, on which the loss falls linearly and
    gradient descent of any step size stays on it (Dherin and Rosca, arXiv:2402.08818). At an
    eigenvector of the Hessian it is the eigenvalue's size, and never more than the largest.

    Costs 3 gradients (1 and a Hessian product) and the memory of 3 copies of the parameters.
    Shards as the parameters do.

    Args:
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`.
      params: where it is taken.
      arguments: forwarded to `value_fn` by name, as `update` does; `full_params` too.

    Returns:
      The measure, in units of curvature; 0 at a stationary point.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> measure = odeopt.diagnostics.corridor(jnp.linalg.norm, jnp.array([3.0, 4.0]))
      >>> bool(measure < 1e-6)
      True
    """
    g, product = jax.linearize(Objective.of(value_fn, arguments).gradient, params)
    return ratio(norm(product(g)), norm(g))
