"""What several claims' experiments share: slopes, digits in float64, a training loop."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from ..state import step_params
from . import data
from .engine.steps import step_function
from .networks import cross_entropy_of, network_init, outputs_of, squared_distance_of
from .reference import solve

Batch = tuple[Any, ...]
Loss = Callable[..., Float[Array, ""]]


def slope(sizes: Any, errors: Any) -> float:
    """The power of the size that the error goes with: least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


def error_rate(params: PyTree[Array], batch: Batch) -> Float[Array, ""]:
    """The share of examples that a network gets wrong; labels are one-hot."""
    return jnp.mean(outputs_of(params, batch).argmax(axis=-1) != batch[1].argmax(axis=-1))


def squared_error(params: PyTree[Array], batch: Batch) -> Float[Array, ""]:
    """Half the squared distance of a tanh network's outputs to the targets, mean over examples."""
    return squared_distance_of(outputs_of(params, batch), batch)


def cross_entropy(params: PyTree[Array], batch: Batch) -> Float[Array, ""]:
    """Softmax cross-entropy of a tanh network, mean over examples."""
    return cross_entropy_of(outputs_of(params, batch), batch)


def neuron_loss(
    x: Float[Array, "2"], inputs: Float[Array, "2"], target: Float[Array, ""]
) -> Float[Array, ""]:
    """A neuron on one sample."""
    return 1.5 * (jnp.tanh(inputs @ x) - target) ** 2


@functools.cache
def classes(name: str = "digits", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and one-hot labels of a data set in a random order, in float64."""
    inputs, targets = data.load(name)
    if name not in ("digits", "mnist-5k", "fashion-mnist"):
        inputs = data.standardized(name)[0]
    order = np.random.default_rng(seed).permutation(len(inputs))
    return inputs[order], data.one_hot(targets)[order]


def start(sizes: Sequence[int], seed: int) -> PyTree[Array]:
    """A tanh network's first parameters, in float64."""
    return network_init(sizes, np.float64)(seed)


def small_start(sizes: Sequence[int], seed: int) -> PyTree[Array]:
    """Parameters 0.3 times as large, from which training sharpens to three times the first."""
    return jax.tree.map(lambda x: 0.3 * x, start(sizes, seed))


def batches(arrays: Sequence[np.ndarray], size: int, steps: int, seed: int) -> tuple[Array, ...]:
    """So many batches of shuffled epochs, one a row."""
    random, count = np.random.default_rng(seed), len(arrays[0]) // size
    epochs = [random.permutation(len(arrays[0]))[: count * size] for _ in range(-(-steps // count))]
    numbers = np.concatenate(epochs)[: steps * size].reshape(steps, size)
    return tuple(jnp.asarray(array[numbers]) for array in arrays)


def nothing(params: PyTree[Array]) -> tuple[()]:
    """What to look at where only the end counts."""
    return ()


def train(
    optimizer: optax.GradientTransformation,
    loss: Loss,
    params: PyTree[Array],
    batches: PyTree[Array],
    look: Callable[[PyTree[Array]], Any] = nothing,
    *,
    steps: int | None = None,
    state: Any = None,
) -> tuple[PyTree[Array], Any, Any]:
    """A step on each batch in turn: parameters and state at the end, and what was kept.

    `batches` hold one a row; with `steps`, they are the one batch of so many. `look(params)` is
    kept after each step. The optimizer may go on with a `state`.
    """
    step = step_function(loss, optimizer)

    def body(carry: tuple, batch: PyTree[Array]) -> tuple[tuple, Any]:
        params, state, _ = step(*carry, batches if steps else batch)
        return (params, state), look(params)

    state = optimizer.init(params) if state is None else state
    rows = None if steps else batches
    (params, state), kept = jax.lax.scan(body, (params, state), rows, steps)
    return params, state, kept


def walk(
    opt: optax.GradientTransformationExtraArgs, loss: Loss, x: PyTree[Array], count: Any
) -> PyTree[Array]:
    """Where so many steps lead, read out by `step_params`; the count may be traced."""

    def step(_: int, carry: tuple) -> tuple:
        x, state = carry
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        return optax.apply_updates(x, updates), state

    x, state = jax.lax.fori_loop(0, count, step, (x, opt.init(x)))
    return step_params(state, x)


@functools.cache
def trainer(
    make: Callable[[Any], optax.GradientTransformation],
    loss: Loss,
    look: Callable[[PyTree[Array]], Any] = nothing,
    steps: int | None = None,
) -> Callable[..., tuple[PyTree[Array], Any]]:
    """`run(params, batches, rate)`, compiled once: the end, and what was kept on the way."""

    @jax.jit
    def run(params: PyTree[Array], batches: PyTree[Array], rate: Any) -> tuple[PyTree[Array], Any]:
        params, _, kept = train(make(rate), loss, params, batches, look, steps=steps)
        return params, kept

    return run


@eqx.filter_jit
def follow(
    field: Callable[[Array, Any], Array],
    begin: Array,
    time: Any,
    args: Any = None,
    tolerance: float = 1e-12,
) -> Array:
    """Where `field(y, args)` leads in that time, by diffrax's Dopri8; compiled once for a field."""
    along = lambda t, y, args: field(y, args)  # noqa: E731
    return solve(along, begin, time, args, first=time / 100, rtol=tolerance)[-1]


def distance(a: PyTree[Array], b: PyTree[Array]) -> float:
    """Euclidean distance of two trees."""
    return float(jnp.linalg.norm(ravel_pytree(a)[0] - ravel_pytree(b)[0]))
