"""The central flow against oscillations that are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odeopt import drift
from odeopt.drift.central import complementary

from .models import last, solve

RATE = 0.1
FORCES = np.array([3.0, 5.0])


def cycle(y):
    """Curvatures S that grow at their forces c until x oscillates: S x^2 / 2 - c S, summed."""
    turned = jnp.array([[0.6, 0.8], [-0.8, 0.6]])[: len(y["x"]), : len(y["x"])]
    x = turned @ y["x"] if len(y["x"]) > 1 else y["x"]
    return jnp.sum(0.5 * y["S"] * x**2 - FORCES[: len(x)] * y["S"])


def at(x, curvature):
    return {"x": jnp.array(x), "S": jnp.array(curvature)}


@pytest.fixture
def single(x64):
    return drift.central_flow(cycle)


@pytest.mark.slow
def test_it_comes_to_the_exact_two_cycle_of_gradient_descent(single):
    edge, amplitude = 2 / RATE, np.sqrt(2 * FORCES[0])
    first = at([amplitude], [edge])
    second = jax.tree.map(lambda p, g: p - RATE * g, first, jax.grad(cycle)(first))
    third = jax.tree.map(lambda p, g: p - RATE * g, second, jax.grad(cycle)(second))
    for there, sign in [(second, -1), (third, 1)]:  # gradient descent steps from side to side
        np.testing.assert_allclose(there["x"], [sign * amplitude], rtol=1e-12)
        np.testing.assert_allclose(there["S"], [edge], rtol=1e-12)

    end = last(jax.jit(lambda y: solve(single, y, 12.0, RATE))(at([0.05], [1.0])))
    found = single.oscillation(end, RATE)
    np.testing.assert_allclose(end["x"], [0.0], atol=1e-6)  # the mean of the two
    np.testing.assert_allclose(end["S"], [edge], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.covariance, [[amplitude**2]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.loss, cycle(first), rtol=0, atol=1e-6)
    np.testing.assert_allclose(jnp.concatenate([*single(end, RATE).values()]), 0.0, atol=1e-6)


@pytest.mark.slow
def test_far_below_the_edge_it_is_gradient_flow_and_beyond_it_comes_back(single):
    below, beyond = at([0.05], [8.0]), at([0.0], [2 / RATE + 1.0])
    slope = jax.tree.map(jnp.negative, jax.grad(cycle)(below))
    np.testing.assert_allclose(single(below, RATE)["S"], slope["S"], rtol=1e-14)
    np.testing.assert_allclose(single(below, RATE)["x"], slope["x"], rtol=1e-14)
    np.testing.assert_allclose(single.oscillation(below, RATE).covariance, 0.0)
    np.testing.assert_allclose(single(beyond, RATE)["S"], [-1.0 / RATE], rtol=1e-12)


@pytest.mark.slow
def test_several_directions_at_the_edge_share_a_covariance(x64):
    field = drift.central_flow(cycle, directions=2)
    end = last(jax.jit(lambda y: solve(field, y, 12.0, RATE))(at([0.01, -0.02], [1.0, 12.0])))
    found = field.oscillation(end, RATE)
    np.testing.assert_allclose(end["S"], [2 / RATE] * 2, rtol=0, atol=1e-6)
    full = found.vectors @ found.covariance @ found.vectors.T
    turned = np.array([[0.6, 0.8], [-0.8, 0.6]])
    expected = turned.T @ np.diag(2 * FORCES) @ turned
    np.testing.assert_allclose(full[2:, 2:], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(full[:2, :2], 0.0, atol=1e-6)
    with pytest.raises(ValueError, match="directions is 0"):
        drift.central_flow(cycle, directions=0)


@pytest.mark.parametrize("seed", range(4))
def test_the_complementarity_problem_is_solved(x64, seed):
    random = np.random.default_rng(seed)
    third = random.standard_normal((3, 3, 8))
    third = third + third.transpose(1, 0, 2)
    response = 0.5 * np.einsum("ijn,kln->ijkl", third, third)
    force = random.standard_normal((3, 3))
    force = 5 * (force + force.T)
    x = complementary(jnp.array(response), jnp.array(force))
    slack = np.einsum("ijkl,kl->ij", response, x) - force
    scale = np.linalg.norm(force)
    assert np.linalg.eigvalsh(x).min() > -1e-12
    assert np.linalg.eigvalsh(slack).min() > -1e-9 * scale
    assert abs(np.sum(x * slack)) < 1e-9 * scale * np.linalg.norm(x)
    assert np.linalg.norm(x) > 0.1 or np.linalg.eigvalsh(force).max() < 0
