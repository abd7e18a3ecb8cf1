"""The effect of a prompt on a block of a transformer, as a change of the block's weights.

    python examples/context_as_weights.py

The block has random weights, attention and then a network. For one token the context has exactly
the effect of a change of rank one in the first layer. As the context grows token by token, these
changes are steps of the weights, like those of an optimizer, and mostly become smaller. One change
for all tokens, the thought patch, has most of the effect of the prompt, also on new tokens.

The mathematics is that of the claims `context-patch` and `thought-patch`: `odeopt reproduce` tests
them with several seeds and against wrong laws.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from odeopt.studies.claims.context_patch import LENGTH, WIDTH, attention, block, drawn, patch
from odeopt.studies.claims.thought_patch import gathered, patched

TOKENS = 200


def miss(found: jax.Array, wanted: jax.Array) -> float:
    """The distance of outputs, relative."""
    return float(jnp.linalg.norm(found - wanted) / jnp.linalg.norm(wanted))


def main(seed: int = 0) -> dict[str, float]:
    """Print and return the relative errors of the outputs without the context."""
    random = np.random.default_rng(seed)
    weights = drawn(random, 1 / 3)
    first, tokens = weights["first"], jnp.asarray(random.normal(size=(2 * TOKENS, WIDTH)))
    prompt = jnp.asarray(2 * random.normal(size=WIDTH) + random.normal(size=(LENGTH, WIDTH)))

    query, alone = tokens[0], attention(weights, tokens[0], prompt[:0])
    patches = [
        patch(first, alone, attention(weights, query, prompt[:n])) for n in range(LENGTH + 1)
    ]
    wanted = block(weights, first, attention(weights, query, prompt))
    found = {
        "one token, not patched": miss(block(weights, first, alone), wanted),
        "one token, patched": miss(block(weights, first + patches[-1], alone), wanted),
    }
    steps = [float(jnp.linalg.norm(b - a)) for a, b in itertools.pairwise(patches)]
    found |= {f"step {n} of the weights": size for n, size in enumerate(steps, 1)}

    def inputs(context: jax.Array) -> jax.Array:
        return jax.vmap(lambda token: attention(weights, token, context))(tokens)

    alone, within = inputs(prompt[:0]), inputs(prompt)
    thought = gathered(first, alone[:TOKENS], within[:TOKENS])
    new, wanted = alone[TOKENS:], block(weights, first, within[TOKENS:])
    found["new tokens, not patched"] = miss(block(weights, first, new), wanted)
    found["new tokens, thought patch"] = miss(patched(weights, thought, new), wanted)
    for name, value in found.items():
        print(f"{name:26} {value:.2g}")
    return found


if __name__ == "__main__":
    main()
