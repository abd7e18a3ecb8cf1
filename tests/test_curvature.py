"""Curvature products and linear systems, against matrices that are written out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import odeopt
from odeopt import curvature
from odeopt.objective import Objective
from odeopt.split import split

from .table import gradient, mixed_loss, mixed_params

KEYS = jax.random.split(jax.random.key(0), 4)


def model(params, inputs):
    return jnp.tanh(inputs @ params["in"]) @ params["out"]


def two_heads(params, inputs):
    out = model(params, inputs)
    return {"a": out[:, :1], "b": out[:, 1:] ** 2}


def squares(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def entropy(outputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


def weighted(outputs, labels, weights):
    return weights @ optax.softmax_cross_entropy_with_integer_labels(outputs, labels), "aux"


def heads(outputs, targets):
    return jnp.sum(jnp.cosh(outputs["a"] - targets)) + jnp.sum(outputs["b"] ** 2)


LOSSES = {
    "squares": odeopt.composite(squares, model),
    "entropy": odeopt.composite(entropy, model),
    "weighted": odeopt.composite(weighted, model),
    "heads": odeopt.composite(heads, two_heads),
    "whole": odeopt.composite(squares, model, samples=()),
}
losses = pytest.mark.parametrize("name", LOSSES)


def problem(samples=5):
    """A small network with 18 parameters and three outputs, and data for every loss."""
    params = {
        "in": jax.random.normal(KEYS[0], (3, 3)),
        "out": jax.random.normal(KEYS[1], (3, 3)),
    }
    data = {
        "inputs": jax.random.normal(KEYS[2], (samples, 3)),
        "targets": jnp.linspace(-1, 1, samples)[:, None],
        "labels": jnp.arange(samples) % 3,
        "weights": jnp.linspace(0.5, 2.0, samples),
    }
    return params, data


def value(loss, params, data):
    return Objective({"value_fn": loss, **data}).value(params)


def bound(loss, data):
    return Objective({"value_fn": loss, **data})


def dense(loss, params, data):
    """The Gauss-Newton matrix of the definition, by dense Jacobian and Hessian."""
    vector, unravel = ravel_pytree(params)
    parts = split(bound(loss, data))
    flat, unravel_outputs = ravel_pytree(parts.predict(params))

    @jax.jit
    def matrix():
        jacobian = jax.jacobian(lambda v: ravel_pytree(parts.predict(unravel(v)))[0])(vector)
        hessian = jax.hessian(lambda o: parts.loss(unravel_outputs(o)))(flat)
        return jacobian.T @ hessian @ jacobian

    return matrix()


def rows_of(loss, params, data):
    """Compiled: eager operations compile one by one, which takes longer."""
    unravel = ravel_pytree(params)[1]
    make = lambda p: curvature.gauss_newton_rows(split(bound(loss, data)), p)[:2]
    return curvature.Rows(*jax.jit(make)(params), unravel)


@pytest.mark.slow
@losses
def test_gauss_newton_products_are_those_of_the_definition(name, x64):
    params, data = problem()
    vector, unravel = ravel_pytree(params)
    product = curvature.gauss_newton(split(bound(LOSSES[name], data)), params)
    columns = jax.jit(jax.vmap(lambda e: ravel_pytree(product(unravel(e)))[0]))(
        jnp.eye(vector.size)
    )
    np.testing.assert_allclose(columns, dense(LOSSES[name], params, data), atol=1e-12)


@pytest.mark.slow
@losses
def test_rows_make_the_same_matrix_and_the_gradient(name, x64):
    params, data = problem()
    rows = rows_of(LOSSES[name], params, data)
    matrix = dense(LOSSES[name], params, data)
    np.testing.assert_allclose(rows.matrix.T @ rows.matrix, matrix, atol=1e-12)
    grads = ravel_pytree(bound(LOSSES[name], data).here(params))[0]
    np.testing.assert_allclose(rows.matrix.T @ rows.image, grads, atol=1e-11)
    assert not np.any(rows.remainder(grads))
    beside = rows.remainder(grads + 1e-3)  # such as of a weight decay before the optimizer
    np.testing.assert_allclose(beside, 1e-3, rtol=1e-6)


@pytest.mark.parametrize("samples", [2, 20])
def test_a_system_is_solved_in_either_space(samples, x64):
    params, data = problem(samples)
    rows = rows_of(LOSSES["squares"], params, data)
    right, image = jnp.sin(jnp.arange(18.0)), jnp.cos(jnp.arange(3.0 * samples))
    solve = jax.jit(lambda h: rows.factored(1 / (1 + h), h / (1 + h))(right, image))
    a = np.asarray(rows.matrix)
    for h in [0.0, 1e-4, 1.0, 1e4]:
        matrix = (np.eye(18) + h * a.T @ a) / (1 + h)
        np.testing.assert_allclose(
            solve(jnp.asarray(h)), np.linalg.solve(matrix, right + a.T @ image), rtol=1e-9
        )


@pytest.mark.slow
def test_what_the_gradient_is_an_image_of_does_not_cancel_at_a_large_step():
    """In single precision the Gauss-Newton step of fewer samples than parameters survives 1e8."""
    params, data = problem(4)
    rows = rows_of(LOSSES["squares"], params, data)
    h = jnp.float32(1e8)
    step = rows.factored(1 / (1 + h), h / (1 + h))(jnp.zeros(rows.matrix.shape[1]), rows.image)
    with jax.enable_x64(True):
        matrix, image = np.asarray(rows.matrix, float), np.asarray(rows.image, float)
        exact = np.linalg.lstsq(matrix, image)[0]
    np.testing.assert_allclose(step, exact, rtol=2e-2)


# conjugate gradients


def definite(n=12):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
    return jnp.asarray(basis * np.geomspace(1, 100, n) @ basis.T)


@pytest.mark.slow
@pytest.mark.parametrize("products", [1, 6])
def test_conjugate_gradients_are_those_of_jax(products, x64):
    matrix = definite()
    tree = lambda v: {"a": v[:5], "b": v[5:].reshape(7, 1)}
    flat = lambda t: jnp.concatenate([t["a"], t["b"].ravel()])
    right = jnp.cos(jnp.arange(12.0))
    found = curvature.conjugate_gradients(
        lambda t: tree(matrix @ flat(t)),
        tree(right),
        tree(jnp.zeros(12)),
        products=products,
        tolerance=0.0,
    )
    expected, _ = jax.scipy.sparse.linalg.cg(lambda v: matrix @ v, right, maxiter=products, tol=0.0)
    np.testing.assert_allclose(flat(found.value), expected, rtol=1e-8)
    np.testing.assert_allclose(flat(found.image), matrix @ expected, atol=1e-8)
    left = jnp.linalg.norm(matrix @ expected - right) / jnp.linalg.norm(right)
    np.testing.assert_allclose(found.residual, left, atol=1e-8)
    assert int(found.products) == products + 1


def test_a_good_start_saves_products_and_its_length_does_not_matter(x64):
    matrix, right = definite(), jnp.cos(jnp.arange(12.0))
    solve = lambda start: curvature.conjugate_gradients(
        lambda v: matrix @ v, right, start, products=50, tolerance=1e-6
    )
    cold = solve(jnp.zeros(12))
    assert int(cold.products) > 8
    assert float(cold.residual) <= 1e-6
    warm = solve(-3.0 * cold.value)
    assert int(warm.products) < 4
    np.testing.assert_allclose(warm.value, cold.value, rtol=1e-4)


@pytest.mark.slow
def test_every_iterate_points_with_the_right_hand_side_from_any_start(x64):
    matrix, right = definite(), jnp.cos(jnp.arange(12.0))
    start = -right + 0.1 * jnp.sin(jnp.arange(12.0))
    for products in range(1, 12):
        x = curvature.conjugate_gradients(
            lambda v: matrix @ v, right, start, products=products, tolerance=0.0
        ).value
        model = 0.5 * x @ matrix @ x - x @ right
        assert model < 0 < x @ right


def test_an_indefinite_matrix_ends_the_search_at_the_last_good_iterate(x64):
    right = jnp.array([1.0, 1.0, 0.1])
    solve = lambda diagonal, products: curvature.conjugate_gradients(
        lambda v: jnp.array(diagonal) * v, right, 0 * right, products=products, tolerance=0.0
    )
    indefinite = [3.0, 1.0, -2.0]
    last = [k for k in (1, 2, 3) if solve(indefinite, k).products == k + 1][-1]
    ended = solve(indefinite, 3)
    assert ended.value @ right > 0
    assert jnp.all(jnp.isfinite(ended.value))
    # one product found the negative direction and was not followed
    np.testing.assert_array_equal(ended.value, solve(indefinite, last - 1).value)
    # seen at once, the right-hand side over the size of its curvature
    at_once = solve([-4.0, -4.0, -4.0], 3)
    np.testing.assert_allclose(at_once.value, right / 4)
    assert int(at_once.products) == 2


def test_a_product_that_is_not_finite_ends_the_search():
    right = jnp.ones(3)
    found = curvature.conjugate_gradients(
        lambda v: jnp.nan * v, right, 0 * right, products=9, tolerance=1e-3
    )
    assert int(found.products) == 2
    assert not jnp.any(jnp.isfinite(found.value))


def test_one_million_parameters_near_the_identity_in_single_precision():
    """Where a test of breakdown that grows with the size gives up."""
    n = 1_000_000
    diagonal = 1 + 1e-3 * jnp.linspace(0, 1, n)
    right = jnp.cos(jnp.arange(n) / 7.0)
    found = jax.jit(
        lambda r: curvature.conjugate_gradients(
            lambda v: diagonal * v, r, jnp.zeros(n), products=20, tolerance=1e-5
        )
    )(right)
    assert int(found.products) <= 4
    assert float(found.residual) <= 1e-5
    np.testing.assert_allclose(found.value, right / diagonal, atol=1e-5)


def test_mixed_trees_keep_their_types():
    params = mixed_params()
    objective = Objective({"value_fn": mixed_loss})
    grads = gradient(mixed_loss, params)

    @jax.jit
    def solve(params):
        product = objective.product(params)
        shifted = lambda t: jax.tree.map(lambda x, b: 9 * x + b, t, product(t))
        start = jax.tree.map(jnp.zeros_like, params)
        return curvature.conjugate_gradients(shifted, grads, start, products=10, tolerance=1e-2)

    found = solve(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(found.value, params)
    assert float(found.residual) < 1e-2


# composite


@pytest.mark.slow
def test_a_composite_is_an_ordinary_value_function(x64):
    params, data = problem()
    for loss, plain in [
        (LOSSES["squares"], lambda p, inputs, targets: squares(model(p, inputs), targets)),
        (LOSSES["weighted"], lambda p, inputs, labels, weights: weighted(
            model(p, inputs), labels, weights
        )),
    ]:  # fmt: skip
        for opt in (odeopt.rk4(0.1), odeopt.euler(odeopt.stepsize.gain_ratio())):
            grads = bound(loss, data).here(params)
            state = opt.init(params)
            ours, _ = opt.update(grads, state, params, value_fn=loss, **data)
            theirs, _ = opt.update(grads, state, params, value_fn=plain, **data)
            chex.assert_trees_all_close(ours, theirs, rtol=1e-12)


def test_arguments_that_both_name_go_to_both():
    loss = odeopt.composite(
        lambda outputs, x, *, scale=2.0: scale * jnp.sum(outputs * x), lambda p, x: p * x
    )
    assert float(loss(jnp.float32(3.0), x=jnp.array([1.0, 2.0]))) == 30.0
    assert float(loss(jnp.float32(3.0), x=jnp.ones(1), scale=1.0)) == 3.0


def test_arguments_of_a_composite_by_position_are_those_of_the_model_first():
    loss = odeopt.composite(lambda outputs, y: jnp.sum(outputs - y), lambda p, x: p * x)
    assert loss(3.0, jnp.ones(2), 1.0) == loss(3.0, x=jnp.ones(2), y=1.0) == 4.0
    for wrong in ((1.0, 2.0, 3.0), {}), ((1.0, 2.0), {"x": 1.0}):
        with pytest.raises(TypeError, match=r"The loss takes \(params, x, y\)"):
            loss(3.0, *wrong[0], **wrong[1])


def test_arguments_that_carry_no_samples(x64):
    params, data = problem()
    scaled = odeopt.composite(
        squares, lambda p, inputs, scale: scale * model(p, inputs), samples=("inputs",)
    )
    data["scale"] = jnp.array([1.0, 2.0, 3.0])
    rows = rows_of(scaled, params, data)
    matrix = dense(scaled, params, data)
    np.testing.assert_allclose(rows.matrix.T @ rows.matrix, matrix, atol=1e-12)
    unsaid = odeopt.composite(squares, lambda p, inputs, scale: scale * model(p, inputs))
    with pytest.raises(ValueError, match=r"inputs: \[5\], scale: \[3\].*samples=\(\"inputs\",\)"):
        split(bound(unsaid, data))


def test_what_cannot_be_taken_apart_is_refused():
    params, data = problem()
    with pytest.raises(TypeError, match=r"'labels', 'inputs'|'inputs'.*'labels'"):
        value(LOSSES["entropy"], params, {})
    with pytest.raises(ValueError, match=r"samples names \['input'\].*tuple"):
        odeopt.composite(squares, model, samples=("input",))
    with pytest.raises(ValueError, match=r"samples names.*tuple"):
        odeopt.composite(squares, model, samples="inputs")
    pool = odeopt.composite(lambda outputs: jnp.sum(outputs**2), lambda p, inputs: p @ inputs.T)
    pooled = split(bound(pool, data))
    with pytest.raises(ValueError, match=r"5 samples into outputs of shape \(2, 5\)"):
        curvature.gauss_newton_rows(pooled, jnp.ones((2, 3)))
    plain = lambda p: jnp.sum(p["in"] ** 2)
    still = odeopt.composite(lambda out: jnp.sum(out**2), lambda p, inputs: p * inputs[0])
    alone = split(bound(still, {"inputs": jnp.ones((5, 5))}))
    with pytest.raises(ValueError, match=r"one sample of inputs into outputs of shape \(5,\)"):
        curvature.gauss_newton_rows(alone, jnp.ones(5))
    with pytest.raises(ValueError, match=r"(?s)odeopt\.composite\(.*opt\.update\(.*value_fn=loss"):
        split(bound(plain, {}))


# a diagonal, and a fraction


def test_a_preconditioner_of_the_right_shape_leaves_one_product(x64):
    """Conjugate gradients in the metric of a diagonal matrix are done in one iteration."""
    rates = jnp.geomspace(1.0, 1e6, 30)
    product, right, zero = lambda v: rates * v, jnp.ones(30), jnp.zeros(30)

    def solve(**metric):
        return curvature.conjugate_gradients(
            product, right, zero, products=60, tolerance=1e-10, **metric
        )

    plain, better = solve(), solve(preconditioner=lambda r: r / rates)
    assert int(better.products) == 2  # that of the start is one
    assert int(plain.products) > 20
    np.testing.assert_allclose(better.value, 1 / rates, rtol=1e-12)
    np.testing.assert_allclose(better.image, right, rtol=1e-12)
    # what it converges to does not depend on the metric
    matrix = definite()
    value = curvature.conjugate_gradients(
        lambda v: matrix @ v,
        jnp.ones(12),
        jnp.zeros(12),
        products=60,
        tolerance=1e-13,
        preconditioner=lambda r: r / jnp.arange(1.0, 13.0),
    ).value
    np.testing.assert_allclose(matrix @ value, jnp.ones(12), rtol=1e-9)


def test_the_estimate_of_a_diagonal(x64):
    """Exact for a diagonal matrix; off by the rest of each row otherwise, and less on average."""
    rates = jnp.geomspace(1.0, 1e6, 12)
    none = curvature.no_diagonal(rates)
    np.testing.assert_allclose(
        curvature.refined(none, lambda v: rates * v, rates).value, rates, rtol=1e-12
    )
    matrix = definite()
    once = curvature.refined(none, lambda v: matrix @ v, rates)
    rest = jnp.sum(jnp.abs(matrix), axis=1) - jnp.abs(jnp.diag(matrix))
    assert jnp.all(jnp.abs(once.value - jnp.diag(matrix)) <= rest * (1 + 1e-12))
    found = jax.lax.fori_loop(
        0, 400, lambda _, d: curvature.refined(d, lambda v: matrix @ v, rates), none
    )
    error = lambda d: jnp.linalg.norm(d.value - jnp.diag(matrix))
    assert int(found.draws) == 400
    assert error(found) < 0.5 * error(once)  # the mean of about 20


def test_a_preconditioned_step_is_the_same_step_for_fewer_products(x64):
    value = lambda x: 0.5 * jnp.sum(jnp.geomspace(1.0, 1e4, 30) * x**2)
    x = jnp.ones(30)

    def step(precondition):
        opt = odeopt.linearly_implicit_euler(
            1.0, "hessian", products=60, tolerance=1e-9, precondition=precondition
        )
        return jax.jit(lambda x: opt.update(jax.grad(value)(x), opt.init(x), x, value_fn=value))(x)

    (plain, one), (better, two) = step(False), step(True)
    np.testing.assert_allclose(plain, better, rtol=1e-6)
    assert int(two.memory.products) < 0.3 * int(one.memory.products)
    # its own product is counted as well
    assert int(two.gradients) == 1 + 2 * (int(two.memory.products) + 1)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["ggn", "hessian"])
def test_curvature_on_a_fraction_is_that_of_the_first_samples(which, x64):
    params, data = problem(samples=6)
    loss = LOSSES["entropy"]
    half = {"inputs": data["inputs"][:3], "labels": data["labels"][:3]}
    whole = {"inputs": data["inputs"], "labels": data["labels"]}
    grads = jax.grad(lambda p: loss(p, **whole))(params)

    def step(fraction, curvature_data):
        opt = odeopt.linearly_implicit_euler(
            2.0, which, "cg", products=30, tolerance=1e-12, fraction=fraction
        )
        return opt.update(grads, opt.init(params), params, value_fn=loss, **curvature_data)[0]

    chex.assert_trees_all_close(step(0.5, whole), step(1.0, half), rtol=1e-8)
    chex.assert_trees_all_close(step(0.4, whole), step(0.5, whole))  # at least that many samples


def test_a_fraction_of_what_carries_no_samples_is_refused():
    params, data = problem()
    opt = odeopt.linearly_implicit_euler(0.1, fraction=0.5)
    state = opt.init(params)
    with pytest.raises(ValueError, match="no argument of predict_fn carries"):
        opt.update(params, state, params, value_fn=LOSSES["whole"], **data)
    plain = odeopt.linearly_implicit_euler(0.1, "hessian", fraction=0.5)
    with pytest.raises(ValueError, match=r"(?s)odeopt\.composite\("):
        plain.update(params, state, params, value_fn=lambda p: jnp.sum(p["in"]))
    with pytest.raises(ValueError, match="fraction is 0"):
        odeopt.linearly_implicit_euler(0.1, fraction=0)


def test_what_one_part_of_a_composite_names_is_no_misspelling_for_the_other():
    """That would warn, and warnings are errors here."""
    loss = odeopt.composite(
        lambda outputs, targets: jnp.mean((outputs - targets) ** 2),
        lambda params, inputs, train=False: inputs @ params,
    )
    data = {"inputs": jnp.ones((3, 2)), "targets": jnp.ones(3)}
    opt, params = odeopt.linearly_implicit_euler(0.1), jnp.ones(2)
    grads = jax.grad(loss)(params, **data)
    opt.update(grads, opt.init(params), params, value_fn=loss, **data)
    with pytest.warns(UserWarning, match="trai, which the loss does not name"):
        loss(params, trai=True, **data)
