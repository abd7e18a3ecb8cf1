"""Gradient flow, and the objective that every flow sees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt.flows import GradientFlow
from odeopt.objective import Objective, count_gradients

PARAMS = {"w": jnp.array([[0.5, -1.0], [2.0, 0.3]]), "b": jnp.array([0.1, -0.2])}


def loss(params):
    return jnp.sum(jnp.sin(params["w"] @ params["b"])) + jnp.sum(params["w"] ** 4) / 4


def assert_trees_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_an_increment_is_minus_h_times_the_gradient():
    flow = GradientFlow()
    aux = flow.init(PARAMS)
    objective = Objective({"value_fn": loss})
    moved, daux = flow.increment((PARAMS, aux), objective, jnp.float32(0.1))
    step = jax.tree.map(lambda g: -jnp.float32(0.1) * g, jax.grad(loss)(PARAMS))
    assert_trees_equal(moved, step)
    assert jax.tree.structure(daux) == jax.tree.structure(aux)
    assert jax.tree.leaves(aux) == []


@pytest.mark.parametrize("name", ["euler", "rk4"])
def test_a_complex_parameter_decays_along_its_ray(name, x64):
    """E = |z|^2 is u^2 + v^2, whose flow is z' = -2z: both parts shrink by the same factor."""
    z = jnp.array(3.0 - 4.0j)
    e = lambda z: jnp.abs(z) ** 2
    opt = getattr(odeopt, name)(0.05)
    state = opt.init(z)
    for _ in range(10):
        grads = jnp.conj(jax.grad(e)(z))  # as optax asks
        updates, state = opt.update(grads, state, z, value_fn=e)
        z = optax.apply_updates(z, updates)
    factor = {"euler": 0.9, "rk4": 1 - 0.1 + 0.1**2 / 2 - 0.1**3 / 6 + 0.1**4 / 24}[name]
    np.testing.assert_allclose(z, (3 - 4j) * factor**10, rtol=1e-13)  # 10 steps of rounding


@pytest.mark.parametrize("name", ["heun", "rk4"])
def test_a_complex_flow_is_that_of_its_real_and_imaginary_parts(name, x64):
    """A loss that is not symmetric under conjugation: a lost conjugate would change it."""

    def real_loss(uv):
        u, v = uv
        return jnp.cosh(u) + 0.5 * (v - jnp.sin(u)) ** 2 + v

    def complex_loss(z):
        return real_loss((z.real, z.imag))

    opt = getattr(odeopt, name)(0.1)
    z, uv = jnp.array(0.7 - 0.4j), (jnp.array(0.7), jnp.array(-0.4))
    dz, _ = opt.update(jnp.conj(jax.grad(complex_loss)(z)), opt.init(z), z, value_fn=complex_loss)
    (du, dv), _ = opt.update(jax.grad(real_loss)(uv), opt.init(uv), uv, value_fn=real_loss)
    np.testing.assert_allclose(dz, du + 1j * dv, rtol=1e-13)


# the objective that every flow sees

GIVEN = {"w": jnp.full((2, 2), 7.0), "b": jnp.full(2, -7.0)}  # not the gradient, to tell them apart


def objective(given=None):
    return Objective({"value_fn": loss}, given=given)


def test_here_is_the_given_gradient_at_the_start_and_evaluated_at_later_stages():
    at_start = objective(GIVEN)
    assert_trees_equal(at_start.here(PARAMS), GIVEN)
    for later in (at_start.at(1), at_start.at(jnp.int32(0)), at_start.elsewhere()):
        assert_trees_equal(later.here(PARAMS), jax.grad(loss)(PARAMS))


def test_anywhere_else_it_is_evaluated_also_at_the_start():
    elsewhere = jax.tree.map(lambda p: p + 1, PARAMS)
    assert_trees_equal(objective(GIVEN).gradient(elsewhere), jax.grad(loss)(elsewhere))


@pytest.mark.slow
@pytest.mark.parametrize("given", [None, GIVEN])
def test_a_product_is_the_dense_hessian_s(given, x64):
    """With a given gradient too: differentiating through that would give zero."""
    params = jax.tree.map(lambda p: p.astype(float), PARAMS)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.hessian(lambda flat: loss(unravel(flat)))(flat)
    direction = jnp.linspace(-1, 1, flat.size)
    product = objective(given).product(params)(unravel(direction))
    expected = hessian @ direction
    np.testing.assert_allclose(
        jax.flatten_util.ravel_pytree(product)[0], expected, rtol=1e-12, atol=1e-12
    )
    assert jnp.linalg.norm(expected) > 1


@pytest.mark.parametrize(
    ("function", "given", "free"),
    [
        (lambda o, x: o.here(x), 1, 0),
        (lambda o, x: o.gradient(x), 1, 1),
        (lambda o, x: (o.here(x), o.at(1).here(x), o.at(2).gradient(x)), 3, 2),
        (lambda o, x: o.product(x)(x), 2, 2),
        (lambda o, x: jax.jvp(o.gradient, (x,), (x,))[1], 2, 2),
        (lambda o, x: o.value(x), 1, 1),
        (lambda o, x: o.value_and_gradient(x), 1, 1),
    ],
)
def test_what_a_function_evaluates_is_counted_and_a_product_counts_two(function, given, free):
    assert count_gradients(function, PARAMS) == given
    assert count_gradients(function, PARAMS, given=True) == free
