"""Implicit and exponential methods: orders, as diffrax classes too, stability and descent."""

import functools

import chex
import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import optax
import optimistix
import pytest

import odeopt
from odeopt import solvers
from odeopt.solvers import Exponential, Implicit

from ..test_orders import TIME, observed, optimizer_end, term
from .cases import FIELDS, loss, start
from .test_rosenbrock import ENTROPY, MSE, PARABOLA, call, network, once

to_the_end = {"products": 40, "tolerance": 1e-12}
IMPLICIT = {
    "implicit_euler": functools.partial(odeopt.implicit_euler, iterations=20),
    "implicit_midpoint": functools.partial(odeopt.implicit_midpoint, iterations=20),
    "trapezoidal": functools.partial(odeopt.trapezoidal, iterations=20),
}
MAKERS = IMPLICIT | {"exponential_euler": odeopt.exponential_euler}
ORDERS = {
    "implicit_euler": 1,
    "implicit_midpoint": 2,
    "trapezoidal": 2,
    "exponential_euler": 2,
    "linearly_implicit_euler": 1,
    "rosenbrock2": 2,
}
NEWTON = optimistix.Newton(
    rtol=1e-12, atol=1e-12, linear_solver=lineax.GMRES(rtol=1e-12, atol=1e-13)
)
SHARP = lineax.GMRES(rtol=1e-12, atol=1e-14)
CLASSES = {
    "implicit_euler": solvers.ImplicitEuler(NEWTON),
    "implicit_midpoint": solvers.ImplicitMidpoint(NEWTON),
    "trapezoidal": solvers.Trapezoidal(NEWTON),
    "exponential_euler": solvers.ExponentialEuler(),
    "linearly_implicit_euler": solvers.LinearlyImplicitEuler(SHARP),
    "rosenbrock2": solvers.Rosenbrock2(SHARP),
}
FACTORS = {
    "implicit_euler": lambda z: 1 / (1 + z),
    "implicit_midpoint": lambda z: (1 - z / 2) / (1 + z / 2),
    "trapezoidal": lambda z: (1 - z / 2) / (1 + z / 2),
    "exponential_euler": lambda z: np.exp(-z),
    "linearly_implicit_euler": lambda z: 1 / (1 + z),
    "rosenbrock2": lambda z: (1 + (1 - np.sqrt(2)) * z) / (1 + (1 - 1 / np.sqrt(2)) * z) ** 2,
}
methods = pytest.mark.parametrize("name", MAKERS)
classes = pytest.mark.parametrize("name", CLASSES)


# orders


@methods
def test_order_of_the_optimizer(name, x64):
    make = lambda h: MAKERS[name](h, "hessian", **to_the_end)
    end = optimizer_end(make, "gradient")
    assert abs(observed(end, "gradient", ORDERS[name]) - ORDERS[name]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "order"), [("implicit_midpoint", 2), ("exponential_euler", 1)])
def test_order_with_a_matrix_that_is_not_the_jacobian(name, order, x64):
    """Newton's method gets there all the same; the exponential of a wrong matrix does not."""
    target = jnp.array([0.5, -1.0, 2.0])
    curved = odeopt.composite(
        lambda out: jnp.sum((out - target) ** 2),
        lambda x: jnp.stack([jnp.sinh(x[0]), x[1] + x[0] ** 2, x[2] * x[1]]),
        samples=(),
    )

    @jax.jit
    def end(n):
        opt = MAKERS[name](0.5 / n, "ggn", **to_the_end)

        def step(_, carry):
            x, state = carry
            updates, state = opt.update(jax.grad(curved)(x), state, x, value_fn=curved)
            return x + updates, state

        return jax.lax.fori_loop(0, n, step, (start(), opt.init(start())))[0]

    controller = diffrax.PIDController(rtol=1e-12, atol=1e-13)
    exact = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, args: -jax.grad(curved)(x)),
        diffrax.Dopri8(), 0.0, 0.5, 0.01, start(), stepsize_controller=controller,
    ).ys[0]  # fmt: skip
    coarse, fine = (np.linalg.norm(end(n) - exact) for n in (256, 512))
    assert abs(np.log2(coarse / fine) - order) < 0.1


