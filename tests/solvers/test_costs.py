"""What linearized, implicit and stabilized methods report: costs, models, and what they refuse."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import solvers
from odeopt.stepsize import gain_ratio

CURVATURES = jnp.array([1.0, 2.0, 5.0])
STIFF = [
    "linearly_implicit_euler",
    "rosenbrock2",
    "exponential_euler",
    "implicit_euler",
    "implicit_midpoint",
    "trapezoidal",
]


def parabola(x):
    return 0.5 * jnp.sum(CURVATURES * x**2)


def quartic(x):
    return jnp.sum(jnp.cosh(2 * x)) + 0.25 * jnp.sum(x) ** 4


def evaluations(loss):
    """The loss, and a list that grows when it, its gradient or a tangent of that is evaluated."""
    calls = []
    tick = lambda *_: calls.append(1)

    @jax.custom_jvp
    def gradient(x):
        jax.debug.callback(tick, ordered=False)
        return jax.grad(loss)(x)

    @gradient.defjvp
    def tangent(primals, tangents):
        out, moved = jax.jvp(jax.grad(loss), primals, tangents)

        def counted(t):
            jax.debug.callback(tick, ordered=False)
            return t

        return out, jax.custom_derivatives.linear_call(
            lambda _, t: counted(t), lambda _, t: t, (), moved
        )

    return gradient, calls


@pytest.mark.parametrize("rate", [0.3, None])
def test_a_model_of_an_exact_quadratic_foresees_every_step(rate):
    """With a correction the loss that is solved is another; the rule then asks the true one."""
    opt = odeopt.linearly_implicit_euler(rate, "hessian", correction=2)
    x = jnp.ones(3)
    state, sizes = opt.init(x), []
    for _ in range(3):
        value, grads = jax.value_and_grad(parabola)(x)
        updates, state = opt.update(grads, state, x, value=value, value_fn=parabola)
        x, sizes = x + updates, [*sizes, float(state.step_size)]
    assert sizes == pytest.approx([0.3] * 3 if rate else [1.0, 3.0, 9.0])
    if rate is None:
        assert float(state.rule.size) == 27.0


@pytest.mark.parametrize("name", ["linearly_implicit_euler", "exponential_euler"])
def test_the_model_is_that_of_the_step(name, x64):
    opt = getattr(odeopt, name)(0.7)
    design, x = opt.design, jnp.array([0.3, -1.0, 0.5])
    objective = odeopt.objective.Objective({"value_fn": parabola}, jax.grad(parabola)(x))
    z = x, ()
    step = design.solver.step(
        design.flow, objective, z, jnp.asarray(0.7), design.solver.init(design.flow, z)
    )
    foreseen = step.model.linear + step.model.quadratic
    np.testing.assert_allclose(foreseen, parabola(x + step.update) - parabola(x), rtol=1e-8)


@pytest.mark.parametrize("stages", [7, None])
def test_stages_are_those_that_are_evaluated(stages):
    gradient, calls = evaluations(parabola)
    opt = odeopt.rkc(1.5, stages)
    x = jnp.ones(3)
    state = opt.init(x)
    step = jax.jit(
        lambda g, s, x: opt.update(g, s, x, grad_fn=lambda p, stage: gradient(p)),
    )
    for _ in range(2):
        before = int(state.gradients), len(calls)
        _, state = jax.block_until_ready(step(CURVATURES * x, state, x))
        jax.effects_barrier()
        used, seen = int(state.gradients) - before[0], len(calls) - before[1]
        if stages is not None:
            assert used == stages == 1 + seen
        else:  # a product of a linearized map is one tangent, and counts as 2
            products = 24 if before[0] == 0 else 1
            assert used == 1 + 2 * products + (seen - products)


@pytest.mark.parametrize("name", ["linearly_implicit_euler", "rosenbrock2", "implicit_euler"])
def test_products_are_counted_by_the_tariff(name):
    opt = getattr(odeopt, name)(0.5, "hessian")
    x = jnp.array([0.3, -0.4, 0.2])
    _, state = jax.jit(lambda g, x: opt.update(g, opt.init(x), x, value_fn=quartic))(
        jax.grad(quartic)(x), x
    )
    memory = state.memory
    expected = {
        "linearly_implicit_euler": lambda: 1 + 2 * int(memory.products),
        "rosenbrock2": lambda: 2 + 2 * sum(int(m.products) for m in memory),
        "implicit_euler": lambda: 2 + int(memory.evaluations) + 2 * int(memory.solve.products),
    }
    assert int(state.gradients) == expected[name]()


@pytest.mark.slow
@pytest.mark.parametrize("name", STIFF)
def test_curvature_by_itself_is_that_of_the_loss(name):
    """Gauss-Newton where the loss says how it splits, else the Hessian."""
    make, x = getattr(odeopt, name), jnp.array([0.5, -0.3, 0.2])
    split = odeopt.composite(lambda out: jnp.sum(jnp.cosh(out)), lambda p: p**2, samples=())
    plain = lambda p: jnp.sum(jnp.cosh(p**2))

    def update(value_fn, *arguments):
        opt = make(0.5, *arguments)
        return opt.update(jax.grad(plain)(x), opt.init(x), x, value_fn=value_fn)[0]

    for value_fn, curvature in ((split, "ggn"), (plain, "hessian")):
        np.testing.assert_array_equal(update(value_fn), update(value_fn, curvature))
    assert not np.allclose(update(split, "ggn"), update(split, "hessian"), rtol=1e-4)


@pytest.mark.parametrize("name", STIFF)
def test_a_learning_rate_can_be_injected(name):
    x = jnp.ones(3)
    opt = optax.inject_hyperparams(getattr(odeopt, name))(learning_rate=1e-2)
    state, grads = opt.init(x), jax.grad(parabola)(x)
    updates, state = jax.jit(lambda g, s, x: opt.update(g, s, x, value_fn=parabola))(
        grads, state, x
    )
    plain = getattr(odeopt, name)(1e-2)
    expected, _ = plain.update(grads, plain.init(x), x, value_fn=parabola)
    np.testing.assert_allclose(updates, expected, rtol=1e-5)
    assert set(state.hyperparams) == {"learning_rate", "tolerance"}


@pytest.mark.untyped
def test_numbers_that_decide_on_loops_must_be_known():
    opt = optax.inject_hyperparams(odeopt.linearly_implicit_euler)(1e-2, products=5)
    with pytest.raises(TypeError, match=r'static_args=\("products",\)'):
        opt.init(jnp.ones(3))
    with pytest.raises(TypeError, match="fraction is a"):
        solvers.LinearSolver(fraction=jnp.asarray(0.5))
    known = optax.inject_hyperparams(odeopt.implicit_euler, static_args=("iterations", "products"))
    known(1e-2, iterations=3, products=5).init(jnp.ones(3))


@pytest.mark.parametrize("name", STIFF)
def test_options_without_use_are_refused(name):
    for option in ({"stage_transform": optax.scale(2.0)}, {"staged": True}, {"scan_stages": True}):
        with pytest.raises(ValueError, match="has no effect"):
            getattr(odeopt, name)(0.1, **option)
    with pytest.raises(ValueError, match="has no effect"):
        odeopt.from_diffrax(diffrax.Kvaerno3(), 0.1, scan_stages=True)


@pytest.mark.parametrize("name", [*STIFF, "rkc"])
def test_a_step_of_size_zero_stays(name):
    opt, x = getattr(odeopt, name)(optax.constant_schedule(0.0)), jnp.ones(3)
    updates, state = opt.update(jax.grad(quartic)(x), opt.init(x), x, value_fn=quartic)
    np.testing.assert_array_equal(updates, 0 * x)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(state))


def test_the_gain_ratio_is_the_default():
    assert odeopt.implicit_euler().design.rule == gain_ratio()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("linearly_implicit_euler", {"solve": "cg"}),
        ("linearly_implicit_euler", {"solve": "cg", "precondition": True}),
        ("linearly_implicit_euler", {"solve": "cg", "rank": 3}),
        ("rosenbrock2", {}),
        ("implicit_euler", {"solve": "cg", "iterations": 2}),
    ],
)
def test_gradients_per_step_are_those_of_a_step_that_takes_all_its_products(name, options, x64):
    opt = getattr(odeopt, name)(0.5, products=5, tolerance=0.0, **options)
    stiff = lambda x: 0.5 * jnp.sum(jnp.logspace(-4, 4, 40) * x**2) + jnp.sum(jnp.cosh(x))
    x = jnp.ones(40)
    state = opt.init(x)
    for steps in (1, 2):
        updates, state = opt.update(jax.grad(stiff)(x), state, x, value_fn=stiff, value=stiff(x))
        x = x + updates
        assert int(state.gradients) == steps * opt.gradients_per_step
