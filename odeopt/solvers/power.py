"""The spectral radius of the Hessian by the power method."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..arrays import Scalar
from ..objective import Objective
from ..sums import multiple, noise, norm

FIRST = 24  # Hessian products of the first estimate, which starts from the gradient
_MIXED = 0.1  # share of a random direction in every start: a new sharpest one is found


class Sharpest(NamedTuple):
    """What is known of the curvature, where it decides on the number of stages."""

    value: Scalar  # the spectral radius of the Hessian, from below; 0 before the first estimate
    vector: PyTree[Array]


def sharpest(
    objective: Objective, params: PyTree[Array], last: Sharpest
) -> tuple[Sharpest, Int[Array, ""]]:
    """The estimate after one product more, `FIRST` where there is none, and how many it took.

    Where the products are of no use the last estimate stays.
    """

    def after(products: int, start: PyTree[Array]) -> tuple[Sharpest, Array]:
        product = objective.product(params)
        random = _normalized(noise(jax.random.normal, params))[1]
        mixed = jax.tree.map(lambda v, r: v + _MIXED * r, _normalized(start)[1], random)
        first = Sharpest(jnp.zeros([], float), _normalized(mixed)[1])
        new = jax.lax.fori_loop(
            0, products, lambda _, found: Sharpest(*_normalized(product(found.vector))), first
        )
        good = (new.value > 0) & jnp.isfinite(new.value)
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, last)
        return kept, jnp.int32(products)

    return jax.lax.cond(
        last.value > 0,
        lambda: after(1, last.vector),
        lambda: after(FIRST, objective.here(params)),
    )


def _normalized(tree: PyTree[Array]) -> tuple[Scalar, PyTree[Array]]:
    """The norm of a tree, and the tree divided by it; 0 stays."""
    size = norm(tree)
    scale = jnp.where(size > 0, 1 / size, 0.0)
    return size, multiple(scale, tree)