@pytest.mark.parametrize("field", FIELDS)
@classes
def test_order_through_diffeqsolve(name, field, x64):
    assert CLASSES[name].order(term(field)) == ORDERS[name]

    @jax.jit
    def end(n):
        return diffrax.diffeqsolve(term(field), CLASSES[name], 0.0, TIME, TIME / n, start()).ys[0]

    found = observed(lambda n: np.asarray(end(n)), field, ORDERS[name])
    assert abs(found - ORDERS[name]) < 0.1


@pytest.mark.slow
@classes
def test_time_in_the_field_costs_no_order(name, x64):
    field = diffrax.ODETerm(lambda t, x, args: -x + jnp.sin(3 * t) * x)
    exact = jnp.exp(-1 + (1 - jnp.cos(3.0)) / 3)

    @jax.jit
    def error(n):
        end = diffrax.diffeqsolve(field, CLASSES[name], 0.0, 1.0, 1 / n, jnp.array([1.0])).ys[0]
        return jnp.abs(end[0] - exact)

    assert abs(np.log2(error(128) / error(256)) - ORDERS[name]) < 0.1


# stability


@methods
@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_stability_function(name, curvature, x64):
    products = jnp.geomspace(1e-3, 1e3, 7)
    kwargs = {"products": 200, "tolerance": 1e-14}

    @jax.jit
    def factor(h):
        opt = MAKERS[name](h, curvature, **kwargs)
        state, rates = opt.init(products), products / h
        return 1 + opt.update(rates, state, 0 * rates + 1, value_fn=PARABOLA, rates=rates)[0]

    for h in [1e-2, 1.0, 1e6]:
        np.testing.assert_allclose(factor(jnp.asarray(h)), FACTORS[name](products), atol=1e-10)


@classes
def test_stability_function_through_diffeqsolve(name, x64):
    """One step, all modes at once; NEWTON ends at 1e-12 and is asked for no more."""
    rates = jnp.geomspace(1e-2, 1e2, 5)
    field = diffrax.ODETerm(lambda t, y, args: -rates * y)
    y1 = CLASSES[name].step(field, 0.0, 1.0, jnp.ones(5), None, None, False)[0]
    np.testing.assert_allclose(y1, FACTORS[name](np.asarray(rates)), atol=1e-10)
    assert CLASSES[name].stability_limit == np.inf


@pytest.mark.slow
def test_which_methods_let_stiff_modes_die(x64):
    """L-stability of implicit Euler; of the two of order 2 the factor goes to -1."""
    rates, ones = jnp.array([1e6, 1e9, 1e12]), jnp.ones(3)
    for name, limit in [
        ("implicit_euler", 0.0),
        ("implicit_midpoint", -1.0),
        ("trapezoidal", -1.0),
    ]:
        opt = MAKERS[name](1.0, "ggn", "exact", tolerance=1e-14)
        updates, _ = jax.jit(
            lambda g, x, opt=opt: opt.update(g, opt.init(x), x, value_fn=PARABOLA, rates=rates)
        )(rates, ones)
        assert jnp.all(jnp.abs(1 + updates - limit) < 5 / rates + 1e-12)


# the implicit step


@pytest.mark.slow
@pytest.mark.parametrize("value_fn", [MSE, ENTROPY], ids=["squares", "entropy"])
@pytest.mark.parametrize("solve", ["exact", "cg"])
def test_the_proximal_inequality_at_any_step_size(value_fn, solve):
    """However badly the minimization is carried out: one Newton step of three products."""
    params, data = network(hidden=8, samples=30, dtype=jnp.float32)
    value = functools.partial(call, value_fn, data=data)

    @jax.jit
    @jax.vmap
    def train(h):
        products = 3 if solve == "cg" else None
        opt = odeopt.implicit_euler(h, "ggn", solve, iterations=1, products=products)

        def step(carry, _):
            params, state = carry
            before, grads = jax.value_and_grad(value)(params)
            updates, state = opt.update(grads, state, params, value_fn=value_fn, **data)
            params = optax.apply_updates(params, updates)
            moved = optax.tree.norm(updates, squared=True) / (2 * h)
            return (params, state), (before, value(params) + moved)

        return jax.lax.scan(step, (params, opt.init(params)), length=20)[1]

    before, after = train(10.0 ** jnp.arange(-3.0, 7.0))
    assert jnp.all(after <= before * (1 + 1e-6))  # roundings of a sum of two
    assert jnp.all(before[:, -1] < before[:, 0])


