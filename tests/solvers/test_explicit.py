"""The stage loop: against diffrax's own step, unrolled against scanned, and what it costs."""

import re

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt.flows import GradientFlow
from odeopt.objective import Objective
from odeopt.solvers import ExplicitRungeKutta, Tableau, as_method

from .cases import CLASSES, FIELDS, PAIRS, STAGES, follow, gradient_field, loss, make, start

by_method = pytest.mark.parametrize("name", CLASSES)
by_pair = pytest.mark.parametrize("name", PAIRS)
multi_stage = pytest.mark.parametrize("name", [n for n in CLASSES if n != "euler"])
H = 0.3
# No first-same-as-last, weights in the middle and two slopes to look back on.
SKIPPING = Tableau(a=[[1 / 3], [0, 2 / 3], [1 / 2, 0, 1 / 2]], b=[0, 1 / 4, 1 / 2, 1 / 4])


def step(method, field, x, h=H):
    """One step of a method along `dx/dt = field(x)`."""
    objective = Objective({"grad_fn": lambda y, stage: -field(y)}, given=-field(x))
    return method.step(GradientFlow(), objective, (x, ()), jnp.asarray(h, float), ())


def diffrax_step(solver, field, x, h=H):
    term = diffrax.ODETerm(lambda t, y, args: field(y))
    state = solver.init(term, 0.0, h, x, None)
    end, error, *_ = solver.step(term, 0.0, h, x, None, state, made_jump=False)
    return end - x, error


# Coefficients and slopes are of size 1 to 20: some tens of roundings of float64.
ROUNDING = {"rtol": 1e-12, "atol": 1e-13}


@pytest.mark.parametrize("field", FIELDS)
@by_method
def test_a_step_equals_diffrax_s_own(name, field, x64):
    ours = step(CLASSES[name]().method, FIELDS[field], start())
    theirs, _ = diffrax_step(CLASSES[name](), FIELDS[field], start())
    np.testing.assert_allclose(ours.update, theirs, **ROUNDING)
    assert ours.error is None


@by_pair
@pytest.mark.parametrize("scan", [False, True])
def test_the_error_estimate_equals_diffrax_s_own(name, scan, x64):
    solver = CLASSES[name]()
    method = as_method(solver, error=True).with_options(scan_stages=scan)
    ours = step(method, gradient_field, start())
    increment, error = diffrax_step(solver, gradient_field, start())
    np.testing.assert_allclose(ours.error[0], error, **ROUNDING)
    np.testing.assert_allclose(ours.update, increment, **ROUNDING)
    assert jnp.max(abs(error)) > 1e-7  # something was compared
    assert 1 + ours.gradients == solver.coefficients.stages


@by_pair
def test_the_solution_does_not_depend_on_whether_an_estimate_is_asked(name, x64):
    plain = step(as_method(CLASSES[name]()), gradient_field, start())
    pair = step(as_method(CLASSES[name](), error=True), gradient_field, start())
    np.testing.assert_array_equal(plain.update, pair.update)


@pytest.mark.parametrize("name", [n for n in CLASSES if n not in PAIRS])
def test_an_estimate_is_refused_where_there_is_none(name):
    with pytest.raises(ValueError, match=r"no error estimate.*bosh3"):
        as_method(CLASSES[name](), error=True)


# scanned stages


def tree(dtypes):
    """Leaves of given dtypes; none touches another, so that each keeps its own rounding."""
    shapes = [(2, 3), (4,), ()]
    return {
        f"{i}": jnp.linspace(-1, 1.5, max(int(np.prod(shape)), 2))[: int(np.prod(shape))]
        .reshape(shape)
        .astype(dtype)
        for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
    }


def tree_loss(tree):
    """Smooth, nonlinear, every leaf for itself; evaluated in at least float32."""
    wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in tree.values()]
    return sum(jnp.sum(jnp.cosh(leaf) + 0.2 * jnp.sin(3 * leaf)).real for leaf in wide)


DTYPES = {
    "float32": [jnp.float32] * 3,
    "bfloat16": [jnp.bfloat16] * 3,
    "mixed": [jnp.float32, jnp.bfloat16, jnp.complex64],
    "float64": [jnp.float64] * 3,
}
TABLEAUS = {name: cls().coefficients for name, cls in CLASSES.items()} | {
    "skipping": SKIPPING,
    "dopri8": Tableau.from_diffrax(diffrax.Dopri8.tableau),
}


@pytest.mark.slow
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("name", TABLEAUS)
def test_scanned_stages_equal_unrolled_ones(name, dtypes):
    with jax.enable_x64(dtypes == "float64"):
        params = tree(DTYPES[dtypes])
        results = []
        for scan in (False, True):
            opt = odeopt.runge_kutta(0.1, TABLEAUS[name], scan_stages=scan)

            @jax.jit
            def update(params, opt=opt):
                grads = jax.tree.map(jnp.conj, jax.grad(tree_loss)(params))
                return opt.update(grads, opt.init(params), params, value_fn=tree_loss)

            results.append(update(params))
        (unrolled, state), (scanned, scanned_state) = results
        assert state.gradients == scanned_state.gradients
        for old, new, p in zip(*map(jax.tree.leaves, (unrolled, scanned, params)), strict=True):
            assert old.dtype == new.dtype == p.dtype
            # Both sum the same slopes in another order; a stage point may round the other way, to a
            # neighbour eps * |params| (up to 1.5) away, which moves a slope (|Hessian| < 5) and so
            # the update by 0.1 * 5 * 1.5 eps; 20 eps leaves room for Dopri8's large coefficients.
            eps = float(jnp.finfo(p.dtype).eps)
            np.testing.assert_allclose(
                np.asarray(new, complex), np.asarray(old, complex), rtol=20 * eps, atol=2 * eps
            )


