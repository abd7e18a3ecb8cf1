"""Structure that splitting methods keep, and flows that they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import drift, flows, solvers

from .cases import loss, start

MU, H, SIZE = 0.83, 0.07, 3
OMEGA = np.block([[np.zeros((SIZE, SIZE)), np.eye(SIZE)], [-np.eye(SIZE), np.zeros((SIZE, SIZE))]])
SYMPLECTIC = {
    "heavy_ball": odeopt.heavy_ball(H, MU),
    "relativistic": odeopt.relativistic(H, MU, 5.0),
    "conformal_leapfrog": odeopt.conformal_leapfrog(H, MU),
    "relativistic_leapfrog": odeopt.relativistic(H, MU, 5.0, leapfrog=True),
    "suzuki_yoshida": odeopt.suzuki_yoshida(H, MU),
}


def defect(opt, steps=2):
    """Largest entry of M^T Omega M - mu^n Omega for the Jacobian M of n steps in (x, m)."""
    initial = opt.init(start())

    def map_(z):
        x, state = z[:SIZE], initial._replace(aux=initial.aux._replace(momentum=z[SIZE:]))
        for _ in range(steps):
            updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
            x = x + updates
        return jnp.concatenate([x, state.aux.momentum])

    m = np.asarray(jax.jacfwd(map_)(jnp.concatenate([start(), jnp.array([2.0, -1.0, 0.5])])))
    return np.max(np.abs(m.T @ OMEGA @ m - MU**steps * OMEGA))


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SYMPLECTIC)
def test_conformally_symplectic(name):
    assert defect(SYMPLECTIC[name]) < 1e-14


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "opt",
    [odeopt.nesterov(H, MU), odeopt.rk_momentum(H, MU, solvers.RK4())],
    ids=["nesterov", "rk_momentum"],
)
def test_nesterov_and_runge_kutta_are_not(opt):
    assert defect(opt) > 1e-4


@pytest.mark.usefixtures("x64")
def test_the_leapfrog_is_the_one_of_the_literature():
    """arXiv:1903.04100, with its velocity v = -(h/2) m and step epsilon = h/2."""
    opt = odeopt.relativistic(H, MU, 5.0, leapfrog=True)
    x, state = start(), opt.init(start())
    end, v = start(), jnp.zeros(SIZE)
    for _ in range(5):
        updates, state = opt.update(jax.grad(loss)(x), state, x)
        x = x + updates
        slow = lambda v: jnp.sqrt(1 + 4 * 5.0 * jnp.sum(v**2))  # |h m|^2 = 4 |v|^2
        half = end + np.sqrt(MU) * v / slow(np.sqrt(MU) * v)
        v = np.sqrt(MU) * v - H / 2 * jax.grad(loss)(half)
        end = half + v / slow(v)
        v = np.sqrt(MU) * v
        np.testing.assert_allclose(odeopt.step_params(state, x), end, rtol=1e-13)


def test_relativistic_steps_are_no_longer_than_their_limit():
    opt = odeopt.relativistic(10.0, 0.9, delta=4.0)
    params = {"a": jnp.ones(3), "b": jnp.float32(2.0)}
    state = opt.init(params)
    for size in (1e-6, 1.0, 1e6):
        grads = jax.tree.map(lambda p, size=size: size * p, params)
        updates, state = opt.update(grads, state, params)
        length = np.sqrt(sum(float(jnp.sum(u**2)) for u in jax.tree.leaves(updates)))
        assert length <= 0.5 * (1 + 1e-6)
    assert length > 0.499


@pytest.mark.usefixtures("x64")
def test_without_a_speed_limit_the_relativistic_flow_is_the_heavy_ball():
    for leapfrog, plain in ((False, odeopt.heavy_ball), (True, odeopt.conformal_leapfrog)):
        one, other = odeopt.relativistic(H, MU, 0.0, leapfrog=leapfrog), plain(H, MU)
        states, x = [one.init(start()), other.init(start())], start()
        for _ in range(3):
            first, states[0] = one.update(jax.grad(loss)(x), states[0], x)
            second, states[1] = other.update(jax.grad(loss)(x), states[1], x)
            np.testing.assert_allclose(first, second, rtol=1e-14)
            x = x + first


@pytest.mark.usefixtures("x64")
def test_strang_rests_at_adams_iterates_after_a_first_step_of_one_and_a_half():
    """Adam is of order 2 up to half a step, which the first step of Strang's splitting makes up."""
    strang, adam = odeopt.strang_adam(0.01), odeopt.adam(0.01)
    x, states = start(), [strang.init(start()), adam.init(start())]
    for i in range(20):
        grads = jax.grad(loss)(x)
        updates, states[0] = strang.update(grads, states[0], x)
        expected, states[1] = adam.update(grads, states[1], x)
        np.testing.assert_allclose(updates, (1.0 if i else 1.5) * expected, rtol=1e-12)
        x = x + updates
        end = odeopt.step_params(states[0], x)
        np.testing.assert_allclose(end, x - expected / 2, rtol=1e-12)


