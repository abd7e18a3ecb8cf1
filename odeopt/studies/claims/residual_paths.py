"""The output of a residual tower grows exponentially with depth unless its branches are scaled.

It is a sum over paths, of which there are 2ⁿ. Random branches of fixed size, n = 8 to 128 blocks:
unscaled the size of the output grows exponentially in n; scaled by 1/n it stays within a factor of
2, and towers of different depth differ only by their random draw. The analogue for an optimizer: n
steps of size t/n.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..claim import Bound, Claim, Lines

WIDTH, DEPTHS = 32, (8, 16, 32, 64, 128)


@jax.jit
def tower(x: jax.Array, weights: jax.Array, scale: jax.Array) -> jax.Array:
    """Block by block, x + scale · W x."""
    return jax.lax.scan(lambda x, w: (x + scale * w @ x, None), x, weights)[0]


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Sizes of outputs over depth."""
    random = np.random.default_rng(seed)
    x = random.normal(size=WIDTH)
    sizes: dict[str, list[float]] = {"unscaled": [], "scaled by 1/n": []}
    for depth in DEPTHS:
        weights = jnp.asarray(random.normal(size=(depth, WIDTH, WIDTH)) / np.sqrt(WIDTH))
        for name, scale in (("unscaled", 1.0), ("scaled by 1/n", 1 / depth)):
            end = tower(jnp.asarray(x), weights, jnp.asarray(scale))
            sizes[name].append(float(jnp.linalg.norm(end)) / float(np.linalg.norm(x)))
    return {
        "growth a block, unscaled": float(
            np.exp(np.polyfit(DEPTHS, np.log(sizes["unscaled"]), 1)[0])
        ),
        "largest, scaled": max(sizes["scaled by 1/n"]),
        "smallest, scaled": min(sizes["scaled by 1/n"]),
        "growth a block, scaled": float(
            np.exp(np.polyfit(DEPTHS, np.log(sizes["scaled by 1/n"]), 1)[0])
        ),
        "blocks": DEPTHS,
        **sizes,
    }


CLAIM = Claim(
    __doc__,
    ("depth",),
    experiment,
    (
        Bound("growth a block, unscaled", low=1.2, every=True),
        Bound("largest, scaled", high=2, every=True),
        Bound("smallest, scaled", low=0.5, every=True),
    ),
    control=(Bound("growth a block, scaled", low=1.2),),
    seconds=(5, 10),
    figure=Lines("blocks", ("unscaled", "scaled by 1/n"), "size of the output", "y"),
)