def test_the_scanned_stage_is_a_tracer_and_the_unrolled_one_an_integer():
    seen = []

    def grad_fn(y, stage):
        seen.append(stage)
        return -gradient_field(y)

    for scan in (False, True):
        opt = odeopt.rk4(H, scan_stages=scan)
        opt.update(-gradient_field(start()), opt.init(start()), start(), grad_fn=grad_fn)
    assert seen[:3] == [1, 2, 3]
    assert all(isinstance(stage, jax.core.Tracer) for stage in seen[3:])


@multi_stage
def test_scanned_stages_are_numbered_like_unrolled_ones(name, x64):
    """Another mini-batch for each stage: the field depends on the stage's number."""
    ends = []
    for scan in (False, True):
        opt = make(name, H, scan_stages=scan)

        def grad_fn(y, stage):
            return -gradient_field(y) * (1 + 0.1 * jnp.asarray(stage))

        updates, _ = opt.update(grad_fn(start(), 0), opt.init(start()), start(), grad_fn=grad_fn)
        ends.append(updates)
    np.testing.assert_allclose(*ends, **ROUNDING)
    same = step(CLASSES[name]().method, gradient_field, start())
    assert jnp.max(abs(ends[0] - same.update)) > 1e-3


# what a step costs


@pytest.mark.parametrize("scan", [False, True])
@by_method
def test_gradients_per_step_are_those_that_run(name, scan):
    """Counted when the compiled step runs, by a callback in the backward pass of the loss."""
    ran = []

    @jax.custom_vjp
    def counted(x):
        return loss(x)

    def backward(x, cotangent):
        jax.debug.callback(lambda: ran.append(1))
        return (cotangent * jax.grad(loss)(x),)

    counted.defvjp(lambda x: (loss(x), x), backward)
    opt = make(name, H, scan_stages=scan)
    x, grads = start(), jax.grad(loss)(start())
    update = jax.jit(lambda g, s, x: opt.update(g, s, x, value_fn=counted))
    _, state = update(grads, opt.init(x), x)
    jax.effects_barrier()
    assert len(ran) == STAGES[name] - 1 == CLASSES[name]().gradients_per_step - 1
    assert state.gradients == STAGES[name]


@multi_stage
def test_the_compiled_step_has_the_dots_of_the_further_gradients(name):
    def network(w, x):
        return jnp.mean(jnp.tanh(jnp.tanh(x @ w[0]) @ w[1]) ** 2)

    w, x = (jnp.ones((6, 5)) / 6, jnp.ones((5, 3)) / 5), jnp.ones((4, 6))
    opt = make(name, 0.1)

    def dots(function, *args):
        text = jax.jit(function).lower(*args).compile().as_text()
        return len(re.findall(r"\bdot\(", text))

    def update(grads, state, w, x):
        return opt.update(grads, state, w, value_fn=network, x=x)

    one = dots(jax.grad(network), w, x)
    assert one >= 4
    assert dots(update, w, opt.init(w), w, x) == (STAGES[name] - 1) * one


# the numbers that come out


@pytest.mark.parametrize("scan", [False, True])
@by_method
def test_a_small_update_of_a_large_parameter_is_not_cancelled(name, scan):
    """The increment is returned: at 1000 float32 is spaced by 6e-5, and new - old would be 0."""
    slope = 1e-4
    opt = make(name, 0.1, scan_stages=scan)
    x = jnp.float32(1000)
    updates, _ = opt.update(jnp.float32(slope), opt.init(x), x, value_fn=lambda x: slope * x)
    assert x + jnp.float32(-1e-5) == x
    assert updates == pytest.approx(-1e-5, rel=1e-5)  # a few roundings of float32


def test_ssprk3_is_a_convex_combination_of_euler_steps(x64):
    def euler(x):
        return x + H * gradient_field(x)

    x = start()
    first = euler(x)
    second = 3 / 4 * x + 1 / 4 * euler(first)
    expected = 1 / 3 * x + 2 / 3 * euler(second)
    end, _ = follow(odeopt.ssprk3(H), gradient_field, x, 1)
    np.testing.assert_allclose(end, expected, **ROUNDING)


def test_rk4_follows_the_flow_of_the_batch_it_is_given(x64):
    """Each step the flow of its own batch's quadratic, to R(z) = exp(z) up to z^5 / 120."""
    opt = odeopt.rk4(0.1)
    x = jnp.array([1.0, -2.0])
    state = opt.init(x)

    def batch_loss(x, batch):
        return 0.5 * jnp.sum((x - batch) ** 2)

    expected = x
    for target in (0.0, 1.0, -0.5):
        batch = jnp.array([target, -target])
        grads = jax.grad(batch_loss)(x, batch)
        updates, state = opt.update(grads, state, x, value_fn=batch_loss, batch=batch)
        x = optax.apply_updates(x, updates)
        expected = batch + (expected - batch) * jnp.exp(-0.1)
    # a step's relative error is 0.1^5 / 120 = 8.4e-8, on distances of at most 3, three times
    np.testing.assert_allclose(x, expected, rtol=0, atol=3 * 3 * 8.4e-8)
    assert jnp.max(abs(x - expected)) > 1e-9


def test_the_method_is_a_static_part_of_a_compiled_step():
    method = CLASSES["rk4"]().method
    assert jax.tree.leaves(method) == []
    assert method == ExplicitRungeKutta(Tableau(method.tableau.a, method.tableau.b))
    assert hash(method) == hash(CLASSES["rk4"]().method)
