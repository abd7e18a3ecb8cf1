"""Lanczos' algorithm on trees; its vectors are split over devices like the parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .arrays import Scalar, widest
from .loops import fori_loop
from .objective import LinearMap
from .sums import entries, inner, noise, scaled, total, widened

BREAKDOWN = 100.0  # rounding errors: a smaller off-diagonal entry means an exhausted Krylov space
_MIXED = 0.1  # weight of a random vector in every start, for eigenvectors that the start lacks


class Krylov(NamedTuple):
    """An orthonormal basis of a Krylov space, and the linear map in it.

    Once the space is exhausted, `beyond` is rounding error and later rows are meaningless.
    """

    basis: PyTree[Array]  # vectors 0 to m - 1, along an additional first axis of the leaves
    within: Float[Array, "m m"]  # row k: components of the image of vector k along 0 to k
    beyond: Float[Array, " m"]  # entry k: its component along vector k + 1; there are no others
    rest: PyTree[Array]  # vector m


def krylov(product: LinearMap, start: PyTree[Array], size: int) -> Krylov:
    """The Krylov space of a linear map on trees like `start`, from `size` applications.

    Arnoldi's algorithm: each vector is orthogonalized twice against the whole basis.
    """
    dtype = widest(jax.tree.leaves(start))
    # `zeros_like` gives the basis the sharding of `start`.
    basis = jax.tree.map(lambda x: jnp.broadcast_to(jnp.zeros_like(x), (size, *x.shape)), start)
    Carry = tuple[PyTree[Array], Array, Array, PyTree[Array]]

    def put(basis: PyTree[Array], vector: PyTree[Array], k: Array | int) -> PyTree[Array]:
        return jax.tree.map(
            lambda rows, x: jax.lax.dynamic_update_index_in_dim(rows, x, k, 0), basis, vector
        )

    def step(k: Array, carry: Carry) -> Carry:
        basis, within, beyond, vector = carry
        image = product(vector)
        once = components(basis, image, dtype)
        rest = jax.tree.map(jnp.subtract, image, combined(once, basis))
        again = components(basis, rest, dtype)
        rest = jax.tree.map(jnp.subtract, rest, combined(again, basis))
        length, new = normalized(rest)
        within, beyond = within.at[k].set(once + again), beyond.at[k].set(length.astype(dtype))
        # Write the row last: XLA would copy the whole basis if a row were read after the write.
        row = optax.tree.where(k + 1 < size, new, vector)
        return put(basis, row, jnp.minimum(k + 1, size - 1)), within, beyond, new

    first = normalized(start)[1]
    begin = put(basis, first, 0), jnp.zeros((size, size), dtype), jnp.zeros(size, dtype), first
    return Krylov(*fori_loop(0, size, step, begin))


class Ritz(NamedTuple):
    """Approximate eigenvalues and eigenvectors of a symmetric map, from its Krylov space.

    Trees are like the parameters, `widened`; leaves of the basis have an additional first axis.
    """

    values: Float[Array, " m"]  # Ritz values, ascending
    weights: Float[Array, " m"]  # squared component of the start along each; they sum to 1
    residuals: Float[Array, " m"]  # bound on the distance of each to the nearest eigenvalue
    basis: PyTree[Array]  # orthonormal Lanczos vectors
    vectors: Float[Array, "m m"]  # the Ritz vectors in that basis, as columns
    beyond: PyTree[Array]  # the part of the last product that is outside the space

    def vector(self, index: Array | int, like: PyTree[Array]) -> PyTree[Array]:
        """The Ritz vector of a value, of norm 1, as a tree like the parameters."""
        return optax.tree.cast_like(combined(self.vectors[:, index], self.basis), like)


def lanczos(product: LinearMap, start: PyTree[Array], like: PyTree[Array], products: int) -> Ritz:
    """Ritz values of a symmetric linear map on trees like `like`, from `products` applications.

    The map is symmetric in the real inner product: a complex entry counts as two real ones. If the
    Krylov space is exhausted early (repeated eigenvalues, a start in an invariant subspace), the
    missing values repeat the smallest with weight 0. All values are NaN if the first application
    is not finite. `product` receives trees with the dtypes of `like`; `start` must be `widened`.
    The number of applications is at most the dimension.
    """
    size = max(1, min(products, dimension(like)))  # at least 1, also for trees without leaves
    space = krylov(lambda v: widened(product(optax.tree.cast_like(v, like))), start, size)
    upper, lengths = jnp.diagonal(space.within[1:]), space.beyond[:-1]
    diagonal = jnp.diagonal(space.within)
    values, weights, vectors, found = _ritz(diagonal, upper, lengths)
    last = jnp.where(found[-1], space.beyond[-1], 0.0)

    return Ritz(
        values=values,
        weights=weights,
        residuals=last * jnp.abs(vectors[-1]),
        basis=space.basis,
        vectors=vectors,
        beyond=jax.tree.map(lambda x: scaled(last, x), space.rest),
    )


@jax.jit
def _ritz(diagonal: Array, upper: Array, lengths: Array) -> tuple[Array, Array, Array, Array]:
    """Values, weights and vectors of the tridiagonal matrix, and which of its rows are good."""
    # Rows count up to the first that is not finite or follows a breakdown. At a breakdown the
    # length and the next vector are rounding error, so the entry above the diagonal is arbitrary.
    before = jnp.append(jnp.zeros(1, lengths.dtype), lengths[:-1])
    reach = jax.lax.cummax(jnp.maximum(jnp.abs(diagonal[:-1]), before[: len(lengths)]))
    linked = lengths > BREAKDOWN * jnp.finfo(diagonal.dtype).eps * reach
    good = jnp.isfinite(diagonal) & jnp.append(jnp.ones(1, bool), linked)
    found = jax.lax.cummin(good.astype(jnp.int32)).astype(bool)
    diagonal = jnp.where(found, diagonal, 0.0)
    beside = jnp.where(found[1:], 0.5 * (upper + lengths), 0.0)
    # The other rows are decoupled, with eigenvalues below all that were found.
    floor = -2.0 * (jnp.max(jnp.abs(diagonal)) + 2.0 * jnp.max(beside, initial=0.0)) - 1.0
    matrix = jnp.diag(jnp.where(found, diagonal, floor))
    values, vectors = jnp.linalg.eigh(matrix + jnp.diag(beside, 1) + jnp.diag(beside, -1))

    missing = jnp.sum(~found)
    lowest = values[jnp.minimum(missing, len(values) - 1)]
    values = jnp.where(jnp.arange(len(values)) < missing, lowest, values)
    vectors = jnp.where(found[:, None], vectors, 0.0)
    return jnp.where(found[0], values, jnp.nan), vectors[0] ** 2, vectors, found


def normalized(tree: PyTree[Array]) -> tuple[Scalar, PyTree[Array]]:
    """The norm of a tree, and the tree divided by it (zeros if the norm is 0 or not finite)."""
    square = inner(tree, tree)
    good = (square > 0) & jnp.isfinite(square)
    length = jnp.sqrt(jnp.where(good, square, 1.0))  # not of 0, where the root has no derivative
    vector = jax.tree.map(lambda x: jnp.where(good, scaled(1 / length, x), 0), tree)
    return jnp.where(good, length, square), vector


def mixed(start: PyTree[Array], like: PyTree[Array]) -> PyTree[Array]:
    """`start` divided by its norm, plus a multiple of a fixed pseudo-random unit vector."""
    _, vector = normalized(start)
    _, random = normalized(noise(like))
    return jax.tree.map(lambda v, r: v + _MIXED * r, vector, random)


def start_vector(like: PyTree[Array], warm: PyTree[Array] | None = None) -> PyTree[Array]:
    """The start of Lanczos' algorithm: `warm` mixed with noise, or only noise if it is zero."""
    if not dimension(like):
        raise ValueError("params has no entries, so there is no curvature to measure.")
    like = widened(like)
    return mixed(optax.tree.zeros_like(like) if warm is None else widened(warm), like)


