"""Leaves that follow flows of their own: what is said of the whole."""

import jax
import jax.numpy as jnp
import optax
import pytest

import odeopt
from odeopt import drift, flows, solvers, stepsize

PARAMS = {"w": jnp.linspace(-1.0, 2.0, 6).reshape(2, 3), "b": jnp.array([0.5, -1.0, 2.0])}


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
    are_corrected_each_as_alone(groups)


def test_flows_that_are_corrected_make_groups():
    plain = grouped(by_name).flows
    each = {name: drift.corrected(flow, solvers.Lie(), 2) for name, flow in plain.items()}
    flow = flows.GroupedFlow(each, by_name)
    are_corrected_each_as_alone(odeopt.ode_optimizer(flow, solvers.Lie(), 0.1))


def are_corrected_each_as_alone(groups):
    state = groups.init(PARAMS)
    updates, _ = groups.update(jax.grad(loss)(PARAMS), state, PARAMS, value_fn=loss)
    for name, momentum in {"w": 0.9, "b": 0.5}.items():
        alone = odeopt.heavy_ball(0.1, momentum, correction=2)
        x = PARAMS[name]
        update, _ = alone.update(x, alone.init(x), x, value_fn=loss)
        assert jnp.allclose(updates[name], update, rtol=1e-6)


@pytest.mark.parametrize("solver", [solvers.Lie(), solvers.RK4()])
def test_a_penalty_within_groups_is_that_of_each_block(solver):
    """Of a loss without mixed derivatives that is the penalty of the whole."""
    loss = lambda p: jnp.sum(jnp.cosh(p["w"])) + jnp.sum(jnp.cosh(2 * p["b"]))
    flow = drift.regularized(flows.HeavyBallFlow(0.9), 0.1)
    groups = flows.GroupedFlow({"slow": flow, "fast": flow}, by_name)
    one, each = (odeopt.ode_optimizer(f, solver, 0.01) for f in (flow, groups))
    grads = jax.grad(loss)(PARAMS)
    expected, _ = one.update(grads, one.init(PARAMS), PARAMS, value_fn=loss)
    found, _ = each.update(grads, each.init(PARAMS), PARAMS, value_fn=loss)
    assert all(map(jnp.allclose, jax.tree.leaves(found), jax.tree.leaves(expected)))


ALONE = {
    "gradient": flows.GradientFlow(),
    "heavy ball": flows.HeavyBallFlow(0.9),
    "nesterov": flows.NesterovFlow(0.9),
    "relativistic": flows.RelativisticFlow(0.9, 1.0),
    "rmsprop": flows.RMSpropFlow(centered=True, momentum=0.5),
    "adam": flows.AdamFlow(weight_decay=0.1, mask={"w": True, "b": False}),
    "nadam": flows.AdamFlow(nesterov=True, weight_decay=optax.linear_schedule(0.3, 0.1, 5)),
    "log time": flows.AdamFlow(flows.LogTime(), flows.LogTime()),
}


def each(change, flow):
    """The flow changed, or those of its groups."""
    if not isinstance(flow, flows.GroupedFlow):
        return change(flow)
    return flows.GroupedFlow({k: change(f) for k, f in flow.flows.items()}, flow.labels)


SETTINGS = {
    "splitting": (solvers.Lie(), 0.1),
    "symmetric": (solvers.Strang(), 0.1),
    "stages": (solvers.RK4(), optax.linear_schedule(0.0, 0.1, 3)),
    "error": (solvers.Heun(), stepsize.embedded_error(1e-2, 1e-2)),
    "angle": (solvers.Lie(), stepsize.angle()),
    "heading": (solvers.Lie(), stepsize.angle(remembers=False)),
    "sharpness": (solvers.Euler(), stepsize.sharpness()),
}
AROUND = {
    "": lambda flow: flow,
    "averaged": flows.AveragedFlow,
    "of averages": lambda flow: each(lambda f: flows.AveragedFlow(f, 0.9, 0.0), flow),
}


def ends(make, flow, setting):
    """Where three steps lead and what they cost, or the error that they end with."""
    try:
        opt = odeopt.ode_optimizer(make(flow), *setting)
        params, state = PARAMS, opt.init(PARAMS)
        for _ in range(3):
            updates, state = opt.update(jax.grad(loss)(params), state, params, value_fn=loss)
            params = optax.apply_updates(params, updates)
        return odeopt.step_params(state, params), int(state.gradients), opt.order
    except ValueError as error:
        return type(error)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ALONE)
def test_groups_that_follow_one_flow_step_as_that_alone(name, setting, around):
    flow, make, setting = ALONE[name], AROUND[around], SETTINGS[setting]
    alone = ends(make, flow, setting)
    groups = ends(make, flows.GroupedFlow({"slow": flow, "fast": flow}, by_name(PARAMS)), setting)
    if isinstance(alone, type):
        assert groups is alone
    else:
        assert groups[1:] == alone[1:]
        assert optax.tree.norm(optax.tree.sub(groups[0], alone[0])) < 1e-5
