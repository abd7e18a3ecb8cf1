"""Lanczos' algorithm on trees. The recurrence is matfree's; what is here makes it safe to use.

May use: `odeopt.objective`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree
from matfree import decomp

from .objective import LinearMap

_BREAKDOWN = 100.0  # roundings: an off-diagonal entry below so many has exhausted the Krylov space
_MIXED = 0.1  # of a random direction in every start, so that one which was not there can be found


class Ritz(NamedTuple):
    """What the Krylov space of a symmetric linear map knows of its spectrum.

    Attributes:
      values: Ritz values, ascending.
      weights: squared component of the start vector along each; they sum to 1.
      residuals: distance of each Ritz value to the nearest eigenvalue, at most.
      basis: orthonormal Lanczos vectors, flat.
      vectors: the Ritz vectors in that basis, as columns.
      beyond: what the map adds to the space: its product with the last Lanczos vector, less the
        part that is within.
    """

    values: Float[Array, " m"]
    weights: Float[Array, " m"]
    residuals: Float[Array, " m"]
    basis: Float[Array, "m n"]
    vectors: Float[Array, "m m"]
    beyond: Float[Array, " n"]

    def vector(self, index: Array | int, like: PyTree[Array]) -> PyTree[Array]:
        """The Ritz vector of a value, of norm 1, as a tree like the parameters."""
        return unflatten(self.vectors[:, index] @ self.basis, like)


def lanczos(
    product: LinearMap, start: Float[Array, " n"], like: PyTree[Array], products: int
) -> Ritz:
    """Ritz values of a symmetric linear map on trees like `like`, by `products` applications.

    The basis is orthogonalized in full. Where the Krylov space is exhausted early (repeated
    eigenvalues, a start in an invariant subspace) the missing values repeat the smallest with
    weight 0. All are NaN if the first application is not finite.
    """
    size = min(products, start.size)  # there are no more directions

    def flat_product(vector: Array) -> Array:
        return flatten(product(unflatten(vector, like)))

    basis, (diagonal, beside), residual, _ = decomp.tridiag_sym(
        size, custom_vjp=False, materialize=False
    )(flat_product, start)
    return _ritz(diagonal, beside, residual, basis)


@jax.jit
def _ritz(diagonal: Array, beside: Array, residual: Array, basis: Array) -> Ritz:
    # Entries count up to the first that is not finite, or comes after a breakdown.
    one = jnp.ones(1, bool)
    reach = jax.lax.cummax(jnp.maximum(jnp.abs(diagonal[:-1]), jnp.append(0 * one, beside[:-1])))
    linked = beside > _BREAKDOWN * jnp.finfo(diagonal.dtype).eps * reach
    found = jnp.cumprod(jnp.isfinite(diagonal) & jnp.append(one, linked)).astype(bool)
    diagonal = jnp.where(found, diagonal, 0.0)
    beside = jnp.where(found[1:], beside, 0.0)
    # The rest is decoupled, and below everything that was found.
    floor = -2.0 * (jnp.max(jnp.abs(diagonal)) + 2.0 * jnp.max(beside, initial=0.0)) - 1.0
    matrix = jnp.diag(jnp.where(found, diagonal, floor))
    values, vectors = jnp.linalg.eigh(matrix + jnp.diag(beside, 1) + jnp.diag(beside, -1))

    missing = jnp.sum(~found)
    lowest = values[jnp.minimum(missing, len(values) - 1)]
    values = jnp.where(jnp.arange(len(values)) < missing, lowest, values)
    last = jnp.where(found[-1], jnp.linalg.norm(residual), 0.0)
    return Ritz(
        values=jnp.where(found[0], values, jnp.nan),
        weights=vectors[0] ** 2,
        residuals=last * jnp.abs(vectors[-1]),
        basis=jnp.where(found[:, None], basis, 0.0),
        vectors=vectors,
        beyond=jnp.where(found[-1], residual, 0.0),
    )


def start_vector(like: PyTree[Array], warm: PyTree[Array] | None = None) -> Float[Array, " n"]:
    """A fixed pseudo-random direction, mixed with `warm` where there is one (zero is none)."""
    point = flatten(like)
    if not point.size:
        raise ValueError("params has no entries, so there is no curvature to look at.")
    random = jax.random.normal(jax.random.key(0), point.shape, point.dtype)
    random = random / jnp.linalg.norm(random)
    if warm is None:
        return random
    vector = flatten(warm)
    norm = jnp.linalg.norm(vector)
    usable = (norm > 0) & jnp.isfinite(norm)
    return jnp.where(usable, vector / jnp.where(usable, norm, 1.0) + _MIXED * random, random)


def dimension(tree: PyTree[Array]) -> int:
    """The length of the flat form, complex entries counted twice."""
    return sum(leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in jax.tree.leaves(tree))


def flatten(tree: PyTree[Array]) -> Float[Array, " n"]:
    """One real vector, at least float32: complex entries are pairs of real ones."""
    leaves = jax.tree.leaves(tree)
    dtype = jnp.result_type(jnp.float32, *(jnp.finfo(leaf.dtype).dtype for leaf in leaves))
    parts = [
        part.ravel().astype(dtype)
        for leaf in leaves
        for part in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))
    ]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)


def unflatten(vector: Float[Array, " n"], like: PyTree[Array]) -> PyTree[Array]:
    """The tree like `like` of which `vector` is the flat form."""
    leaves, structure = jax.tree.flatten(like)
    position, out = 0, []
    for leaf in leaves:
        pieces = []
        for _ in range(2 if jnp.iscomplexobj(leaf) else 1):
            piece = vector[position : position + leaf.size].reshape(leaf.shape)
            pieces.append(piece.astype(jnp.finfo(leaf.dtype).dtype))
            position += leaf.size
        out.append(jax.lax.complex(*pieces) if len(pieces) == 2 else pieces[0])
    return jax.tree.unflatten(structure, out)
