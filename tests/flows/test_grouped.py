"""Leaves that follow flows of their own: what is said of the whole."""

import jax
import jax.numpy as jnp
import pytest

import odeopt
from odeopt import drift, flows, solvers

PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}


def by_name(params):
    return {"w": "slow", "b": "fast"}


def grouped(labels):
    slow, fast = flows.HeavyBallFlow(0.9), flows.HeavyBallFlow(0.5)
    return flows.GroupedFlow({"slow": slow, "fast": fast}, labels)


def loss(params):
    return 0.5 * sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


@pytest.mark.parametrize("wrapped", [lambda flow: flow, lambda f: drift.regularized(f, jnp.abs)])
@pytest.mark.parametrize("labels", [by_name, by_name(PARAMS)], ids=["function", "tree"])
def test_the_limit_of_groups_is_the_least(labels, wrapped):
    plain = odeopt.ode_optimizer(wrapped(flows.HeavyBallFlow(0.5)), solvers.Lie(), 0.1)
    groups = odeopt.ode_optimizer(wrapped(grouped(labels)), solvers.Lie(), 0.1)
    assert groups.stability_limit == plain.stability_limit
    assert groups.stability_limit <= 3.001


@pytest.mark.parametrize("labels", [by_name, by_name(PARAMS)], ids=["function", "tree"])
def test_groups_are_corrected_each_as_alone(labels):
    groups = odeopt.ode_optimizer(grouped(labels), solvers.Lie(), 0.1, correction=2)
    assert groups.gradients_per_step == 2
    state = groups.init(PARAMS)
    updates, _ = groups.update(jax.grad(loss)(PARAMS), state, PARAMS, value_fn=loss)
    for name, momentum in {"w": 0.9, "b": 0.5}.items():
        alone = odeopt.heavy_ball(0.1, momentum, correction=2)
        x = PARAMS[name]
        update, _ = alone.update(x, alone.init(x), x, value_fn=loss)
        assert jnp.allclose(updates[name], update, rtol=1e-6)
