"""Linearly implicit methods: orders, stability functions, and what a large step is."""

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
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import odeopt
from odeopt.solvers import LinearSolver, Rosenbrock
from odeopt.stepsize import gain_ratio

from ..table import gradient, mixed_loss, mixed_params
from .cases import loss, start

GAMMA = 1 - 1 / np.sqrt(2)
MAKERS = {
    "linearly_implicit_euler": odeopt.linearly_implicit_euler,
    "rosenbrock2": odeopt.rosenbrock2,
}
ORDERS = {"linearly_implicit_euler": 1, "rosenbrock2": 2}
FACTORS = {
    "linearly_implicit_euler": lambda z: 1 / (1 + z),
    "rosenbrock2": lambda z: (1 - (1 - 2 * GAMMA) * z) / (1 + GAMMA * z) ** 2,
}
methods = pytest.mark.parametrize("name", MAKERS)
to_the_end = {"products": 40, "tolerance": 1e-13}


def model(params, inputs):
    return jnp.tanh(inputs @ params["in"] + params["bias"]) @ params["out"]


def squares(outputs, targets):
    return jnp.mean((outputs - targets) ** 2)


def entropy(outputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


MSE, ENTROPY = odeopt.composite(squares, model), odeopt.composite(entropy, model)


both_losses = pytest.mark.parametrize(
    ("name", "value_fn"),
    [
        ("linearly_implicit_euler", MSE),
        ("linearly_implicit_euler", ENTROPY),
        ("rosenbrock2", ENTROPY),
    ],
    ids=["squares", "entropy", "entropy-rosenbrock2"],
)


def network(hidden=4, samples=9, dtype=float):
    """A network of 2 inputs and 3 outputs, and three rings of samples."""
    rng = np.random.default_rng(1)
    labels = np.arange(samples) % 3
    angle = rng.uniform(0, 2 * np.pi, samples)
    inputs = (labels + 1) * np.stack([np.cos(angle), np.sin(angle)])
    params = {
        "in": rng.normal(size=(2, hidden)),
        "bias": rng.normal(size=hidden),
        "out": rng.normal(size=(hidden, 3)) / np.sqrt(hidden),
    }
    data = {"inputs": inputs.T, "targets": np.eye(3)[labels]}
    wide = lambda x: jnp.asarray(x, dtype)
    return jax.tree.map(wide, params), jax.tree.map(wide, data) | {"labels": jnp.asarray(labels)}


def once(opt, value_fn, params, data, grads=None):
    grads = jax.grad(lambda p: call(value_fn, p, data))(params) if grads is None else grads
    step = jax.jit(lambda g, p: opt.update(g, opt.init(p), p, value_fn=value_fn, **data))
    return step(grads, params)


def call(value_fn, params, data):
    named = {"inputs", "targets" if value_fn is MSE else "labels"}
    return value_fn(params, **{k: v for k, v in data.items() if k in named})


def end_of(opt, value, x, n, **arguments):
    """`n` steps in a loop, its length known at run time."""

    def step(_, carry):
        x, state = carry
        updates, state = opt.update(jax.grad(value)(x), state, x, **arguments)
        return optax.apply_updates(x, updates), state

    return ravel_pytree(jax.lax.fori_loop(0, n, step, (x, opt.init(x)))[0])[0]


def observed(make, value, x, time, n, **arguments):
    """The order between `n` and twice as many steps; compiled once."""
    exact = flow_of(value, x, time)

    @jax.jit
    def error(n):
        return jnp.linalg.norm(end_of(make(time / n), value, x, n, **arguments) - exact)

    return np.log2(error(n) / error(2 * n))


def flow_of(value, x, time):
    term = diffrax.ODETerm(lambda t, x, args: jax.tree.map(jnp.negative, jax.grad(value)(x)))
    controller = diffrax.PIDController(rtol=1e-12, atol=1e-13)
    solution = diffrax.diffeqsolve(
        term, diffrax.Dopri8(), 0.0, time, 0.01, x, stepsize_controller=controller
    )
    return ravel_pytree(jax.tree.map(lambda leaf: leaf[0], solution.ys))[0]


# orders and stability


@pytest.mark.slow
@methods
def test_order_on_a_nonlinear_loss(name, x64):
    make = lambda h: MAKERS[name](h, "hessian", **to_the_end)
    assert abs(observed(make, loss, start(), 1.0, 128, value_fn=loss) - ORDERS[name]) < 0.1


@pytest.mark.slow
@methods
def test_order_with_a_matrix_that_is_not_the_jacobian(name, x64):
    """Far from interpolation the Gauss-Newton matrix misses much of the Hessian."""
    params, data = network()
    value = functools.partial(call, MSE, data=data)
    make = lambda h: MAKERS[name](h, "ggn", "exact")
    order = observed(make, value, params, 2.0, 128, value_fn=MSE, **data)
    assert abs(order - ORDERS[name]) < 0.1


PARABOLA = odeopt.composite(
    lambda out: 0.5 * jnp.sum(out**2), lambda x, rates: jnp.sqrt(rates) * x, samples=()
)


@methods
@pytest.mark.parametrize("path", [("hessian", "cg"), ("ggn", "cg"), ("ggn", "exact")])
def test_stability_function(name, path, x64):
    products = jnp.geomspace(1e-3, 1e3, 7)

    @jax.jit
    def factor(h):
        most = None if path[1] == "exact" else 200
        opt = MAKERS[name](h, *path, products=most, tolerance=1e-15)
        state, rates = opt.init(products), products / h
        return 1 + opt.update(rates, state, 0 * rates + 1, value_fn=PARABOLA, rates=rates)[0]

    for h in [1e-2, 1.0, 1e6]:
        np.testing.assert_allclose(factor(jnp.asarray(h)), FACTORS[name](products), atol=1e-10)


@methods
def test_stiff_components_vanish(name, x64):
    """L-stability: the factor goes to zero, where that of an A-stable one may go to -1."""
    opt, rates = MAKERS[name](1.0, "ggn", "exact"), jnp.array([1e6, 1e9, 1e12])
    update = jax.jit(lambda g, x: opt.update(g, opt.init(x), x, value_fn=PARABOLA, rates=rates))
    updates, _ = update(rates, jnp.ones(3))
    assert jnp.all(jnp.abs(1 + updates) < 5 / rates + 1e-15)
    assert odeopt.solvers.stability_limit(odeopt.flows.GradientFlow(), Rosenbrock(2)) == np.inf


# what a step is


def test_a_large_step_is_newtons(x64):
    value = lambda x: jnp.sum(jnp.cosh(x)) + 0.5 * (x[0] - x[1] * x[2]) ** 2
    x = jnp.array([0.4, -0.2, 0.3])
    updates, _ = once(odeopt.linearly_implicit_euler(1e8, "hessian", **to_the_end), value, x, {},
                      jax.grad(value)(x))  # fmt: skip
    newton = -np.linalg.solve(jax.jit(jax.hessian(value))(x), jax.grad(value)(x))
    np.testing.assert_allclose(updates, newton, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [4, 30])  # fewer and more outputs than parameters
def test_a_large_step_is_gauss_newtons(samples, x64):
    params, data = network(samples=samples)
    updates, _ = once(odeopt.linearly_implicit_euler(1e8), MSE, params, data)
    flat, unravel = ravel_pytree(params)
    residual = lambda v: (model(unravel(v), data["inputs"]) - data["targets"]).ravel()
    jacobian = np.asarray(jax.jit(jax.jacobian(residual))(flat))
    expected = -np.linalg.lstsq(jacobian, residual(flat))[0]
    # a direction of curvature c lacks 1 / (1 + h c) of the distance
    least = np.linalg.svd(jacobian)[1].min() ** 2 * 2 / residual(flat).size
    short = np.linalg.norm(ravel_pytree(updates)[0] - expected) / np.linalg.norm(expected)
    assert short < 1 / (1 + 1e8 * least) + 1e-9


@pytest.mark.slow
@both_losses
def test_exact_and_iterative_equal_a_dense_solve(name, value_fn, x64):
    params, data = network()
    flat, unravel = ravel_pytree(params)
    loss_of = squares if value_fn is MSE else entropy
    target = data["targets" if value_fn is MSE else "labels"]
    outputs, restore = ravel_pytree(model(params, data["inputs"]))
    jacobian = jax.jit(jax.jacobian(lambda v: model(unravel(v), data["inputs"]).ravel()))(flat)
    curvature = jax.jit(jax.hessian(lambda o: loss_of(restore(o), target)))(outputs)
    h = 3.0
    gamma = GAMMA if name == "rosenbrock2" else 1.0
    matrix = np.eye(flat.size) + gamma * h * jacobian.T @ curvature @ jacobian
    slope = jax.grad(lambda v: call(value_fn, unravel(v), data))
    given = slope(flat) + 0.1 * flat  # such as after optax.add_decayed_weights
    expected = one = -h * np.linalg.solve(matrix, given)
    if name == "rosenbrock2":
        two = np.linalg.solve(matrix, -h * slope(flat + one) - 2 * one)
        expected = 1.5 * one + 0.5 * two
    for solve, limits in {"exact": {}, "cg": to_the_end}.items():
        opt = MAKERS[name](h, "ggn", solve, **limits)
        updates, state = once(opt, value_fn, params, data, unravel(given))
        np.testing.assert_allclose(ravel_pytree(updates)[0], expected, rtol=1e-8, atol=1e-9)
        residuals = [s.residual for s in jax.tree.leaves(state.memory, is_leaf=is_solve)]
        assert max(residuals) < 1e-10


def is_solve(node):
    return isinstance(node, odeopt.solvers.LinearSolve)


def test_it_is_the_step_of_levenberg_and_marquardt(x64):
    params, data = network()
    half = odeopt.composite(lambda out, targets: 0.5 * jnp.sum((out - targets) ** 2), model)
    grads = jax.grad(lambda p: half(p, inputs=data["inputs"], targets=data["targets"]))(params)

    @jax.jit
    def both(h):
        ours, _ = once(odeopt.linearly_implicit_euler(h, "ggn", "exact"), half, params, data, grads)
        residual = lambda p: model(p, data["inputs"]) - data["targets"]
        operator = lineax.JacobianLinearOperator(lambda p, _: residual(p), params)
        info = optimistix.FunctionInfo.ResidualJac(residual(params), operator)
        descent = optimistix.DampedNewtonDescent()
        state = descent.query(params, info, descent.init(params, info))
        return ours, descent.step(h, state)[0]  # its damping is one over that

    for damping in [1e-3, 1.0, 100.0]:
        chex.assert_trees_all_close(*both(jnp.asarray(1 / damping)), rtol=1e-9, atol=1e-12)


# control


@pytest.mark.slow
@both_losses
def test_no_first_step_over_six_decades_makes_it_diverge(name, value_fn):
    params, data = network(hidden=8, samples=30, dtype=jnp.float32)

    @jax.jit
    @jax.vmap
    def train(first):
        opt = MAKERS[name](type(gain_ratio())(first, 1e-6, 1e12))

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(lambda p: call(value_fn, p, data))(params)
            updates, state = opt.update(
                grads, state, params, value=value, value_fn=value_fn, **data
            )
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, (params, opt.init(params)), length=80)

    (_, state), values = train(10.0 ** jnp.arange(-3.0, 4.0))
    assert jnp.all(values[:, 1:] <= values[:, :-1])  # in single precision 1e-12 is nothing
    assert jnp.all(values[:, -1] < 0.3 * values[:, 0])
    assert jnp.all(state.rejected < 40)


