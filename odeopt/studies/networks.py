"""Dense networks, and losses that need more than their outputs: equations."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..split import Composite, composite
from .engine.problem import Batch, Params, Problem

VISCOSITY = 0.05
"""Of Burgers' equation: the front stays wide enough for 16 x 16 points."""


def layers(params: Params, inputs: jax.Array, unit: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """A network of dense layers, the last one linear; `params` is a list of (weights, biases)."""
    for weights, biases in params[:-1]:
        inputs = unit(inputs @ weights + biases)
    weights, biases = params[-1]
    return inputs @ weights + biases


def network(params: Params, inputs: jax.Array) -> jax.Array:
    """A network of tanh units, the last layer linear."""
    return layers(params, inputs, jnp.tanh)


def network_init(sizes: Sequence[int], dtype: Any) -> Callable[[int], Params]:
    """`init(seed)`: weights normal with variance 1 / inputs, biases zero."""

    def layer(random: np.random.Generator, n: int, m: int) -> tuple[jax.Array, jax.Array]:
        weights = random.standard_normal((n, m)) / np.sqrt(n)
        return jnp.asarray(weights, dtype), jnp.zeros(m, dtype)

    def init(seed: int) -> Params:
        random = np.random.default_rng(seed)
        return [layer(random, *size) for size in itertools.pairwise(sizes)]

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
    solution = lambda x: x * (1 - x) * network(params, (2 * x - 1)[None])[0]  # noqa: E731
    return jax.vmap(jax.grad(jax.grad(solution)))(points) - source


poisson_error = composite(
    lambda residuals, batch: jnp.mean(residuals**2) / jnp.mean(batch[1] ** 2), poisson_residuals
)
"""Mean squared residual of u'' = f over the mean square of f."""


def poisson_points(shift: float) -> Batch:
    """64 equidistant points, the first at `shift` of a distance, and f = -(2 pi)^2 sin(2 pi x)."""
    x = (np.arange(64) + shift) / 64
    return x, -((2 * np.pi) ** 2) * np.sin(2 * np.pi * x)


def solution_at(params: Params, point: jax.Array) -> jax.Array:
    """The network at a point (time, place)."""
    time, place = point
    return network(params, jnp.stack([2 * time - 1, place]))[0]


def _derivatives(params: Params, point: jax.Array) -> tuple[jax.Array, ...]:
    """u, u_t, u_x and u_xx at a point (time, place)."""
    time, place = point
    u = lambda time, place: solution_at(params, jnp.stack([time, place]))  # noqa: E731
    in_time, in_place = jax.grad(u, argnums=(0, 1))(time, place)
    curvature = jax.grad(jax.grad(u, argnums=1), argnums=1)(time, place)
    return u(time, place), in_time, in_place, curvature


def burgers_residual(params: Params, point: jax.Array) -> jax.Array:
    """u_t + u u_x - nu u_xx at a point (time, place)."""
    u, in_time, in_place, curvature = _derivatives(params, point)
    return in_time + u * in_place - VISCOSITY * curvature


def heat_residual(params: Params, point: jax.Array) -> jax.Array:
    """u_t - nu u_xx at a point (time, place), with nu = 0.1."""
    _, in_time, _, curvature = _derivatives(params, point)
    return in_time - 0.1 * curvature


def _with_border(residual: Callable[[Params, jax.Array], jax.Array]) -> Composite:
    """Mean squared residual of an equation inside, plus that of the values at the border.

    The batch is (points, values, whether inside), one row a point.
    """

    def residuals(params: Params, batch: Batch) -> jax.Array:
        def one(point: jax.Array, value: jax.Array, inside: jax.Array) -> jax.Array:
            at_border = solution_at(params, point) - value
            return jnp.where(inside, residual(params, point), at_border)

        return jax.vmap(one)(*batch)

    return composite(
        lambda residuals, batch: (
            jnp.mean(residuals**2, where=batch[2]) + jnp.mean(residuals**2, where=~batch[2])
        ),
        residuals,
    )


burgers_error = _with_border(burgers_residual)
heat_error = _with_border(heat_residual)


def border_points(shift: float, frequencies: Mapping[int, float], count: int = 16) -> Batch:
    """Points (time, place) inside and at the border, `shift` of their distance off the grid.

    `frequencies` are amplitudes of the sines that are the initial values; inside are `count` x
    `count` points. Returns (points, values, whether inside), values 0 inside and at the walls.
    """
    unit = (np.arange(count) + shift) / count
    interior = np.stack(np.meshgrid(unit, 2 * unit - 1, indexing="ij"), axis=-1).reshape(-1, 2)
    place = 2 * (np.arange(4 * count) + shift) / (4 * count) - 1
    start = np.stack([0 * place, place], axis=-1)
    walls = np.stack([np.tile(unit, 2), np.repeat([-1.0, 1.0], count)], axis=-1)
    points, inside = (
        np.concatenate([interior, start, walls]),
        np.repeat([True, False], [count**2, 6 * count]),
    )
    initial = sum(size * np.sin(k * np.pi * place) for k, size in frequencies.items())
    values = np.concatenate([np.zeros(count**2), initial, np.zeros(2 * count)])
    return points, values, inside


def burgers_points(shift: float) -> Batch:
    """As `border_points`, the initial values -sin(pi x)."""
    return border_points(shift, {1: -1.0})


def heat_points(shift: float) -> Batch:
    """As `border_points`, the initial values of two frequencies."""
    return border_points(shift, {1: 1.0, 3: 0.5})


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
