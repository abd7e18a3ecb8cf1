"""Batch sharpness against dense Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import drift

ROWS = jax.random.normal(jax.random.key(0), (3, 4, 2))


def loss(params, rows):
    return jnp.mean(jnp.cosh(rows @ params["w"] + params["b"]))


@pytest.mark.slow
def test_it_is_the_mean_of_rayleigh_quotients(x64):
    params = {"w": jnp.array([0.5, -0.2]), "b": jnp.array(0.1)}
    expected = []
    for rows in ROWS:
        flat = lambda x, rows=rows: loss({"w": x[:2], "b": x[2]}, rows)
        x = jnp.array([0.5, -0.2, 0.1])
        g = jax.grad(flat)(x)
        expected.append(g @ jax.hessian(flat)(x) @ g / (g @ g))
    found = odeopt.diagnostics.batch_sharpness(loss, params, rows=ROWS)
    assert float(found) == pytest.approx(float(jnp.mean(jnp.array(expected))), rel=1e-6)


@pytest.mark.slow
def test_of_one_batch_it_is_at_most_the_sharpness(x64):
    params = {"w": jnp.array([0.5, -0.2]), "b": jnp.array(0.1)}
    largest = odeopt.diagnostics.sharpness(loss, params, rows=ROWS[0]).value
    assert odeopt.diagnostics.batch_sharpness(loss, params, rows=ROWS[:1]) <= largest


def test_a_batch_at_rest_counts_as_zero():
    square = lambda x, scale: 0.5 * scale * x**2
    assert odeopt.diagnostics.batch_sharpness(square, jnp.array(0.0), scale=jnp.ones(2)) == 0


def test_batches_that_are_not_as_many_are_refused():
    with pytest.raises(ValueError, match="one row"):
        odeopt.diagnostics.batch_sharpness(
            lambda x, a, b: a * b * x, jnp.array(1.0), a=jnp.ones(2), b=jnp.ones(3)
        )


PER_ROW = {
    "sharpness": odeopt.diagnostics.batch_sharpness,
    "epoch loss": lambda f, p, **rows: drift.epoch_loss(f, 0.1)(p, **rows),
    "epoch flow": lambda f, p, **rows: drift.epoch_flow(f, **rows)(p, 0.1),
    "penalty": drift.gradient_penalty,
}


@pytest.mark.parametrize("name", PER_ROW)
def test_the_whole_parameters_are_no_rows(name):
    """Of an Equinox model, or of frozen leaves, the others come with `full_params=`."""
    model = {"w": jnp.array([0.5, -0.2]), "b": jnp.array(0.1), "activation": jnp.cosh}

    def value(model, rows):
        return jnp.mean(model["activation"](rows @ model["w"] + model["b"]))

    part = {"w": model["w"], "b": None, "activation": None}
    bound = lambda p, rows: value({**model, "w": p["w"]}, rows)
    found = PER_ROW[name](value, part, rows=ROWS[:2], full_params=model)
    jax.tree.map(np.testing.assert_array_equal, found, PER_ROW[name](bound, part, rows=ROWS[:2]))
