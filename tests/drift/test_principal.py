"""The principal flow against the iterates of gradient descent, and its two spectra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odeopt import diagnostics, drift

from ..solvers.cases import loss, start
from .models import distance, last, observed, solve

CURVATURES = np.array([0.8, 1.8, 2.1, -0.3])  # at h = 1
STEPS = 7


def quadratic(x):
    """In a basis of its own; of the last direction there are two."""
    rotation = jnp.array(np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0])
    return 0.5 * jnp.sum(np.append(CURVATURES, -0.3) * (rotation @ x["x"]) ** 2)


def descend(value_fn, x, n, h):
    step = lambda _, x: jax.tree.map(lambda p, g: p - h * g, x, jax.grad(value_fn)(x))
    return jax.lax.fori_loop(0, n, step, x)


@pytest.mark.slow
@pytest.mark.parametrize("products", [None, 4], ids=["exact", "Lanczos"])
@pytest.mark.filterwarnings("ignore:Complex dtype support in Diffrax")
def test_on_a_quadratic_it_is_the_iterates_at_every_step(x64, products):
    field = drift.principal_flow(quadratic, products=products)
    begin = {"x": jnp.array([1.0, 2.0, -0.5, 1.0, 0.3])}

    @jax.jit
    def errors(time):
        y = last(solve(field, jax.tree.map(lambda x: x + 0j, begin), time, 1.0))["x"]
        iterate = descend(quadratic, begin, STEPS, 1.0)["x"]
        return jnp.abs(y.real - iterate), jnp.abs(y.imag)

    off, imaginary = errors(float(STEPS))
    assert max(off.max(), imaginary.max()) < 1e-8
    _, between = errors(STEPS - 0.5)
    assert between.max() > 0.1  # the path there is complex


def test_a_real_start_gives_the_envelope(x64):
    field = drift.principal_flow(lambda x: 0.5 * jnp.sum(CURVATURES * x**2))
    begin = jnp.array([1.0, 2.0, -0.5, 1.0])
    end = last(jax.jit(lambda y: solve(field, y, float(STEPS), 1.0))(begin))
    np.testing.assert_allclose(end, abs(1 - CURVATURES) ** STEPS * begin, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("third", "order"), [(0.0, 2), (1.0, 3), (-1.0, 2)])
def test_elsewhere_it_has_order_2_and_with_the_third_derivative_order_3(x64, third, order):
    principal = drift.principal_flow(loss)
    gradient = jax.grad(loss)

    def field(x, h):
        along = lambda v: jax.jvp(gradient, (x,), (v,))[1]
        g = gradient(x)
        # D(Hg)[g] is E'''(g, g) + HHg
        product = jax.jvp(lambda x: jax.jvp(gradient, (x,), (gradient(x),))[1], (x,), (g,))[1]
        return principal(x, h) - third * h**2 / 12 * (product - along(along(g)))

    @jax.jit
    def error(n):
        end = last(solve(field, start(), 1.0, 1 / n))
        return distance(descend(loss, start(), n, 1 / n), end)

    assert observed(error, [128, 256]) == pytest.approx(order, abs=0.1)


def test_stability_coefficients_change_sign_at_2_as_iterates_do(x64):
    value_fn = lambda x, curvature: 0.5 * curvature * jnp.sum(x**2)
    x = jnp.array([3.0, 4.0])
    for curvature, sign in [(1.999, -1), (2.001, 1)]:
        found = drift.principal_flow(value_fn, curvature=curvature).directions(x, 1.0)
        assert np.all(sign * found.coefficients.real > 0)
        grown = distance(descend(lambda x: value_fn(x, curvature), x, 1, 1.0), jnp.zeros(2)) - 5
        assert sign * grown > 0
        assert np.allclose(found.coefficients.imag, np.pi / curvature)
    found = drift.principal_flow(value_fn, curvature=0.999).directions(x, 1.0)
    assert np.all(found.coefficients.imag == 0)


@pytest.mark.slow
def test_directions_and_products_agree_with_the_dense_matrix(x64):
    x, h = {"a": start()[:2], "b": start()[2:]}, 0.3
    value_fn = lambda x: loss(jnp.concatenate([x["a"], x["b"]]))
    exact, krylov = (drift.principal_flow(value_fn, products=p) for p in (None, 3))
    hessian, g = jax.hessian(loss)(start()), jax.grad(loss)(start())
    values, vectors = np.linalg.eigh(hessian)
    for field in [exact, krylov]:
        found = field.directions(x, h)
        np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-12)
        np.testing.assert_allclose(found.components**2, (g @ vectors) ** 2, rtol=1e-9)
        expected = diagnostics.stability_coefficients(h, found.eigenvalues)
        np.testing.assert_allclose(found.coefficients.real, expected, rtol=1e-14)
        # the series of the field, far inside its radius of convergence
        terms = [-np.linalg.matrix_power(1e-2 * hessian, n) @ g / (n + 1) for n in range(12)]
        slope = field(x, 1e-2)
        np.testing.assert_allclose(np.append(slope["a"], slope["b"]), sum(terms), rtol=1e-12)
    assert distance(krylov(jax.tree.map(lambda x: x + 0j, x), h), exact(x, h)) < 1e-12
    with pytest.raises(ValueError, match="products is 0"):
        drift.principal_flow(value_fn, products=0)
