"""Drift-adjusted and corridor step sizes: what they promise of their size."""

import math

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import odeopt
from odeopt.stepsize import corridor, drift_adjusted

CURVATURES = jnp.array([0.1, 1.0, 10.0])


def bowl(x):
    return 0.5 * jnp.sum(CURVATURES * x**2)


def step_size(rule, x, loss=bowl):
    """The size of one Euler step."""
    value, grads = jax.value_and_grad(loss)(x)
    opt = odeopt.euler(rule)
    _, state = opt.update(grads, opt.init(x), x, value=value, value_fn=loss)
    return float(state.time), state


points = st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3).map(jnp.array)


@pytest.mark.slow
@given(x=points, cap=st.floats(1e-3, 1e3), power=st.sampled_from([0.5, 1.0, 2.0]))
@pytest.mark.parametrize("smooth", [False, True])
def test_drift_adjusted_never_exceeds_its_cap_and_is_finite(x, cap, power, smooth):
    size, _ = step_size(drift_adjusted(power, cap=cap, smooth=smooth), x)
    assert 0 < size <= cap * (1 + 1e-6)


@pytest.mark.parametrize("smooth", [False, True])
def test_drift_adjusted_is_its_cap_at_a_zero_gradient(smooth):
    assert step_size(drift_adjusted(cap=3.0, smooth=smooth), jnp.zeros(3))[0] == 3.0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_drift_adjusted_on_an_eigenvector_is_two_over_its_eigenvalue(axis):
    x = jnp.zeros(3).at[axis].set(0.7)
    curvature = float(CURVATURES[axis])
    size, state = step_size(drift_adjusted(cap=math.inf), x)
    assert size == pytest.approx(2 / curvature, rel=1e-5)
    smooth, _ = step_size(drift_adjusted(cap=5.0, smooth=True), x)
    assert 1 / smooth == pytest.approx(1 / 5.0 + curvature / 2, rel=1e-5)
    assert int(state.gradients) == 3  # the gradient, and a Hessian product that counts 2


@pytest.mark.slow
@given(x=points.filter(lambda x: bool(jnp.linalg.norm(x) > 1e-3)))
def test_drift_adjusted_is_at_least_the_stability_limit_of_euler(x):
    size, _ = step_size(drift_adjusted(cap=math.inf), x)
    assert size >= 2 / 10.0 * (1 - 1e-5)


@pytest.mark.slow
@given(x=points.filter(lambda x: bool(jnp.linalg.norm(x) > 1e-3)))
def test_corridor_reaches_the_minimum_of_the_norm_in_one_step(x):
    value, grads = jax.value_and_grad(jnp.linalg.norm)(x)
    opt = odeopt.euler(corridor())
    updates, _ = opt.update(grads, opt.init(x), x, value=value)
    chex.assert_trees_all_close(x + updates, jnp.zeros(3), atol=1e-5)


def test_corridor_counts_from_its_minimum_and_stops_there():
    x = jnp.array([0.0, 2.0, 0.0])
    lifted = lambda x: bowl(x) + 7.0
    assert step_size(corridor(7.0), x, lifted)[0] == pytest.approx(2.0 / 4.0)
    assert step_size(corridor(7.0, cap=0.1), x, lifted)[0] == pytest.approx(0.1)
    size, state = step_size(corridor(7.0), jnp.zeros(3), lifted)
    assert (size, int(state.rejected)) == (0.0, 0)
    size, state = step_size(corridor(1e9), x, lifted)  # a minimum above the loss
    assert (size, int(state.rejected)) == (0.0, 0)


def test_corridor_rejects_a_loss_that_is_not_finite():
    x = jnp.ones(3)
    opt = odeopt.euler(corridor())
    updates, state = opt.update(x, opt.init(x), x, value=jnp.inf)
    chex.assert_trees_all_equal(updates, jnp.zeros(3))
    assert (int(state.rejected), float(state.time)) == (1, 0.0)


@pytest.mark.parametrize("rule", [corridor(), drift_adjusted(cap=0.1)], ids=["CLR", "DAL"])
@pytest.mark.parametrize("make", [odeopt.euler, odeopt.heun, odeopt.rk4])
def test_rules_drive_every_solver_under_jit_and_scan(make, rule):
    opt = make(rule)
    start = jnp.array([1.0, -0.5, 0.2])

    def step(carry, _):
        x, state = carry
        value, grads = jax.value_and_grad(bowl)(x)
        updates, state = opt.update(grads, state, x, value=value, value_fn=bowl)
        return (optax.apply_updates(x, updates), state), value

    (_, state), losses = jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), length=300))()
    # with CLR the loss goes up and down, and where it is at the end is a matter of rounding
    assert jnp.median(losses[-100:]) < 0.05 * losses[0]
    assert int(state.steps) == 300


def test_what_a_rule_needs_is_asked_for():
    x = jnp.ones(3)
    opt = odeopt.euler(corridor())
    with pytest.raises(ValueError, match="value=value"):
        opt.update(x, opt.init(x), x)
    with pytest.raises(ValueError, match="value_fn=loss"):
        odeopt.euler(drift_adjusted()).update(x, odeopt.euler(drift_adjusted()).init(x), x)
    for rule, what in [(corridor(), "the loss"), (drift_adjusted(), "Hessian products")]:
        with pytest.raises(ValueError, match=f"needs {what}.*staged"):
            odeopt.heun(rule, staged=True)


@pytest.mark.parametrize(
    "build",
    [lambda: corridor(cap=0.0), lambda: drift_adjusted(0.0), lambda: drift_adjusted(cap=-1)],
)
def test_bad_arguments(build):
    with pytest.raises(ValueError, match="must be positive"):
        build()
