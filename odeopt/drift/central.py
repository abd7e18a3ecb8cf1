"""The central flow of gradient descent at the edge of stability."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..arguments import floating
from ..arrays import Scalar, ratio
from ..checks import check_counts
from ..lanczos import flatten, unflatten
from ..objective import Objective
from .principal import hessian_matrix

_SWEEPS = 1000  # limit on iterations of projected gradient descent; few are needed
_ROUNDINGS = 100.0  # rounding errors; an iteration that changes less has converged


class Oscillation(NamedTuple):
    r"""How gradient descent oscillates around its central flow.

    Attributes:
      eigenvalues: the k largest eigenvalues of the Hessian, ascending.
      vectors: their eigenvectors, as columns; parameters flat, in the order of their leaves.
      covariance: $\langle u_i, \Sigma u_j\rangle$, the covariance $\Sigma$ of the oscillation in
        that basis; 0 below the edge.
      loss: the mean of the loss over the oscillation, $E + \tfrac12\langle H, \Sigma\rangle$,
        which at the edge is $E + \operatorname{tr}\Sigma/h$.
    """

    eigenvalues: Float[Array, " k"]
    vectors: Float[Array, "n k"]
    covariance: Float[Array, "k k"]
    loss: Scalar


class CentralFlow:
    """The result of `central_flow`: a vector field, `field(y, h)`, and its oscillation."""

    def __init__(
        self, value_fn: Callable[..., Any], directions: int, arguments: Mapping[str, Any]
    ) -> None:
        check_counts(directions=directions)
        self._objective = Objective.of(value_fn, arguments)
        self._directions = directions

    def __call__(self, y: PyTree[Array], h: float | Scalar) -> PyTree[Array]:
        """`dy/dt` for steps of size h."""
        y = floating(y)
        return unflatten(-self._at(y, h)[0], y)

    def oscillation(self, params: PyTree[Array], h: float | Scalar) -> Oscillation:
        """The oscillation of gradient descent around the central flow."""
        params = floating(params)
        _, eigenvalues, vectors, covariance = self._at(params, h)
        height = 0.5 * jnp.sum(eigenvalues * jnp.diag(covariance))
        loss = self._objective.value(params) + height
        return Oscillation(eigenvalues, vectors, covariance, loss)

    def _at(self, params: PyTree[Array], h: float | Scalar) -> tuple[Array, Array, Array, Array]:
        """Minus the field, flat; eigenvalues, vectors and covariance of the oscillation."""
        grad, product = jax.linearize(self._objective.gradient, params)
        values, vectors = jnp.linalg.eigh(hessian_matrix(product, params))
        top, basis = values[-self._directions :], vectors[:, -self._directions :]

        def projected(point: Array) -> Array:  # the Hessian in that basis
            def along(u: Array) -> Array:
                primal, tangent = unflatten(point, params), unflatten(u, params)
                return flatten(jax.jvp(self._objective.gradient, (primal,), (tangent,))[1])

            return basis.T @ jax.vmap(along, in_axes=1, out_axes=1)(basis)

        third = jax.jacrev(projected)(flatten(params))
        g = flatten(grad)
        # d/dt of the projected Hessian is force - half <third, third> covariance. It may be at most
        # (2/h - top) / h: the distance to the edge, divided by the time of one step.
        force = jnp.diag(top - 2 / h) / h - third @ g
        response = 0.5 * jnp.einsum("ijn,kln->ijkl", third, third)
        covariance = complementary(response, 0.5 * (force + force.T))
        return g + 0.5 * jnp.einsum("ij,ijn->n", covariance, third), top, basis, covariance


def central_flow(
    value_fn: Callable[..., Any], /, *, directions: int = 1, **arguments: Any
) -> CentralFlow:
    r"""The central flow: the time average of gradient descent that oscillates at the edge.

    $$\dot x = -\nabla E - \tfrac12\nabla\langle H, \Sigma\rangle,$$

    with $\Sigma$ the covariance of the oscillation in the top eigendirections, just large enough to
    keep the sharpness at $2/h$: $\Sigma \succeq 0$ on the eigenspace at the edge, and the
    curvature there does not grow (Cohen et al., arXiv:2410.24206, with h times this field for a
    step). For one direction with eigenvalue $S$,
    $\sigma^2 = \max\bigl(0, \langle\nabla S, -\nabla E\rangle/(\tfrac12\|\nabla S\|^2)\bigr)$ at
    $S = 2/h$, and 0 below. Instead of this switch, the curvature here may grow at most at the rate
    $(2/h - S)/h$, so that the field is continuous and reaches the edge within a few steps. At the
    edge both are the same, and a start beyond the edge returns to it.

    For small problems: each evaluation forms the dense Hessian (n Hessian products) and the
    gradients of $k^2$ of its entries.

    Args:
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`; real parameters.
      directions: k, the number of directions that may be at the edge.
      arguments: forwarded to `value_fn` by name.

    Returns:
      `field(y, h)`; for diffrax `ODETerm(lambda t, y, h: field(y, h))`, with `args=h`. And
      `field.oscillation(params, h)`: eigenvalues, covariance, and the mean loss.

    Raises:
      ValueError: fewer than 1 direction.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda y: 0.5 * y[1] * y[0] ** 2 - 3.0 * y[1]  # y[1] is the curvature along y[0]
      >>> field = odeopt.drift.central_flow(loss)
      >>> edge = jnp.array([0.0, 20.0])  # 2 / h; gradient descent steps between +-sqrt(6) there
      >>> field.oscillation(edge, 0.1).covariance.round(4)
      Array([[6.]], dtype=float32)
      >>> bool(jnp.all(jnp.abs(field(edge, 0.1)) < 1e-5))
      True
    """
    return CentralFlow(value_fn, directions, arguments)


def complementary(
    response: Float[Array, "k k k k"], force: Float[Array, "k k"]
) -> Float[Array, "k k"]:
    r"""The X with $X \succeq 0$, $R X - F \succeq 0$, $\langle X, R X - F\rangle = 0$.

    R is positive semi-definite. For one direction X is `max(0, F / R)`, otherwise it is found by
    accelerated projected gradient descent on $\tfrac12\langle X, RX\rangle - \langle X, F\rangle$.
    X is 0 if R is.
    """
    k = len(force)
    size = jnp.linalg.norm(response.reshape(k * k, k * k), ord=2)
    rate = ratio(jnp.ones_like(size), size)
    if k == 1:
        return jnp.maximum(0.0, rate * force)
    tolerance = _ROUNDINGS * jnp.finfo(force.dtype).eps

    def projected(x: Array) -> Array:
        values, vectors = jnp.linalg.eigh(0.5 * (x + x.T))
        return (vectors * jnp.maximum(values, 0.0)) @ vectors.T

    def sweep(carry: tuple) -> tuple:
        x, ahead, t, _, n = carry
        new = projected(ahead - rate * (jnp.einsum("ijkl,kl->ij", response, ahead) - force))
        uphill = jnp.sum((ahead - new) * (new - x)) > 0
        t = jnp.where(uphill, 1.0, t)  # restart the momentum
        later = 0.5 * (1 + jnp.sqrt(1 + 4 * t**2))
        change = jnp.linalg.norm(new - ahead)
        moving = change > tolerance * (jnp.linalg.norm(new) + rate * jnp.linalg.norm(force))
        return new, new + (t - 1) / later * (new - x), later, moving, n + 1

    zero = jnp.zeros_like(force)
    begin = zero, zero, jnp.ones([], force.dtype), jnp.asarray(True), 0
    return jax.lax.while_loop(lambda c: c[3] & (c[4] < _SWEEPS), sweep, begin)[0]
