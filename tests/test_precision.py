"""Training in bfloat16: where nearest rounding stalls, the others follow float32."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from benchmarks import models
from odeopt.studies.problems import digits_data

from .persistence import restored

RATE, STEPS = 3e-3, 1000


@functools.cache
def digits():
    return digits_data(np.float32, 400)


def loss(params):
    """In float32, so that only the parameters have been rounded."""
    return models.loss(optax.tree.cast(params, jnp.float32), digits())


@functools.cache
def final_loss(dtype, rounding="nearest", compensate=False):
    params = optax.tree.cast(models.mlp(models.DIGITS), dtype)
    opt = odeopt.heavy_ball(RATE, 0.9, accumulator_dtype=jnp.float32)
    opt = odeopt.compensated(opt) if compensate else opt

    def body(step, carry):
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params), state, params)
        return odeopt.apply_updates(params, updates, rounding, step=step), state

    carry = params, opt.init(params)
    params, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, STEPS, body, carry))(carry)
    return float(loss(params))


@pytest.mark.slow
def test_nearest_rounding_stalls():
    assert final_loss(jnp.bfloat16) > 3 * final_loss(jnp.float32)


def test_stochastic_rounding_follows_float32():
    ratio = final_loss(jnp.bfloat16, "stochastic") / final_loss(jnp.float32)
    assert abs(ratio - 1) < 0.02


@pytest.mark.slow
def test_compensated_summation_follows_float32():
    ratio = final_loss(jnp.bfloat16, compensate=True) / final_loss(jnp.float32)
    assert abs(ratio - 1) < 0.01


@pytest.mark.parametrize(("dtype", "error"), [(None, 2.0**-14), (jnp.float32, 2.0**-22)])
@pytest.mark.parametrize("low", [jnp.bfloat16, jnp.float16])
def test_parameter_and_residue_are_the_sum_in_float32(low, dtype, error):
    steps = optax.tree.random_like(jax.random.key(0), jnp.zeros((300, 50)))
    steps = (1e-3 * steps).astype(low)  # of both signs, most below what nearest rounding sees
    opt = odeopt.compensated(optax.identity(), dtype=dtype)
    params = jnp.linspace(0.5, 2, 50).astype(low)
    state = opt.init(params)
    exact = params.astype(jnp.float32) + jnp.sum(steps.astype(jnp.float32), axis=0)

    @jax.jit
    def step(carry, update):
        params, state = carry
        updates, state = opt.update(update, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, state), _ = jax.lax.scan(step, (params, state), steps)
    (residue,) = jax.tree.leaves(state.residue)
    assert residue.dtype == (dtype or low)
    sum_of_both = params.astype(jnp.float32) + residue.astype(jnp.float32)
    chex.assert_trees_all_close(sum_of_both, exact, rtol=20 * error)
    assert jnp.all(jnp.abs(residue) <= jnp.finfo(low).eps * jnp.abs(params))


def test_compensated_leaves_wide_parameters_alone():
    params = {"wide": jnp.ones(3), "low": jnp.ones(3, jnp.bfloat16), "z": jnp.ones(3, complex)}
    grads = jax.tree.map(lambda p: 0.1 * p, params)
    plain, opt = optax.adam(0.1), odeopt.compensated(optax.adam(0.1))
    expected, _ = plain.update(grads, plain.init(params))
    updates, state = jax.jit(opt.update)(grads, opt.init(params), params)
    chex.assert_trees_all_equal(updates, expected)
    assert len(jax.tree.leaves(state.residue)) == 1
    with pytest.raises(ValueError, match="needs the parameters"):
        opt.update(grads, state)


def test_compensated_passes_on_what_the_optimizer_needs():
    square = lambda x: jnp.sum(x.astype(jnp.float32) ** 2)
    opt = odeopt.compensated(odeopt.rk4(0.1, staged=False))
    x = jnp.ones(3, jnp.bfloat16)
    updates, state = opt.update(jax.grad(square)(x), opt.init(x), x, value_fn=square)
    assert int(state.inner.gradients) == 4
    assert updates.dtype == jnp.bfloat16
    assert jnp.array_equal(odeopt.step_params(state, x), x)


def test_a_staged_step_is_rounded_before_it_could_be_compensated():
    with pytest.raises(ValueError, match=r"drop staged=True and pass `value_fn=loss`"):
        odeopt.compensated(odeopt.rk4(0.1, staged=True))
    odeopt.compensated(odeopt.euler(0.1, staged=True))  # of one stage


def test_a_compensated_optimizer_comes_back_from_pickle():
    opt = odeopt.compensated(odeopt.adam(1e-3))
    x, grads = jnp.ones(3, jnp.bfloat16), jnp.full(3, 0.5, jnp.bfloat16)
    expected = opt.update(grads, opt.init(x), x)
    restored = pickle.loads(pickle.dumps(opt))
    chex.assert_trees_all_equal(restored.update(grads, restored.init(x), x), expected)


@pytest.mark.slow
def test_a_compensated_state_is_summed_up_and_comes_back_from_pickle_flax_and_orbax(tmp_path):
    opt = odeopt.compensated(odeopt.adam(1e-3))
    params = {"low": jnp.ones(4, jnp.bfloat16), "wide": jnp.ones(3)}
    grads = jax.tree.map(lambda p: 0.5 * p, params)
    _, state = opt.update(grads, opt.init(params), params)
    assert float(odeopt.summary(state)["step_size"]) == pytest.approx(1e-3)
    expected = opt.update(grads, state, params)
    for found in restored(state, opt.init(params), tmp_path):
        chex.assert_trees_all_equal(found, state)
        chex.assert_trees_all_equal(opt.update(grads, found, params), expected)


def test_a_loss_may_have_an_argument_called_state():
    square = lambda x, state: jnp.sum((x.astype(jnp.float32) - state) ** 2)
    opt = odeopt.compensated(odeopt.heun(0.1))
    x = jnp.ones(3, jnp.bfloat16)
    grads = jax.grad(square)(x, 0.5)
    updates, _ = opt.update(grads, opt.init(x), x, value_fn=square, state=0.5)
    assert jnp.all(updates < 0)


def test_apply_updates_refuses_what_would_round_all_steps_alike():
    x = jnp.ones(3, jnp.bfloat16)
    with pytest.raises(ValueError, match=r"step=state\.steps"):
        odeopt.apply_updates(x, x, "stochastic")
    with pytest.raises(ValueError, match="nearest"):
        odeopt.apply_updates(x, x, "up")


def test_keys_and_steps_give_other_roundings():
    x, u = jnp.ones(1000, jnp.bfloat16), jnp.full(1000, 2.0**-8)
    rounded = [
        odeopt.apply_updates(x, u, "stochastic", step=step, key=key)
        for step in (None, 0, 1)
        for key in (None, jax.random.key(0), jax.random.key(1))
        if step is not None or key is not None
    ]
    # only a missing step, which is step 0, makes two of them equal
    assert len({tuple(r.tolist()) for r in rounded}) == 6


def test_only_an_entry_that_is_not_finite_is_not_finite():
    largest = jnp.finfo(jnp.float32).max
    assert odeopt.sums.finite(jnp.array([largest + 1j * largest]), jnp.zeros((0, 2)), jnp.arange(3))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not odeopt.sums.finite(jnp.ones(2), jnp.array([1 + 1j * bad]))
        assert not odeopt.sums.finite(jnp.array([0, bad], jnp.float16))
