"""The principal flow of gradient descent."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, PyTree

from ..arguments import floating
from ..arrays import Scalar
from ..checks import check_counts
from ..diagnostics.spectrum import stability_coefficients
from ..lanczos import flatten, lanczos, unflatten
from ..objective import LinearMap, Objective
from ..sums import widened


class Directions(NamedTuple):
    r"""The principal flow, direction by direction.

    Attributes:
      eigenvalues: $\lambda_i$ of the Hessian, ascending; Ritz values if `products` is given.
      coefficients: $c_i = \log(1 - h\lambda_i)/(h\lambda_i)$. The real part, the stability
        coefficient, is negative below $h\lambda = 2$ and positive beyond; the imaginary part is 0
        below $h\lambda = 1$, and $\pi/(h\lambda)$ where the direction oscillates.
      components: $\langle g, u_i\rangle$ of the gradient.
    """

    eigenvalues: Float[Array, " m"]
    coefficients: Complex[Array, " m"]
    components: Float[Array, " m"]


class PrincipalFlow:
    """The result of `principal_flow`: a vector field, `field(y, h)`, and its directions."""

    def __init__(
        self, value_fn: Callable[..., Any], products: int | None, arguments: Mapping[str, Any]
    ) -> None:
        if products is not None:
            check_counts(products=products)
        self._objective = Objective.of(value_fn, arguments)
        self._products = products

    def __call__(self, y: PyTree[Array], h: float | Scalar) -> PyTree[Array]:
        """`dy/dt` for steps of size h."""
        y = floating(y)
        is_complex = any(jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(y))
        point = jax.tree.map(jnp.real, y)
        g, product = jax.linearize(self._objective.gradient, point)

        def rescaled(vector: Array) -> Array:
            values, components, back = self._spectral(product, vector, point)
            c = principal_coefficients(h, values)
            return back((c if is_complex else c.real) * components)

        slope = rescaled(flatten(g))
        if not is_complex:
            return unflatten(slope, point)
        # the gradient continued to complex parameters, to first order in the imaginary part
        slope = slope + 1j * rescaled(flatten(product(jax.tree.map(jnp.imag, y))))
        real, imag = unflatten(slope.real, point), unflatten(slope.imag, point)
        return jax.tree.map(jax.lax.complex, real, imag)

    def directions(self, params: PyTree[Array], h: float | Scalar) -> Directions:
        """Eigenvalues, coefficients and gradient components at real parameters."""
        params = floating(params)
        g, product = jax.linearize(self._objective.gradient, params)
        values, components, _ = self._spectral(product, flatten(g), params)
        return Directions(values, principal_coefficients(h, values), components)

    def _spectral(
        self, product: LinearMap, vector: Float[Array, " n"], like: PyTree[Array]
    ) -> tuple[Array, Array, Callable[[Array], Array]]:
        """Eigenvalues, the components of a vector, and a function from components to a vector."""
        if self._products is None:
            values, vectors = jnp.linalg.eigh(hessian_matrix(product, like))
            return values, vector @ vectors, lambda components: vectors @ components
        # If the vector is zero, any start will do.
        length = jnp.linalg.norm(vector)
        start = unflatten(jnp.where(length > 0, vector, 1.0), widened(like))
        ritz = lanczos(product, start, like, self._products)
        basis = jax.vmap(flatten)(ritz.basis)
        return ritz.values, length * ritz.vectors[0], lambda c: (ritz.vectors @ c) @ basis


def principal_flow(
    value_fn: Callable[..., Any], /, *, products: int | None = None, **arguments: Any
) -> PrincipalFlow:
    r"""The principal flow, which gradient descent of step size h follows even if it oscillates.

    $$\dot x = \sum_i\frac{\log(1 - h\lambda_i)}{h\lambda_i}\,\langle g, u_i\rangle\,u_i
    = -\sum_{n\ge0}\frac{h^n}{n+1}H^ng$$

    with the eigenpairs of the Hessian (Rosca, Wu, Qin and Dherin, arXiv:2302.01952). These are the
    terms of the modified equation without third or higher derivatives. On a quadratic its solution
    is $(1 - h\lambda)^{t/h}$ in each direction, equal to the iterates at every step, at any h. On
    other losses it is followed with order 2, or 3 if $\tfrac{h^2}{12}E'''(g, g)$ is subtracted.

    *Beyond $h\lambda = 1$ an iterate jumps across its minimum, and the path between two of them is
    complex*: $(1 - h\lambda)^{t/h} = |1 - h\lambda|^{t/h}e^{i\pi t/h}$. The dtype of y decides.

    - Complex y: the flow itself. Start from `y + 0j`; the iterates are the *real part at the times*
      $nh$. The imaginary part there, 0 on a quadratic, measures the model's error. Eigenpairs are
      those at the real part, and the gradient at $a + ib$ is $g(a) + iH(a)b$.
    - Real y: the flow with the real part of the coefficients, the *stability coefficients*. It is
      the envelope of the oscillation: the distance of the iterates to the minimum without the sign.

    At $h\lambda = 1$ exactly the coefficient is infinite: one step reaches the minimum.

    Args:
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`; real parameters.
      products: None for the exact spectrum: n Hessian products and a dense matrix, for small
        problems. A number for that many steps of Lanczos' algorithm from the gradient (twice for
        complex y), 2 gradients each, and as many copies of the parameters in memory. This is exact
        if the gradient has at most that many eigendirections, and converges slowly if an
        eigenvalue is close to $1/h$.
      arguments: forwarded to `value_fn` by name.

    Returns:
      `field(y, h)`; for diffrax `ODETerm(lambda t, y, h: field(y, h))`, with `args=h`. And
      `field.directions(params, h)`: eigenvalues, coefficients and components of the gradient.

    Raises:
      ValueError: fewer than 1 product.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 4.0]) * x**2)
      >>> field = odeopt.drift.principal_flow(loss)
      >>> envelope = field(jnp.ones(2), 0.4)  # h lambda is 0.4 and 1.6
      >>> bool(jnp.allclose(envelope, jnp.log(0.6) / 0.4))  # log(0.6) and log|-0.6|
      True
      >>> bool(jnp.allclose(field(jnp.ones(2) + 0j, 0.4).imag, jnp.array([0.0, jnp.pi / 0.4])))
      True
    """
    return PrincipalFlow(value_fn, products, arguments)


def principal_coefficients(
    h: float | Scalar, eigenvalues: Float[Array, " m"]
) -> Complex[Array, " m"]:
    r"""$\log(1 - h\lambda)/(h\lambda)$; the logarithm has imaginary part 0 or $\pi$."""
    z = h * eigenvalues
    return jax.lax.complex(
        stability_coefficients(h, eigenvalues).astype(z.dtype),
        jnp.where(z > 1, jnp.pi / jnp.where(z > 1, z, 1.0), 0.0),
    )


def hessian_matrix(product: LinearMap, like: PyTree[Array]) -> Float[Array, "n n"]:
    """The dense matrix of a symmetric linear map on trees."""
    identity = jnp.eye(flatten(like).size, dtype=flatten(like).dtype)
    matrix = jax.vmap(lambda e: flatten(product(unflatten(e, like))))(identity)
    return 0.5 * (matrix + matrix.T)