@pytest.mark.slow
def test_a_long_step_minimizes(x64):
    """The proximal point, not a stationary point of somewhere else: from beside a maximum."""
    value = lambda x: jnp.sum(jnp.cos(x) + 0.05 * x**2)
    x = jnp.array([0.1, -0.2, 0.3])
    opt = odeopt.implicit_euler(1e8, "hessian", iterations=50, tolerance=1e-10)
    updates, state = once(opt, value, x, {}, jax.grad(value)(x))
    slopes, curvatures = jax.grad(value)(x + updates), jnp.diag(jax.hessian(value)(x + updates))
    np.testing.assert_allclose(slopes, 0.0, atol=1e-7)
    assert jnp.all(curvatures > 0)
    assert float(state.memory.residual) < 1e-10


@pytest.mark.parametrize("name", IMPLICIT)
def test_a_converged_step_solves_its_equation(name, x64):
    x, h = start(), 0.3
    grad = jax.grad(loss)
    opt = IMPLICIT[name](h, "hessian", products=20, tolerance=1e-13)
    updates, _ = once(opt, loss, x, {}, grad(x))
    new = x + updates
    expected = {
        "implicit_euler": -h * grad(new),
        "implicit_midpoint": -h * grad((x + new) / 2),
        "trapezoidal": -h / 2 * (grad(x) + grad(new)),
    }[name]
    np.testing.assert_allclose(updates, expected, rtol=1e-11)


def test_what_a_step_took_is_counted_and_told(x64):
    value = lambda x: jnp.sum(jnp.cosh(x))
    x, calls = jnp.array([0.5, 2.0]), []

    def counted(x):
        jax.debug.callback(lambda: calls.append(None))
        return value(x)

    opt = odeopt.implicit_euler(0.5, "hessian", iterations=3, products=2, tolerance=0.0)
    _, state = once(opt, counted, x, {}, jax.grad(value)(x))
    memory = state.memory
    assert int(memory.iterations) == 3
    used = 2 + int(memory.evaluations) + 2 * int(memory.solve.products)
    assert int(state.gradients) == used
    jax.effects_barrier()
    # the loss itself: at the start, at every trial, and linearized once in each Newton step
    assert len(calls) == 1 + int(memory.evaluations) + int(memory.iterations)


def test_a_line_search_costs_its_trials(x64):
    """Far out a Newton step of this loss is ever too long, and the parabola finds the length."""
    value = lambda x: jnp.sum(jnp.sqrt(1 + x**2))
    x = jnp.array([30.0])
    opt = odeopt.implicit_euler(1e8, "hessian", iterations=1)
    updates, state = once(opt, value, x, {}, jax.grad(value)(x))
    assert value(x + updates) < value(x)
    assert 1 < int(state.memory.evaluations) < 10


# the exponential step


def quadratic(n=30):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))[0]
    rates = np.geomspace(1e-3, 1e3, n)
    matrix = jnp.asarray(rotation.T @ (rates[:, None] * rotation))
    return (lambda x: 0.5 * x @ matrix @ x), rotation, rates


@pytest.mark.slow
@pytest.mark.parametrize("basis", [None, 10])
def test_exponential_is_exact_on_quadratics_at_any_step_size(basis, x64):
    value, rotation, rates = quadratic(10)
    x = jnp.ones(10)

    @jax.jit
    def end(h):
        opt = odeopt.exponential_euler(h, "hessian", products=40, basis=basis, tolerance=1e-9)
        return x + opt.update(jax.grad(value)(x), opt.init(x), x, value_fn=value)[0]

    for h in [1e-4, 1e-2, 1.0, 1e2, 1e4, 1e8]:
        exact = rotation.T @ (np.exp(-h * rates) * (rotation @ np.ones(10)))
        np.testing.assert_allclose(end(jnp.asarray(h)), exact, atol=1e-8)


