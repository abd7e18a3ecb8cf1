"""Products with curvature matrices, and linear systems with them.

`Objective.product` gives Hessian products. Only `gauss_newton_rows` forms a matrix; its rows have
the size of the parameters.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from .loops import while_loop
from .objective import LinearMap, check_whole
from .split import Split
from .sums import inner, multiple, noise, scaled, varying, widened

_times = functools.partial(jnp.matmul, precision="highest")  # accelerators default to less
_einsum = functools.partial(jnp.einsum, precision="highest")
_REMEMBERED = 20  # products in the running mean of a diagonal
_ROUNDINGS = 100.0  # a part of a gradient below this many rounding errors counts as 0


def gauss_newton(split: Split, params: PyTree[Array]) -> LinearMap:
    r"""`v -> J^T (Hessian of the loss in the outputs) J v` at `params`; 2 gradients a product.

    Positive semi-definite for a loss that is convex in the outputs. Real outputs only.
    """
    outputs, push = jax.linearize(split.predict, params)
    if any(map(varying, jax.tree.leaves(outputs))):
        check_whole(split.loss(outputs), params)
    pull = jax.linear_transpose(push, params)
    outer = jax.linearize(jax.grad(split.loss), outputs)[1]
    return lambda v: jax.tree.map(jnp.conj, pull(outer(push(v)))[0])


class Solution(NamedTuple):
    """The result of an iterative solver."""

    value: PyTree[Array]  # the solution x
    image: PyTree[Array]  # A x
    products: Int[Array, ""]  # number of products taken
    residual: Float[Array, ""]  # ‖A x - right‖ / ‖right‖


def conjugate_gradients(
    product: LinearMap,
    right: PyTree[Array],
    start: PyTree[Array],
    *,
    products: int,
    tolerance: float | Float[Array, ""],
    preconditioner: LinearMap | None = None,
) -> Solution:
    r"""Solve `A x = right` for a symmetric A on trees, with at most `products` products.

    One more product is taken of `start`, which is first scaled to minimize
    $\tfrac12x\cdot Ax - x\cdot\text{right}$ along its line. Every iterate lowers this function, so
    x never points against `right`. If A is found to be indefinite, the last iterate is returned.
    If that is still the start, one step is added along the first direction, divided by the size of
    the curvature there, unless that direction points against `right`. `preconditioner` is a
    positive definite approximation of the inverse of A. The recurrence is that of
    `jax.scipy.sparse.linalg.cg`, which reports neither indefiniteness nor the number of products.
    Memory: 5 trees.
    """
    norm = inner(right, right)
    image = product(start)
    curvature = inner(start, image)
    positive = curvature > 0
    along = inner(start, right) / jnp.where(positive, curvature, 1.0)
    along = jnp.where(positive, along, 0.0)
    usable = positive & jnp.isfinite(along)  # else start at 0: 0 times infinity would be NaN

    def steepened(residual: PyTree[Array]) -> tuple[PyTree[Array], Array, Array]:
        square = inner(residual, residual)
        if preconditioner is None:
            return residual, square, square
        direction = preconditioner(residual)
        return direction, inner(residual, direction), square

    begun = start, image
    x, image = optax.tree.where(usable, multiple(along, begun), optax.tree.zeros_like(begun))
    residual = jax.tree.map(operator.sub, right, image)
    Carry = tuple[PyTree, PyTree, PyTree, Array, Array, Array, Array]

    def unfinished(carry: Carry) -> Bool[Array, ""]:
        *_, square, taken, definite = carry
        return definite & (taken < products) & (square > tolerance**2 * norm)

    def iterate(carry: Carry) -> Carry:
        x, residual, direction, weight, _, taken, _ = carry
        image = product(direction)
        curvature = inner(direction, image)
        definite = curvature > 0
        # NaN counts as indefinite and ends the loop
        only = (taken == 0) & ~against
        size = jnp.where(definite | only, weight / jnp.abs(curvature), 0.0)
        x = jax.tree.map(operator.add, x, multiple(size, direction))
        residual = jax.tree.map(operator.sub, residual, multiple(size, image))
        steepest, new, square = steepened(residual)
        direction = jax.tree.map(operator.add, steepest, multiple(new / weight, direction))
        return x, residual, direction, new, square, taken + 1, definite

    direction, weight, square = steepened(residual)
    against = inner(direction, right) < 0
    begin = x, residual, direction, weight, square, jnp.int32(0), jnp.asarray(True)
    x, residual, _, _, square, taken, _ = while_loop(unfinished, iterate, begin)
    relative = jnp.sqrt(square / jnp.where(norm > 0, norm, 1.0))
    return Solution(x, jax.tree.map(jnp.subtract, right, residual), taken + 1, relative)


class Diagonal(NamedTuple):
    """An estimate of the diagonal of a symmetric map."""

    value: PyTree[Array]  # a tree like the parameters, real
    draws: Int[Array, ""]  # number of products taken


def no_diagonal(params: PyTree[Array]) -> Diagonal:
    """The estimate before the first product; reads only shapes and dtypes."""
    real = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.finfo(x.dtype).dtype), params)
    return Diagonal(real, jnp.zeros([], jnp.int32))


def refined(last: Diagonal, product: LinearMap, params: PyTree[Array]) -> Diagonal:
    r"""Update the estimate by one more product: $v \odot Av$ for random signs v.

    The mean of $v \odot Av$ is the diagonal of A (Bekas, Kokiopoulou and Saad, Appl. Numer. Math.
    57, 2007). The estimate averages about the last 20 products, since A changes in training.
    """
    signs = jax.tree.map(
        lambda x: jnp.where(x.real < 0, -1, 1).astype(x.dtype), noise(params, last.draws)
    )
    share = 1 / jnp.minimum(last.draws + 1, _REMEMBERED).astype(float)
    value = jax.tree.map(
        lambda d, v, image: d + scaled(share, jnp.real(jnp.conj(v) * image) - d),
        last.value,
        signs,
        product(signs),
    )
    return Diagonal(value, last.draws + 1)


class Rows(NamedTuple):
    r"""The Gauss-Newton matrix as $A^TA$, with one row of A for each output of each sample.

    $A^Ts$, with s the `image`, is the gradient of the loss, except for the part from directions of
    the outputs in which the loss has no curvature.
    """

    matrix: Float[Array, "rows n"]  # A, of at least single precision
    image: Float[Array, " rows"]  # s
    unravel: Callable[[Array], PyTree[Array]]  # from a vector to a tree like the parameters

    def factored(
        self, shift: Float[Array, ""], weight: Float[Array, ""]
    ) -> Callable[[Float[Array, " n"], Float[Array, " rows"]], Float[Array, " n"]]:
        r"""`(right, image) -> x` with $(\text{shift} + \text{weight}\,A^TA)x = right + A^Timage$.

        Uses Cholesky's decomposition in the smaller of the two dimensions. A term passed as `image`
        suffers no cancellation if `weight` is large.
        """
        a, times = self.matrix, _times
        shift, weight = shift.astype(a.dtype), weight.astype(a.dtype)

        def decomposed(gram: Array) -> Callable[[Array], Array]:
            lower = jnp.linalg.cholesky(shift * jnp.eye(len(gram), dtype=a.dtype) + weight * gram)
            return functools.partial(jax.scipy.linalg.cho_solve, (lower, True))

        if a.shape[0] >= a.shape[1]:
            invert = decomposed(times(a.T, a))
            return lambda right, image: invert(right + times(a.T, image))
        invert = decomposed(times(a, a.T))
        return lambda right, image: (
            right / shift + times(a.T, invert(image - weight / shift * times(a, right)))
        )

    def remainder(self, gradient: Float[Array, " n"]) -> Float[Array, " n"]:
        """`gradient - A^T s`, the part of the gradient outside the rows; 0 if it is rounding."""
        rest = gradient - _times(self.matrix.T, self.image)
        size = jnp.linalg.norm(self.matrix) * jnp.linalg.norm(self.image)
        rounding = _ROUNDINGS * jnp.finfo(rest.dtype).eps * size
        return jnp.where(jnp.linalg.norm(rest) <= rounding, 0.0, rest)


def outputs_per_sample(split: Split, params: PyTree[Array]) -> tuple[int, int]:
    """`(samples, outputs of each)`; one sample if no argument carries samples."""
    outputs = jax.tree.leaves(jax.eval_shape(split.predict, params))
    size = sum(math.prod(leaf.shape) for leaf in outputs)
    if not split.samples:
        return 1, size
    samples = len(jax.tree.leaves(split.samples)[0])
    if any(leaf.shape[:1] != (samples,) for leaf in outputs):
        raise ValueError(
            f"predict_fn turns {samples} samples into outputs of shape "
            f"{', '.join(str(leaf.shape) for leaf in outputs)}; their leading axis must be that of "
            "the samples. If no argument carries samples: `composite(..., samples=())`."
        )
    return samples, size // max(samples, 1)


def gauss_newton_rows(split: Split, params: PyTree[Array]) -> Rows:
    r"""The exact Gauss-Newton matrix, from one Jacobian for each sample.

    $A_i = S_i^TJ_i$ with $S_iS_i^T$ the Hessian of the loss in the outputs of sample i (its
    positive part, if the loss is not convex in them). Costs as many gradients as a sample has
    outputs, and the memory of the rows. Real parameters only.
    """
    samples, width = outputs_per_sample(split, params)
    vector, unravel = ravel_pytree(widened(params))

    def pulled(sample: dict[str, PyTree[Array]]) -> Float[Array, "width n"]:
        def predict(params: PyTree[Array]) -> Float[Array, " width"]:
            out = split.predict_one(params, sample) if sample else split.predict(params)
            return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(out)])

        out, pull = jax.vjp(predict, params)
        basis = jnp.eye(width, dtype=out.dtype)
        return jax.vmap(lambda e: ravel_pytree(widened(pull(e)[0]))[0])(basis)

    jacobian = jax.vmap(pulled)(split.samples) if split.samples else pulled({})[None]

    leaves, structure = jax.tree.flatten(split.predict(params))
    blocks = [leaf.reshape(samples, -1).astype(vector.dtype) for leaf in leaves]
    ends = [sum(b.shape[1] for b in blocks[: i + 1]) for i in range(len(blocks) - 1)]

    def loss(flat: Float[Array, "samples width"]) -> Float[Array, ""]:
        parts = jnp.split(flat, ends, axis=1)
        back = [
            p.reshape(leaf.shape).astype(leaf.dtype) for p, leaf in zip(parts, leaves, strict=True)
        ]
        return split.loss(jax.tree.unflatten(structure, back))

    slope, outer = jax.linearize(jax.grad(loss), jnp.concatenate(blocks, axis=1))
    # The samples do not interact, so one product yields the products of all samples.
    columns = jax.vmap(lambda e: outer(jnp.broadcast_to(e, slope.shape)))
    hessians = jnp.moveaxis(columns(jnp.eye(width, dtype=slope.dtype)), 0, -1)
    values, vectors = jnp.linalg.eigh(0.5 * (hessians + jnp.swapaxes(hessians, 1, 2)))
    rounding = width * jnp.finfo(values.dtype).eps * values[:, -1:]
    root = jnp.sqrt(jnp.where(values > jnp.maximum(rounding, 0.0), values, 0.0))
    matrix = root[..., None] * _einsum("iab,ian->ibn", vectors, jacobian)
    safe = jnp.where(root > 0, root, 1.0)
    image = jnp.where(root > 0, _einsum("iab,ia->ib", vectors, slope) / safe, 0.0)
    return Rows(matrix.reshape(samples * width, -1), image.ravel(), unravel)
