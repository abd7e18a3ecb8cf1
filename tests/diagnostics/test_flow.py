"""What diagnostics say of a flow: the principal flow's coefficients, the corridor measure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odeopt import diagnostics

products = st.floats(-20, 20).filter(lambda z: abs(z) > 1e-3 and abs(z - 1) > 1e-3)


@given(product=products, rate=st.floats(1e-3, 1e3))
def test_the_principal_flow_ends_where_gradient_descent_does(product, rate):
    """x' = c g for a time h multiplies by exp(c h lambda), gradient descent by 1 - h lambda."""
    with jax.enable_x64(True):
        coefficient = diagnostics.stability_coefficients(rate, jnp.array(product / rate))
        np.testing.assert_allclose(jnp.exp(coefficient * product), abs(1 - product), rtol=1e-9)


def test_signs_and_limits(x64):
    z = jnp.array([-5.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 1.999, 2.001, 10.0])
    coefficients = diagnostics.stability_coefficients(1.0, z)
    np.testing.assert_allclose(coefficients[1:4], -1.0, rtol=1e-8)
    assert coefficients[5] == -jnp.inf
    assert jnp.all(coefficients[:-2] < 0)
    assert jnp.all(coefficients[-2:] > 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_on_an_eigenvector_the_corridor_measure_is_its_curvature(axis):
    curvatures = jnp.array([0.1, -3.0, 20.0])
    loss = lambda x, scale: 0.5 * scale * jnp.sum(curvatures * x**2)
    measure = diagnostics.corridor(loss, jnp.eye(3)[axis], scale=2.0)
    np.testing.assert_allclose(measure, 2 * abs(curvatures[axis]), rtol=1e-6)


@pytest.mark.slow
@given(x=st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3).map(jnp.array))
def test_the_corridor_measure_is_at_most_the_sharpness_and_zero_at_rest(x):
    curvatures = jnp.array([0.1, 1.0, 10.0])
    measure = diagnostics.corridor(lambda x: 0.5 * jnp.sum(curvatures * x**2), x)
    assert 0 <= measure <= 10.0 * (1 + 1e-5)
    assert measure > 0 or jnp.max(jnp.abs(x)) < 1.1e-17  # (0.01 x)^2 underflows


def test_gradient_flow_of_a_norm_is_a_corridor(x64):
    assert diagnostics.corridor(jnp.linalg.norm, jnp.array([3.0, -4.0, 1.0])) < 1e-15