@pytest.mark.slow
def test_restarts_follow_the_flow_with_little_memory(x64):
    """Four spaces of 10 vectors, one after the other, get farther than one does."""
    value, rotation, rates = quadratic()
    x, h = jnp.ones(30), 0.1

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def error(products, basis):
        opt = odeopt.exponential_euler(h, "hessian", products=products, basis=basis, tolerance=1e-6)
        updates, state = opt.update(jax.grad(value)(x), opt.init(x), x, value_fn=value)
        exact = rotation.T @ (jnp.exp(-h * rates) * (rotation @ jnp.ones(30)))
        return jnp.linalg.norm(x + updates - exact), state.memory

    one, four = error(10, None)[0], error(40, 10)[0]
    assert four < 0.2 * one
    for products in (6, 8, 10):  # what it says of its own error holds
        end, memory = error(products, None)
        length = float(jnp.linalg.norm(x))
        assert 1e-9 < end < float(memory.residual) * length
        assert int(memory.products) == products


@pytest.mark.slow
@pytest.mark.parametrize("basis", [None, 5])
def test_the_quadratic_form_is_that_of_the_step(basis, x64):
    """`gain_ratio` takes its model from it, without a product of its own."""
    value, *_ = quadratic()
    x = jnp.ones(30)
    opt = odeopt.exponential_euler(0.5, "hessian", products=20, basis=basis)
    updates, state = once(opt, value, x, {}, jax.grad(value)(x))
    form = updates @ jax.grad(value)(updates)
    np.testing.assert_allclose(state.memory.quadratic_form, form, rtol=1e-9)
    assert int(state.gradients) == 1 + 2 * 20


@pytest.mark.slow
def test_a_stationary_point_stays(x64):
    for name in MAKERS:
        x = jnp.zeros(3)
        updates, state = once(MAKERS[name](1.0, "hessian"), lambda x: jnp.sum(x**2), x, {}, x)
        chex.assert_trees_all_equal(updates, x)
        assert int(state.rejected) == 0


# control


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exponential_euler", "implicit_euler"])
@pytest.mark.parametrize("value_fn", [MSE, ENTROPY], ids=["squares", "entropy"])
def test_no_first_step_over_six_decades_makes_it_diverge(name, value_fn):
    params, data = network(hidden=8, samples=30, dtype=jnp.float32)
    make = {"exponential_euler": odeopt.exponential_euler, "implicit_euler": odeopt.implicit_euler}

    @jax.jit
    @jax.vmap
    def train(first):
        opt = make[name](type(odeopt.stepsize.gain_ratio())(first, 1e-6, 1e12), products=10)

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(lambda p: call(value_fn, p, data))(params)
            updates, state = opt.update(
                grads, state, params, value=value, value_fn=value_fn, **data
            )
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, opt.init(params)), length=40)

    _, values = train(10.0 ** jnp.arange(-3.0, 4.0))
    assert jnp.all(values[:, 1:] <= values[:, :-1])
    assert jnp.all(values[:, -1] < 0.5 * values[:, 0])


@pytest.mark.slow
def test_a_trial_point_that_is_not_finite_is_no_state():
    edge = lambda x: jnp.sum(x - jnp.log(x))  # nan beyond 0
    for name in MAKERS:
        x = jnp.array([3.0, 0.5])
        opt = MAKERS[name](odeopt.stepsize.gain_ratio(first=1e3), "hessian")
        state = opt.init(x)
        step = jax.jit(lambda p, s, opt=opt: opt.update(jax.grad(edge)(p), s, p, value_fn=edge))
        for _ in range(40):
            updates, state = step(x, state)
            x = x + updates
            assert jnp.all(x > 0)
        np.testing.assert_allclose(x, 1.0, atol=5e-2)


