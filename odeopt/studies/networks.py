"""Networks of the studies' problems, and losses that need more than their outputs: equations.

Uses JAX; knows nothing of data sets, nor of optimizers.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .engine.problem import Batch, BatchLoss, Params, Problem

VISCOSITY = 0.05
"""Of Burgers' equation: the front stays wide enough for 16 x 16 points."""


def network(params: Params, inputs: jax.Array) -> jax.Array:
    """A tanh network, the last layer linear; `params` is a list of (weights, biases)."""
    for weights, biases in params[:-1]:
        inputs = jnp.tanh(inputs @ weights + biases)
    weights, biases = params[-1]
    return inputs @ weights + biases


def network_init(sizes: Sequence[int], dtype: Any) -> Callable[[int], Params]:
    """`init(seed)`: weights normal with variance 1 / inputs, biases zero."""

    def init(seed: int) -> Params:
        random = np.random.default_rng(seed)
        return [
            (
                jnp.asarray(random.standard_normal((n, m)) / np.sqrt(n), dtype),
                jnp.zeros(m, dtype),
            )
            for n, m in itertools.pairwise(sizes)
        ]

    return init


def outputs_of(params: Params, batch: Batch) -> jax.Array:
    """The outputs of the network on the first array of the batch."""
    return network(params, batch[0])


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Softmax cross-entropy with one-hot labels, mean over examples, exact also where it is tiny.

    As log(1 + sum_j exp(x_j - x_y)) over the wrong classes j: taken from log-softmax it would be
    rounded to multiples of 1e-7 in float32, and separable data take it far below.
    """
    right = jnp.sum(logits * labels, axis=-1)
    wrong = jax.nn.logsumexp(jnp.where(labels > 0, -jnp.inf, logits), axis=-1)
    return jnp.mean(jax.nn.softplus(wrong - right))


def cross_entropy_of(logits: jax.Array, batch: Batch) -> jax.Array:
    """`cross_entropy` with the second array of the batch."""
    return cross_entropy(logits, batch[1])


def squared_distance_of(outputs: jax.Array, batch: Batch) -> jax.Array:
    """Half the squared distance to the second array of the batch, mean over examples."""
    return 0.5 * jnp.mean(jnp.sum((outputs - batch[1]) ** 2, axis=-1))


def poisson_residuals(params: Params, batch: Batch) -> jax.Array:
    """Residuals of u'' = f at the points of the batch (points, f).

    u(x) = x (1 - x) network(x) on [0, 1], so that it is zero at both ends.
    """
    points, source = batch

    def solution(x: jax.Array) -> jax.Array:
        return x * (1 - x) * network(params, (2 * x - 1)[None])[0]

    return jax.vmap(jax.grad(jax.grad(solution)))(points) - source


poisson_error = BatchLoss(
    lambda residuals, batch: jnp.mean(residuals**2) / jnp.mean(batch[1] ** 2), poisson_residuals
)
"""Mean squared residual of u'' = f over the mean square of f."""


def poisson_points(shift: float) -> Batch:
    """64 equidistant points, the first at `shift` of a distance, and f = -(2 pi)^2 sin(2 pi x)."""
    x = (np.arange(64) + shift) / 64
    return x, -((2 * np.pi) ** 2) * np.sin(2 * np.pi * x)


def burgers_solution(params: Params, point: jax.Array) -> jax.Array:
    """The network at a point (time, place)."""
    time, place = point
    return network(params, jnp.stack([2 * time - 1, place]))[0]


def _derivatives(params: Params, point: jax.Array) -> tuple[jax.Array, ...]:
    """u, u_t, u_x and u_xx at a point (time, place)."""
    time, place = point

    def solution(time: jax.Array, place: jax.Array) -> jax.Array:
        return burgers_solution(params, jnp.stack([time, place]))

    in_time, in_place = jax.grad(solution, argnums=(0, 1))(time, place)
    curvature = jax.grad(jax.grad(solution, argnums=1), argnums=1)(time, place)
    return solution(time, place), in_time, in_place, curvature


def burgers_residual(params: Params, point: jax.Array) -> jax.Array:
    """u_t + u u_x - nu u_xx at a point (time, place)."""
    u, in_time, in_place, curvature = _derivatives(params, point)
    return in_time + u * in_place - VISCOSITY * curvature


def heat_residual(params: Params, point: jax.Array) -> jax.Array:
    """u_t - nu u_xx at a point (time, place), with nu = 0.1."""
    _, in_time, _, curvature = _derivatives(params, point)
    return in_time - 0.1 * curvature


def _equation_error(
    residual: Callable[[Params, jax.Array], jax.Array], params: Params, batch: Batch
) -> jax.Array:
    interior, border, values = batch
    at_border = jax.vmap(lambda point: burgers_solution(params, point))(border)
    residuals = jax.vmap(lambda point: residual(params, point))(interior)
    return jnp.mean(residuals**2) + jnp.mean((at_border - values) ** 2)


def burgers_error(params: Params, batch: Batch) -> jax.Array:
    """Mean squared residual of u_t + u u_x = nu u_xx, plus that of initial and boundary values.

    The batch is (interior points, border points, values there).
    """
    return _equation_error(burgers_residual, params, batch)


def heat_error(params: Params, batch: Batch) -> jax.Array:
    """As `burgers_error` for u_t = nu u_xx."""
    return _equation_error(heat_residual, params, batch)


def burgers_points(shift: float, count: int = 16) -> Batch:
    """(interior points, border points, values there), shifted by a part of their distance."""
    unit = (np.arange(count) + shift) / count
    interior = np.stack(np.meshgrid(unit, 2 * unit - 1, indexing="ij"), axis=-1).reshape(-1, 2)
    place = 2 * (np.arange(4 * count) + shift) / (4 * count) - 1
    start = np.stack([0 * place, place], axis=-1)
    walls = np.stack([np.tile(unit, 2), np.repeat([-1.0, 1.0], count)], axis=-1)
    values = np.concatenate([-np.sin(np.pi * place), np.zeros(2 * count)])
    return interior, np.concatenate([start, walls]), values


def heat_points(shift: float, count: int = 16) -> Batch:
    """As `burgers_points`, the initial values of two frequencies."""
    interior, border, values = burgers_points(shift, count)
    place = border[: 4 * count, 1]
    start = np.sin(np.pi * place) + 0.5 * np.sin(3 * np.pi * place)
    return interior, border, np.concatenate([start, values[4 * count :]])


def burgers_rows(interior: np.ndarray, border: np.ndarray, values: np.ndarray) -> Batch:
    """The same points as (points, values, whether inside), one row a point, values 0 inside."""
    inside = np.arange(len(interior) + len(border)) < len(interior)
    zeros = np.zeros(len(interior))
    return np.concatenate([interior, border]), np.concatenate([zeros, values]), inside


def burgers_rows_residuals(params: Params, batch: Batch) -> jax.Array:
    """What is left of the equation inside and of the values at the border, a number a point."""

    def residual(point: jax.Array, value: jax.Array, inside: jax.Array) -> jax.Array:
        at_border = burgers_solution(params, point) - value
        return jnp.where(inside, burgers_residual(params, point), at_border)

    return jax.vmap(residual)(*batch)


burgers_rows_error = BatchLoss(
    lambda residuals, batch: (
        jnp.mean(residuals**2, where=batch[2]) + jnp.mean(residuals**2, where=~batch[2])
    ),
    burgers_rows_residuals,
)
"""`burgers_error` on `burgers_rows`: the same to rounding, with one axis of samples."""


def equation(
    name: str,
    title: str,
    loss: Callable[[Params, Batch], jax.Array],
    sizes: Sequence[int],
    points: Batch,
) -> Problem:
    """A tanh network in float64 that solves an equation, at all points in every step."""
    title = f"{title}, full batch"
    return Problem(loss, network_init(sizes, np.float64), points, name=name, title=title)
