"""A context changes a block exactly as a rank-one change of its weights does.

Attention over a context moves the input of the first layer from a to a'; the weights W + W(a' -
a)aᵀ/‖a‖² without the context give the same output. One block of self-attention and a network,
random weights; with the patch normalized by ‖a'‖² instead it is not the same.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..claim import Bound, Claim

WIDTH, HIDDEN, LENGTH = 8, 16, 6


def drawn(random: np.random.Generator, scale: float = 1.0) -> dict[str, jax.Array]:
    """Random weights of attention and network."""
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys("qkv", (WIDTH, WIDTH))
    shapes |= {"first": (WIDTH, HIDDEN), "b": (HIDDEN,), "out": (HIDDEN, WIDTH)}
    return {name: scale * jnp.asarray(random.normal(size=s)) for name, s in shapes.items()}


def attention(weights: Any, query: jax.Array, context: jax.Array) -> jax.Array:
    """What the last token takes up of its context, itself included."""
    tokens = jnp.concatenate([context, query[None]])
    scores = (query @ weights["q"]) @ (tokens @ weights["k"]).T / jnp.sqrt(WIDTH)
    return query + jax.nn.softmax(scores) @ (tokens @ weights["v"])


def block(weights: Any, first: jax.Array, a: jax.Array) -> jax.Array:
    """The network after attention; a residual connection stays outside of the statement."""
    return jax.nn.gelu(a @ first + weights["b"]) @ weights["out"]


def patch(first: jax.Array, alone: jax.Array, within: jax.Array) -> jax.Array:
    """The change of the first layer that stands for the context, of rank one."""
    return jnp.outer(alone, (within - alone) @ first) / (alone @ alone)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Relative difference of the outputs, with the patch, without, and with a wrong one."""
    random = np.random.default_rng(seed)
    weights = drawn(random)
    query = jnp.asarray(random.normal(size=WIDTH))
    context = jnp.asarray(random.normal(size=(LENGTH, WIDTH)))
    alone, within = attention(weights, query, context[:0]), attention(weights, query, context)
    change = patch(weights["first"], alone, within)
    target = block(weights, weights["first"], within)

    def miss(first: jax.Array) -> float:
        gap = block(weights, first, alone) - target
        return float(jnp.linalg.norm(gap) / jnp.linalg.norm(target))

    wrong = change * (alone @ alone) / (within @ within)
    return {
        "patched": miss(weights["first"] + change),
        "rank of the patch": int(jnp.linalg.matrix_rank(change)),
        "not patched": miss(weights["first"]),
        "wrongly normalized": miss(weights["first"] + wrong),
    }


CLAIM = Claim(
    __doc__,
    ("context", "updates"),
    experiment,
    (Bound("patched", high=1e-12, every=True), Bound("rank of the patch", 1, 1, every=True)),
    control=(Bound("wrongly normalized", high=1e-3), Bound("not patched", high=1e-3)),
    seconds=(5, 10),
)
