r"""The drift of a discrete optimizer away from its flow, and the straightness of gradient flow."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..arguments import floating
from ..arrays import Scalar, ratio
from ..checks import check_flags, check_least
from ..losses import Losses, LossSum
from ..objective import Objective
from ..sums import inner, levelled, multiple, norm


class DriftTerms(NamedTuple):
    r"""To leading order the iterates follow $\dot x = -(g + \text{own} + \dots + \text{order})$.

    All are trees like the parameters, in units of the gradient.

    Attributes:
      gradient: $g = \sum_k g_k$, the sum over the parts of the loss.
      own: $\tfrac h2\sum_k H_kg_k$, the effect of every part on itself.
      interaction: $\tfrac h2\sum_{j\neq k}H_kg_j$ of parts that step together; 0 for parts in turn.
      order: $\tfrac h2\sum_{j<k}(H_jg_k - H_kg_j)$ of parts that step in turn, j before k: minus
        half the sum of the Lie brackets of their fields; 0 for parts that step together.
    """

    gradient: PyTree[Array]
    own: PyTree[Array]
    interaction: PyTree[Array]
    order: PyTree[Array]


class Drift(NamedTuple):
    r"""The drift d of a discrete optimizer: the sum of all terms of `DriftTerms` but g.

    Attributes:
      size: $h\|d\|$: how far one step (one round, for parts in turn) leads away from the flow, to
        leading order; in units of the parameters.
      relative: $\|d\|/\|g\|$. Counter-terms of the drift are accurate if this is small.
      cosine: the cosine of d with g: positive if drift speeds up the descent.
      own: share of this term in d, as $\langle\text{own}, d\rangle/\|d\|^2$; shares sum to 1.
      interaction: share of this term.
      order: share of this term.
    """

    size: Float[Array, ""]
    relative: Float[Array, ""]
    cosine: Float[Array, ""]
    own: Float[Array, ""]
    interaction: Float[Array, ""]
    order: Float[Array, ""]


def drift_terms(
    value_fn: Losses,
    params: PyTree[Array],
    learning_rate: float | Float[Array, ""],
    /,
    *,
    in_turn: bool = False,
    each: Sequence[str] = (),
    **arguments: Any,
) -> DriftTerms:
    r"""The leading terms of the modified equation of Euler's method, term by term.

    If the parts step together, a step is $x - h\sum_kg_k(x)$. If they step in turn, it is a round
    of one Euler step of size h on each part: a round of tasks, or an epoch of batches. (In flow
    time, the sum of the learning rates, a round of m parts lasts $mh$: divide all terms by m.) The
    terms own and interaction are those of arXiv:2105.13922, the brackets those of arXiv:2311.00235;
    derived here from the commutator of two steps and tested in `tests/diagnostics/test_drift.py`.

    Costs 3 gradients for a loss of one part, otherwise 6 for each part (2 gradients and 2 Hessian
    products), and the memory of 6 copies of the parameters. Arguments and errors: see `drift`.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 4.0]) * x**2)
      >>> odeopt.diagnostics.drift_terms(loss, jnp.ones(2), 0.5).own  # (h/2) H g
      Array([0.25, 4.  ], dtype=float32)
    """
    check_least(0, learning_rate=learning_rate)
    check_flags(in_turn=in_turn)
    parts, params = LossSum.of(value_fn, each, arguments), floating(params)
    half = 0.5 * jnp.asarray(learning_rate, float)
    zeros = jax.tree.map(jnp.zeros_like, params)
    whole = parts.total(params) if parts.number > 1 else zeros

    def body(carry: tuple, row: PyTree[Array]) -> tuple:
        before, own, cross = carry
        g, product = jax.linearize(lambda p: parts.gradient(p, row), params)
        own = jax.tree.map(jnp.add, own, product(g))
        if parts.number > 1:
            # in turn: the gradients after this part, minus those before
            others = jax.tree.map(
                (lambda t, g, b: t - g - 2 * b) if in_turn else (lambda t, g, b: t - g),
                *(whole, g, before),
            )
            cross = jax.tree.map(jnp.add, cross, product(others))
        return jax.tree.map(jnp.add, before, g), own, cross

    g, own, cross = parts.fold(body, (zeros, zeros, zeros))
    own, cross = multiple(half, (own, cross))
    return DriftTerms(g, own, *((zeros, cross) if in_turn else (cross, zeros)))


def drift(
    value_fn: Losses,
    params: PyTree[Array],
    learning_rate: float | Float[Array, ""],
    /,
    *,
    in_turn: bool = False,
    each: Sequence[str] = (),
    **arguments: Any,
) -> Drift:
    r"""The drift of gradient descent away from gradient flow in one step, and its terms.

    To leading order the iterates follow $\dot x = -(g + d)$, with $d = \tfrac h2Hg$ for a loss of
    one part. `drift_terms` has the formulas for several parts. For the heavy ball (momentum b, past
    its transient) with parts that step together, `relative`, `cosine` and the shares are those at
    the learning rate $h(1+b)/(1-b)^2$.

    Costs 3 gradients for a loss of one part, otherwise 6 for each part. If it is logged every k
    steps, a loss of one part costs `3 / k` gradients a step.

    Args:
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`; or a list of losses,
        which are summed.
      params: where the drift is taken.
      learning_rate: h, the step size.
      in_turn: whether the optimizer steps on the parts of the loss one after the other, in their
        order, instead of together.
      each: names of the arguments of one loss that have a row for each part, such as batches.
      arguments: forwarded to `value_fn` by name, as `update` does; `full_params` too.

    Returns:
      `Drift(size, relative, cosine, own, interaction, order)`, scalars; 0 where there is no drift.

    Raises:
      ValueError: no parts; names in `each` that were not passed; different numbers of rows.
      TypeError: an argument of `value_fn` that is missing, parameters that are not floating point.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x, batch: 0.5 * jnp.sum((batch @ x - 1.0) ** 2)
      >>> batches = jnp.array([[[1.0, 0.0]], [[1.0, 2.0]]])  # two batches of one sample
      >>> found = odeopt.diagnostics.drift(
      ...     loss, jnp.zeros(2), 0.1, in_turn=True, each=("batch",), batch=batches
      ... )
      >>> print(f"{found.relative:.3f}, {found.own:.2f} + {found.order:.2f}")
      0.177, 1.16 + -0.16
    """
    terms = drift_terms(value_fn, params, learning_rate, in_turn=in_turn, each=each, **arguments)
    three, largest = levelled(terms[1:])
    total = jax.tree.map(lambda a, b, c: a + b + c, *three)
    square = inner(total, total)
    size, relative, cosine = compared((total, largest), levelled(terms.gradient))
    shares = (ratio(inner(term, total), square) for term in three)
    return Drift(jnp.asarray(learning_rate, float) * size, relative, cosine, *shares)


def compared(
    drift: tuple[PyTree[Array], Scalar], beside: tuple[PyTree[Array], Scalar]
) -> tuple[Scalar, Scalar, Scalar]:
    """The length of a drift, relative to another vector, and their cosine; both as `levelled`."""
    (d, largest), (g, most) = drift, beside
    size, length = norm(d), norm(g)
    relative = ratio(size, length) * ratio(largest, most)
    return largest * size, relative, ratio(inner(d, g), size * length)


def corridor(
    value_fn: Callable[..., Any], params: PyTree[Array], /, **arguments: Any
) -> Float[Array, ""]:
    r"""The corridor measure $\|Hg\|/\|g\|$: 0 where gradient flow runs straight.

    Along gradient flow $\ddot x = Hg$. So if the measure is 0 over a piece of the path (a
    corridor), the piece is a straight line at constant speed, the loss falls linearly along it, and
    gradient descent with any step size stays on it (Dherin and Rosca, arXiv:2402.08818). If g is an
    eigenvector of the Hessian, the measure is the size of its eigenvalue; it never exceeds the size
    of the largest one.

    Costs 3 gradients (1 and a Hessian product) and the memory of 3 copies of the parameters. It is
    sharded like the parameters.

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
    g, product = jax.linearize(Objective.of(value_fn, arguments).gradient, floating(params))
    v, _ = levelled(g)
    return ratio(norm(product(v)), norm(v))
