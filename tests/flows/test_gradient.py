"""Gradient flow, and the counted gradient that every flow sees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt.flows import GradientFlow
from odeopt.objective import Gradient, Objective

PARAMS = {"w": jnp.array([[0.5, -1.0], [2.0, 0.3]]), "b": jnp.array([0.1, -0.2])}


def loss(params):
    return jnp.sum(jnp.sin(params["w"] @ params["b"])) + jnp.sum(params["w"] ** 4) / 4


def counted(at_start=None):
    grads = jax.grad(loss)(PARAMS) if at_start is None else at_start
    return Gradient(grads, Objective({"value_fn": loss}))


def assert_trees_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_field_is_minus_the_gradient():
    flow = GradientFlow()
    aux = flow.init(PARAMS)
    field, daux = flow.field((PARAMS, aux), counted().stage(1), jnp.float32(0.1))
    assert_trees_equal(field, jax.tree.map(jnp.negative, jax.grad(loss)(PARAMS)))
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


# the counted gradient

GIVEN = {"w": jnp.full((2, 2), 7.0), "b": jnp.full(2, -7.0)}  # not the gradient, to tell them apart


def test_here_is_the_given_gradient_at_stage_zero_and_evaluated_later():
    gradient = counted(GIVEN)
    assert_trees_equal(gradient.stage(0).here(PARAMS), GIVEN)
    assert gradient.count == 1
    assert_trees_equal(gradient.stage(1).here(PARAMS), jax.grad(loss)(PARAMS))
    assert gradient.count == 2


def test_anywhere_else_it_is_evaluated_also_at_stage_zero():
    gradient = counted(GIVEN)
    elsewhere = jax.tree.map(lambda p: p + 1, PARAMS)
    assert_trees_equal(gradient.stage(0)(elsewhere), jax.grad(loss)(elsewhere))
    assert gradient.count == 2


def test_views_share_one_count():
    gradient = counted()
    first, second = gradient.stage(1), gradient.stage(2)
    first(PARAMS)
    second(PARAMS)
    second.stage(3)(PARAMS)
    assert gradient.count == 4


@pytest.mark.parametrize("stage", [0, 1])
def test_jvp_is_the_dense_hessian_s_product_and_counts_two(stage, x64):
    """At stage 0 too: differentiating through the given gradient would give zero."""
    params = jax.tree.map(lambda p: p.astype(float), PARAMS)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    hessian = jax.hessian(lambda flat: loss(unravel(flat)))(flat)
    direction = jnp.linspace(-1, 1, flat.size)
    gradient = counted(GIVEN)
    product = gradient.stage(stage).jvp(params, unravel(direction))
    expected = hessian @ direction
    np.testing.assert_allclose(
        jax.flatten_util.ravel_pytree(product)[0], expected, rtol=1e-12, atol=1e-12
    )
    assert jnp.linalg.norm(expected) > 1
    assert gradient.count == 3


@pytest.mark.parametrize("per_round", [1, 3])
def test_a_scan_counts_every_round(per_round):
    gradient = counted()
    gradient.stage(1)(PARAMS)

    def body(params, stage):
        view = gradient.stage(stage)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, view.here(params))
        if per_round == 3:
            view.jvp(params, params)
        return params, None

    end = gradient.scan(body, PARAMS, jnp.arange(5), length=5)
    assert gradient.count == 2 + 5 * per_round
    expected = PARAMS
    for _ in range(5):
        expected = jax.tree.map(lambda p, g: p - 0.1 * g, expected, jax.grad(loss)(expected))
    # five steps of float32 rounding on numbers of size 2
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), end, expected)


def test_the_stage_of_a_scan_is_never_taken_for_the_given_gradient():
    gradient = counted(GIVEN)

    def body(_, stage):
        return gradient.stage(stage).here(PARAMS), None

    end = gradient.scan(body, GIVEN, jnp.arange(1), length=1)  # its only stage is a traced 0
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), end, jax.grad(loss)(PARAMS)
    )
