"""Nystrom's approximation: of the map, as a preconditioner, and within a step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import odeopt
from odeopt.curvature import conjugate_gradients
from odeopt.nystrom import nystrom
from odeopt.stepsize import gain_ratio

SIZE = 60
SPECTRA = {
    "decay": 10.0 ** -np.arange(SIZE).clip(0, 30),
    "low rank": np.r_[np.ones(8), np.zeros(SIZE - 8)],
    "identity": np.ones(SIZE),
    "zero": np.zeros(SIZE),
    "indefinite": np.linspace(-1, 1, SIZE),
}


def operator(spectrum, dtype=float):
    """A symmetric matrix with that spectrum, and its product with trees."""
    like = {"a": jnp.zeros((5, 8), dtype), "b": jnp.zeros(20, dtype)}
    unravel = ravel_pytree(like)[1]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0]
    matrix = jnp.asarray((turn * spectrum) @ turn.T, dtype)
    return matrix, lambda v: unravel(matrix @ ravel_pytree(v)[0]), like


def dense(product, like):
    unravel = ravel_pytree(like)[1]
    rows = jnp.eye(SIZE, dtype=ravel_pytree(like)[0].dtype)
    return jax.jit(jax.vmap(lambda e: ravel_pytree(product(unravel(e)))[0]))(rows)


@pytest.mark.parametrize(("name", "rank"), [("decay", 20), ("low rank", 8), ("identity", SIZE)])
def test_it_is_the_map_where_the_rank_suffices(name, rank, x64):
    matrix, product, like = operator(SPECTRA[name])
    found = jax.jit(lambda: nystrom(product, like, rank))()
    basis = jax.vmap(lambda tree: ravel_pytree(tree)[0])(found.basis)
    np.testing.assert_allclose(basis.T @ (found.values[:, None] * basis), matrix, atol=1e-8)
    assert jnp.all(jnp.diff(found.values) <= 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("rank", [1, 10, SIZE + 40])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_preconditioner_is_positive_definite_whatever_the_map(name, rank, dtype):
    _, product, like = operator(SPECTRA[name], dtype)
    found = jax.jit(lambda: nystrom(product, like, rank))()
    assert found.rank == min(rank, SIZE)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), like)
    inverse = dense(lambda v: found.solve(jnp.asarray(1e-6), jnp.asarray(1.0), v), wide)
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-6)
    values = np.linalg.eigvalsh(np.asarray(inverse, float))
    assert values[0] > 0 or abs(values[0]) < 1e-6  # to the rounding of the dense matrix
    assert values[-1] < 1 + 1e-5
    chex.assert_trees_all_equal_dtypes(found.solve(jnp.ones(()), jnp.ones(()), like), like)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [10, 20])
def test_conjugate_gradients_need_fewer_products_where_the_spectrum_decays(rank, x64):
    matrix, product, like = operator(1e3 * SPECTRA["decay"] ** 0.25)
    system = lambda v: jax.tree.map(lambda a, b: 1e-4 * a + b, v, product(v))
    right = ravel_pytree(like)[1](jnp.ones(SIZE))

    @jax.jit
    def both():
        low = nystrom(product, like, rank)
        metric = lambda r: low.solve(jnp.asarray(1e-4), jnp.asarray(1.0), r)
        options = {"products": 500, "tolerance": 1e-10}
        return [
            conjugate_gradients(system, right, like, preconditioner=use, **options)
            for use in (None, metric)
        ]

    plain, sketched = both()
    expected = np.linalg.solve(1e-4 * np.eye(SIZE) + matrix, np.ones(SIZE))
    for found in (plain, sketched):
        np.testing.assert_allclose(ravel_pytree(found.value)[0], expected, rtol=1e-5)
    assert sketched.products < 0.8 * plain.products


# within a step


SQUARES = odeopt.composite(
    lambda outputs, targets: jnp.mean((outputs - targets) ** 2),
    lambda params, inputs: jnp.tanh(inputs @ params["w"]) @ params["v"],
)


def problem(samples=30, dtype=float):
    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(3, 5)), "v": rng.normal(size=5)}
    data = {"inputs": rng.normal(size=(samples, 3)), "targets": rng.normal(size=samples)}
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, data))


def update(opt, params, data):
    grads = jax.grad(SQUARES)(params, **data)
    step = jax.jit(lambda g, p: opt.update(g, opt.init(p), p, value_fn=SQUARES, **data))
    return step(grads, params)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 30])
@pytest.mark.parametrize("rank", [4, 100])
def test_a_step_is_that_of_the_exact_solve(samples, rank, x64):
    params, data = problem(samples)
    options = {"products": 60, "tolerance": 1e-12}
    opt = odeopt.linearly_implicit_euler(30.0, "ggn", "cg", rank=rank, **options)
    exact, _ = update(odeopt.linearly_implicit_euler(30.0, "ggn", "exact"), params, data)
    updates, state = update(opt, params, data)
    chex.assert_trees_all_close(updates, exact, rtol=1e-8, atol=1e-10)
    assert float(state.memory.residual) < 1e-11


@pytest.mark.slow
@pytest.mark.parametrize("tries", [1, 5])
@pytest.mark.parametrize(("curvature", "rank"), [("ggn", 6), ("hessian", 6), ("ggn", 100)])
def test_every_product_is_counted(tries, curvature, rank, x64):
    params, data = problem()
    rule = gain_ratio(first=1e-3, tries=tries)
    options = {"products": 4, "tolerance": 0.0}
    _, plain = update(
        odeopt.linearly_implicit_euler(rule, curvature, "cg", **options), params, data
    )
    opt = odeopt.linearly_implicit_euler(rule, curvature, "cg", rank=rank, **options)
    _, state = update(opt, params, data)
    assert int(plain.rejected) == int(state.rejected) == 0
    more = 2 * (min(rank, 20) + int(state.memory.products) - int(plain.memory.products))
    assert int(state.gradients) == int(plain.gradients) + more


@pytest.mark.slow
def test_tries_share_the_sketch(x64):
    """A rejected try costs its products and the loss, not the rank again."""
    params, data = problem()
    make = lambda tries: odeopt.linearly_implicit_euler(
        gain_ratio(first=1e6, tries=tries), "ggn", "cg", rank=10, products=30
    )
    used = [int(update(make(tries), params, data)[1].gradients) for tries in (1, 2)]
    assert used[1] - used[0] < 2 * 31 + 1 + 20


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_low_precision_is_defined(dtype):
    params, data = problem(dtype=dtype)
    updates, state = update(odeopt.linearly_implicit_euler(None, "ggn", "cg", rank=5), params, data)
    chex.assert_trees_all_equal_dtypes(updates, params)
    chex.assert_tree_all_finite((updates, state.memory))


@pytest.mark.slow
def test_without_a_rank_nothing_changes():
    params, data = problem(dtype=jnp.float32)
    opts = [odeopt.linearly_implicit_euler(None, "ggn", "cg", **o) for o in ({}, {"rank": 0})]
    chex.assert_trees_all_equal(*(update(opt, params, data) for opt in opts))


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"rank": -1}, ValueError, "rank of at least 0"),
        ({"rank": 3, "precondition": True}, ValueError, "not both"),
        ({"rank": 3, "solve": "exact"}, ValueError, "takes no products of curvature"),
        ({"rank": 2.5}, TypeError, "must be an integer"),
    ],
)
def test_bad_input(wrong, error, message):
    with pytest.raises(error, match=message):
        odeopt.linearly_implicit_euler(0.1, **{"solve": "cg"} | wrong)