@pytest.mark.slow
def test_a_fixed_step_diverges_on_cross_entropy():
    """Why control is the default: softmax saturates, and nothing holds the step back."""
    params, data = network(hidden=8, samples=30, dtype=jnp.float32)
    opt = odeopt.linearly_implicit_euler(1e4)
    value = functools.partial(call, ENTROPY, data=data)
    end = jax.jit(lambda p: end_of(opt, value, p, 30, value_fn=ENTROPY, **data))(params)
    assert not value(ravel_pytree(params)[1](end)) < value(params)


def test_a_trial_point_that_is_not_finite_is_a_rejection():
    edge = lambda x: jnp.sum(x - jnp.log(x))  # nan beyond 0
    x = jnp.array([3.0, 0.5])
    for make in MAKERS.values():
        opt, state, point = make(gain_ratio(first=1e3), "hessian"), None, x
        state = opt.init(point)
        step = jax.jit(lambda p, s, opt=opt: opt.update(jax.grad(edge)(p), s, p, value_fn=edge))
        for _ in range(40):
            updates, state = step(point, state)
            point = point + updates
            assert jnp.all(point > 0)
        np.testing.assert_allclose(point, 1.0, atol=1e-3)
        assert int(state.rejected) > 0


def test_a_system_that_is_not_finite_is_a_rejection_at_a_fixed_step_too():
    value = lambda x: jnp.sum(jnp.nan * x**2)
    opt, x = odeopt.linearly_implicit_euler(0.1, "hessian"), jnp.ones(2)
    updates, state = once(opt, value, x, {}, x)
    chex.assert_trees_all_equal(updates, jnp.zeros(2))
    assert int(state.rejected) == 1
    chex.assert_tree_all_finite(state.memory)


