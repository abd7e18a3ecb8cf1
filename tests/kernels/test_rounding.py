"""Stochastic rounding: the same bits from every form, right in the mean, no structure."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odeopt.kernels import add_rounded
from odeopt.kernels.choice import chosen
from odeopt.kernels.rounding import _noise

from .cases import FORMS, SIZES, trees

SPACING = 2.0**-7  # of bfloat16 in [1, 2)
MANY = 1_000_000


def add_by(kernel, *arguments):
    with chosen(kernel):
        return add_rounded(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_bits_are_those_of_the_reference(form):
    params, updates, *_ = trees(SIZES, jnp.bfloat16)
    run = jax.jit(add_by, static_argnums=0)
    expected = run("jnp", params, updates, 7, 11)
    assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(expected))
    chex.assert_trees_all_equal(run(form, params, updates, 7, 11), expected)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_the_mean_is_right(fraction):
    """Of a million roundings, to a thousandth of the increment; three steps."""
    ones, update = jnp.ones(MANY, jnp.bfloat16), jnp.full(MANY, fraction * SPACING)
    for step in range(3):
        rounded = np.asarray(add_rounded(ones, update, step), np.float64)
        assert set(rounded) == {1.0, 1.0 + SPACING}
        assert abs(rounded.mean() - 1 - fraction * SPACING) <= 1e-3 * fraction * SPACING


def test_nearest_rounding_loses_the_same_update():
    ones, update = jnp.ones(10, jnp.bfloat16), jnp.full(10, 0.25 * SPACING)
    assert jnp.all((ones + update).astype(jnp.bfloat16) == 1)


def test_in_a_run_of_indices_every_value_occurs_once():
    index = jnp.arange(3 * 2**16, 4 * 2**16, dtype=jnp.uint32)
    noise = _noise(index, jnp.uint32(5), jnp.uint32(77))
    assert np.array_equal(np.sort(noise), np.arange(2**16))


def test_steps_seeds_and_leaves_are_independent():
    """Each element is uniform over steps; neighbours and next steps are uncorrelated."""
    n, size = 4000, 16
    zeros = [jnp.zeros(size, jnp.bfloat16) + 1] * 2
    half = [jnp.full(size, SPACING / 2)] * 2
    steps = jax.vmap(lambda step: add_rounded(zeros, half, step))(jnp.arange(n))
    seeds = jax.vmap(lambda seed: add_rounded(zeros, half, 0, seed))(jnp.arange(n))
    for up in (steps, seeds):
        bits = np.concatenate([np.asarray(x, float) > 1 for x in up], axis=1).astype(float)
        bits = np.concatenate([bits[:-1], bits[1:]], axis=1)
        correlation = np.corrcoef(bits.T) - np.eye(bits.shape[1])
        # some 2000 pairs, each with the standard error n^(-1/2)
        assert np.abs(correlation).max() < 5 / np.sqrt(n)
        assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(n)


def test_what_is_not_finite_stays_so_and_other_dtypes_round_to_nearest():
    special = jnp.array([jnp.inf, -jnp.inf, jnp.nan, 3.38e38], jnp.bfloat16)
    rounded = add_rounded(special, jnp.zeros(4, jnp.bfloat16), 0)
    assert np.array_equal(rounded, special, equal_nan=True)
    for dtype in (jnp.float32, jnp.float16, jnp.complex64):
        x = jnp.ones(3, dtype)
        assert jnp.array_equal(add_rounded(x, 0.3 * x, 0), x + 0.3 * x)


def test_negative_numbers_round_both_ways():
    x, update = -jnp.ones(MANY, jnp.bfloat16), jnp.full(MANY, -0.25 * SPACING)
    mean = np.asarray(add_rounded(x, update, 0), np.float64).mean()
    assert abs(mean + 1 + 0.25 * SPACING) <= 1e-3 * 0.25 * SPACING


@pytest.mark.slow
def test_derivatives_are_those_of_the_sum():
    x, along = jnp.ones((8, 130), jnp.bfloat16), jnp.full((8, 130), 2, jnp.bfloat16)
    for kernel in ("jnp", *FORMS):
        step = lambda x, u, kernel=kernel: add_by(kernel, x, u, 0)
        assert jnp.all(jax.jvp(step, (x, x), (along, along))[1] == 4)
        assert jnp.all(jax.grad(lambda u, s=step: jnp.sum(s(x, u)))(x) == 1)
