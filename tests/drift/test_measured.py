"""The measured drift against the distance of one step from the flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import diagnostics, drift, flows, solvers

from .cases import descent, difference, flow, loss, start
from .test_memory import EPS, MU, normalized

PLAIN, LIE = flows.GradientFlow(), solvers.Lie()
CASES = {
    "euler": (PLAIN, solvers.Euler(), descent),
    "midpoint": (PLAIN, solvers.Midpoint(), descent),
    "ssprk3": (PLAIN, solvers.SSPRK3(), descent),
    "heavy ball": (flows.HeavyBallFlow(MU), LIE, descent),
    "adam": (flows.AdamFlow(MU, 0.9, EPS), LIE, normalized(False)),
    "adamw": (flows.AdamFlow(MU, 0.9, EPS, weight_decay=0.3), LIE, normalized(False, 0.3)),
}


@pytest.mark.parametrize("name", CASES)
def test_it_is_how_far_the_first_step_leaves_the_flow(name, x64):
    base, solver, field = CASES[name]
    opt = lambda h: odeopt.ode_optimizer(base, solver, h)

    @jax.jit
    def errors(h):
        grads = jax.grad(loss)(start())
        updates, _ = opt(h).update(grads, opt(h).init(start()), start(), value_fn=loss)
        end = jax.tree.map(jnp.add, start(), updates)
        away = difference(end, flow(field, start(), h, 50))
        return away, drift.step_drift(opt(h), opt(h).init(start()), start(), value_fn=loss).size

    for h, tolerance in ((0.02, 0.1), (0.005, 0.025)):  # what is left is of one order more
        away, predicted = errors(h)
        assert abs(predicted / away - 1) < tolerance
        assert away > 1e-13


def test_of_gradient_descent_it_is_the_leading_term(x64):
    opt = odeopt.euler(1e-4)
    found = drift.step_drift(opt, opt.init(start()), start(), value_fn=loss)
    expected = diagnostics.drift(loss, start(), 1e-4)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-12)


def test_memory_makes_it_larger_as_training_goes_on(x64):
    """Of a settled ball it is that of gradient descent at the rate h (1 + b) / (1 - b)^2."""
    base, h = flows.HeavyBallFlow(0.9), 1e-5
    opt = odeopt.ode_optimizer(base, LIE, h)
    x = start()
    state = opt.init(x)

    def step(_, carry):
        x, state = carry
        updates, state = opt.update(jax.grad(loss)(x), state, x)
        return jax.tree.map(jnp.add, x, updates), state

    x, state = jax.lax.fori_loop(0, 300, step, (x, state))
    found = drift.step_drift(opt, state, x, value_fn=loss)
    expected = diagnostics.drift(loss, x, h * 1.9 / 0.01)
    np.testing.assert_allclose(found.relative, expected.relative, rtol=0.02)
    np.testing.assert_allclose(found.cosine, expected.cosine, rtol=0.02)
    assert found.relative > 100 * diagnostics.drift(loss, x, h).relative


def test_the_step_is_the_one_that_the_optimizer_would_take(x64):
    """The step size of a schedule; the loss's own arguments by name, whatever they are called."""
    scaled = lambda y, opt, state, params: opt * state * params * loss(y)
    opt = odeopt.euler(optax.linear_schedule(0.1, 0.2, 1))
    state = opt.init(start())._replace(steps=jnp.array(1))
    names = {"opt": 0.5, "state": 2.0, "params": 1.0}
    found = drift.step_drift(opt, state, start(), value_fn=scaled, **names)
    grads = jax.grad(loss)(start())
    half = jax.tree.map(lambda y, g: y - 0.1 * g, start(), grads)
    moved = difference(grads, jax.grad(loss)(half))
    assert float(found.size) == pytest.approx(0.2 * float(moved), rel=1e-10)


def test_a_rule_that_looks_at_the_loss_sees_it(x64):
    """Polyak's step size, E / |g|^2: without `value=`, as in the monitor."""
    opt = odeopt.euler(odeopt.stepsize.corridor())
    grads = jax.grad(loss)(start())
    h = loss(start()) / sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))
    fixed = odeopt.euler(float(h))
    found, expected = (
        drift.step_drift(o, o.init(start()), start(), value_fn=lambda y: (loss(y), "aux"))
        for o in (opt, fixed)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    watch = odeopt.monitor(opt, loss)
    record = watch(start(), opt.init(start()))
    np.testing.assert_allclose(record["drift"], expected.size, rtol=1e-9)


@pytest.mark.untyped
def test_what_is_no_optimizer_or_no_state_of_one_is_refused():
    euler, x = odeopt.euler(0.1), start()
    chain = optax.chain(euler)
    for opt, match in ((optax.sgd(0.1), "design is hidden"), (chain, "design is hidden")):
        with pytest.raises(TypeError, match=match):
            drift.step_drift(opt, opt.init(x), x, value_fn=loss)
    with pytest.raises(TypeError, match=r"state is a tuple.*opt\.init"):
        drift.step_drift(euler, chain.init(x), x, value_fn=loss)


@pytest.mark.parametrize("make", [odeopt.adam, odeopt.heavy_ball, odeopt.rk4])
def test_a_state_of_another_optimizer_is_refused(make):
    opt = make(0.1)
    drift.step_drift(opt, opt.init(start()), start(), value_fn=loss)
    for other in {odeopt.adam, odeopt.heavy_ball, odeopt.muon, odeopt.implicit_euler} - {make}:
        with pytest.raises(ValueError, match="not one of this optimizer at these parameters"):
            drift.step_drift(opt, other(0.1).init(start()), start(), value_fn=loss)


def test_a_solver_without_known_drift_is_refused():
    for opt, match in (
        (odeopt.relativistic(0.1, 0.9, 1.0), "No counter-term is known"),
        (odeopt.adam(0.1, correction=2), "corrected already"),
    ):
        with pytest.raises(ValueError, match=match):
            drift.step_drift(opt, opt.init(start()), start(), value_fn=loss)
