"""Spectra of curvature matrices, and the stability of a step in each eigendirection."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..arguments import floating
from ..checks import check_counts, check_least
from ..curvature import gauss_newton
from ..lanczos import lanczos, start_vector
from ..objective import LinearMap
from ..split import composite
from .sharpness import compiled, hessian


class Spectrum(NamedTuple):
    r"""A spectral density $\sum_i w_i\,\delta(\lambda - \lambda_i)$.

    Attributes:
      values: $\lambda_i$, Ritz values in ascending order; the outer ones are eigenvalues, an inner
        one represents many eigenvalues.
      weights: $w_i$, the estimated fraction of eigenvalues that each represents; they sum to 1.
    """

    values: Float[Array, " m"]
    weights: Float[Array, " m"]


def spectrum(
    value_fn: Callable[..., Any], params: PyTree[Array], /, *, products: int = 24, **arguments: Any
) -> Spectrum:
    """The spectral density of the Hessian of a loss, by Lanczos quadrature with one random vector.

    Moments of the density are exact up to degree `2 * products - 1` for the random vector. Their
    relative spread over random vectors falls as one over the square root of the number of
    parameters. Cost, memory and sharding are those of `sharpness`.

    Args:
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`.
      params: where the curvature is taken.
      products: number of Hessian products and of values (at most the number of entries).
      arguments: forwarded to `value_fn` by name.

    Raises:
      ValueError: parameters without entries, fewer than 1 product.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 4.0, 9.0]) * x**2)
      >>> odeopt.diagnostics.spectrum(loss, jnp.ones(3)).values.round(4)
      Array([1., 4., 9.], dtype=float32)
    """
    return compiled(_density, hessian, value_fn, floating(params), arguments, products)


def gauss_newton_spectrum(
    loss_fn: Callable[..., Any],
    predict_fn: Callable[..., Any],
    params: PyTree[Array],
    /,
    *,
    products: int = 24,
    **arguments: Any,
) -> Spectrum:
    r"""The spectral density of the generalized Gauss-Newton matrix $J^T\,\nabla^2\ell\,J$.

    This is the Hessian without the curvature of the model, so it is never indefinite for a convex
    loss of the outputs; at an interpolating minimum the two agree. Cost (a product counts as 2
    gradients), memory and sharding are those of `sharpness`. Real outputs only.

    Args:
      loss_fn: the loss of the outputs, `loss_fn(outputs, ...)`, a scalar.
      predict_fn: the model, `predict_fn(params, ...)`, a tree of outputs.
      params: where the curvature is taken.
      products: number of Gauss-Newton products and of values (at most the number of entries).
      arguments: forwarded by name to both functions.

    Raises:
      ValueError: parameters without entries, fewer than 1 product.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> predict = lambda w, x: x @ w
      >>> loss = lambda outputs: 0.5 * jnp.sum(outputs**2)
      >>> x = jnp.diag(jnp.array([1.0, 3.0]))
      >>> odeopt.diagnostics.gauss_newton_spectrum(loss, predict, jnp.ones(2), x=x).values.round(4)
      Array([1., 9.], dtype=float32)
    """
    functions = loss_fn, predict_fn
    return compiled(_density, _gauss_newton, functions, floating(params), arguments, products)


def _gauss_newton(
    functions: tuple[Callable, Callable], params: PyTree[Array], arguments: dict[str, Any]
) -> LinearMap:
    return gauss_newton(composite(*functions, samples=()).split(arguments, None), params)


def _density(
    curvature: Callable[..., LinearMap],
    functions: Any,
    params: PyTree[Array],
    arguments: dict[str, Any],
    products: int,
) -> Spectrum:
    check_counts(products=products)
    product = curvature(functions, params, arguments)
    ritz = lanczos(product, start_vector(params), params, products)
    return Spectrum(ritz.values, ritz.weights)


def stability_coefficients(
    learning_rate: float | Float[Array, ""], eigenvalues: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""The stability of gradient descent in each eigendirection: $\log|1 - h\lambda| / (h\lambda)$.

    The flow that gradient descent follows exactly on a quadratic, the principal flow, moves along
    eigenvector $i$ at $c_i = \log(1 - h\lambda_i)/(h\lambda_i)$ times the gradient; this is the
    real part of $c_i$ (Rosca, Wu, Qin and Dherin, arXiv:2302.01952). It is -1 for gradient flow
    ($h\lambda \to 0$). It is negative for $h\lambda < 2$, so the direction is stable where gradient
    flow is, and positive beyond. For $h\lambda > 1$ the direction oscillates (the imaginary part is
    $\pi/(h\lambda)$); at $h\lambda = 1$ one step reaches the minimum ($-\infty$).

    Args:
      learning_rate: the step size h.
      eigenvalues: eigenvalues of the Hessian, any shape.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> odeopt.diagnostics.stability_coefficients(0.5, jnp.array([0.0, 2.0, 4.0]))
      Array([ -1., -inf,   0.], dtype=float32)
    """
    check_least(0, learning_rate=learning_rate)
    product = learning_rate * jnp.asarray(eigenvalues, float)
    flat = product == 0
    z = jnp.where(flat, 1.0, product)
    log = jnp.where(z <= 1, jnp.log1p(-jnp.minimum(z, 1.0)), jnp.log(jnp.abs(z - 1.0)))
    return jnp.where(flat, -1.0, log / z)
