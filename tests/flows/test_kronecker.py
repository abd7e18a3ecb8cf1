"""SOAP's flow, against the published algorithm and against Adam's in the same bases."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import odeopt
from odeopt import flows, solvers
from odeopt.flows.kronecker import Metric
from odeopt.objective import Objective

from .reference import classical

KEY = jax.random.key(0)
NEVER = 10**6


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape, float)


def orthogonal(seed, n):
    return jnp.linalg.qr(normal(seed, n, n))[0]


def of_matrix(w):
    """Smooth and not quadratic, of a matrix of any shape; its gradient vanishes nowhere near 0."""
    rows, columns = w.shape
    left, right = normal(3, 6, rows), normal(4, columns, 5)
    return 0.1 * jnp.sum(jnp.cosh(0.3 * left @ w @ right)) + jnp.sum(
        (w - 3 * normal(0, rows, columns)) ** 2
    )


def run(opt, w, loss=of_matrix, steps=60):
    """The parameters and the state after some steps."""

    def step(carry, _):
        w, state = carry
        grads = jax.tree.map(jnp.conj, jax.grad(loss)(w))
        updates, state = opt.update(grads, state, w, value_fn=loss)
        return (optax.apply_updates(w, updates), state), None

    return jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[0])((w, opt.init(w)))


def metric_of(state):
    is_metric = lambda node: isinstance(node, Metric)
    (found,) = filter(is_metric, jax.tree.leaves(state, is_leaf=is_metric))
    return found


# The published algorithm (arXiv:2409.11321, algorithm 3), written down once more: in NumPy, a
# matrix, a loop. Its lines are in the paper's order; what `odeopt.soap` documents as different is
# marked.
def published(w, first, steps, h, b1, b2, beta, eps, decay, every, sides):
    gradient = jax.jit(jax.grad(of_matrix))
    left, right = (np.array(q) for q in first)
    m, v = np.zeros_like(w), np.zeros_like(w)
    factor_left, factor_right = np.zeros_like(left), np.zeros_like(right)
    for n in range(1, steps + 1):
        g = np.array(gradient(w))
        turned = left.T @ g @ right
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * turned**2
        inside = (left.T @ m @ right) / (1 - b1**n)
        if n == 1:  # different: the first gradient moves, in its own bases
            inside = np.where(abs(inside) > 1e-12 * abs(inside).max(), inside, 0)
        step = left @ (inside / (np.sqrt(v / (1 - b2**n)) + eps)) @ right.T  # different: eps
        w = w - h * step - h * decay * w  # different: decay of the parameters before the step
        factor_left = beta * factor_left + (1 - beta) * g @ g.T
        factor_right = beta * factor_right + (1 - beta) * g.T @ g
        if n % every == 0:
            if "left" in sides:
                order = np.argsort(-np.diag(left.T @ factor_left @ left))
                left = np.linalg.qr(factor_left @ left[:, order])[0]
                v = v[order]
            if "right" in sides:
                order = np.argsort(-np.diag(right.T @ factor_right @ right))
                right = np.linalg.qr(factor_right @ right[:, order])[0]
                v = v[:, order]
    return w


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((5, 5), {}),
        ((5, 5), {"precondition_frequency": 1, "b1": 0.9, "b2": 0.99}),
        ((5, 5), {"precondition_frequency": 3, "shampoo_beta": 0.8, "weight_decay": 0.1}),
        ((6, 4), {"eps": 1e-3}),
        ((4, 7), {"precondition_frequency": 7}),
        ((4, 6), {"max_precond_dim": 4}),
        ((7, 3), {"max_precond_dim": 3, "precondition_frequency": 1}),
    ],
    ids=str,
)
def test_it_is_the_published_algorithm(shape, options, x64):
    h, w = 0.02, normal(5, *shape)
    end, _ = run(odeopt.soap(h, **options), w)
    largest = options.get("max_precond_dim", 100)
    sides = [side for side, n in zip(("left", "right"), shape, strict=True) if n <= largest]
    u, _, vt = np.linalg.svd(np.array(jax.grad(of_matrix)(w)))
    if shape == (5, 5):
        first = u, vt.T
    else:  # a basis of a null space is free: take theirs, which must be one
        _, begun = run(odeopt.soap(h, **options), w, steps=1)
        bases = metric_of(begun).bases
        found = {side: np.array(bases[side][0]) for side in sides}
        first = found.get("left", np.eye(shape[0])), found.get("right", np.eye(shape[1]))
        for side, q, own in zip(("left", "right"), first, (u, vt.T), strict=True):
            np.testing.assert_allclose(q.T @ q, np.eye(len(q)), atol=1e-12)
            if side in sides:  # singular vectors, up to their signs
                np.testing.assert_allclose(
                    abs(own.T @ q)[: min(shape)], np.eye(len(q))[: min(shape)], atol=1e-10
                )
    numbers = {
        "b1": 0.95,
        "b2": 0.95,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "precondition_frequency": 10,
    } | options
    every = numbers["precondition_frequency"]
    expected, late = (
        published(
            np.array(w),
            first,
            60,
            h,
            numbers["b1"],
            numbers["b2"],
            numbers.get("shampoo_beta", numbers["b2"]),
            numbers["eps"],
            numbers["weight_decay"],
            steps,
            sides,
        )
        for steps in (every, every + 1)
    )
    np.testing.assert_allclose(end, expected, rtol=0, atol=1e-9)
    assert np.max(abs(late - expected)) > 1e-3  # the measurement can fail


@pytest.mark.slow
def test_the_first_step_is_along_the_polar_factor(x64):
    w = normal(5, 5, 3)
    end, _ = run(odeopt.soap(0.1, eps=0.0), w, steps=1)
    u, _, vt = np.linalg.svd(np.array(jax.grad(of_matrix)(w)), full_matrices=False)
    np.testing.assert_allclose(end - w, -0.1 * u @ vt, atol=1e-12)


# In bases that stay it is Adam's flow in other coordinates.
class Frozen(flows.KroneckerFlow):
    """Bases of our own, which are not refreshed."""

    def init(self, params):
        start = super().init(params)
        rows, columns = params.shape
        bases = {"left": orthogonal(6, rows)[None], "right": orthogonal(7, columns)[None]}
        seen = jax.tree.map(lambda q: jnp.eye(q.shape[-1])[None], bases)
        return start._replace(metrics=start.metrics._replace(bases=bases, factors=seen))


def frozen(kind=Frozen, **options):
    return kind(precondition_frequency=NEVER, **options)


def turned(w):
    return orthogonal(6, w.shape[0]) @ w @ orthogonal(7, w.shape[1]).T


def turned_back(w):
    return orthogonal(6, w.shape[0]).T @ w @ orthogonal(7, w.shape[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "options", "correction"),
    [
        (solvers.Lie(), {}, None),
        (solvers.Lie(), {"nesterov": True, "weight_decay": 0.1}, None),
        (solvers.Lie(), {"eps": 0.3}, 2),
        (solvers.Lie(), {"eps": 0.3, "b1": flows.LogTime(5.0)}, None),
        (solvers.Strang(), {"weight_decay": 0.1}, None),
        (solvers.Strang(solvers.splitting.SUZUKI_YOSHIDA), {"eps": 0.3}, None),
    ],
    ids=str,
)
def test_in_bases_that_stay_it_is_adams_flow_turned(solver, options, correction, x64):
    options = {"b1": 0.9, "b2": 0.97, **options}
    x = normal(5, 4, 3)
    make = lambda flow: odeopt.ode_optimizer(flow, solver, 0.02, correction=correction)
    for steps in (1, 2, 30):
        plain = run(make(flows.AdamFlow(**options)), x, lambda x: of_matrix(turned(x)), steps)
        found = run(make(frozen(**options)), turned(x), steps=steps)
        np.testing.assert_allclose(turned_back(found[0]), plain[0], atol=1e-10)
        (w, x_end) = (odeopt.step_params(state, end) for end, state in (found, plain))
        np.testing.assert_allclose(turned_back(w), x_end, atol=1e-10)


@pytest.mark.parametrize("solver", [solvers.Lie(), solvers.Strang()], ids=["lie", "strang"])
def test_without_bases_it_is_adam(solver):
    params = {"w": normal(1, 3, 4), "row": normal(2, 1, 5), "b": jnp.ones(3)}
    loss = lambda p: sum(jnp.sum(jnp.cosh(x) + jnp.sin(3 * x)) for x in jax.tree.leaves(p))
    numbers = {"b1": 0.9, "b2": 0.97, "weight_decay": 0.1}
    adam = odeopt.ode_optimizer(flows.AdamFlow(**numbers), solver, 0.02)
    soap = odeopt.soap(0.02, **numbers, max_precond_dim=1, solver=solver)
    chex.assert_trees_all_close(run(soap, params, loss)[0], run(adam, params, loss)[0], rtol=1e-5)


# Drift.
def along_the_flow(flow, w):
    """The end of the flow without memory."""
    aux = flow.init(w)
    zero = flow.__class__(0.0, 0.0, flow.eps, precondition_frequency=NEVER)

    def field(w):
        return -zero.descent((w, aux), Objective({"value_fn": of_matrix}))

    return classical(field, w, 0.5)


def observed_order(flow, correction):
    w = normal(5, 4, 3)
    exact, errors = along_the_flow(frozen(eps=flow.eps), w), []
    for n in (200, 400):
        opt = odeopt.ode_optimizer(flow, solvers.Lie(), 0.5 / n, correction=correction)
        errors.append(float(jnp.max(jnp.abs(run(opt, w, steps=n)[0] - exact))))
    return np.log2(errors[0] / errors[1])


class WrongSign(Frozen):
    def aged(self, aux, grads, back):
        return super().aged(aux, grads, jax.tree.map(jnp.negative, back))


class WrongSecondMoment(Frozen):
    def aged(self, aux, grads, back):
        found = super().aged(aux, grads, back)
        metrics = found.metrics._replace(nu=jnp.zeros_like(found.metrics.nu))
        return found._replace(metrics=metrics)


@pytest.mark.slow
@pytest.mark.parametrize(("b1", "b2"), [(0.0, 0.0), (0.6, 0.8)])
def test_a_corrected_step_has_order_2_and_a_plain_one_1(b1, b2, x64):
    numbers = {"b1": b1, "b2": b2, "eps": 0.3}
    assert observed_order(frozen(**numbers), None) == pytest.approx(1, abs=0.1)
    assert observed_order(frozen(**numbers), 2) == pytest.approx(2, abs=0.1)
    for wrong in (WrongSign, WrongSecondMoment):
        assert observed_order(frozen(wrong, **numbers), 2) < 1.3


@pytest.mark.slow
def test_the_drift_of_a_step_is_of_order_2_in_its_size(x64):
    sizes = []
    for h in (1e-3, 5e-4):
        opt = odeopt.soap(h, eps=0.1)
        w, state = run(opt, normal(5, 4, 3), steps=12)
        sizes.append(float(odeopt.drift.step_drift(opt, state, w, value_fn=of_matrix).size))
    assert np.log2(sizes[0] / sizes[1]) == pytest.approx(2, abs=0.2)


# Laws.
@pytest.mark.slow
def test_it_commutes_with_rotations_of_both_sides(x64):
    a, b = orthogonal(8, 4), orthogonal(9, 4)
    w = normal(5, 4, 4)
    for options, same in (({}, True), ({"max_precond_dim": 1}, False)):
        opt = odeopt.soap(0.05, precondition_frequency=3, **options)
        plain = run(opt, w, steps=25)[0]
        rotated = run(opt, a @ w @ b, lambda w: of_matrix(a.T @ w @ b.T), 25)[0]
        assert bool(jnp.max(jnp.abs(rotated - a @ plain @ b)) < 1e-8) is same


@pytest.mark.slow
def test_bases_stay_orthogonal_and_approach_the_eigenvectors():
    _, state = run(odeopt.soap(0.01), normal(5, 12, 7).astype(jnp.float32), steps=300)
    metric = metric_of(state)
    for side, q in metric.bases.items():
        factor = q[0].T @ metric.factors[side][0] @ q[0]
        np.testing.assert_allclose(q[0].T @ q[0], np.eye(q.shape[-1]), atol=1e-5)
        assert jnp.linalg.norm(factor - jnp.diag(jnp.diag(factor))) < 0.1 * jnp.linalg.norm(factor)


@pytest.mark.slow
def test_a_stack_of_matrices_is_as_many_matrices(x64):
    one, two = normal(1, 4, 4), normal(2, 4, 4)
    opt = odeopt.soap(0.02, weight_dimension_numbers=MuonDimensionNumbers(2, 0))
    stack = jnp.stack([one, two], axis=1).transpose(2, 1, 0)  # outputs, batches, inputs
    both = lambda s: sum(of_matrix(s[:, i].T) for i in range(2))
    found = run(opt, stack, both)[0]
    for i, w in enumerate((one, two)):
        expected = run(odeopt.soap(0.02), w)[0]
        np.testing.assert_allclose(found[:, i].T, expected, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1), (0, 2), (3, 2)], ids=str)
@pytest.mark.parametrize("correction", [None, 2])
def test_a_gradient_of_zero_moves_nothing(shape, correction):
    w = jnp.ones(shape)
    opt = odeopt.soap(0.1, correction=correction, precondition_frequency=2)
    found, state = run(opt, w, lambda w: 0.0 * jnp.sum(w), 5)
    chex.assert_trees_all_equal(found, w)
    chex.assert_tree_all_finite(state)


def test_a_gradient_of_zero_in_float16_moves_nothing():
    """The second moments are in float32, where eps is not 0; the first ones of vectors are not."""
    params = {"w": jnp.ones((2, 2), jnp.float16), "b": jnp.ones(2, jnp.float16)}
    end, _ = run(odeopt.soap(0.1), params, lambda p: 0.0 * (jnp.sum(p["w"]) + jnp.sum(p["b"])), 3)
    chex.assert_trees_all_equal(end, params)


@pytest.mark.slow
def test_bases_are_those_of_the_first_gradient_that_is_not_zero():
    w = normal(5, 3, 3).astype(jnp.float32)
    opt = odeopt.soap(0.1)
    _, state = run(opt, w, lambda w: 0.0 * jnp.sum(w), 4)
    grads = jax.grad(of_matrix)(w)
    _, state = opt.update(grads, state, w)
    bases = metric_of(state).bases
    turned = bases["left"][0].T @ grads @ bases["right"][0]
    np.testing.assert_allclose(turned, jnp.diag(jnp.diag(turned)), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_what_no_gradient_moves_stays(scale):
    """Rounding would be divided by its own size: rows without a gradient would walk at random."""
    x = jnp.concatenate([normal(1, 40, 6), jnp.zeros((40, 2))], axis=1).astype(jnp.float32)
    loss = lambda w: scale * jnp.mean((jnp.tanh(x @ w) - jnp.sin(x[:, :5])) ** 2)
    w = normal(2, 8, 5).astype(jnp.float32)
    end = run(odeopt.soap(0.01, eps=1e-30), w, loss, 50)[0]
    moved = jnp.abs(end - w)
    assert jnp.max(moved[:6]) > 0.1
    assert jnp.max(moved[6:]) < 1e-4


@pytest.mark.slow
def test_a_gradient_of_rank_1_moves_along_itself():
    u, v = normal(1, 5), normal(2, 4)
    grads = jnp.outer(u, v).astype(jnp.float32)
    opt = odeopt.soap(0.1)
    updates, _ = opt.update(grads, opt.init(grads), grads)
    np.testing.assert_allclose(updates, -0.1 * grads / jnp.linalg.norm(grads), atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_every_dtype_trains_with_a_metric_of_at_least_single_precision(dtype):
    w = normal(5, 4, 3).astype(dtype) * (1 - 0.5j if dtype == jnp.complex64 else 1)
    w = w.astype(dtype)
    loss = lambda w: jnp.sum(jnp.abs(w - jnp.asarray(0.5, dtype)) ** 2).astype(jnp.float32)
    end, state = run(odeopt.soap(0.05, precondition_frequency=5), w, loss, 60)
    assert metric_of(state).nu.dtype == jnp.promote_types(dtype, jnp.float32)
    assert loss(end) < 0.5 * loss(w)


@pytest.mark.slow
def test_a_complex_matrix_of_real_numbers_moves_as_a_real_one(x64):
    w = normal(5, 4, 4)
    real = run(odeopt.soap(0.02), w)[0]
    loss = lambda w: of_matrix(w.real) + jnp.sum(w.imag**2)
    found = run(odeopt.soap(0.02), w.astype(complex), loss)[0]
    np.testing.assert_allclose(found, real, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("at", [0, 10, 11])  # the first step, a refresh, another step
def test_a_guarded_step_that_is_not_finite_leaves_no_trace(bad, at):
    opt = odeopt.guard(odeopt.soap(0.02))
    w, state = run(opt, normal(5, 4, 3).astype(jnp.float32), steps=at)
    updates, after = opt.update(jax.grad(of_matrix)(w).at[1, 2].set(bad), state, w)
    assert not jnp.any(updates)
    chex.assert_trees_all_equal(after.aux, state.aux)


def test_a_tree_without_matrices_is_adams():
    params = {"b": jnp.ones(3), "s": jnp.float32(2.0)}
    loss = lambda p: jnp.sum(jnp.cosh(p["b"])) + p["s"] ** 4
    expected = run(odeopt.adam(0.02, 0.95, 0.95), params, loss)[0]
    chex.assert_trees_all_close(run(odeopt.soap(0.02), params, loss)[0], expected, rtol=1e-6)


def test_what_it_cannot_do_is_refused():
    w = jnp.ones((2, 2))
    for make, message in (
        (lambda: odeopt.soap(0.1, nesterov=True, correction=2), "nesterov"),
        (lambda: odeopt.soap(0.1, b1=1.0), "b1"),
        (lambda: odeopt.soap(0.1, shampoo_beta=1.0), "shampoo_beta"),
        (lambda: odeopt.soap(0.1, precondition_frequency=0), "a whole number of steps"),
        (
            lambda: odeopt.ode_optimizer(flows.KroneckerFlow(), solvers.Lie(), 0.1).init(
                jnp.ones(3)
            ),
            "odeopt.soap",
        ),
        (lambda: run(odeopt.soap(0.1, solver=solvers.RK4()), w, jnp.sum, 1), "solvers.Lie"),
        (lambda: odeopt.soap(0.1, nesterov=True, solver=solvers.Strang()), "Strang needs"),
        (lambda: odeopt.soap(0.1, solver=solvers.Strang(), correction=2), "Strang"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_flows_of_equal_settings_are_equal():
    assert odeopt.soap(0.1) == odeopt.soap(0.1)
    assert odeopt.soap(0.1) != odeopt.soap(0.1, precondition_frequency=5)


def test_the_identity_is_added_to_a_stack_without_promotion():
    with jax.numpy_rank_promotion("raise"):
        state = odeopt.soap(0.1).init(jnp.ones((3, 2)))
    assert odeopt.summary(state)["steps"] == 0
