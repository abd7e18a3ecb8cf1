"""Growth by copying units keeps a network's function, and Adam's path if its moments are mapped.

Each hidden unit twice, the next layer's weights divided by 2. In float32 the outputs agree to 1e-6,
and 100 further steps of Adam to 1e-4; with the moments reset instead of mapped they do not.

A first version had Adam's eps at 0, and divided 0 by 0 at pixels that are always empty.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import adam, growth
from ..claim import Bound, Claim
from ..experiments import classes, squared_error, train
from ..networks import network, network_init

LAYER = growth.Units(lambda p: p[0], lambda p: p[1][0])
STEPS = 100


@jax.jit
def run(before: Any, batch: Any) -> dict[str, jax.Array]:
    """What the experiment finds; compiled once for all seeds."""
    opt = adam(1e-3)
    params, state, _ = train(opt, squared_error, before, batch, steps=STEPS)
    grown = growth.grow(params, state, LAYER)
    slower = optax.chain(opt, grown.rates(normalized=True))
    empty = slower.init(grown.params)

    def later(state: Any) -> Any:
        return train(slower, squared_error, grown.params, batch, steps=STEPS, state=state)[0]

    plain = train(opt, squared_error, params, batch, steps=STEPS, state=state)[0]
    outputs = network(plain, batch[0])

    def gap(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.abs(a - b).max() / jnp.abs(outputs).max()

    mapped, reset = later((grown.state, *empty[1:])), later(empty)
    return {
        "right after": gap(network(grown.params, batch[0]), network(params, batch[0])),
        "100 steps later, mapped": gap(network(mapped, batch[0]), outputs),
        "100 steps later, reset": gap(network(reset, batch[0]), outputs),
    }


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Differences of outputs, relative, right after growth and 100 steps later."""
    batch = tuple(jnp.asarray(array[:200], jnp.float32) for array in classes())
    found = run(network_init((64, 16, 10), np.float32)(seed), batch)
    return {name: float(value) for name, value in found.items()}


CLAIM = Claim(
    __doc__,
    ("fusion", "grow"),
    experiment,
    (
        Bound("right after", high=1e-6, every=True),
        Bound("100 steps later, mapped", high=1e-4, every=True),
    ),
    control=(Bound("100 steps later, reset", high=1e-3),),
    seconds=(20, 40),
    data=("digits",),
)
