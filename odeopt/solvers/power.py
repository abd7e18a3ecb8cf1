"""The spectral radius of the Hessian by the power method."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ..arrays import Scalar
from ..lanczos import mixed, normalized
from ..objective import Objective

FIRST = 24  # Hessian products of the first estimate, which starts from the gradient


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
        first = Sharpest(jnp.zeros([], float), normalized(mixed(start, params))[1])
        new = jax.lax.fori_loop(
            0, products, lambda _, found: Sharpest(*normalized(product(found.vector))), first
        )
        good = (new.value > 0) & jnp.isfinite(new.value)
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, last)
        return kept, jnp.int32(products)

    return jax.lax.cond(
        last.value > 0,
        lambda: after(1, last.vector),
        lambda: after(FIRST, objective.here(params)),
    )
