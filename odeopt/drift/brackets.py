"""How tasks affect each other: Lie brackets and the conflict term."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..losses import Losses, LossSum
from ..sums import inner
from .differentials import VectorField, fitting_field


def lie_bracket(f: VectorField, g: VectorField) -> VectorField:
    r"""The Lie bracket of two vector fields, $[f, g] = g'f - f'g$.

    Following f and then g, each for a time h, ends $\tfrac{h^2}2[f, g]$ away from following f + g
    for h, and $h^2[f, g]$ away from following g and then f, to leading order. The bracket is 0
    where the flows commute. Costs 2 JVPs.

    Args:
      f: `y -> dy/dt`, a tree like y.
      g: likewise.

    Returns:
      The field `y -> [f, g](y)`.

    Raises:
      ValueError: from the bracket: a field whose values are not trees like y.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> turn = lambda y: jnp.array([-y[1], y[0]])
      >>> grow = lambda y: jnp.array([y[0], 0.0])
      >>> odeopt.drift.lie_bracket(grow, turn)(jnp.array([1.0, 2.0]))
      Array([2., 1.], dtype=float32)
    """
    f, g = fitting_field(f), fitting_field(g)

    def bracket(y: PyTree[Array]) -> PyTree[Array]:
        y = jax.tree.map(jnp.asarray, y)
        along_f = jax.jvp(g, (y,), (f(y),))[1]
        along_g = jax.jvp(f, (y,), (g(y),))[1]
        return jax.tree.map(jnp.subtract, along_f, along_g)

    return bracket


def conflict(value_fn: Losses, *, each: Sequence[str] = ()) -> Callable[..., Scalar]:
    r"""The conflict term of several tasks, $\sum_{i<j}\langle\nabla E_i, \nabla E_j\rangle$.

    Gradient descent on $\sum_iE_i$ follows, to one more order, the gradient flow of
    $\sum_iE_i + \tfrac h4\sum_i\|\nabla E_i\|^2 + \tfrac h2\,\text{conflict}$ (arXiv:2311.00235;
    derived here again): long steps prefer places where tasks pull in different directions. Subtract
    $\tfrac h2$ times the conflict from the loss to cancel this.

    Its value costs one gradient a task; its gradient, by `jax.grad`, about 3.

    Args:
      value_fn: a list of losses, or one loss with a row of some arguments for each task.
      each: the names of the arguments with rows.

    Returns:
      `(params, **arguments) -> scalar`; arguments are forwarded to the losses by name.

    Raises:
      ValueError: from the term: fewer than one task, or arguments with different numbers of rows.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> tasks = [lambda x: jnp.sum(x**2), lambda x: jnp.sum((x - 1.0) ** 2)]
      >>> odeopt.drift.conflict(tasks)(jnp.array([0.5]))  # between the optima: they disagree
      Array(-1., dtype=float32)
    """

    def term(params: PyTree[Array], **arguments: Any) -> Scalar:
        parts = LossSum.of(value_fn, each, arguments)

        def body(carry: tuple, row: PyTree[Array]) -> tuple:
            before, sum_ = carry
            g = parts.gradient(params, row)
            # With the sum of all earlier gradients: a difference of squares would cancel.
            return jax.tree.map(jnp.add, before, g), sum_ + inner(before, g)

        start = jax.tree.map(jnp.zeros_like, params), jnp.zeros([], float)
        return parts.fold(jax.checkpoint(body), start)[1]

    return term