def test_out_of_a_saddle():
    """The Hessian is indefinite at the start; the step goes down all the same."""
    value = lambda x: 0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(jnp.array([1.0, -2.0]) * x**2)
    x = jnp.array([1e-2, 1.0])
    opt = odeopt.linearly_implicit_euler(None, "hessian")
    end = end_of(opt, value, x, 40, value_fn=value)
    np.testing.assert_allclose(jnp.abs(end), jnp.array([1.0, 0.0]), atol=1e-3)


# the contract


@pytest.mark.slow
@methods
@pytest.mark.parametrize("solve", ["exact", "cg"])
def test_every_gradient_is_counted(name, solve, x64):
    params, data = network()
    stages = {"linearly_implicit_euler": 1, "rosenbrock2": 2}[name]
    rule = gain_ratio(first=0.1)
    opt = MAKERS[name](rule, "ggn", solve, products=4 if solve == "cg" else None, tolerance=0.0)
    _, state = once(opt, ENTROPY, params, data)
    control = 2 + 2 * (name == "rosenbrock2")  # the other knows its own model
    systems = 3 if solve == "exact" else stages * 2 * (4 + 1)  # a sample has three outputs
    assert int(state.gradients) == stages + systems + control
    solves = jax.tree.leaves(state.memory, is_leaf=is_solve)
    assert [int(s.products) for s in solves] == [5 if solve == "cg" else 0] * stages


