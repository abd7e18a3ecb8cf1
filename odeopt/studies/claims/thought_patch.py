"""One patch of the weights, the same for all tokens, stands for most of what a prompt does.

The patches of single tokens are gathered into a thought matrix and a thought vector, by least
squares over 200 tokens; on 200 further tokens these leave at most half of the change that the
prompt makes. The random block of `context-patch`; with another prompt's patch more is left than
half. A prompt is six tokens around a mean of its own.

In a first version prompts had no mean: then any two do the same, which is to dilute a token's
attention to itself, and another's patch passed as well.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..claim import Bound, Claim
from .context_patch import HIDDEN, LENGTH, WIDTH, attention, block

TOKENS = 200


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """What is left of the change of outputs, relative, on tokens that were not gathered from."""
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys("qkv", (WIDTH, WIDTH))
    shapes |= {"first": (WIDTH, HIDDEN), "b": (HIDDEN,), "out": (HIDDEN, WIDTH)}
    weights = {name: jnp.asarray(random.normal(size=s)) / 3 for name, s in shapes.items()}
    tokens = jnp.asarray(random.normal(size=(2 * TOKENS, WIDTH)))
    means = 2 * random.normal(size=(2, 1, WIDTH))
    prompts = jnp.asarray(means + random.normal(size=(2, LENGTH, WIDTH)))

    def inputs(context: jax.Array) -> jax.Array:
        return jax.vmap(lambda token: attention(weights, token, context))(tokens)

    alone = inputs(prompts[0][:0])
    design = jnp.concatenate([alone, jnp.ones((2 * TOKENS, 1))], axis=1)

    def patch(prompt: jax.Array) -> jax.Array:  # matrix and vector, below each other
        change = (inputs(prompt) - alone) @ weights["first"]
        return jnp.linalg.lstsq(design[:TOKENS], change[:TOKENS])[0]

    def outputs(fitted: jax.Array) -> jax.Array:
        hidden = alone @ weights["first"] + design @ fitted + weights["b"]
        return (jax.nn.gelu(hidden) @ weights["out"])[TOKENS:]

    target = block(weights, weights["first"], inputs(prompts[0]))[TOKENS:]
    nothing = jnp.zeros((WIDTH + 1, HIDDEN))
    change = jnp.linalg.norm(target - outputs(nothing))
    left = {
        name: float(jnp.linalg.norm(target - outputs(fitted)) / change)
        for name, fitted in (("own", patch(prompts[0])), ("another's", patch(prompts[1])))
    }
    return {f"left with {name} patch": value for name, value in left.items()}


CLAIM = Claim(
    __doc__,
    ("prompts",),
    experiment,
    (Bound("left with own patch", high=0.5, every=True),),
    control=(Bound("left with another's patch", high=0.5),),
    seconds=(6, 12),
)
