"""The problems of sif2jax, as the race takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import sif


@pytest.mark.slow
def test_problems_are_losses_of_one_vector_with_their_published_minima():
    with jax.enable_x64(True):
        rosenbrock, trigonometric = sorted(sif.problems(["TRIGON1", "ROSENBR"]))
        assert rosenbrock.start.dtype == jnp.float64
        np.testing.assert_allclose(rosenbrock.loss(rosenbrock.start), 24.2)
        np.testing.assert_allclose(rosenbrock.loss(jnp.ones(2)), rosenbrock.lowest, atol=1e-12)
        assert trigonometric.start.shape == (10,)
