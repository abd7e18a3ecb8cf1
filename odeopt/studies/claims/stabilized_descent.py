"""Stabilized descent (RKCD) with known curvature bounds needs no more gradients than Nesterov.

A quadratic of condition 1e4, to 1e-6 of the first loss: at most 1.1 times the gradients of
Nesterov's momentum tuned to the same bounds, at most a twentieth of gradient descent's. With the
number of stages for plain Chebyshev damping (0.05) it needs more.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import euler, nesterov, rkc
from ..claim import Bound, Claim

CONDITION, SIZE, MOST = 1e4, 100, 120_000


def stages_and_rate(damping: float) -> tuple[int, float]:
    """The fewest stages that damp all of the spectrum, and the step that reaches its upper end."""
    low, high, s = 1 / CONDITION, 1.0, 2
    while True:
        w0 = 1 + damping / s**2
        angle = s * np.arccosh(w0)
        w1 = np.tanh(angle) ** -1 * np.sqrt(w0**2 - 1) / s  # T_s(w0) / T_s'(w0)
        if (1 + w0) * low / high >= w0 - 1:
            return s, (1 + w0) / (w1 * high)
        s += 1


def gradients(make: Callable[[], Any], start: jax.Array, each: int) -> int:
    """How many it takes."""
    eigenvalues = jnp.logspace(-np.log10(CONDITION), 0, SIZE)
    opt = make()

    def loss(x: jax.Array) -> jax.Array:
        return 0.5 * eigenvalues @ x**2

    def step(carry: tuple) -> tuple:
        x, state, n = carry
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        return x + updates, state, n + 1

    def goes_on(carry: tuple) -> jax.Array:
        return (loss(carry[0]) > 1e-6 * loss(start)) & (carry[2] * each < MOST)

    run = jax.jit(lambda x: jax.lax.while_loop(goes_on, step, (x, opt.init(x), 0))[2])
    return int(run(start)) * each


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Gradients of each method, and their ratios."""
    start = jnp.asarray(np.random.default_rng(seed).normal(size=SIZE))
    root = np.sqrt(CONDITION)
    descent = gradients(lambda: euler(2 / (1 + 1 / CONDITION)), start, 1)
    momentum = gradients(lambda: nesterov(1.0, (root - 1) / (root + 1)), start, 1)
    found: dict[str, Any] = {"descent": descent, "nesterov": momentum}
    for name, damping in (("rkcd", 3.0), ("little damping", 0.05)):
        s, h = stages_and_rate(damping)
        cost = gradients(functools.partial(rkc, h, s, damping=damping), start, s)
        found |= {name: cost, f"stages, {name}": s}
    return found | {
        "over Nesterov": found["rkcd"] / momentum,
        "over descent": found["rkcd"] / descent,
        "little damping over Nesterov": found["little damping"] / momentum,
    }


CLAIM = Claim(
    __doc__,
    ("rkcd",),
    experiment,
    (Bound("over Nesterov", high=1.1), Bound("over descent", high=0.05)),
    control=(Bound("little damping over Nesterov", high=1.1),),
    seconds=(30, 60),
)
