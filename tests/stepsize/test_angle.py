"""The angle rule: grows, shrinks, survives, and knows when it cannot know."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import flows, solvers
from odeopt.stepsize import angle


def sizes(opt, grads, x):
    """Step sizes that the rule takes along given gradients."""
    state, found = opt.init(x), []
    for g in grads:
        before = state.time
        _updates, state = opt.update(g, state, x)
        found.append(float(state.time - before))
    return np.array(found), state


def test_it_grows_by_the_gain_while_gradients_agree_and_shrinks_when_they_turn():
    g = jnp.array([3.0, -4.0])
    found, _ = sizes(odeopt.euler(angle(0.5, shrink=0.6, first=1e-2)), [g, g, g, -g, g], g)
    # the first step has no heading; then cos = 1, 1, -1 and, after the turn, -1
    expected = 1e-2 * np.exp(0.5 * np.cumsum([0, 1, 1, -0.6, -0.6]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_orthogonal_gradients_leave_it_alone():
    a, b = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    found, _ = sizes(odeopt.euler(angle(0.5)), [a, b, a, b], a)
    np.testing.assert_allclose(found, found[0], rtol=1e-6)


def test_the_clock_lets_go_as_r_over_n():
    g = jnp.array([3.0, -4.0])
    rule = angle(2.0, clock=flows.LogTime(4.0))
    found, _ = sizes(odeopt.euler(rule), [g] * 20, g)
    gains = np.diff(np.log(found))
    np.testing.assert_allclose(gains, [2.0 * 4 / (n + 4) for n in range(1, 20)], rtol=1e-3)


def test_a_gradient_that_fades_stops_counting():
    """Steps that hardly move are no agreement: with its own length, h would grow without end."""
    g = jnp.array([3.0, -4.0])
    rule = angle(2.0, clock=flows.LogTime(10.0))
    fading = [g * 0.5**n for n in range(60)]
    found, _ = sizes(odeopt.euler(rule), fading, g)
    steady, _ = sizes(odeopt.euler(rule), [g] * 60, g)
    assert found[-1] / found[30] < 1.1
    assert steady[-1] / steady[30] > 100


@pytest.mark.parametrize("times", [2.0, 30.0])
def test_a_jump_of_the_gradient_divides_the_size_by_what_is_above_three_lengths(times):
    a, b = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
    found, _ = sizes(odeopt.euler(angle(0.5)), [a, b, times * a, b], a)
    np.testing.assert_allclose(found[2] / found[1], min(1.0, 3 / times), rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_the_size_does_not_depend_on_the_scale_of_the_loss(scale):
    key = jax.random.key(0)
    grads = list(jax.random.normal(key, (6, 3)))
    one, _ = sizes(odeopt.euler(angle()), grads, grads[0])
    other, _ = sizes(odeopt.euler(angle()), [scale * g for g in grads], grads[0])
    np.testing.assert_allclose(other, one, rtol=1e-4)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_costs_one_step_and_nothing_else(bad):
    x = jnp.array([1.0, -2.0])
    opt = odeopt.adam(angle())
    state = opt.init(x)
    _, state = opt.update(x, state, x)
    updates, after = opt.update(jnp.full(2, bad), state, x)
    np.testing.assert_array_equal(updates, 0.0)
    assert int(after.rejected) == 1
    np.testing.assert_array_equal(after.aux.mu, state.aux.mu)
    np.testing.assert_array_equal(after.rule.log_size, state.rule.log_size)
    undisturbed, _ = opt.update(x, state, x)
    np.testing.assert_array_equal(opt.update(x, after, x)[0], undisturbed)


def test_a_step_that_is_not_finite_is_taken_back_and_tried_smaller():
    x = jnp.array([1.0, -2.0])
    opt = odeopt.heun(angle())
    state = opt.init(x)
    later = lambda x, stage: jnp.full(2, jnp.inf)  # the second stage only
    updates, after = opt.update(x, state, x, grad_fn=later)
    np.testing.assert_array_equal(updates, 0.0)
    assert int(after.rejected) == 1
    np.testing.assert_allclose(jnp.exp(after.rule.log_size), 0.5e-3, rtol=1e-6)


DRIVEN = {
    "euler": odeopt.euler,
    "heavy_ball": lambda h: odeopt.heavy_ball(h, 0.9),
    "adam": lambda h: odeopt.adam(h, b1=0.98, b2=0.98),
    "rk4": odeopt.rk4,
    "log_time_adam": odeopt.log_time_adam,
    "log_time_soap": odeopt.log_time_soap,
}


@pytest.mark.parametrize("first", [1e-6, 1e-1])
@pytest.mark.parametrize("name", DRIVEN)
def test_it_drives_any_optimizer_from_any_first_step(name, first):
    """A rate over five decades, on a valley of condition 100 and in one compiled loop."""
    curvature = jnp.array([1.0, 0.01])
    loss = lambda x: 0.5 * jnp.sum(curvature * x**2)
    opt = DRIVEN[name](angle(first=first))

    def step(carry, _):
        x, state = carry
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        return (optax.apply_updates(x, updates), state), None

    x = jnp.array([1.0, 1.0])
    (x, state), _ = jax.jit(lambda: jax.lax.scan(step, (x, opt.init(x)), length=1000))()
    assert loss(odeopt.step_params(state, x)) < 1e-3 * loss(jnp.ones(2))


@pytest.mark.parametrize("name", ["heun", "rk4"])
def test_methods_that_do_not_turn_the_gradient_stay_stable(name):
    """From 100 starts that differ in the fourth digit, so that no rounding decides."""
    curvature = jnp.array([1.0, 0.01])
    loss = lambda x: 0.5 * jnp.sum(curvature * x**2)
    opt = getattr(odeopt, name)(angle(first=0.1))

    def run(scale):
        def step(carry, _):
            x, state = carry
            updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
            return (optax.apply_updates(x, updates), state), None

        x = scale * jnp.ones(2)
        (x, _), _ = jax.lax.scan(step, (x, opt.init(x)), length=1000)
        return loss(x)

    assert jnp.all(jax.jit(jax.vmap(run))(1 + 1e-4 * jnp.arange(100.0)) < 1e-6)


def test_it_can_ask_the_flow_and_says_so_when_the_flow_does_not_know():
    x = jnp.array([1.0, -2.0])
    rule = angle(remembers=False)
    averaged = odeopt.ode_optimizer(
        flows.AveragedFlow(flows.GradientFlow(), beta=1.0, power=2.0), solvers.Lie(), rule
    )
    assert averaged.init(x).rule.update == ()
    with pytest.raises(ValueError, match="a flow that knows its heading, which GradientFlow"):
        odeopt.euler(rule)


@pytest.mark.parametrize("kwargs", [{"gain": 0.0}, {"shrink": -1.0}, {"first": 0}, {"limit": -2}])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match="must be"):
        angle(**kwargs)


@pytest.mark.parametrize("make", [odeopt.log_time_adam, lambda: odeopt.adam(angle(first=0.01))])
def test_the_end_of_a_run_can_be_differentiated_in_its_start(make, x64):
    opt = make()
    start = jnp.array([1.0, -2.0, 0.5])

    def end(scale):
        x, state = scale * start, opt.init(start)
        for _ in range(3):
            updates, state = opt.update(jnp.sinh(x), state, x)
            x = optax.apply_updates(x, updates)
        return jnp.sum(jnp.cosh(x))

    end = jax.jit(end)
    slope = (end(1 + 1e-5) - end(1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(end)(1.0), slope, rtol=1e-6)
