"""Networks with more structure than layers in a row.

Every one is `init(seed)`, the parameters in float32, and a function of them and the inputs.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .engine.problem import Params

WIDTH, BLOCKS = 32, 8
"""Of the residual network."""
MODEL, HEADS, LAYERS, LENGTH = 32, 4, 2, 32
"""Of the transformer: numbers a character, heads of attention, layers, characters that it sees."""


def _normal(
    random: np.random.Generator, shapes: Mapping[str, tuple[int, ...]], gain: float = 1.0
) -> dict[str, Any]:
    """Weights with variance gain / inputs, the last axis being the outputs'."""
    return {
        name: jnp.asarray(
            random.standard_normal(shape) * np.sqrt(gain / np.prod(shape[:-1])), np.float32
        )
        for name, shape in shapes.items()
    }


def convolution_init(seed: int) -> Params:
    """Two convolutions and a dense layer, weights for relu, biases zero."""
    shapes = {"first": (3, 3, 1, 16), "second": (3, 3, 16, 32), "dense": (128, 10)}
    weights = _normal(np.random.default_rng(seed), shapes, gain=2)
    return {name: (w, jnp.zeros(w.shape[-1], w.dtype)) for name, w in weights.items()}


def convolution(params: Params, pixels: Float[Array, "examples 64"]) -> Float[Array, "examples 10"]:
    """Logits of images of 8 x 8 pixels: two convolutions 3 x 3 of stride 2 with relu, one layer."""
    x = pixels.reshape(-1, 8, 8, 1)
    for name in ("first", "second"):
        weights, biases = params[name]
        form = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, weights, (2, 2), "SAME", dimension_numbers=form)
        x = jax.nn.relu(x + biases)
    weights, biases = params["dense"]
    return x.reshape(len(x), -1) @ weights + biases


def recurrent_init(seed: int) -> Params:
    """Weights with variance 1 / inputs, biases zero."""
    random = np.random.default_rng(seed)
    shapes = {"in": (8, 48), "again": (48, 48), "out": (48, 10)}
    found = {
        name: jnp.asarray(random.standard_normal(s) / np.sqrt(s[0]), jnp.float32)
        for name, s in shapes.items()
    }
    return {**found, "bias": jnp.zeros(48, jnp.float32), "shift": jnp.zeros(10, jnp.float32)}


def recurrent(params: Params, pixels: Float[Array, "examples 64"]) -> Float[Array, "examples 10"]:
    """Logits of images of 8 x 8 pixels that a layer of 48 tanh units reads row by row."""

    def read(hidden: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        inputs = row @ params["in"] + hidden @ params["again"] + params["bias"]
        return jnp.tanh(inputs), None

    rows = jnp.moveaxis(pixels.reshape(-1, 8, 8), 1, 0)
    hidden = jax.lax.scan(read, jnp.zeros((len(pixels), 48), pixels.dtype), rows)[0]
    return hidden @ params["out"] + params["shift"]


def residual_init(seed: int) -> Params:
    """Blocks stacked along the first axis, as `lax.scan` takes them."""
    random = np.random.default_rng(seed)
    ends = _normal(random, {"in": (64, WIDTH), "out": (WIDTH, 10)})
    blocks = [_normal(random, dict.fromkeys(("up", "down"), (WIDTH, WIDTH))) for _ in range(BLOCKS)]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *blocks)
    return {**ends, "blocks": {**stacked, "bias": jnp.zeros((BLOCKS, WIDTH), np.float32)}}


def residual(params: Params, inputs: Float[Array, "examples 64"]) -> Float[Array, "examples 10"]:
    """Logits of x + (1/n) tanh(x U + b) V, n blocks one after the other: Euler's steps in depth."""

    def block(x: jax.Array, own: Params) -> tuple[jax.Array, None]:
        return x + jnp.tanh(x @ own["up"] + own["bias"]) @ own["down"] / BLOCKS, None

    return jax.lax.scan(block, inputs @ params["in"], params["blocks"])[0] @ params["out"]


def transformer_init(seed: int, characters: int) -> Params:
    """Embeddings of characters and places, two layers, the projection to logits."""
    random = np.random.default_rng(seed)
    layer = {
        "qkv": (MODEL, 3 * MODEL),
        "merge": (MODEL, MODEL),
        "up": (MODEL, 4 * MODEL),
        "down": (4 * MODEL, MODEL),
    }
    embedded = {
        name: jnp.asarray(0.5 * random.standard_normal((count, MODEL)), np.float32)
        for name, count in (("characters", characters), ("places", LENGTH))
    }
    layers = [_normal(random, layer) for _ in range(LAYERS)]
    return {**embedded, "layers": layers, **_normal(random, {"out": (MODEL, characters)})}


def _normalized(x: jax.Array) -> jax.Array:
    """Mean 0 and variance 1 of each token."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


def transformer(
    params: Params, text: Int[Array, "examples length"]
) -> Float[Array, "examples length characters"]:
    """Logits of the next character at every place, from those up to it: attention is causal."""
    x = params["characters"][text] + params["places"][: text.shape[1]]
    return _normalized(_attended(params["layers"], x, causal=True)) @ params["out"]


def _attended(layers: list[Params], x: jax.Array, *, causal: bool) -> jax.Array:
    """Attention and a layer of gelu units, each added to its input, which is normalized before."""
    for layer in layers:
        heads = (_normalized(x) @ layer["qkv"]).reshape(*x.shape[:2], 3 * HEADS, -1)
        query, key, value = jnp.split(heads, 3, axis=2)
        mixed = jax.nn.dot_product_attention(query, key, value, is_causal=causal)
        x = x + mixed.reshape(x.shape) @ layer["merge"]
        x = x + jax.nn.gelu(_normalized(x) @ layer["up"]) @ layer["down"]
    return x


def attention_init(seed: int) -> Params:
    """The layers of the transformer, with rows of 8 pixels for characters."""
    params = transformer_init(seed, 10)
    pixels = _normal(np.random.default_rng(seed + 10**6), {"in": (8, MODEL)})
    return {**pixels, **{name: params[name] for name in ("places", "layers", "out")}}


def attention(params: Params, pixels: Float[Array, "examples 64"]) -> Float[Array, "examples 10"]:
    """Logits of images of 8 x 8 pixels, from the mean over rows that attend to each other."""
    x = pixels.reshape(-1, 8, 8) @ params["in"] + params["places"][:8]
    x = _attended(params["layers"], x, causal=False).mean(axis=1)
    return _normalized(x) @ params["out"]
