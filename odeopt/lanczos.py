"""Lanczos' algorithm on trees: what it keeps is split over devices as the parameters are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from .arrays import Scalar, widest
from .objective import LinearMap
from .sums import entries, inner, noise, scaled, total, widened

BREAKDOWN = 100.0  # roundings: an off-diagonal entry below so many has exhausted the Krylov space
_MIXED = 0.1  # of a random direction in every start, so that one which was not there can be found


class Krylov(NamedTuple):
    """An orthonormal basis of a Krylov space, and the linear map in it.

    Where the space is exhausted `beyond` is rounding, and what follows is of no use.
    """

    basis: PyTree[Array]  # vectors 0 to m - 1; the leaves have an axis more in front
    within: Float[Array, "m m"]  # row k: components of the image of vector k along 0 to k
    beyond: Float[Array, " m"]  # its component along vector k + 1; there are no others
    rest: PyTree[Array]  # vector m


def krylov(product: LinearMap, start: PyTree[Array], size: int) -> Krylov:
    """The Krylov space of a linear map on trees like `start`, by `size` applications.

    That is Arnoldi's algorithm: the basis is orthogonalized in full, twice.
    """
    dtype = widest(jax.tree.leaves(start))
    # Made of `start`, so that it is split as that is.
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
        # Written last: where rows are read after they are written XLA copies the whole basis.
        row = optax.tree.where(k + 1 < size, new, vector)
        return put(basis, row, jnp.minimum(k + 1, size - 1)), within, beyond, new

    first = normalized(start)[1]
    begin = put(basis, first, 0), jnp.zeros((size, size), dtype), jnp.zeros(size, dtype), first
    return Krylov(*jax.lax.fori_loop(0, size, step, begin))


class Ritz(NamedTuple):
    """What the Krylov space of a symmetric linear map knows of its spectrum.

    Trees are like the parameters, widened; the leaves of the basis have an axis more in front.
    """

    values: Float[Array, " m"]  # Ritz values, ascending
    weights: Float[Array, " m"]  # squared component of the start along each; they sum to 1
    residuals: Float[Array, " m"]  # distance of each to the nearest eigenvalue, at most
    basis: PyTree[Array]  # orthonormal Lanczos vectors
    vectors: Float[Array, "m m"]  # the Ritz vectors in that basis, as columns
    beyond: PyTree[Array]  # of the product with the last Lanczos vector, the part outside the space

    def vector(self, index: Array | int, like: PyTree[Array]) -> PyTree[Array]:
        """The Ritz vector of a value, of norm 1, as a tree like the parameters."""
        return optax.tree.cast_like(combined(self.vectors[:, index], self.basis), like)


def lanczos(product: LinearMap, start: PyTree[Array], like: PyTree[Array], products: int) -> Ritz:
    """Ritz values of a symmetric linear map on trees like `like`, by `products` applications.

    Symmetric in the real inner product: complex entries count as two real ones. Where the Krylov
    space is exhausted early (repeated eigenvalues, a start in an invariant subspace) the missing
    values repeat the smallest with weight 0. All are NaN if the first application is not finite.
    `product` is handed trees of the dtypes of `like`, `start` is `widened`; there are no more
    applications than dimensions.
    """
    size = max(1, min(products, dimension(like)))  # no more directions; without leaves one of none
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
    # Entries count up to the first that is not finite, or comes after a breakdown. There the length
    # is rounding; the entry above the diagonal is anything, its vector being normalized rounding.
    before = jnp.append(jnp.zeros(1, lengths.dtype), lengths[:-1])
    reach = jax.lax.cummax(jnp.maximum(jnp.abs(diagonal[:-1]), before[: len(lengths)]))
    linked = lengths > BREAKDOWN * jnp.finfo(diagonal.dtype).eps * reach
    good = jnp.isfinite(diagonal) & jnp.append(jnp.ones(1, bool), linked)
    found = jax.lax.cummin(good.astype(jnp.int32)).astype(bool)
    diagonal = jnp.where(found, diagonal, 0.0)
    beside = jnp.where(found[1:], 0.5 * (upper + lengths), 0.0)
    # The rest is decoupled, and below everything that was found.
    floor = -2.0 * (jnp.max(jnp.abs(diagonal)) + 2.0 * jnp.max(beside, initial=0.0)) - 1.0
    matrix = jnp.diag(jnp.where(found, diagonal, floor))
    values, vectors = jnp.linalg.eigh(matrix + jnp.diag(beside, 1) + jnp.diag(beside, -1))

    missing = jnp.sum(~found)
    lowest = values[jnp.minimum(missing, len(values) - 1)]
    values = jnp.where(jnp.arange(len(values)) < missing, lowest, values)
    vectors = jnp.where(found[:, None], vectors, 0.0)
    return jnp.where(found[0], values, jnp.nan), vectors[0] ** 2, vectors, found


def normalized(tree: PyTree[Array]) -> tuple[Scalar, PyTree[Array]]:
    """The norm of a tree, and the tree divided by it: zeros where that is 0 or not finite."""
    square = inner(tree, tree)
    good = (square > 0) & jnp.isfinite(square)
    length = jnp.sqrt(jnp.where(good, square, 1.0))  # which has a derivative, as at 0 it has none
    vector = jax.tree.map(lambda x: jnp.where(good, scaled(1 / length, x), 0), tree)
    return jnp.where(good, length, square), vector


def mixed(start: PyTree[Array], like: PyTree[Array]) -> PyTree[Array]:
    """`start` over its norm, plus some of a fixed pseudo-random direction like `like`."""
    _, vector = normalized(start)
    _, random = normalized(noise(like))
    return jax.tree.map(lambda v, r: v + _MIXED * r, vector, random)


def start_vector(like: PyTree[Array], warm: PyTree[Array] | None = None) -> PyTree[Array]:
    """Where Lanczos' algorithm starts: `warm` mixed with noise, which is all if that is zero."""
    if not dimension(like):
        raise ValueError("params has no entries, so there is no curvature to look at.")
    like = widened(like)
    return mixed(optax.tree.zeros_like(like) if warm is None else widened(warm), like)


def combined(weights: Float[Array, " m"], basis: PyTree[Array]) -> PyTree[Array]:
    """The sum of basis vectors, weighted."""
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
        # Where shardings are explicit a contraction must say how its result is split: not at all.
        whole = sharding.update(spec=jax.P(None)) if any(sharding.spec) else None
        dimensions = (tuple(i + 1 for i in axes), axes), ((), ())
        return jax.lax.dot_general(rows, x, dimensions, precision="highest", out_sharding=whole)

    return total(jax.tree.leaves(jax.tree.map(leaf, basis, tree)), dtype)


def dimension(tree: PyTree[Array]) -> int:
    """The number of entries, complex ones counted twice."""
    leaves = jax.tree.leaves(tree)
    return sum(entries(leaf) * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in leaves)


def flatten(tree: PyTree[Array]) -> Float[Array, " n"]:
    """One real vector, at least float32: complex entries are pairs of real ones."""
    leaves = jax.tree.leaves(tree)
    dtype = widest(leaves)
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
