"""Nystrom's approximation of a symmetric linear map on trees, used as a preconditioner."""

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

    The basis holds the columns of U: a tree like the parameters, `widened`, with an additional
    first axis. Columns with values above rounding error are orthonormal, the others are 0.
    """

    basis: PyTree[Array]
    values: Float[Array, " rank"]  # descending, at least 0

    @property
    def rank(self) -> int:
        """The number of products used."""
        return len(self.values)

    def solve(self, shift: Scalar, weight: Scalar, right: PyTree[Array]) -> PyTree[Array]:
        r"""Approximately a multiple of $(\text{shift} + \text{weight}\,B)^{-1}\,right$.

        The map is positive definite. It leaves the component orthogonal to U unchanged, as if B
        were the smallest of the values there (Frangella, Tropp and Udell, arXiv:2110.02820,
        section 5).
        """
        damped = shift + weight * self.values.astype(weight.dtype)
        factors = (1 - jnp.sqrt(damped[-1] / damped)).astype(self.values.dtype)

        def half(tree: PyTree[Array]) -> PyTree[Array]:
            found = combined(factors * components(self.basis, tree, factors.dtype), self.basis)
            return jax.tree.map(jnp.subtract, tree, found)

        # The square of a map is positive even if rounding makes U not orthogonal.
        return optax.tree.cast_like(half(half(widened(right))), right)


def nystrom(product: LinearMap, params: PyTree[Array], rank: int) -> LowRank:
    r"""$B\Omega(\Omega^TB\Omega)^+(B\Omega)^T$ of a random $\Omega$, from `rank` products at once.

    Directions in which B is negative are left out. Only matrices of size `rank` are decomposed, so
    trees keep their sharding. Values below the rounding error of the largest are set to 0. Memory:
    3 times `rank` trees, of which `rank` are kept.
    """
    number = min(rank, dimension(params))
    wide = widened(params)
    draws = jax.vmap(lambda i: noise(wide, i))(jnp.arange(number))
    images = jax.vmap(lambda v: widened(product(optax.tree.cast_like(v, params))))(draws)
    dtype = widest(jax.tree.leaves(wide))
    # products have the rounding error of the parameters' dtypes
    rounding = number * max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(params))
    inside, outside = (_gram(tree, images, dtype) for tree in (draws, images))
    with jax.default_matmul_precision("highest"):  # accelerators default to less
        sizes, turn = jnp.linalg.eigh(0.5 * (inside + inside.T))
        root = _inverse_root(sizes, turn, rounding)
        values, vectors = jnp.linalg.eigh(root.T @ outside @ root)
        columns = root @ _inverse_root(values, vectors, rounding)
    basis = jax.vmap(lambda weights: combined(weights, images))(columns.T[::-1])
    return LowRank(basis, jnp.where(_large(values, rounding), values, 0.0)[::-1])


def _gram(a: PyTree[Array], b: PyTree[Array], dtype: jnp.dtype) -> Float[Array, "rank rank"]:
    return jax.vmap(lambda tree: components(a, tree, dtype))(b)


def _large(values: Float[Array, " rank"], rounding: float) -> Float[Array, " rank"]:
    """Which eigenvalues are positive and above rounding error."""
    return values > rounding * jnp.max(jnp.abs(values))


def _inverse_root(
    values: Float[Array, " rank"], vectors: Float[Array, "rank rank"], rounding: float
) -> Float[Array, "rank rank"]:
    """The columns of the inverse square root; 0 where an eigenvalue is not `_large`."""
    large = _large(values, rounding)
    return vectors * jnp.where(large, 1 / jnp.sqrt(jnp.where(large, values, 1.0)), 0.0)
