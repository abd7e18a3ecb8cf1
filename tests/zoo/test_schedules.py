"""A schedule of the weight decay: a step takes that of its own number."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt

from ..table import OPTIMIZERS

STEPS = 4
PARAMS = {"w": np.linspace(0.1, 1.0, 12).reshape(4, 3), "b": np.ones(3)}
DECAYING = [
    name
    for name, make in OPTIMIZERS.items()
    if "Callable" in str(inspect.signature(make).parameters.get("weight_decay"))
]


def loss(params):
    return jnp.sum(jnp.cosh(params["w"])) + jnp.sum(params["b"] ** 2)


def points(name, weight_decay):
    solver = {"solver": odeopt.solvers.Heun()} if name == "rk_adam" else {}
    opt = getattr(odeopt, name)(0.1, weight_decay=weight_decay, **solver)
    update = jax.jit(lambda p, s: opt.update(jax.grad(loss)(p), s, p, value_fn=loss))
    params = jax.tree.map(jnp.asarray, PARAMS)
    state, found = opt.init(params), []
    for _ in range(STEPS):
        updates, state = update(params, state)
        params = optax.apply_updates(params, updates)
        found.append(odeopt.step_params(state, params)["w"])
    return found


@pytest.mark.whole
@pytest.mark.parametrize("name", DECAYING)
def test_the_decay_of_one_step_moves_that_step_first(name, x64):
    assert len(DECAYING) >= 5
    plain = points(name, 0.0)
    for chosen in range(STEPS):
        found = points(name, lambda step, k=chosen: jnp.where(step == k, 0.5, 0.0))
        same = [jnp.allclose(x, y, rtol=1e-12) for x, y in zip(found, plain, strict=True)]
        assert same == [step < chosen for step in range(STEPS)]
