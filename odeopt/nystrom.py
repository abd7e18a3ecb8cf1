"""Nystrom's approximation of a symmetric linear map on trees, to precondition its systems with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .arrays import Scalar, widest
from .lanczos import combined, components, dimension
from .objective import LinearMap
from .sums import noise, widened


class LowRank(NamedTuple):
    r"""$B \approx U\,\mathrm{diag}(\text{values})\,U^T$.

    The basis holds the columns of U: a tree like the parameters, widened, whose leaves have an axis
    more in front. They are orthonormal as far as their values are above rounding, or 0.
    """

    basis: PyTree[Array]
    values: Float[Array, " rank"]  # descending, at least 0

    @property
    def rank(self) -> int:
        """Products that it was made of."""
        return len(self.values)

    def solve(self, shift: Scalar, weight: Scalar, right: PyTree[Array]) -> PyTree[Array]:
        r"""About a multiple of $(\text{shift} + \text{weight}\,B)^{-1}\,right$; positive definite.

        What is orthogonal to U is left as it is, as if B were the smallest of the values there
        (Frangella, Tropp and Udell, arXiv:2110.02820, section 5).
        """
        damped = shift + weight * self.values
        factors = (1 - jnp.sqrt(damped[-1] / damped)).astype(self.values.dtype)

        def half(tree: PyTree[Array]) -> PyTree[Array]:
            found = combined(factors * components(self.basis, tree, factors.dtype), self.basis)
            return jax.tree.map(jnp.subtract, tree, found)

        # As a square it is positive where rounding costs U its orthogonality.
        return optax.tree.cast_like(half(half(widened(right))), right)


def nystrom(product: LinearMap, params: PyTree[Array], rank: int) -> LowRank:
    r"""$B\Omega(\Omega^TB\Omega)^+(B\Omega)^T$ of a random $\Omega$, by `rank` products at once.

    Directions in which B is negative are left out. By eigenvalues of matrices of size rank, so that
    trees stay split as they are: values below the rounding of the largest come out as 0. Memory:
    3 times `rank` trees, `rank` of which stay.
    """
    number = min(rank, dimension(params))
    wide = widened(params)
    draws = jax.vmap(lambda i: noise(wide, i))(jnp.arange(number))
    images = jax.vmap(lambda v: widened(product(optax.tree.cast_like(v, params))))(draws)
    dtype = widest(jax.tree.leaves(wide))
    # products are rounded as the parameters are
    rounding = number * max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(params))
    inside, outside = (_gram(tree, images, dtype) for tree in (draws, images))
    with jax.default_matmul_precision("highest"):  # an accelerator's default is less
        sizes, turn = jnp.linalg.eigh(0.5 * (inside + inside.T))
        root = _inverse_root(sizes, turn, rounding)
        values, vectors = jnp.linalg.eigh(root.T @ outside @ root)
        columns = root @ _inverse_root(values, vectors, rounding)
    basis = jax.vmap(lambda weights: combined(weights, images))(columns.T[::-1])
    return LowRank(basis, jnp.where(_large(values, rounding), values, 0.0)[::-1])


def _gram(a: PyTree[Array], b: PyTree[Array], dtype: jnp.dtype) -> Float[Array, "rank rank"]:
    return jax.vmap(lambda tree: components(a, tree, dtype))(b)


def _large(values: Float[Array, " rank"], rounding: float) -> Float[Array, " rank"]:
    """Which eigenvalues are positive and no rounding."""
    return values > rounding * jnp.max(jnp.abs(values))


def _inverse_root(
    values: Float[Array, " rank"], vectors: Float[Array, "rank rank"], rounding: float
) -> Float[Array, "rank rank"]:
    """The inverse square root's columns; 0 where an eigenvalue is not `_large`."""
    large = _large(values, rounding)
    return vectors * jnp.where(large, 1 / jnp.sqrt(jnp.where(large, values, 1.0)), 0.0)
