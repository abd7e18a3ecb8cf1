"""Adam's direction: its derivative is written by hand."""

import jax
import jax.numpy as jnp
import pytest

from odeopt.flows.adaptive import adam_direction

ALL = (0, 1, 2, 3)


def quotient(mean, square, eps, eps_root):
    return mean / (jnp.sqrt(square + eps_root) + eps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "derivative",
    [
        lambda f: jax.jacfwd(f, ALL),
        lambda f: jax.jacrev(f, ALL),
        lambda f: jax.jacfwd(jax.jacrev(f, ALL), ALL),
    ],
)
@pytest.mark.parametrize("eps_root", [0.0, 1e-2])
def test_its_derivatives_are_those_of_the_quotient(derivative, eps_root, x64):
    point = jnp.array([0.5, -2.0, 1e-3]), jnp.array([0.3, 4.0, 1e-4]), 1e-3, eps_root
    ours, theirs = derivative(adam_direction)(*point), derivative(quotient)(*point)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.allclose(a, b, rtol=1e-12, atol=0)