def test_the_next_solve_starts_at_the_last_direction(x64):
    value = lambda x: 0.5 * jnp.sum(jnp.geomspace(1.0, 1e3, 30) * x**2)
    x = jnp.ones(30)
    opt = odeopt.linearly_implicit_euler(1.0, "hessian", products=60, tolerance=1e-6)
    update = jax.jit(lambda s: opt.update(jax.grad(value)(x), s, x, value_fn=value)[1])
    first = update(opt.init(x))
    again = update(first)
    assert int(first.memory.products) > 20
    assert int(again.memory.products) == 1


def test_auto_is_exact_where_that_is_small():
    def iterates(value_fn=ENTROPY, **kwargs):
        params, data = network(dtype=jnp.float32)
        opt = odeopt.linearly_implicit_euler(0.1, **kwargs)
        return "while" in str(jax.make_jaxpr(lambda: once(opt, value_fn, params, data, params))())

    assert not iterates()
    assert iterates(solve="cg")
    assert not iterates(products=2)
    assert iterates(products=1)  # three outputs are dearer than one product
    whole = odeopt.composite(squares, model, samples=())
    assert not iterates(whole, products=14)
    assert iterates(whole, products=13)  # 27 outputs, 26 gradients


@pytest.mark.slow
def test_mixed_trees_keep_their_types():
    params = mixed_params()
    opt = odeopt.linearly_implicit_euler(None, "hessian")
    state = opt.init(params)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        grads = gradient(mixed_loss, params)
        updates, state = opt.update(grads, state, params, value_fn=mixed_loss)
        return optax.apply_updates(params, updates), state

    losses = [mixed_loss(params)]
    for _ in range(6):
        params, after = step(params, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
        losses.append(mixed_loss(params))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_masked_parameters_stay():
    params, data = network(dtype=jnp.float32)
    mask = {"in": True, "bias": False, "out": True}
    opt = optax.masked(odeopt.linearly_implicit_euler(0.5), mask)
    grads = jax.grad(lambda p: call(MSE, p, data))(params)
    updates, _ = once(opt, MSE, params, data | {"full_params": params}, grads)
    part = {"in": params["in"], "out": params["out"]}
    alone = odeopt.composite(squares, lambda p, inputs: model(p | {"bias": params["bias"]}, inputs))
    own = {"in": grads["in"], "out": grads["out"]}
    expected, _ = once(odeopt.linearly_implicit_euler(0.5), alone, part, data, own)
    chex.assert_trees_all_close({k: updates[k] for k in part}, expected, rtol=1e-3, atol=1e-6)
    chex.assert_trees_all_equal(updates["bias"], grads["bias"])


@pytest.mark.slow
def test_data_parallel_by_conjugate_gradients():
    params, data = network(samples=16, dtype=jnp.float32)
    data = {"inputs": data["inputs"], "targets": data["targets"]}
    opt = odeopt.linearly_implicit_euler(0.5, "ggn", "cg", products=5)
    expected, _ = once(opt, MSE, params, data)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        split = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P("data"))), data)
        whole = jax.tree.map(lambda x: jax.device_put(x, NamedSharding(mesh, P())), params)
        got, _ = once(opt, MSE, whole, split)
    chex.assert_trees_all_close(jax.device_get(got), jax.device_get(expected), atol=1e-4)


