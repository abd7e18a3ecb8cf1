"""Flows of matrices, and one flow for each group of leaves."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optax.contrib import MuonDimensionNumbers

import odeopt
from odeopt import flows, solvers
from odeopt.flows.matrix import polar

from .reference import classical

KEY = jax.random.key(0)
CONV = MuonDimensionNumbers((0, 1), 2)
PARAMS = {
    "w": jax.random.normal(KEY, (8, 5)),
    "tall": jax.random.normal(KEY, (9, 4)),
    "kernel": jax.random.normal(KEY, (2, 3, 4)),
    "b": jnp.ones(5),
}
DATA = jax.random.normal(jax.random.key(1), (500, 16, 8))


def loss(params, x):
    """Of a batch. No gradient vanishes, near which the polar factor would amplify rounding."""
    out = jnp.tanh(x @ params["w"]) + params["b"]
    moving = jnp.sum(params["tall"] * x[:9, :4]) + jnp.sum(
        params["kernel"] * x[:6, :4].reshape(2, 3, 4)
    )
    return jnp.mean((out - jnp.sin(3 * x[:, :5])) ** 2) + moving


def train(opt, steps=500):
    opt = optax.with_extra_args_support(opt)

    @jax.jit
    def run(params, state):
        def step(carry, x):
            params, state = carry
            updates, state = opt.update(jax.grad(loss)(params, x), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, state), DATA[:steps])[0][0]

    params = jax.tree.map(lambda x: x.astype(float), PARAMS)
    return run(params, opt.init(params))


DECAYING = optax.linear_schedule(0.02, 0.005, 500)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"nesterov": False},
        {
            "weight_decay": 0.1,
            "weight_decay_mask": lambda p: jax.tree.map(lambda x: x.size > 36, p),
        },
        {"adaptive": True, "learning_rate": 0.002},
        {"preconditioning": "aol", "ns_steps": 4},
        {"preconditioning": "spectral"},
        {"consistent_rms": 0.2},
        {"ns_coeffs": "dion"},
        {"ns_coeffs": [3.4445, -4.775, 2.0315]},
        {"ns_coeffs": np.array([[3.0, -3.2, 1.2], [2.8, -3.0, 1.2]]), "ns_steps": 2},
        {"learning_rate": DECAYING, "adam_learning_rate": 0.003},
        {"adam_learning_rate": DECAYING, "adam_b1": 0.8, "adam_weight_decay": 0.1},
        {
            "muon_weight_dimension_numbers": {
                "w": None,
                "tall": CONV._replace(reduction_axis=1, output_axis=0),
                "kernel": CONV,
                "b": None,
            }
        },
        {
            "muon_weight_dimension_numbers": lambda params: jax.tree.map(
                lambda x: CONV if x.ndim == 3 else None, params
            )
        },
    ],
    ids=lambda options: "-".join(options) or "defaults",
)
def test_muon_is_that_of_optax(options, x64):
    arguments = {"learning_rate": 0.02} | options
    expected, found = train(optax.contrib.muon(**arguments)), train(odeopt.muon(**arguments))
    chex.assert_trees_all_close(found, expected, rtol=1e-8)


# Orders: on one matrix whose gradient keeps all of its singular values away from 0.
LEFT = jax.random.normal(jax.random.key(3), (6, 4))
RIGHT = jax.random.normal(jax.random.key(4), (3, 5))
GOAL = 3 * jax.random.normal(KEY, (4, 3))
START = jax.random.normal(jax.random.key(5), (4, 3))


def of_matrix(w):
    return 0.1 * jnp.sum(jnp.cosh(0.3 * LEFT @ w @ RIGHT)) + jnp.sum((w - GOAL) ** 2)


def follow(opt, steps):
    def step(carry, _):
        w, state = carry
        updates, state = opt.update(jax.grad(of_matrix)(w), state, w, value_fn=of_matrix)
        return (w + updates, state), None

    start = START.astype(float)
    return jax.jit(lambda: jax.lax.scan(step, (start, opt.init(start)), length=steps))()[0][0]


def orders(build, exact):
    errors = [float(jnp.max(jnp.abs(follow(build(0.5 / n), n) - exact))) for n in (100, 200, 400)]
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def along_the_flow(ns_steps=None):
    """The end of the flow without memory."""
    flow = flows.SpectralFlow(ns_steps=ns_steps)
    field = lambda w: -flow.descent((w, None), odeopt.objective.Objective({"value_fn": of_matrix}))
    return classical(field, START.astype(float), 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.6])
def test_a_corrected_step_has_order_2_and_a_plain_one_1(beta, x64):
    exact = along_the_flow()
    build = lambda h, **options: odeopt.muon(h, beta=beta, nesterov=False, ns_steps=None, **options)
    assert orders(build, exact)[-1] == pytest.approx(1, abs=0.1)
    assert orders(lambda h: build(h, correction=2), exact)[-1] == pytest.approx(2, abs=0.1)


@pytest.mark.slow
def test_newton_schulz_steps_are_a_flow_of_their_own_whose_drift_is_cancelled_too(x64):
    exact = along_the_flow(ns_steps=5)
    build = lambda h: odeopt.muon(h, beta=0.0, nesterov=False, correction=2)
    assert orders(build, exact)[-1] == pytest.approx(2, abs=0.15)
    # and it is not the flow along the polar factor
    assert jnp.max(jnp.abs(exact - along_the_flow())) > 0.02


class WrongAge(flows.SpectralFlow):
    def aged(self, aux, grads, back):
        return super().aged(aux, grads, jax.tree.map(lambda d: 0.5 * d, back))


@pytest.mark.slow
def test_a_counter_term_with_the_wrong_age_of_the_moment_fails(x64):
    flow = WrongAge(0.6, None, nesterov=False)
    build = lambda h: odeopt.ode_optimizer(flow, solvers.Lie(), h, correction=2)
    assert orders(build, along_the_flow())[-1] < 1.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "order"), [(solvers.Euler(), 1), (solvers.RK4(), 3)], ids=["euler", "rk4"]
)
def test_runge_kutta_methods_keep_their_order(solver, order, x64):
    # As on Adam's flow, 3 at most from the default start, where the bias correction is 0/0.
    def build(h, solver=solver):  # a moment of one time constant, whatever the step size
        beta = flows.decay_of(h, 0.2)
        return odeopt.muon(h, beta=beta, nesterov=False, ns_steps=None, solver=solver)

    exact = follow(build(0.5 / 2000, solvers.RK4()), 2000)
    assert orders(build, exact)[-1] == pytest.approx(order, abs=0.15)


# The polar factor.
MATRICES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 99), st.booleans())


def draw(rows, columns, seed, is_complex):
    keys = jax.random.split(jax.random.key(seed), 4)
    a, b, c, d = (jax.random.normal(key, (rows, columns)) for key in keys)
    return (a + 1j * b, c + 1j * d) if is_complex else (a, c)


@pytest.mark.slow
@settings(max_examples=20)
@given(MATRICES)
@jax.enable_x64(True)
def test_the_polar_factor_and_its_derivative(drawn):
    matrix, tangent = draw(*drawn)
    factor, change = jax.jvp(lambda m: polar(m, 0.0), (matrix,), (tangent,))
    inner = factor.conj().T @ matrix  # hermitian and positive: what defines the polar factor
    np.testing.assert_allclose(inner, inner.conj().T, atol=1e-12)
    small = factor if factor.shape[0] <= factor.shape[1] else factor.T
    np.testing.assert_allclose(small @ small.conj().T, np.eye(len(small)), atol=1e-12)
    least = jnp.min(jnp.linalg.svd(matrix)[1])
    h = 1e-5 * least
    difference = (polar(matrix + h * tangent, 0.0) - polar(matrix - h * tangent, 0.0)) / (2 * h)
    np.testing.assert_allclose(change, difference, atol=1e-6 * float(1 + 1 / least))


@pytest.mark.slow
def test_singular_matrices_have_a_bounded_derivative():
    for matrix in (jnp.zeros((3, 2)), jnp.ones((3, 2)), jnp.diag(jnp.array([1.0, 1e-30]))):
        factor, change = jax.jvp(
            lambda m: polar(m, 1e-3),
            (matrix,),
            (jnp.ones_like(matrix) - 0.3 * jnp.eye(*matrix.shape),),
        )
        assert jnp.all(jnp.isfinite(factor))
        assert jnp.linalg.norm(change) <= 1e4
    assert not jnp.any(polar(jnp.zeros((3, 2)), 1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("ns_steps", [5, None])
def test_a_rotation_of_both_sides_rotates_the_run(ns_steps, x64):
    left = jnp.linalg.qr(jax.random.normal(jax.random.key(7), (4, 4)))[0]
    right = jnp.linalg.qr(jax.random.normal(jax.random.key(8), (3, 3)))[0]
    opt = odeopt.muon(0.05, ns_steps=ns_steps, nesterov=False)

    def run(turn, back):
        w, state = turn(START.astype(float)), opt.init(START.astype(float))
        for _ in range(5):
            updates, state = opt.update(turn(jax.grad(of_matrix)(back(w))), state, w)
            w = w + updates
        return w

    same = lambda w: w
    turned = run(lambda w: left @ w @ right.T, lambda w: left.T @ w @ right)
    np.testing.assert_allclose(turned, left @ run(same, same) @ right.T, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (1, 1)])
def test_the_step_of_a_matrix_of_one_row_or_column_is_along_its_gradient(shape):
    g = jnp.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    opt = odeopt.muon(0.1, ns_steps=None)
    updates, _ = opt.update(g, opt.init(g), g)
    scale = max(1, shape[1] / shape[0]) ** 0.5
    np.testing.assert_allclose(updates, -0.1 * scale * g / jnp.linalg.norm(g), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ns_steps", [5, None])
@pytest.mark.parametrize("correction", [None, 2])
def test_a_gradient_of_zero_moves_nothing(ns_steps, correction):
    w = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    opt = odeopt.muon(0.1, ns_steps=ns_steps, nesterov=False, correction=correction)
    zero = lambda w: 0.0 * (jnp.sum(w["w"]) + jnp.sum(w["b"]))
    updates, state = opt.update(jax.grad(zero)(w), opt.init(w), w, value_fn=zero)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, w))
    assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
@pytest.mark.parametrize("dtype", [np.float64, np.complex128])
def test_what_is_noise_is_damped(shape, dtype, x64):
    """By the inverse root of the squares of mean and noise, over the shorter side."""
    first, second = jax.random.normal(KEY, (2, *shape), dtype=dtype)
    flow, x = flows.SpectralFlow(0.8, None, noise=0.7), jnp.zeros(shape, dtype)

    def damped(mean, noise):
        tall = shape[0] >= shape[1]
        mean, noise = (m if tall else m.conj().T for m in (mean, noise))
        values, vectors = np.linalg.eigh(mean.conj().T @ mean + 0.49 * noise.conj().T @ noise)
        found = mean @ (vectors / np.sqrt(values)) @ vectors.conj().T
        return max(1, shape[1] / shape[0]) ** 0.5 * (found if tall else found.conj().T)

    opt = odeopt.ode_optimizer(flow, solvers.Lie(), 0.1)
    _, state = opt.update(first, opt.init(x), x)
    found, _ = opt.update(second, state, x)
    seen = (0.8 * first + second) * 0.2
    mean = 0.8 * seen / (1 - 0.8**3) + 0.2 * second / (1 - 0.8**2)
    np.testing.assert_allclose(found, -0.1 * damped(mean, second - seen / (1 - 0.8**2)))

    field = odeopt.ode_optimizer(flow, solvers.Euler(), 0.1)
    found, _ = field.update(second, state, x)
    mean = 0.2 * first / (1 - 0.8)
    np.testing.assert_allclose(found, -0.1 * damped(mean, second - mean))


@pytest.mark.parametrize("ns_steps", [5, None])
def test_without_noise_nothing_is_damped(ns_steps):
    """The first gradient, and one that stays."""
    x, g = jnp.zeros((6, 4)), jax.random.normal(KEY, (6, 4))
    ends = []
    for noise in (0.0, 1.0):
        flow = flows.SpectralFlow(0.8, ns_steps, noise=noise)
        opt = odeopt.ode_optimizer(flow, solvers.Lie(), 0.1)
        state = opt.init(x)
        for _ in range(3):
            updates, state = opt.update(g, state, x)
        ends.append(updates)
    np.testing.assert_allclose(*ends, rtol=1e-5)


def test_what_it_cannot_do_is_refused():
    for make, message in (
        (lambda: odeopt.muon(0.1, correction=2), "nesterov=False"),
        (lambda: odeopt.muon(0.1, beta=1.0), "beta"),
        (lambda: flows.SpectralFlow(noise=1.0, nesterov=False), "nesterov=True"),
        (
            lambda: odeopt.ode_optimizer(flows.SpectralFlow(), solvers.Lie(), 0.1).init(
                jnp.ones(3)
            ),
            "odeopt.muon",
        ),
        (
            lambda: odeopt.muon(0.1, muon_weight_dimension_numbers=MuonDimensionNumbers(0, 0)).init(
                jnp.ones((2, 2))
            ),
            "not to both",
        ),
        (
            lambda: odeopt.muon(0.1, beta=0.0, nesterov=False, solver=solvers.RK4()).update(
                jnp.ones((2, 2)),
                odeopt.muon(0.1, beta=0.0, nesterov=False).init(jnp.ones((2, 2))),
                jnp.ones((2, 2)),
                value_fn=jnp.sum,
            ),
            "solvers.Lie",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            make()


# Groups.
def by_name(params):
    return {name: "a" if name in ("w", "b") else "b" for name in params}


def steps_of(flow, solver, h=0.05, steps=10):
    opt = odeopt.ode_optimizer(flow, solver, h)
    params, state = PARAMS, opt.init(PARAMS)
    for x in DATA[:steps]:
        grads = jax.grad(loss)(params, x)
        updates, state = opt.update(grads, state, params, value_fn=loss, x=x)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flow", "solver"),
    [
        (flows.AdamFlow(), solvers.Lie()),
        (flows.AdamFlow(), solvers.RK4()),
        (flows.AdamFlow(), solvers.Strang()),
        (flows.HeavyBallFlow(0.9), solvers.Lie()),
    ],
    ids=["adam", "adam-rk4", "adam-strang", "ball"],
)
def test_groups_that_follow_one_flow_are_that_flow(flow, solver):
    found, _ = steps_of(flows.GroupedFlow({"a": flow, "b": flow}, by_name), solver)
    expected, _ = steps_of(flow, solver)
    chex.assert_trees_all_close(found, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_all_groups_are_at_the_same_stage_for_one_gradient():
    slow, fast = flows.AdamFlow(0.9, 0.99), flows.AdamFlow(0.5, 0.9)
    grouped = flows.GroupedFlow({"a": slow, "b": fast}, by_name)
    _, state = steps_of(grouped, solvers.RK4())
    assert state.gradients == 4 * 10
    assert odeopt.ode_optimizer(grouped, solvers.RK4(), 0.1).gradients_per_step == 4


@pytest.mark.slow
def test_a_group_with_a_pace_of_its_own_is_an_optimizer_of_that_rate():
    flow = flows.AdamFlow()
    grouped = flows.GroupedFlow({"a": flow, "b": flow}, by_name, {"b": 0.002})
    found, _ = steps_of(grouped, solvers.Lie())
    partition = optax.partition({"a": odeopt.adam(0.05), "b": odeopt.adam(0.002)}, by_name)
    params, state = PARAMS, partition.init(PARAMS)
    for x in DATA[:10]:
        updates, state = partition.update(jax.grad(loss)(params, x), state, params)
        params = optax.apply_updates(params, updates)
    chex.assert_trees_all_close(found, params, rtol=2e-5, atol=1e-6)


def test_groups_that_do_not_fit_are_refused():
    adam = flows.AdamFlow()
    with pytest.raises(ValueError, match="same parts"):
        flows.GroupedFlow({"a": adam, "b": flows.HeavyBallFlow(0.9)}, by_name)
    with pytest.raises(ValueError, match="label 'b'"):
        flows.GroupedFlow({"a": adam}, by_name).init(PARAMS)
    with pytest.raises(ValueError, match=r"paces has \['c'\]"):
        flows.GroupedFlow({"a": adam, "b": adam}, by_name, {"c": 0.1})


def test_flows_of_equal_settings_are_equal():
    assert odeopt.muon(0.1) == odeopt.muon(0.1)
    assert odeopt.muon(0.1) != odeopt.muon(0.1, beta=0.9)
