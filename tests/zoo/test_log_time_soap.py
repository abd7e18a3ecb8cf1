"""`odeopt.log_time_soap`: what it is without bases, and what the bases are for."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from sklearn.datasets import load_digits

import odeopt

INPUTS = jax.random.normal(jax.random.key(0), (60, 6), float)
TARGETS = jnp.tanh(INPUTS @ jax.random.normal(jax.random.key(1), (6, 4), float))
PARAMS = {"w": 0.3 * jax.random.normal(jax.random.key(2), (6, 4), float), "b": jnp.zeros(4)}


def loss(params):
    return jnp.mean((jnp.tanh(INPUTS @ params["w"]) + params["b"] - TARGETS) ** 2)


def train(opt, params, loss=loss, steps=30):
    def step(carry, _):
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    start = params, opt.init(params)
    (params, state), _ = jax.jit(lambda: jax.lax.scan(step, start, length=steps))()
    return odeopt.step_params(state, params)


@pytest.mark.slow
def test_without_bases_it_is_log_time_adam(x64):
    start = jax.tree.map(lambda x: x.astype(float), PARAMS)
    found = train(odeopt.log_time_soap(max_precond_dim=1, gain=2.0), start)
    chex.assert_trees_all_close(found, train(odeopt.log_time_adam(), start), rtol=1e-8)


@pytest.mark.untyped
def test_weight_decay_takes_no_second_gradient(x64):
    """Also not as a traced number, which `optax.inject_hyperparams` makes of its default."""
    params = jax.tree.map(lambda x: x.astype(float), PARAMS)
    found = train(odeopt.log_time_soap(max_precond_dim=1, gain=2.0, weight_decay=0.1), params)
    chex.assert_trees_all_close(found, train(odeopt.log_time_adam(weight_decay=0.1), params))
    grads = jax.grad(loss)(params)
    plain, injected = odeopt.log_time_soap(), optax.inject_hyperparams(odeopt.log_time_soap)()
    expected, _ = plain.update(grads, plain.init(params), params)
    updates, state = injected.update(grads, injected.init(params), params)
    chex.assert_trees_all_close(updates, expected)
    assert state.inner_state.gradients == 1


@pytest.mark.slow
def test_in_full_batch_it_ends_lower_than_log_time_adam():
    """Outputs of different sizes, and inputs that are nearly the same."""
    inputs = INPUTS @ jnp.full((6, 6), 1.0) + 0.03 * INPUTS
    scaled = lambda w: jnp.mean(jnp.logspace(0, -2, 4) * (inputs @ w - TARGETS) ** 2)
    start, steps = PARAMS["w"], 200
    soap, adam = (
        scaled(train(opt, start, scaled, steps))
        for opt in (odeopt.log_time_soap(), odeopt.log_time_adam())
    )
    assert soap < 0.5 * adam


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log_time_adam", "log_time_soap"])
def test_a_classifier_that_has_fitted_its_data_stays_fitted(name):
    """In float32, where gradients end as rounding and the step size has grown by 1e5."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, keys = jnp.asarray(pixels / 16, jnp.float32), jax.random.split(jax.random.key(0))
    params = {
        "in": jax.random.normal(keys[0], (64, 32), jnp.float32) / 8,
        "out": jax.random.normal(keys[1], (32, 10), jnp.float32) / 32**0.5,
        "shift": jnp.zeros(10, jnp.float32),
    }

    def loss(params):
        logits = jnp.tanh(pixels @ params["in"]) @ params["out"] + params["shift"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    assert loss(train(getattr(odeopt, name)(), params, loss, 600)) < 1e-5


@pytest.mark.parametrize("arguments", [{"rate": 0.0}, {"first": -1.0}, {"gain": 0.0}])
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="positive"):
        odeopt.log_time_soap(**arguments)
