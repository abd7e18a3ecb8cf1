"""Sharpness and spectra against dense matrices, also where Lanczos' recurrence breaks down."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from odeopt import diagnostics

from ..table import mixed_loss, mixed_params


def network(params, x, y):
    hidden = jnp.tanh(x @ params["in"] + params["bias"])
    return jnp.mean((hidden @ params["out"] - y) ** 2)


@pytest.fixture
def trained(x64):
    """A small network, its data, and its dense Hessian."""
    keys = jax.random.split(jax.random.key(1), 5)
    params = {
        "in": jax.random.normal(keys[0], (3, 4)),
        "bias": jax.random.normal(keys[1], (4,)),
        "out": jax.random.normal(keys[2], (4, 2)),
    }
    data = {"x": jax.random.normal(keys[3], (20, 3)), "y": jax.random.normal(keys[4], (20, 2))}
    flat, unravel = ravel_pytree(params)
    return params, data, jax.hessian(lambda v: network(unravel(v), **data))(flat)


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_extreme_eigenvalue_and_its_vector_are_those_of_the_dense_hessian(
    trained, magnitude, sign
):
    params, data, dense = trained
    values, vectors = jnp.linalg.eigh(sign * dense)
    index = int(jnp.argmax(jnp.abs(values))) if magnitude else -1
    found = diagnostics.sharpness(
        lambda p, x, y: sign * network(p, x, y), params, magnitude=magnitude, **data
    )
    np.testing.assert_allclose(found.value, values[index], rtol=1e-10)
    alignment = abs(ravel_pytree(found.vector)[0] @ vectors[:, index])
    np.testing.assert_allclose(alignment, 1.0, rtol=1e-8)
    assert found.residual < 1e-4


@pytest.mark.parametrize("products", [2, 4, 8])
def test_an_eigenvalue_lies_within_the_residual(trained, products):
    params, data, dense = trained
    found = diagnostics.sharpness(network, params, products=products, **data)
    values = jnp.linalg.eigvalsh(dense)
    assert jnp.min(jnp.abs(values - found.value)) <= found.residual
    assert found.value <= values[-1] * (1 + 1e-12)


def test_a_warm_start_saves_products(trained):
    params, data, dense = trained
    exact = jnp.linalg.eigvalsh(dense)[-1]
    measure = functools.partial(diagnostics.sharpness, network, params, **data)
    warm = measure(products=4, start=measure().vector)
    assert abs(warm.value / exact - 1) < 1e-3 < abs(measure(products=4).value / exact - 1)


def test_a_warm_start_finds_a_direction_that_was_not_there():
    """The start is an exact eigenvector, the sharpest direction another one."""
    loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 2.0, 50.0]) * x**2)
    found = diagnostics.sharpness(loss, jnp.ones(3), start=jnp.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(found.value, 50.0, rtol=1e-5)


@pytest.mark.parametrize("start", [jnp.zeros(3), jnp.full(3, jnp.nan)], ids=["zero", "nan"])
def test_a_useless_start_is_no_start(start):
    loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 2.0, 50.0]) * x**2)
    np.testing.assert_allclose(
        diagnostics.sharpness(loss, jnp.ones(3), start=start).value, 50.0, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.zeros(30),
        np.full(30, 3.0),
        np.repeat([1.0, 2.0, 7.0], 10),
        np.repeat([0.0, 5.0], [29, 1]),
        -np.repeat([1.0, 2.0, 7.0], 10),
        np.append(np.zeros(20), 1e-3 * np.arange(10)),
        [4.0],
    ],
    ids=["zero", "identity", "repeated", "rank one", "negative", "dead entries", "scalar"],
)
def test_an_exhausted_krylov_space_does_no_harm(dtype, eigenvalues, x64):
    diagonal = jnp.asarray(eigenvalues, dtype)
    loss = lambda x: 0.5 * jnp.sum(diagonal * x**2)
    point = jnp.ones(len(diagonal), dtype)
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-12
    scale = max(float(jnp.max(jnp.abs(diagonal))), 1e-30)
    found = diagnostics.sharpness(loss, point)
    np.testing.assert_allclose(found.value, jnp.max(diagonal), atol=tolerance * scale)
    vector = found.vector
    np.testing.assert_allclose(jnp.linalg.norm(vector), 1.0, rtol=tolerance)
    np.testing.assert_allclose(
        diagonal * vector, found.value * vector, atol=300 * tolerance * scale
    )
    values, weights = diagnostics.spectrum(loss, point)
    assert jnp.all(jnp.diff(values) >= 0)
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-5)
    assert jnp.min(values) >= jnp.min(diagonal) - tolerance * scale
    assert jnp.max(values) <= jnp.max(diagonal) + tolerance * scale


def test_moments_of_the_density_are_those_of_the_matrix_up_to_the_spread_of_one_vector(trained):
    params, data, dense = trained
    size = len(dense)
    values, weights = diagnostics.spectrum(network, params, products=size, **data)
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-12)
    np.testing.assert_allclose(values[-1], jnp.linalg.eigvalsh(dense)[-1], rtol=1e-10)
    # in the mean over vectors the first moment is trace / size; one vector is off by its spread
    spread = jnp.sqrt(2 * jnp.mean(jnp.linalg.eigvalsh(dense) ** 2) / size)
    assert abs(jnp.sum(weights * values) - jnp.trace(dense) / size) < 3 * spread
    few = diagnostics.spectrum(network, params, products=5, **data)
    for power in range(10):  # Gauss quadrature: exact to degree 2 m - 1 for the vector in use
        np.testing.assert_allclose(
            jnp.sum(few.weights * few.values**power),
            jnp.sum(weights * values**power),
            rtol=1e-9,
        )


def test_the_gauss_newton_spectrum_is_that_of_the_dense_matrix(trained):
    params, data, _ = trained
    flat, unravel = ravel_pytree(params)
    predict = lambda p, x: jax.nn.log_softmax(jnp.tanh(x @ p["in"] + p["bias"]) @ p["out"])
    loss = lambda outputs, y: jnp.mean(jnp.sum(jnp.exp(outputs) * jnp.square(y), axis=-1))
    jacobian = jax.jacobian(lambda v: predict(unravel(v), data["x"]).ravel())(flat)
    curvature = jax.hessian(lambda o: loss(o.reshape(20, 2), data["y"]))(
        predict(params, data["x"]).ravel()
    )
    dense = jacobian.T @ curvature @ jacobian
    found = diagnostics.gauss_newton_spectrum(loss, predict, params, products=24, **data)
    exact = jnp.linalg.eigvalsh(dense)
    np.testing.assert_allclose(found.values[-1], exact[-1], rtol=1e-8)
    assert found.values[0] > -1e-10


def test_gauss_newton_is_the_hessian_where_the_model_is_linear(trained):
    _, data, _ = trained
    params = jnp.ones((3, 2))
    predict = lambda p, x: x @ p
    loss = lambda outputs, y: jnp.mean((outputs - y) ** 2)
    whole = lambda p, x, y: loss(predict(p, x), y)
    found = diagnostics.gauss_newton_spectrum(loss, predict, params, products=6, **data)
    expected = diagnostics.spectrum(whole, params, products=6, **data)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9)


def test_trees_of_every_dtype_are_seen_as_real():
    """Complex entries count as two real ones, bfloat16 is widened, empty leaves are nothing."""
    params = mixed_params()
    found = jax.jit(lambda p: diagnostics.sharpness(mixed_loss, p))(params)
    wide = jax.tree.map(lambda p: p.astype(jnp.promote_types(p.dtype, jnp.float32)), params)
    parts = {"rest": {**wide, "z": None}, "re": wide["z"].real, "im": wide["z"].imag}
    flat, unravel = ravel_pytree(parts)

    def real(vector):
        tree = unravel(vector)
        return mixed_loss({**tree["rest"], "z": tree["re"] + 1j * tree["im"]})

    expected = jnp.linalg.eigvalsh(jax.hessian(real)(flat))[-1]
    np.testing.assert_allclose(found.value, expected, rtol=1e-2)  # of a bfloat16 leaf
    for leaf, like in zip(jax.tree.leaves(found.vector), jax.tree.leaves(params), strict=True):
        assert (leaf.dtype, leaf.shape) == (like.dtype, like.shape)


def test_a_complex_loss_landscape_has_the_curvature_of_its_real_one():
    stiffness = jnp.array([[3.0, 1.0], [1.0, 2.0]])  # of the real and of the imaginary part
    loss = lambda z: 0.5 * jnp.stack([z.real, z.imag]) @ stiffness @ jnp.stack([z.real, z.imag])
    found = diagnostics.sharpness(loss, jnp.complex64(1 + 2j))
    np.testing.assert_allclose(found.value, jnp.linalg.eigvalsh(stiffness)[-1], rtol=1e-5)


def test_vmap_and_has_aux():
    curvatures = jnp.array([1.0, 5.0, 2.0])
    loss = lambda x, batch: (0.5 * batch * jnp.sum(x**2), "aux")
    measure = lambda batch: diagnostics.sharpness(loss, jnp.ones(4), batch=batch).value
    np.testing.assert_allclose(jax.jit(jax.vmap(measure))(curvatures), curvatures, rtol=1e-5)


def test_a_hessian_that_is_not_finite_is_not_passed_off_as_one_that_is():
    loss = lambda x: jnp.sum(jnp.log(x))
    assert jnp.isnan(diagnostics.sharpness(loss, jnp.array([1.0, 0.0])).value)


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match=r"value_fn\(params\) also needs 'batch'.*`batch=batch`"):
        diagnostics.sharpness(lambda p, batch: jnp.sum(p * batch), jnp.ones(2))
    with pytest.raises(TypeError, match=r"predict_fn\(params\) also needs 'x'"):
        diagnostics.gauss_newton_spectrum(jnp.sum, lambda p, x: x @ p, jnp.ones(2))
    with pytest.raises(ValueError, match="no entries"):
        diagnostics.sharpness(lambda p: 0.0, {})
    with pytest.raises(ValueError, match="products is 0"):
        diagnostics.spectrum(jnp.sum, jnp.ones(2), products=0)
