"""Attention trained on examples in context acts as if it had made gradient steps on them.

One layer of linear attention, trained on random linear regressions: the implicit weights with a
context align with an Euler step on the same examples with a cosine of at least 0.995, and the
change by one more example aligns with the gradient of that example (0.98). An implicit Euler step
aligns less, and the weights of another context do not align.

A first version asked for 0.98, which an implicit step meets too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ..claim import Bound, Claim

INPUTS, LENGTH, TASKS, STEPS, TESTED = 4, 16, 128, 1500, 200


def drawn(key: jax.Array, tasks: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Inputs of the context, their targets, the true weights."""
    first, second = jax.random.split(key)
    x = jax.random.normal(first, (tasks, LENGTH, INPUTS))
    w = jax.random.normal(second, (tasks, INPUTS))
    return x, jnp.einsum("tni,ti->tn", x, w), w


def answer(params: Any, x: jax.Array, y: jax.Array, query: jax.Array) -> jax.Array:
    """Linear attention of the query (query, 0) over the tokens (x, y), read at y's place."""
    tokens = jnp.concatenate([x, y[:, None]], axis=1)
    asked = jnp.append(query, 0.0)
    return (asked @ params["qk"] @ tokens.T) @ (tokens @ params["v"]) / LENGTH


implicit = jax.grad(answer, argnums=3)
"""The weights that a context stands for; the answer is linear in the query."""


@jax.jit
def trained(key: jax.Array) -> Any:
    """Attention after training."""
    first, second, rest = jax.random.split(key, 3)
    shapes = {"qk": (INPUTS + 1, INPUTS + 1), "v": (INPUTS + 1,)}
    keys = dict(zip(shapes, (first, second), strict=True))
    params = {n: 0.2 * jax.random.normal(keys[n], shape) for n, shape in shapes.items()}
    opt = optax.adam(1e-2)

    def loss(params: Any, key: jax.Array) -> jax.Array:
        x, y, w = drawn(key, TASKS)
        query = jax.random.normal(jax.random.fold_in(key, 1), (TASKS, INPUTS))
        found = jax.vmap(answer, (None, 0, 0, 0))(params, x, y, query)
        return jnp.mean((found - jnp.sum(query * w, axis=1)) ** 2)

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, opt.init(params)), jax.random.split(rest, STEPS))[0][0]


def cosine(a: jax.Array, b: jax.Array) -> float:
    """The median over tasks."""
    size = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
    return float(jnp.median(jnp.sum(a * b, axis=1) / size))


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Cosines of implicit weights with steps of several solvers on the same examples."""
    key = jax.random.key(seed)
    params = trained(key)
    x, y, _ = drawn(jax.random.fold_in(key, 7), TESTED)
    at = jnp.ones(INPUTS)  # anywhere: the answer is linear
    weights = jax.vmap(lambda x, y: implicit(params, x, y, at))(x, y)
    euler = jnp.einsum("tni,tn->ti", x, y) / LENGTH
    hessian = jnp.einsum("tni,tnj->tij", x, x) / LENGTH
    ridge = jnp.linalg.solve(jnp.eye(INPUTS) + hessian, euler[..., None])[..., 0]
    shorter = jax.vmap(lambda x, y: implicit(params, x, y, at))(
        x.at[:, -1].set(0), y.at[:, -1].set(0)
    )
    return {
        "cosine with an Euler step": cosine(weights, euler),
        "cosine with an implicit step": cosine(weights, ridge),
        "cosine of an increment with its gradient": cosine(weights - shorter, x[:, -1] * y[:, -1:]),
        "cosine with another context's step": cosine(weights, jnp.roll(euler, 1, axis=0)),
    }


CLAIM = Claim(
    __doc__,
    ("updates", "context"),
    experiment,
    (
        Bound("cosine with an Euler step", low=0.995),
        Bound("cosine of an increment with its gradient", low=0.98),
    ),
    control=(
        Bound("cosine with an implicit step", low=0.995),
        Bound("cosine with another context's step", low=0.98),
    ),
    seconds=(30, 60),
)
