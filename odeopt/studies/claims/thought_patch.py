"""One change of the weights, the same for all tokens, has most of the effect of a prompt.

The weight changes of single tokens are combined into a thought matrix and a thought vector, by
least squares over 200 tokens. On 200 other tokens these reproduce the effect of the prompt with an
error of at most half of it. The block is the random one of `context-patch`; with another prompt's
change the error is more than half. A prompt is six tokens around a mean of its own.

In a first version prompts had no mean. Then any two have the same effect, to dilute a token's
attention to itself, and another prompt's change passed as well.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..claim import Bound, Claim
from .context_patch import HIDDEN, LENGTH, WIDTH, attention, block, drawn

TOKENS = 200


def gathered(first: jax.Array, alone: jax.Array, within: jax.Array) -> jax.Array:
    """Thought matrix, and below it thought vector, of tokens (rows) alone and within the prompt."""
    design = jnp.concatenate([alone, jnp.ones((len(alone), 1))], axis=1)
    return jnp.linalg.lstsq(design, (within - alone) @ first)[0]


def patched(weights: Any, thought: jax.Array, alone: jax.Array) -> jax.Array:
    """What the block gives without the prompt, with matrix and vector in its weights."""
    moved = {**weights, "b": weights["b"] + thought[-1]}
    return block(moved, weights["first"] + thought[:-1], alone)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """What is left of the change of outputs, relative, on tokens that were not gathered from."""
    random = np.random.default_rng(seed)
    weights = drawn(random, 1 / 3)
    tokens = jnp.asarray(random.normal(size=(2 * TOKENS, WIDTH)))
    means = 2 * random.normal(size=(2, 1, WIDTH))
    prompts = jnp.asarray(means + random.normal(size=(2, LENGTH, WIDTH)))

    def inputs(context: jax.Array) -> jax.Array:
        return jax.vmap(lambda token: attention(weights, token, context))(tokens)

    alone, within = inputs(prompts[0][:0]), [inputs(prompt) for prompt in prompts]
    seen, new = slice(TOKENS), slice(TOKENS, None)
    target = block(weights, weights["first"], within[0][new])

    def miss(thought: jax.Array) -> jax.Array:
        return jnp.linalg.norm(target - patched(weights, thought, alone[new]))

    change = miss(jnp.zeros((WIDTH + 1, HIDDEN)))
    left = {}
    for name, there in zip(("own", "another's"), within, strict=True):
        thought = gathered(weights["first"], alone[seen], there[seen])
        left[name] = float(miss(thought) / change)
    return {f"left with {name} patch": value for name, value in left.items()}


CLAIM = Claim(
    __doc__,
    ("prompts",),
    experiment,
    (Bound("left with own patch", high=0.5, every=True),),
    control=(Bound("left with another's patch", high=0.5),),
    seconds=(6, 12),
)
