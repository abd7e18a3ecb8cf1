"""What a sharpness costs beside gradients, with and without a `jit` of the caller's."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from odeopt.diagnostics import sharpness

from .timing import Call, Row, ratio

PRODUCTS = 24
BATCH, LENGTH, LETTERS, WIDTH, HEADS, LAYERS = 32, 32, 64, 64, 4, 2
Params = Any


def transformer() -> Params:
    """Parameters of a character transformer, about 110,000 of them."""
    random = np.random.default_rng(0)

    def matrix(inputs: int, outputs: int) -> jax.Array:
        values = random.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        return jnp.asarray(values, jnp.float32)

    def layer() -> Params:
        return {
            "scales": jnp.ones((2, WIDTH)),
            "attention": matrix(WIDTH, 3 * WIDTH),
            "mixed": matrix(WIDTH, WIDTH),
            "up": matrix(WIDTH, 4 * WIDTH),
            "down": matrix(4 * WIDTH, WIDTH),
        }

    return {
        "letters": matrix(LETTERS, WIDTH),
        "places": matrix(LENGTH, WIDTH),
        "layers": [layer() for _ in range(LAYERS)],
        "out": matrix(WIDTH, LETTERS),
    }


def loss(params: Params, text: jax.Array) -> jax.Array:
    """Cross-entropy of each next character."""
    x = params["letters"][text[:, :-1]] + params["places"]
    for layer in params["layers"]:
        q, k, v = jnp.split(_normed(x, layer["scales"][0]) @ layer["attention"], 3, axis=-1)
        q, k, v = (part.reshape(*x.shape[:2], HEADS, -1) for part in (q, k, v))
        heads = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + heads.reshape(x.shape) @ layer["mixed"]
        x = x + jax.nn.gelu(_normed(x, layer["scales"][1]) @ layer["up"]) @ layer["down"]
    logits = x @ params["out"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, text[:, 1:]))


def _normed(x: jax.Array, scale: jax.Array) -> jax.Array:
    return scale * x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def sharpness_calls(rounds: int) -> Iterator[Row]:
    """Time of a sharpness over that of a compiled gradient."""
    params = transformer()
    text = jax.random.randint(jax.random.key(1), (BATCH, LENGTH + 1), 0, LETTERS)
    gradient = Call(jax.jit(jax.grad(loss)), params, text)
    gradient.seconds(3)

    def plain(params: Params, text: jax.Array) -> Any:
        return sharpness(loss, params, products=PRODUCTS, text=text)

    for name, call in (("jitted", jax.jit(plain)), ("not jitted", plain)):
        side = Call(call, params, text)
        side.seconds(1)  # compiles
        pairs = [(side.seconds(1), gradient.seconds(PRODUCTS)) for _ in range(rounds)]
        row = f"sharpness, {PRODUCTS} products, {name} / gradient, transformer, batch {BATCH}"
        yield ratio("sharpness", row, pairs, "52")