def test_a_million_parameters_near_the_identity_in_eight_copies():
    n = 1_000_000
    value_fn = odeopt.composite(lambda out: jnp.sum(jnp.cosh(out)), lambda x: 1.1 * x, samples=())
    x = jnp.sin(jnp.arange(n, dtype=jnp.float32))
    opt = odeopt.linearly_implicit_euler(1e-3)
    state = opt.init(x)

    def step(grads, state, params):
        return opt.update(grads, state, params, value_fn=value_fn)

    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(x, state, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 8 * 4 * n
    grads = jax.grad(value_fn)(x)
    expected = -1e-3 * grads / (1 + 1e-3 * 1.21 * jnp.cosh(1.1 * x))
    updates, state = compiled(grads, state, x)
    np.testing.assert_allclose(updates, expected, atol=1e-6)
    assert float(state.memory.residual) <= 1e-3
    assert int(state.memory.products) <= 4


@pytest.mark.untyped
def test_bad_input():
    x = jnp.ones(2)
    plain = lambda x: jnp.sum(x**2)
    for make in MAKERS.values():
        for wrong, message in [
            ({"curvature": "gn"}, '"ggn" or "hessian"'),
            ({"solve": "lu"}, '"auto", "exact" or "cg"'),
            ({"curvature": "hessian", "solve": "exact"}, 'curvature="ggn", or solve="cg"'),
            ({"solve": "exact", "products": 3}, "takes no products of curvature"),
            ({"solve": "exact", "precondition": True}, 'pass solve="cg"'),
            ({"products": 0}, "products is 0"),
            ({"tolerance": -1.0}, "tolerance is -1"),
            ({"learning_rate": -1.0}, "positive, finite"),
        ]:
            with pytest.raises(ValueError, match=message):
                make(**wrong)
        opt = make(0.1, "ggn")
        with pytest.raises(ValueError, match=r"(?s)odeopt\.composite\(.*opt\.update\("):
            opt.update(x, opt.init(x), x, value_fn=plain)
        with pytest.raises(ValueError, match=r"opt\.update\(grads, state, params"):
            opt.update(x, opt.init(x), value_fn=plain)
        bare = make(0.1, "hessian")
        with pytest.raises(ValueError, match="value_fn=loss"):
            bare.update(x, bare.init(x), x)
    for method in (Rosenbrock(1), Rosenbrock(2)):
        with pytest.raises(ValueError, match="not that of HeavyBallFlow"):
            odeopt.ode_optimizer(odeopt.flows.HeavyBallFlow(0.9), method, 0.1)
        with pytest.raises(ValueError, match="stage_transform= has no effect with Rosenbrock"):
            odeopt.ode_optimizer(
                odeopt.flows.GradientFlow(), method, 0.1, stage_transform=optax.clip(1.0)
            )
    exact = odeopt.ode_optimizer(
        odeopt.flows.GradientFlow(), Rosenbrock(1, LinearSolver(solve="exact")), 0.1
    )
    z = jnp.ones(2, jnp.complex64)
    real = odeopt.composite(lambda out: jnp.sum(out**2), jnp.abs, samples=())
    with pytest.raises(TypeError, match='pass solve="cg"'):
        exact.update(z, exact.init(z), z, value_fn=real)


def test_a_step_of_size_0_divides_by_nothing():
    opt, x = odeopt.linearly_implicit_euler(lambda step: 0.0, solve="cg"), jnp.ones(2)
    with jax.debug_nans(True):
        updates, _ = opt.update(x, opt.init(x), x, value_fn=lambda x: 0.5 * jnp.sum(x**2))
    assert not np.any(updates)
