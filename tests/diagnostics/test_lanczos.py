"""Sharpness and spectra against dense matrices, also where Lanczos' recurrence breaks down."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import odeopt
from odeopt import diagnostics, drift
from odeopt.diagnostics.sharpness import extreme

from ..table import mixed_loss, mixed_params


def network(params, x, y):
    hidden = jnp.tanh(x @ params["in"] + params["bias"])
    return jnp.mean((hidden @ params["out"] - y) ** 2)


def jitted(diagnostic, *functions, **settings):
    return jax.jit(functools.partial(diagnostic, *functions, **settings))


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
    return params, data, jax.jit(jax.hessian(lambda v: network(unravel(v), **data)))(flat)


@pytest.mark.slow
def test_the_extreme_eigenvalues_and_their_vectors_are_those_of_the_dense_hessian(trained):
    params, data, dense = trained

    @jax.jit
    def measure(sign, x, y):
        loss = lambda p, x, y: sign * network(p, x, y)
        either = [False, True]
        return [diagnostics.sharpness(loss, params, magnitude=m, x=x, y=y) for m in either]

    for sign in [1, -1]:
        values, vectors = np.linalg.eigh(sign * dense)
        by_value, by_magnitude = measure(sign, **data)
        for found, index in [(by_value, -1), (by_magnitude, np.argmax(np.abs(values)))]:
            np.testing.assert_allclose(found.value, values[index], rtol=1e-10)
            alignment = abs(ravel_pytree(found.vector)[0] @ vectors[:, index])
            np.testing.assert_allclose(alignment, 1.0, rtol=1e-8)
            assert found.residual < 1e-4


@pytest.mark.slow
def test_few_products_err_by_the_residual_at_most_and_warm_starts_converge(trained):
    params, data, dense = trained
    values = np.linalg.eigvalsh(dense)
    measure = jitted(diagnostics.sharpness, network, products=4)
    start, errors = jax.tree.map(jnp.zeros_like, params), []
    for _ in range(8):
        value, start, residual = measure(params, start=start, **data)
        assert np.min(np.abs(values - value)) <= residual
        errors.append(1 - value / values[-1])
    assert errors[0] > 0.01  # four products do not find it in 24 dimensions
    assert -1e-12 < errors[-1] < 1e-3


@pytest.mark.parametrize(
    "start",
    [jnp.array([0.0, 1.0, 0.0]), jnp.zeros(3), jnp.full(3, jnp.nan)],
    ids=["another eigenvector", "zero", "nan"],
)
def test_no_start_hides_the_sharpest_direction(start):
    loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 2.0, 50.0]) * x**2)
    found = jitted(diagnostics.sharpness, loss)(jnp.ones(3), start=start)
    np.testing.assert_allclose(found.value, 50.0, rtol=1e-5)


EXHAUSTED = {
    "zero": np.zeros(30),
    "identity": np.full(30, 3.0),
    "repeated": np.repeat([1.0, 2.0, 7.0], 10),
    "rank one": np.repeat([0.0, 5.0], [29, 1]),
    "negative": -np.repeat([1.0, 2.0, 7.0], 10),
    "dead entries": np.append(np.zeros(20), 1e-3 * np.arange(10)),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_an_exhausted_krylov_space_does_no_harm(dtype, x64):
    @jax.jit
    def look(diagonal):
        loss = lambda x: 0.5 * jnp.sum(diagonal * x**2)
        point = jnp.ones(30, dtype)
        return diagnostics.sharpness(loss, point), diagnostics.spectrum(loss, point)

    tolerance = 1e-5 if dtype == jnp.float32 else 1e-12
    for name, eigenvalues in EXHAUSTED.items():
        (value, vector, _), (values, weights) = look(jnp.asarray(eigenvalues, dtype))
        error = tolerance * max(np.abs(eigenvalues).max(), 1e-30)
        np.testing.assert_allclose(value, eigenvalues.max(), atol=error, err_msg=name)
        np.testing.assert_allclose(jnp.linalg.norm(vector), 1.0, rtol=tolerance, err_msg=name)
        np.testing.assert_allclose(
            eigenvalues * vector, value * vector, atol=300 * error, err_msg=name
        )
        assert jnp.all(jnp.diff(values) >= 0), name
        np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-5, err_msg=name)
        assert jnp.min(values) >= eigenvalues.min() - error, name
        assert jnp.max(values) <= eigenvalues.max() + error, name


@functools.partial(jax.jit, static_argnames="products")
def extremes(eigenvalues, start, turned, products):
    product = lambda v: turned @ (eigenvalues * (turned.T @ v))
    return [
        extreme(product, eigenvalues, products, turned @ start, magnitude)
        for magnitude in (False, True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 5, 8, 13, 30])
@pytest.mark.parametrize("products", [4, 8, 24])
def test_no_quotient_of_a_unit_vector_is_beyond_the_spectrum(products, size):
    """Few different eigenvalues and starts along one: the Krylov space is exhausted early."""
    random = np.random.default_rng(size)
    for trial in range(60):
        few = random.choice([0.0, 1.0, -1.0, 0.5, -2.0, 1e-3, 1e-6, -0.3], size=random.integers(5))
        eigenvalues = random.choice([*few, 2.0], size=size).astype(np.float32)
        one = np.eye(size, dtype=np.float32)[random.integers(size)]
        turned = np.linalg.qr(random.standard_normal((size, size)))[0].astype(np.float32)
        turned = turned if trial % 2 else np.eye(size, dtype=np.float32)
        for found in extremes(eigenvalues, one if trial % 3 else 0 * one, turned, products):
            rounding = 3e-6 * max(np.abs(eigenvalues).max(), 1e-30)
            assert eigenvalues.min() - rounding <= found.value <= eigenvalues.max() + rounding
            along = turned.T @ found.vector
            np.testing.assert_allclose(along @ along, 1.0, rtol=1e-5)
            np.testing.assert_allclose(along @ (eigenvalues * along), found.value, atol=rounding)


def test_a_single_parameter_has_one_curvature():
    found = diagnostics.sharpness(lambda x: 2.0 * x**2, jnp.float32(1.0))
    assert (float(found.value), abs(float(found.vector))) == (4.0, 1.0)


@pytest.mark.slow
def test_moments_of_the_density_are_those_of_the_matrix_up_to_the_spread_of_one_vector(trained):
    params, data, dense = trained
    size = len(dense)
    values, weights = jitted(diagnostics.spectrum, network, products=size)(params, **data)
    np.testing.assert_allclose(jnp.sum(weights), 1.0, rtol=1e-12)
    np.testing.assert_allclose(values[-1], jnp.linalg.eigvalsh(dense)[-1], rtol=1e-10)
    # in the mean over vectors the first moment is trace / size; one vector is off by its spread
    spread = jnp.sqrt(2 * jnp.mean(jnp.linalg.eigvalsh(dense) ** 2) / size)
    assert abs(jnp.sum(weights * values) - jnp.trace(dense) / size) < 3 * spread
    few = jitted(diagnostics.spectrum, network, products=5)(params, **data)
    for power in range(10):  # Gauss quadrature: exact to degree 2 m - 1 for the vector in use
        np.testing.assert_allclose(
            jnp.sum(few.weights * few.values**power),
            jnp.sum(weights * values**power),
            rtol=1e-9,
        )


@pytest.mark.slow
def test_the_gauss_newton_spectrum_is_that_of_the_dense_matrix(trained):
    params, data, _ = trained
    flat, unravel = ravel_pytree(params)
    predict = lambda p, x: jax.nn.log_softmax(jnp.tanh(x @ p["in"] + p["bias"]) @ p["out"])
    loss = lambda outputs, y: jnp.mean(jnp.sum(jnp.exp(outputs) * jnp.square(y), axis=-1))
    jacobian = jax.jit(jax.jacobian(lambda v: predict(unravel(v), data["x"]).ravel()))(flat)
    curvature = jax.hessian(lambda o: loss(o.reshape(20, 2), data["y"]))(
        predict(params, data["x"]).ravel()
    )
    dense = jacobian.T @ curvature @ jacobian
    found = jitted(diagnostics.gauss_newton_spectrum, loss, predict)(params, **data)
    exact = jnp.linalg.eigvalsh(dense)
    np.testing.assert_allclose(found.values[-1], exact[-1], rtol=1e-8)
    assert found.values[0] > -1e-10


@pytest.mark.slow
def test_gauss_newton_is_the_hessian_where_the_model_is_linear(trained):
    _, data, _ = trained
    params = jnp.ones((3, 2))
    predict = lambda p, x: x @ p
    loss = lambda outputs, y: jnp.mean((outputs - y) ** 2)
    whole = lambda p, x, y: loss(predict(p, x), y)
    found = jitted(diagnostics.gauss_newton_spectrum, loss, predict)(params, **data)
    expected = jitted(diagnostics.spectrum, whole)(params, **data)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9)


@pytest.mark.slow
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

    expected = jnp.linalg.eigvalsh(jax.jit(jax.hessian(real))(flat))[-1]
    np.testing.assert_allclose(found.value, expected, rtol=1e-2)  # of a bfloat16 leaf
    for leaf, like in zip(jax.tree.leaves(found.vector), jax.tree.leaves(params), strict=True):
        assert (leaf.dtype, leaf.shape) == (like.dtype, like.shape)


def test_a_complex_loss_landscape_has_the_curvature_of_its_real_one():
    stiffness = jnp.array([[3.0, 1.0], [1.0, 2.0]])  # of the real and of the imaginary part
    loss = lambda z: 0.5 * jnp.stack([z.real, z.imag]) @ stiffness @ jnp.stack([z.real, z.imag])
    found = jitted(diagnostics.sharpness, loss)(jnp.complex64(1 + 2j))
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


X = jnp.arange(2.0)
MEASURES = {
    "sharpness": lambda p: diagnostics.sharpness(SQUARES, p),
    "batch sharpness": lambda p: diagnostics.batch_sharpness(SQUARES, p),
    "spectrum": lambda p: diagnostics.spectrum(SQUARES, p),
    "gauss-newton": lambda p: diagnostics.gauss_newton_spectrum(jnp.sum, SQUARES, p),
    "drift": lambda p: diagnostics.drift(SQUARES, p, 0.1),
    "corridor": lambda p: diagnostics.corridor(SQUARES, p),
    "penalty": lambda p: drift.gradient_penalty(lambda p, x: SQUARES(p), p, x=X),
    "principal": lambda p: drift.principal_flow(SQUARES)(p, 0.1),
    "directions": lambda p: drift.principal_flow(SQUARES).directions(p, 0.1),
    "lanczos directions": lambda p: drift.principal_flow(SQUARES, products=1).directions(p, 0.1),
    "central": lambda p: drift.central_flow(SQUARES)(p, 0.1),
    "oscillation": lambda p: drift.central_flow(SQUARES).oscillation(p, 0.1),
    "suggestion": lambda p: odeopt.suggest_learning_rate(odeopt.euler(0.1), SQUARES, p),
}
SQUARES = lambda p: sum(jnp.sum(jnp.asarray(x) ** 2) for x in jax.tree.leaves(p))


@pytest.mark.untyped
@pytest.mark.parametrize("name", MEASURES)
def test_parameters_on_the_host_are_taken_and_others_than_floats_are_named(name):
    host = {"w": [0.5, np.ones(2)], "b": None}
    on_device = jax.tree.map(jnp.asarray, host)
    jax.tree.map(np.testing.assert_array_equal, MEASURES[name](host), MEASURES[name](on_device))
    for odd in (jnp.arange(3), jnp.sin):
        with pytest.raises(TypeError, match=r"params\['odd'\] .*only floating-point parameters"):
            MEASURES[name]({"w": jnp.ones(2), "odd": odd})


def test_a_loss_that_is_not_finite_is_not_passed_off_as_one_without_drift():
    """A share or a cosine of 0 would be one of a straight path."""
    loss = lambda p, scale=1.0: scale * jnp.sum(jnp.sqrt(p))
    euler, x = odeopt.euler(0.1), jnp.array([1.0, -1.0])
    for found in (
        diagnostics.drift(loss, x, 0.1),
        diagnostics.drift(loss, x, 0.1, in_turn=True, each=("scale",), scale=jnp.ones(2)),
        diagnostics.corridor(loss, x),
        diagnostics.batch_sharpness(loss, x, scale=jnp.ones(2)),
        drift.step_drift(euler, euler.init(x), x, value_fn=loss),
    ):
        known = [f for f in jax.tree.leaves(found) if not jnp.isnan(f)]
        assert len(known) <= 2
        assert not any(known)


@pytest.mark.untyped
def test_a_start_unlike_the_parameters_is_refused():
    found = diagnostics.sharpness(SQUARES, X)
    for start, message in (
        (found, "same tree structure"),
        (jnp.ones(3), r"start has shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            diagnostics.sharpness(SQUARES, X, start=start)


def counted(traces):
    def loss(params, x, y, power=2, mode="mean"):
        traces.append((power, mode))
        hidden = jnp.tanh(x @ params["in"] + params["bias"])
        return getattr(jnp, mode)((hidden @ params["out"] - y) ** power)

    return loss


@pytest.mark.slow
def test_a_new_batch_is_an_argument_of_the_program_and_a_new_setting_is_not(trained):
    params, data, dense = trained
    traces = []
    loss = counted(traces)
    first = diagnostics.sharpness(loss, params, **data)
    np.testing.assert_allclose(first.value, np.linalg.eigvalsh(dense)[-1], rtol=1e-10)
    compiled = len(traces)
    other = {name: 2 * leaf for name, leaf in data.items()}
    again = diagnostics.sharpness(loss, params, **other)
    assert len(traces) == compiled
    expected = jitted(diagnostics.sharpness, network)(params, **other)
    np.testing.assert_allclose(again.value, expected.value, rtol=1e-10)
    by_sum = diagnostics.sharpness(loss, params, mode="sum", **data)
    np.testing.assert_allclose(by_sum.value, 40 * first.value, rtol=1e-9)
    # 2 and 2.0 are equal, but not the same program
    before = len(traces)
    diagnostics.sharpness(loss, params, power=2.0, **data)
    assert len(traces) > before


@pytest.mark.slow
def test_what_cannot_be_hashed_is_run_as_it_is():
    class Loss:
        __hash__ = None

        def __call__(self, x, batch):
            return batch * jnp.sum(x**2)

    found = diagnostics.sharpness(Loss(), jnp.ones(2), batch=jnp.float32(3.0))
    np.testing.assert_allclose(found.value, 6.0, rtol=1e-6)


def test_arguments_of_the_loss_may_be_called_as_ours():
    loss = lambda x, params: 0.5 * params * jnp.sum(x**2)
    found = diagnostics.sharpness(loss, jnp.ones(2), params=jnp.float32(3.0))
    np.testing.assert_allclose(found.value, 3.0, rtol=1e-6)
    density = diagnostics.spectrum(loss, jnp.ones(2), params=jnp.float32(3.0))
    np.testing.assert_allclose(density.values, 3.0, rtol=1e-6)


@pytest.mark.slow
def test_strict_promotion_changes_nothing():
    loss = lambda p, x: jnp.mean(jnp.tanh(x @ p["w"]) ** 2) + jnp.sum(p["b"] ** 2)
    outputs = lambda p, x: x @ p["w"]
    params, x = {"w": jnp.ones((3, 2)), "b": jnp.ones(4)}, jnp.ones((5, 3))

    def measured():
        found = diagnostics.sharpness(loss, params, magnitude=True, start=params, x=x)
        density = diagnostics.spectrum(loss, params, x=x)
        model = diagnostics.gauss_newton_spectrum(lambda o: jnp.sum(o**2), outputs, params, x=x)
        return found, density, model

    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        strict = measured()
    jax.tree.map(np.testing.assert_array_equal, strict, measured())