@pytest.mark.parametrize("make", [flows.HeavyBallFlow, lambda b: flows.AdamFlow(b1=b, b2=b)])
def test_a_substep_back_beyond_the_start_of_a_clock_is_finite(make):
    """The second one of Suzuki's and Yoshida's first step ends before time 0."""
    solver = solvers.Strang(solvers.SUZUKI_YOSHIDA)
    opt, x = odeopt.ode_optimizer(make(flows.LogTime(10.0)), solver, 0.01), start()
    updates, state = opt.update(jax.grad(loss)(x), opt.init(x), x, value_fn=loss)
    assert odeopt.sums.finite(updates, state)
    assert loss(odeopt.step_params(state, x + updates)) < loss(x)


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7])
def test_the_mean_gradient_of_a_small_step_is_one_in_float16(size):
    """One over the size overflows there from 1.5e-5 on."""
    x = jnp.array([1.0, -2.0], jnp.float16)
    opt = odeopt.chained_momentum(size, 0.9, solvers.RK4())
    _, state = opt.update(x, opt.init(x), x, value_fn=lambda x: 0.5 * jnp.sum(x**2))
    np.testing.assert_allclose(state.aux.momentum, x, rtol=0.25)  # of an update of one or two ulp


@pytest.mark.cheap
@pytest.mark.parametrize("nesterov", [False, True])
def test_chained_momentum_is_momentum_after_the_solver(nesterov):
    x = start()
    ours = odeopt.chained_momentum(0.1, 0.9, solvers.RK4(), nesterov=nesterov)
    theirs = optax.chain(odeopt.rk4(0.1), optax.trace(0.9, nesterov))
    states = [ours.init(x), theirs.init(x)]
    for _ in range(10):
        grads = jax.grad(loss)(x)
        updates, states[0] = ours.update(grads, states[0], x, value_fn=loss)
        expected, states[1] = theirs.update(grads, states[1], x, value_fn=loss)
        np.testing.assert_allclose(updates, expected, rtol=2e-5, atol=1e-7)
        x = x + updates
    assert int(states[0].gradients) == 40


PENALIZED = drift.regularized(flows.HeavyBallFlow(0.9), 0.1)


@pytest.mark.parametrize(
    ("flow", "gradients"), [(flows.GameFlow(updates=(1, 1)), 3), (PENALIZED, 4)]
)
def test_what_the_flow_of_a_chained_method_evaluates_is_counted(flow, gradients):
    """A second player after the first has moved; a penalty, which takes a product."""
    chained = solvers.Chained(solvers.as_method(solvers.Heun()))
    opt, x = odeopt.ode_optimizer(flow, chained, 0.1), [jnp.ones(2), -jnp.ones(2)]
    _, state = opt.update(x, opt.init(x), x, grad_fn=lambda x, stage: x)
    assert state.gradients == gradients


def test_a_mismatch_names_both_sides():
    class Whole(flows.AbstractFlow):
        def init(self, params):
            return ()

        def increment(self, z, objective, h):
            return objective.here(z[0]), ()

    with pytest.raises(ValueError, match="Whole names none"):
        odeopt.ode_optimizer(Whole(), solvers.Lie(), 0.1)
    with pytest.raises(ValueError, match="in NesterovFlow several do"):
        odeopt.ode_optimizer(flows.NesterovFlow(0.9), solvers.Strang(), 0.1)
    with pytest.raises(ValueError, match=r"sum to 0\.9"):
        solvers.Strang((0.5, 0.4))


def test_orders_follow_from_the_substeps():
    assert solvers.Strang().order == 2
    assert solvers.Strang(solvers.SUZUKI_YOSHIDA).order == 4
    assert solvers.Strang((0.5, 0.5)).order == 2


def test_a_parameter_masked_from_exact_decay_takes_its_whole_step():
    grads = {"decays": jnp.array([1.0, -2.0]), "not": jnp.array([1.0, -2.0])}
    mask = {"decays": True, "not": False}

    def update(**kwargs):
        opt = odeopt.strang_adam(0.5, **kwargs)
        return opt.update(grads, opt.init(grads), grads)[0]

    masked, plain, decayed = update(weight_decay=1.0, mask=mask), update(), update(weight_decay=1.0)
    assert jnp.array_equal(masked["not"], plain["not"])
    # as another program: to rounding
    assert jnp.allclose(masked["decays"], decayed["decays"], rtol=1e-6)
    assert not jnp.allclose(plain["decays"], decayed["decays"])