def combined(weights: Float[Array, " m"], basis: PyTree[Array]) -> PyTree[Array]:
    """The weighted sum of basis vectors."""
    return jax.tree.map(
        lambda rows: jnp.tensordot(weights.astype(rows.dtype), rows, 1, precision="highest"), basis
    )


def components(basis: PyTree[Array], tree: PyTree[Array], dtype: jnp.dtype) -> Float[Array, " m"]:
    """The real inner product of each basis vector with a tree."""

    def leaf(rows: Array, x: Array) -> Array:
        if jnp.iscomplexobj(x):
            return leaf(rows.real, x.real) + leaf(rows.imag, x.imag)
        axes = tuple(range(x.ndim))
        sharding = jax.typeof(x).sharding
        # With explicit sharding a contraction must name the sharding of its result: replicated.
        whole = sharding.update(spec=jax.P(None)) if any(sharding.spec) else None
        dimensions = (tuple(i + 1 for i in axes), axes), ((), ())
        return jax.lax.dot_general(rows, x, dimensions, precision="highest", out_sharding=whole)

    return total(jax.tree.leaves(jax.tree.map(leaf, basis, tree)), dtype)


def dimension(tree: PyTree[Array]) -> int:
    """The number of entries, complex ones counted twice."""
    leaves = jax.tree.leaves(tree)
    return sum(entries(leaf) * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in leaves)


def flatten(tree: PyTree[Array]) -> Float[Array, " n"]:
    """The tree as one real vector, at least float32; complex leaves as real, imaginary parts."""
    leaves = jax.tree.leaves(tree)
    dtype = widest(leaves)
    parts = [
        part.ravel().astype(dtype)
        for leaf in leaves
        for part in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))
    ]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)


def unflatten(vector: Float[Array, " n"], like: PyTree[Array]) -> PyTree[Array]:
    """The inverse of `flatten`: a tree like `like` from its flat vector."""
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