@pytest.mark.slow
def test_out_of_a_saddle():
    value = lambda x: 0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(jnp.array([1.0, -2.0]) * x**2)
    for name in ("implicit_euler", "exponential_euler"):
        x = jnp.array([1e-2, 1.0])
        opt = MAKERS[name](None, "hessian")
        state = opt.init(x)
        step = jax.jit(lambda p, s, opt=opt: opt.update(jax.grad(value)(p), s, p, value_fn=value))
        for _ in range(40):
            updates, state = step(x, state)
            x = x + updates
        np.testing.assert_allclose(jnp.abs(x), jnp.array([1.0, 0.0]), atol=1e-2)


# the contract


def test_the_classes_name_their_methods():
    flow = odeopt.flows.GradientFlow()
    for name, solver in CLASSES.items():
        method = solvers.as_method(type(solver)())
        assert method is type(solver).method
        assert solver.stability_limit == solvers.stability_limit(flow, method)
        assert method.order == ORDERS[name]


@pytest.mark.untyped
def test_bad_input():
    for wrong, message in [
        ({"kind": "radau"}, "euler, midpoint, trapezoidal"),
        ({"iterations": 0}, "iterations is 0"),
        ({"tolerance": -1.0}, "tolerance is -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            Implicit(**wrong)
    for wrong, message in [
        ({"curvature": "gn"}, '"ggn" or "hessian"'),
        ({"products": 0}, "products is 0"),
        ({"basis": 3}, "must divide products, 10"),
        ({"tolerance": -1.0}, "tolerance is -1"),
        ({"fraction": 0.0}, "fraction is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Exponential(**wrong)
    with pytest.raises(ValueError, match="order is 3"):
        solvers.Rosenbrock(3)
    heavy = odeopt.flows.HeavyBallFlow(0.9)
    for method in (Implicit(), Exponential()):
        with pytest.raises(ValueError, match="not that of HeavyBallFlow"):
            odeopt.ode_optimizer(heavy, method, 0.1)
    for make in MAKERS.values():
        opt, x = make(0.1, "ggn"), jnp.ones(2)
        with pytest.raises(ValueError, match=r"(?s)odeopt\.composite\(.*opt\.update\("):
            opt.update(x, opt.init(x), x, value_fn=lambda x: jnp.sum(x**2))


@pytest.mark.slow
def test_memory_of_a_step_is_what_the_docstrings_say():
    n = 100_000
    value_fn = odeopt.composite(lambda out: jnp.sum(jnp.cosh(out)), lambda x: 1.1 * x, samples=())
    x = jnp.ones(n, jnp.float32)
    for opt, copies in [
        (odeopt.linearly_implicit_euler(), 9),
        (odeopt.implicit_euler(0.1), 12),
        (odeopt.exponential_euler(0.1), 26),
        (odeopt.exponential_euler(0.1, basis=2), 10),
    ]:
        step = jax.jit(
            lambda g, s, p, opt=opt: opt.update(g, s, p, value_fn=value_fn), donate_argnums=(0, 1)
        )
        memory = step.lower(x, opt.init(x), x).compile().memory_analysis()
        assert memory.temp_size_in_bytes <= (copies + 0.1) * 4 * n


@pytest.mark.parametrize("name", ["implicit_euler", "linearly_implicit_euler"])
def test_the_exact_solve_keeps_the_dtypes_of_16_bit_parameters(name):
    inputs = jnp.linspace(-1, 1, 12).reshape(4, 3).astype(jnp.bfloat16)
    value_fn = odeopt.composite(
        lambda out: jnp.mean((out - 1) ** 2), lambda x: inputs @ x, samples=()
    )
    opt, x = getattr(odeopt, name)(0.5), jnp.ones(3, jnp.bfloat16)
    state = opt.init(x)
    updates, after = opt.update(jax.grad(value_fn)(x), state, x, value_fn=value_fn)
    chex.assert_trees_all_equal_shapes_and_dtypes((x, state), (updates, after))
    assert value_fn(x + updates) < value_fn(x)
