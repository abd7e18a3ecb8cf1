"""Counter-terms for somebody else's optimizer."""

import jax
import jax.numpy as jnp
import optax
import pytest

import odeopt
from odeopt import drift

from ..table import gradient, mixed_loss, mixed_params
from .cases import difference, loss, start


def descend(opt, params, objective, n=4):
    """Returns the end and the state; compiled once."""

    @jax.jit
    def step(params, state):
        updates, state = opt.update(gradient(objective, params), state, params, value_fn=objective)
        return optax.apply_updates(params, updates), state

    state = opt.init(params)
    for _ in range(n):
        params, state = step(params, state)
    return params, state


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2, 3])
def test_before_sgd_it_is_corrected_euler(order):
    schedule = optax.linear_schedule(0.2, 0.0, 4)
    term = drift.counter_term(schedule, order, form="difference")
    chained = optax.chain(term, optax.sgd(schedule))
    ours, ours_state = descend(odeopt.euler(schedule, correction=order), mixed_params(), mixed_loss)
    theirs, theirs_state = descend(chained, mixed_params(), mixed_loss)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        assert jnp.all(abs(a - b) <= 4 * jnp.finfo(a.dtype).eps * jnp.maximum(abs(a), 1))
    assert optax.tree.get(theirs_state[0], "clipped") == optax.tree.get(ours_state, "clipped")
    assert theirs_state[0].steps == 4


def test_clipped_terms_are_counted():
    opt = optax.chain(drift.counter_term(0.2, 2, clip=1e-6), optax.sgd(0.2))
    _, state = descend(opt, jnp.array([1.0, -2.0]), lambda x: jnp.sum(jnp.cosh(x)))
    assert optax.tree.get(state[0], "clipped") == pytest.approx(4)


def test_it_is_called_like_any_odeopt_optimizer(x64):
    """`has_aux` losses, `grad_fn`, batches, injected hyper-parameters, masks."""
    y, grads = start(), jax.grad(loss)(start())
    plain = optax.chain(drift.counter_term(0.1, 2), optax.sgd(0.1))
    expected, _ = plain.update(grads, plain.init(y), y, value_fn=loss)
    by_field, _ = plain.update(grads, plain.init(y), y, grad_fn=lambda y, stage: jax.grad(loss)(y))
    with_batch, _ = plain.update(
        grads, plain.init(y), y, value_fn=lambda y, batch: (loss(y) * batch, "aux"), batch=1.0
    )
    inject = optax.inject_hyperparams(drift.counter_term, static_args=("order", "clip"))
    injected = optax.chain(inject(learning_rate=0.1, order=2), optax.sgd(0.1))
    by_injection, _ = injected.update(grads, injected.init(y), y, value_fn=loss)
    masked = optax.masked(plain, {"pair": True, "single": False})
    by_mask, _ = masked.update(grads, masked.init(y), y, value_fn=loss, full_params=y)
    for found in (by_field, with_batch, by_injection):
        assert difference(found, expected) < 1e-12
    pair = jnp.max(abs(by_mask["pair"] - expected["pair"]))
    assert pair > 1e-6  # the masked part alone is followed: another shifted point
    assert jnp.all(jnp.isfinite(by_mask["pair"]))


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("before", [optax.clip_by_global_norm(0.1), optax.add_decayed_weights(1.0)])
def test_what_comes_before_it_is_not_undone(x64, before, order):
    """The limit of small rates is the transformed gradient, not that of the loss."""
    y, grads = start(), jax.grad(loss)(start())
    handed, _ = before.update(grads, before.init(y), y)
    misses = []
    for rate in (1e-4, 1e-6):
        opt = optax.chain(before, drift.counter_term(rate, order))
        found, _ = opt.update(grads, opt.init(y), y, value_fn=loss)
        misses.append(float(difference(found, handed)))
    assert misses[0] < 1e-2
    assert misses[1] == pytest.approx(misses[0] / 100, rel=0.01)


@pytest.mark.parametrize("form", ["difference", "derivatives"])
@pytest.mark.parametrize("rate", [0.0, 1e-7, 0.1])
def test_nothing_is_divided_by_the_step_size(form, rate):
    """1 / h is beyond float16: at such an h, and at 0, the gradient is left as it is."""
    x = jnp.array([1.0, -2.0], jnp.float16)
    opt = drift.counter_term(lambda _: rate, 2, form=form)
    grads, _ = opt.update(x, opt.init(x), x, value_fn=lambda x: 0.5 * jnp.sum(x**2))
    assert grads.dtype == jnp.float16
    assert jnp.allclose(grads, (1 - rate / 2) * x, rtol=2e-3, atol=0)


def test_python_floats_are_parameters_too():
    params = {"a": 1.0, "b": 2.0}
    loss = lambda p: 0.5 * p["a"] ** 2 + p["b"] ** 2
    opt = drift.counter_term(0.1, 2)
    with jax.numpy_dtype_promotion("strict"):
        grads, _ = opt.update(jax.grad(loss)(params), opt.init(params), params, value_fn=loss)
    assert jnp.allclose(grads["a"], 0.95 * 1.0)
    assert jnp.allclose(grads["b"], 0.9 * 4.0)


@pytest.mark.untyped
def test_what_does_not_fit_is_refused():
    opt = optax.chain(drift.counter_term(0.1, 2), optax.sgd(0.1))
    with pytest.raises(ValueError, match="value_fn=loss"):
        opt.update(start(), opt.init(start()), start())
    with pytest.raises(ValueError, match="needs the parameters"):
        opt.update(start(), opt.init(start()))
    with pytest.raises(ValueError, match="positive and finite"):
        drift.counter_term(-0.1, 2)
    with pytest.raises(ValueError, match="from 1 to 6"):
        drift.counter_term(0.1, 0)
    with pytest.raises(TypeError, match=r"odeopt.euler\(rule, correction=2\)"):
        drift.counter_term(odeopt.stepsize.drift_adjusted(), 2)
