"""The networks that the benchmarks step, and the programs that are compared on them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from odeopt.flows import GradientFlow
from odeopt.objective import Objective
from odeopt.solvers import ExplicitRungeKutta

Params = Any
Batch = tuple[jax.Array, jax.Array]
Program = Callable[..., Any]

DIGITS = (64, 32, 10)
WIDE = (784, 512, 512, 10)


def mlp(sizes: Sequence[int]) -> Params:
    """Weights and biases of a tanh network."""
    random = np.random.default_rng(0)
    layers = {}
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        weights = random.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        layers[f"w{index}"] = jnp.asarray(weights, jnp.float32)
        layers[f"b{index}"] = jnp.zeros(outputs)
    return layers


def batch_of(sizes: Sequence[int], examples: int, count: int = 1) -> Batch:
    """Inputs in [0, 1) and one-hot labels; `count` batches along a leading axis if not 1."""
    random = np.random.default_rng(1)
    shape = (examples,) if count == 1 else (count, examples)
    labels = np.eye(sizes[-1])[random.integers(sizes[-1], size=shape)]
    inputs = random.random((*shape, sizes[0]))
    return jnp.asarray(inputs, jnp.float32), jnp.asarray(labels, jnp.float32)


def loss(params: Params, batch: Batch) -> jax.Array:
    """Softmax cross-entropy of the tanh network."""
    hidden, labels = batch
    depth = len(params) // 2
    for index in range(depth):
        hidden = hidden @ params[f"w{index}"] + params[f"b{index}"]
        if index + 1 < depth:
            hidden = jnp.tanh(hidden)
    return jnp.mean(optax.softmax_cross_entropy(hidden, labels))


def training_step(optimizer: optax.GradientTransformation) -> Program:
    """`step((params, state), batch)`: gradient, update, apply."""
    extended = optax.with_extra_args_support(optimizer)

    def step(carry: tuple[Params, Any], batch: Batch) -> tuple[Params, Any]:
        params, state = carry
        grads = jax.grad(loss)(params, batch)
        updates, state = extended.update(grads, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    return step


def update_step(optimizer: optax.GradientTransformation) -> Program:
    """`step((params, state), grads, batch)`: update and apply, the gradient given."""
    extended = optax.with_extra_args_support(optimizer)

    def step(carry: tuple[Params, Any], grads: Params, batch: Batch) -> tuple[Params, Any]:
        params, state = carry
        updates, state = extended.update(grads, state, params, value_fn=loss, batch=batch)
        return optax.apply_updates(params, updates), state

    return step


def four_gradients(
    carry: Sequence[Params], points: Sequence[Params], batch: Batch
) -> tuple[Params, ...]:
    """One program of four gradients at four points, into the buffers of the trees of `carry`.

    The points are trees of their own, or products that they have in common would be computed once.
    Each depends on the gradient before by its first bias alone, as a stage does, at next to no
    cost: they must not run side by side.
    """
    gradients = [jax.grad(loss)(points[0], batch)]
    for point in points[1:]:
        bias = point["b0"] + 1e-30 * gradients[-1]["b0"]
        gradients.append(jax.grad(loss)({**point, "b0": bias}, batch))
    return tuple(gradients)


def diffrax_step(solver: diffrax.AbstractSolver, rate: float) -> Program:
    """`step(params, batch)`: diffrax's own step along the gradient flow of the batch."""
    whole = diffrax_step_and_error(solver, rate)
    return lambda params, batch: whole((params, None), batch)[0]


def method_step_and_error(
    method: ExplicitRungeKutta, rate: float, given: Params | None = None
) -> Program:
    """`step((params, error), batch)`: a step of odeopt's stage loop, its error estimated.

    The first gradient is `given`, as in a loop written for optax, or evaluated.
    """

    def step(carry: tuple[Params, Any], batch: Batch) -> tuple[Params, Params]:
        params = carry[0]
        objective = Objective({"value_fn": loss, "batch": batch}, given)
        h = jnp.asarray(rate, float)
        taken = method.step(GradientFlow(), objective, (params, ()), h, ())
        assert taken.error is not None
        return optax.apply_updates(params, taken.update), taken.error[0]

    return step


def diffrax_step_and_error(solver: diffrax.AbstractSolver, rate: float) -> Program:
    """`step((params, error), batch)`: diffrax's own step and its error estimate."""

    def step(carry: tuple[Params, Any], batch: Batch) -> tuple[Params, Params]:
        params = carry[0]

        def field(t: Any, params: Params, args: Any) -> Params:
            return jax.tree.map(jnp.negative, jax.grad(loss)(params, batch))

        term = diffrax.ODETerm(field)
        begin, end = jnp.float32(0), jnp.float32(rate)
        state = solver.init(term, begin, end, params, None)
        y1, error, *_ = solver.step(term, begin, end, params, None, state, made_jump=False)
        return y1, error

    return step


def repeated(step: Program) -> Program:
    """`program(carry, *rest, batches)`: `step(carry, *rest, batch)` for each batch, in one loop.

    What a call costs beside its arithmetic is then shared by all, and as batches differ nothing
    can be taken out of the loop.
    """

    def program(carry: Any, *rest_and_batches: Any) -> Any:
        *rest, batches = rest_and_batches

        def body(index: jax.Array, carry: Any) -> Any:
            return step(carry, *rest, jax.tree.map(lambda array: array[index], batches))

        return jax.lax.fori_loop(0, len(batches[0]), body, carry)

    return program
