"""Runge-Kutta steps do not know in which affine coordinates they are written; Adam does.

With x = A y + b the field f becomes g(y) = A^-1 f(A y + b), and the iterates map the same way.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .solvers.cases import CLASSES, FIELDS, follow, make, start

pytestmark = pytest.mark.usefixtures("x64")

entry = st.floats(-0.3, 0.3)
SIZE = 3
affine_maps = st.tuples(
    # diagonally dominant, so invertible: |A^-1| <= 1 / (1 - 0.9) times its scaling, at most 100
    st.lists(entry, min_size=SIZE**2, max_size=SIZE**2).map(
        lambda e: np.eye(SIZE) + np.reshape(e, (SIZE, SIZE))
    ),
    st.lists(st.floats(0.1, 10), min_size=SIZE, max_size=SIZE).map(np.diag),
    st.permutations(range(SIZE)),
    st.lists(st.floats(-5, 5), min_size=SIZE, max_size=SIZE).map(np.array),
)


@functools.cache
def both_ways(make_optimizer, field):
    """`(A, b) -> ` the iterate in x, and the one that was computed in y and mapped to x."""
    f, opt, n = FIELDS[field], make_optimizer(), 3

    @jax.jit
    def run(a, b):
        direct, _ = follow(opt, f, start(), n)
        transformed, _ = follow(
            opt,
            lambda y: jnp.linalg.solve(a, f(a @ y + b)),
            jnp.linalg.solve(a, start() - b),
            n,
        )
        return direct, a @ transformed + b

    return run


@functools.cache
def factory(name):
    return functools.partial(make, name, 0.1)


@pytest.mark.parametrize("name", CLASSES)
@settings(max_examples=25, deadline=None)
@given(affine=affine_maps)
def test_runge_kutta_commutes_with_affine_maps(name, affine):
    mixing, scales, permutation, b = affine
    a = (mixing @ scales)[list(permutation)]
    with jax.enable_x64(True):
        direct, mapped = both_ways(factory(name), "rotating")(a, b)
    # rounding of float64 times the condition of A, at most 1e4 (100 of the scales, 100 of the rest)
    np.testing.assert_allclose(mapped, direct, rtol=0, atol=1e-10)


ROTATION = np.array([[0.6, -0.8, 0.0], [0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize("a", [ROTATION, np.diag([1.0, 4.0, 0.5])], ids=["rotated", "scaled"])
def test_adam_does_not(a):
    direct, mapped = both_ways(functools.partial(optax.adam, 0.1), "gradient")(a, np.zeros(SIZE))
    assert np.max(abs(mapped - direct)) > 0.05  # the iterates themselves move by at most 0.3
