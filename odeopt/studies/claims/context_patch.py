"""What a context does to a block is what a rank-one change of its weights does, exactly.

Attention over a context moves the input of the first layer from a to a'; the weights
W + W(a' - a)aᵀ/‖a‖² without the context give the same output. One block of self-attention and a
network, random weights; with the patch normalized by ‖a'‖² instead it is not the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..claim import Bound, Claim

WIDTH, HIDDEN, LENGTH = 8, 16, 6


def attention(weights: Any, query: jax.Array, context: jax.Array) -> jax.Array:
    """What the last token takes up of its context, itself included."""
    tokens = jnp.concatenate([context, query[None]])
    scores = (query @ weights["q"]) @ (tokens @ weights["k"]).T / jnp.sqrt(WIDTH)
    return query + jax.nn.softmax(scores) @ (tokens @ weights["v"])


def block(weights: Any, first: jax.Array, a: jax.Array) -> jax.Array:
    """The network after attention; a residual connection stays outside of the statement."""
    return jax.nn.gelu(a @ first + weights["b"]) @ weights["out"]


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Relative difference of the outputs, with the patch, without, and with a wrong one."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {
        "q": (WIDTH, WIDTH),
        "k": (WIDTH, WIDTH),
        "v": (WIDTH, WIDTH),
    }
    shapes |= {"first": (WIDTH, HIDDEN), "b": (HIDDEN,), "out": (HIDDEN, WIDTH)}
    weights = {name: jnp.asarray(random.normal(size=shape)) for name, shape in shapes.items()}
    query = jnp.asarray(random.normal(size=WIDTH))
    context = jnp.asarray(random.normal(size=(LENGTH, WIDTH)))
    alone, within = attention(weights, query, context[:0]), attention(weights, query, context)
    change = jnp.outer(alone, (within - alone) @ weights["first"])
    target = block(weights, weights["first"], within)

    def miss(first: jax.Array) -> float:
        gap = block(weights, first, alone) - target
        return float(jnp.linalg.norm(gap) / jnp.linalg.norm(target))

    patch = change / (alone @ alone)
    return {
        "patched": miss(weights["first"] + patch),
        "rank of the patch": int(jnp.linalg.matrix_rank(patch)),
        "not patched": miss(weights["first"]),
        "wrongly normalized": miss(weights["first"] + change / (within @ within)),
    }


CLAIM = Claim(
    __doc__,
    ("context", "updates"),
    experiment,
    (Bound("patched", high=1e-12, every=True), Bound("rank of the patch", 1, 1, every=True)),
    control=(Bound("wrongly normalized", high=1e-3), Bound("not patched", high=1e-3)),
    seconds=(5, 10),
)
