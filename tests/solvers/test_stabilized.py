"""Runge-Kutta-Chebyshev: orders, polynomials, limits, cost, and stages that choose themselves."""

import functools

import chex
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.polynomial import Chebyshev

import odeopt
from odeopt import flows, solvers
from odeopt.solvers import RungeKuttaChebyshev, Tableau
from odeopt.solvers.chebyshev import coefficients
from odeopt.solvers.stabilized import RKC

from ..table import gradient, mixed_loss, mixed_params
from ..test_orders import TIME, observed, optimizer_end, term
from .cases import FIELDS, follow, start

by_order = pytest.mark.parametrize("order", [1, 2])
by_stages = pytest.mark.parametrize("stages", [2, 5, 10, 50])


def bowl(x, scale=1.0):
    """A quadratic of sharpness 100."""
    return 0.5 * scale * jnp.sum(jnp.array([1.0, 10.0, 99.0, 100.0]) * x**2)


def descend(opt, params, loss, n):
    """Parameters and state after `n` steps, and the gradients that each step took."""

    def step(carry, _):
        params, state = carry
        updates, after = opt.update(gradient(loss, params), state, params, value_fn=loss)
        params = optax.apply_updates(params, updates)
        return (params, after), after.gradients - state.gradients

    carry = params, opt.init(params)
    (params, state), used = jax.jit(lambda c: jax.lax.scan(step, c, length=n))(carry)
    return params, state, used


# orders


@by_order
@pytest.mark.parametrize("field", FIELDS)
def test_order_of_the_optimizer(order, field, x64):
    make = lambda h: odeopt.rkc(h, 4, order)
    assert abs(observed(optimizer_end(make, field), field, order) - order) < 0.1


@pytest.mark.slow
@by_order
@pytest.mark.parametrize("field", FIELDS)
def test_order_through_diffeqsolve(order, field, x64):
    solver = RKC(4, order)
    assert solver.order(term(field)) == order

    @jax.jit
    def end(n):
        return diffrax.diffeqsolve(term(field), solver, 0.0, TIME, TIME / n, start()).ys[0]

    assert abs(observed(lambda n: np.asarray(end(n)), field, order) - order) < 0.1


@by_order
def test_each_stage_knows_when_it_is(order, x64):
    field = lambda t, x, args: -x + jnp.sin(3 * t)
    exact = (3 * np.exp(-1) - 3 * np.cos(3) + np.sin(3)) / 10 + np.exp(-1)
    ends = [
        diffrax.diffeqsolve(diffrax.ODETerm(field), RKC(4, order), 0.0, 1.0, 1 / n, 1.0).ys[0]
        for n in (64, 128)
    ]
    coarse, fine = (abs(float(end) - exact) for end in ends)
    assert abs(np.log2(coarse / fine) - order) < 0.1


def tableau_of(stages, order, damping=0.05):
    """The method as an explicit Runge-Kutta tableau, by its recurrence."""
    first, rows, _ = coefficients(stages, order, damping)
    unit = np.eye(stages)
    moved = [np.zeros(stages), first * unit[0]]
    for j, (mu, nu, latest, at_start, time) in enumerate(rows, 1):
        assert time == pytest.approx(moved[-1].sum(), abs=1e-12)
        moved.append(mu * moved[-1] + nu * moved[-2] + latest * unit[j] + at_start * unit[0])
    return Tableau(
        a=[row[:j] for j, row in enumerate(moved[1:-1], 1)],
        b=moved[-1],
    )


@by_order
@pytest.mark.parametrize("flow", [flows.GradientFlow(), flows.HeavyBallFlow(0.9)])
def test_it_is_the_runge_kutta_method_of_its_tableau(order, flow, x64):
    stages = 5
    tableau = tableau_of(stages, order)
    method = RungeKuttaChebyshev(stages, order)
    assert tableau.order == method.order == order
    assert method.stability_limit == pytest.approx(tableau.stability_limit, rel=1e-6)
    ends = [
        follow(odeopt.ode_optimizer(flow, solver, 0.1), FIELDS["gradient"], start(), 10)[0]
        for solver in (method, tableau)
    ]
    np.testing.assert_allclose(*ends, rtol=1e-12)


# polynomials


def chebyshev_formula(stages, order, damping=0.05):
    """The stability polynomial on the negative axis, `z = h * curvature`, and w0, w1."""
    t = Chebyshev.basis(stages)
    w0 = 1 + (damping if order == 1 else 2 / 13 * damping / 0.05) / stages**2
    if order == 1:
        w1 = t(w0) / t.deriv()(w0)
        return lambda z: t(w0 - w1 * z) / t(w0), w0, w1
    w1 = t.deriv()(w0) / t.deriv(2)(w0)
    b = t.deriv(2)(w0) / t.deriv()(w0) ** 2
    return lambda z: 1 + b * (t(w0 - w1 * z) - t(w0)), w0, w1


def factors(stages, order, products, damping=0.05):
    """What a step of size 1 multiplies modes of these curvatures by."""
    products = jnp.asarray(products)
    ones = jnp.ones_like(products)
    opt = odeopt.rkc(1.0, stages, order, damping)
    loss = lambda x: 0.5 * jnp.sum(products * x**2)
    updates, _ = opt.update(products, opt.init(ones), ones, value_fn=loss)
    return np.asarray(1 + updates)


@by_order
@by_stages
def test_the_stability_polynomial_is_chebyshev_s(order, stages, x64):
    polynomial, w0, w1 = chebyshev_formula(stages, order)
    products = np.linspace(0, (1 + w0) / w1, 400)
    np.testing.assert_allclose(
        factors(stages, order, products), polynomial(products), rtol=0, atol=1e-10
    )


@by_order
@pytest.mark.parametrize("stages", [2, 3, 10])
@pytest.mark.parametrize("damping", [0.0, 0.05, 2.0])
def test_the_limit_is_where_modes_start_to_grow(order, stages, damping, x64):
    limit = RungeKuttaChebyshev(stages, order, damping).stability_limit
    products = limit * np.append(np.linspace(1e-3, 1, 1000), 1 + 1e-6)
    *inside, beyond = np.abs(factors(stages, order, products, damping))
    assert max(inside) <= 1 + 1e-10
    assert beyond > 1 + 1e-10


def test_limits_are_what_the_literature_says():
    limit = lambda *args: RungeKuttaChebyshev(*args).stability_limit
    assert limit(10, 1, 0.0) == pytest.approx(2 * 10**2)
    assert limit(10, 1) == pytest.approx((2 - 4 / 3 * 0.05) * 10**2, rel=1e-2)
    assert limit(10, 2) == pytest.approx(2 / 3 * (10**2 - 1) * (1 - 2 / 15 * 2 / 13), rel=1e-2)
    assert limit(2, 2) == pytest.approx(2.0)  # there is one polynomial of two stages and order 2
    assert limit(10) > 90 * solvers.Euler().stability_limit


@by_order
def test_damping_is_the_fraction_that_modes_in_between_lose(order, x64):
    for damping in (0.01, 0.05, 0.1):
        _, w0, w1 = chebyshev_formula(20, order, damping)
        between = np.linspace((w0 - 1) / w1, (w0 + 1) / w1, 2000)
        lost = 1 - np.max(np.abs(factors(20, order, between, damping)))
        assert lost == pytest.approx(damping, rel=0.15)


def test_fifty_stages_in_float32():
    polynomial, w0, w1 = chebyshev_formula(50, 1)
    products = np.linspace(0, (1 + w0) / w1, 400)
    # a rounding is amplified by no more than the square of the stages
    np.testing.assert_allclose(
        factors(50, 1, jnp.asarray(products, jnp.float32)), polynomial(products), atol=50**2 * 6e-8
    )


# cost


@by_order
def test_program_and_memory_do_not_grow_with_the_stages(order):
    params = {"w": jnp.ones((512, 512))}
    loss = lambda p: jnp.sum(jnp.cosh(p["w"]))

    def compiled(stages):
        opt = odeopt.rkc(0.1, stages, order)
        update = jax.jit(lambda g, s, p: opt.update(g, s, p, value_fn=loss))
        lowered = update.lower(params, opt.init(params), params)
        temporaries = lowered.compile().memory_analysis().temp_size_in_bytes
        return len(lowered.as_text().splitlines()), temporaries

    lines, temporaries = compiled(5)
    assert compiled(50)[0] == lines
    assert compiled(50)[1] <= temporaries + 4096  # the coefficients
    # two moved and a point, at order 2 also the first slope
    assert temporaries <= (2.1 + order) * params["w"].nbytes


def counted(field):
    """`field` as a `grad_fn`, and the stages at which it was really evaluated."""
    told = []

    def grad_fn(params, stage):
        jax.debug.callback(lambda stage: told.append(int(stage)), stage, ordered=True)
        return field(params)

    return grad_fn, told


@pytest.mark.parametrize("stages", [2, 7])
def test_every_stage_evaluates_one_gradient(stages):
    grad_fn, told = counted(jax.grad(bowl))
    x = jnp.ones(4)
    opt = odeopt.rkc(0.1, stages)
    _, state = jax.jit(lambda x: opt.update(grad_fn(x, 0), opt.init(x), x, grad_fn=grad_fn))(x)
    jax.effects_barrier()
    assert told == list(range(stages))
    assert int(state.gradients) == stages == RungeKuttaChebyshev(stages).gradients_per_step


@pytest.mark.slow
def test_mixed_trees_keep_their_types_and_nothing_recompiles_with_chosen_stages():
    params = mixed_params()
    opt = odeopt.rkc(2.0, None)
    state = opt.init(params)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(params, state):
        grads = gradient(mixed_loss, params)
        updates, state = opt.update(grads, state, params, value_fn=mixed_loss)
        return updates, optax.apply_updates(params, updates), state

    before = mixed_loss(params)
    for _ in range(3):
        updates, params, after = step(params, state)
        chex.assert_trees_all_equal_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
    assert mixed_loss(params) < before


def test_a_bfloat16_leaf_is_combined_in_float32():
    x = jnp.array([1.0, -2.0, 0.5, 1.5], jnp.bfloat16)
    constant = lambda x: jnp.sum(jnp.array([1, 2, -1, 3], x.dtype) * x)
    opt = odeopt.rkc(1.0, 50)
    updates, _ = opt.update(jax.grad(constant)(x), opt.init(x), x, value_fn=constant)
    # along a constant field nothing is rounded but the sum: 50 roundings of bfloat16 would show
    np.testing.assert_array_equal(updates, -jnp.array([1, 2, -1, 3], jnp.bfloat16))


def test_stage_transform_acts_on_every_stage():
    x = jnp.array([3.0, -4.0])
    opt = odeopt.rkc(1.0, 10, stage_transform=optax.clip_by_global_norm(1.0))
    loss = lambda x: jnp.sum(x**2)
    updates, _ = opt.update(jax.grad(loss)(x), opt.init(x), x, value_fn=loss)
    # every stage's gradient points to the origin with norm 1, so the step is that unit vector
    np.testing.assert_allclose(updates, -x / 5.0, rtol=1e-5)


# the diffrax class


@by_order
def test_constant_steps_equal_the_optimizer_s_updates(order, x64):
    saved = diffrax.diffeqsolve(term("rotating"), RKC(6, order), 0.0, 1.0, 0.05, start())
    end, _ = follow(odeopt.rkc(0.05, 6, order), FIELDS["rotating"], start(), 20)
    np.testing.assert_allclose(end, saved.ys[0], rtol=1e-11)
    assert RKC(6, order).stability_limit == RungeKuttaChebyshev(6, order).stability_limit
    assert RKC(6, order).gradients_per_step == 6


def test_a_stiff_system_through_diffeqsolve():
    """Diffusion: the step is set by the time scale of the solution, not by the grid."""
    n = 64
    x = jnp.linspace(0, 1, n + 2)[1:-1]
    heat = lambda t, u, args: (n + 1) ** 2 * jnp.convolve(u, jnp.array([1.0, -2.0, 1.0]), "same")
    saved = diffrax.diffeqsolve(
        diffrax.ODETerm(heat),
        RKC(stages=40, order=2),  # h * curvature = 845
        0.0,
        0.1,
        0.05,
        jnp.sin(np.pi * x),
        saveat=diffrax.SaveAt(t1=True, dense=True),
    )
    exact = np.exp(-(np.pi**2) * 0.1) * np.sin(np.pi * x)
    np.testing.assert_allclose(saved.ys[0], exact, atol=0.02)
    np.testing.assert_allclose(saved.evaluate(0.1), saved.ys[0], rtol=1e-6)


def test_adaptive_steps_are_refused():
    controller = diffrax.PIDController(rtol=1e-3, atol=1e-3)
    with pytest.raises(RuntimeError, match="error estimate"):
        diffrax.diffeqsolve(
            term("gradient"), RKC(), 0.0, 1.0, 0.1, start(), stepsize_controller=controller
        )


# stages that choose themselves


@by_order
def test_as_many_stages_as_the_step_is_stable_with(order):
    x = jnp.array([1.0, -1.0, 1.0, 0.5])
    chosen = jax.jit(lambda h: descend(odeopt.rkc(h, None, order), x, bowl, 4))
    for h in (1e-3, 0.1, 1.0):
        params, state, used = chosen(h)
        stages = np.asarray(used) - np.array([48, 2, 2, 2])  # 24 products first, then one a step
        assert int(state.gradients) == used.sum()
        for s in stages:
            assert RungeKuttaChebyshev(int(s), order).stability_limit >= h * 100
            if s > 2:
                assert RungeKuttaChebyshev(int(s) - 1, order).stability_limit < 1.2 * h * 100
    assert len(set(stages)) == 1  # the curvature is the same everywhere
    fixed, *_ = descend(odeopt.rkc(h, int(stages[0]), order), x, bowl, 4)
    np.testing.assert_allclose(params, fixed, rtol=1e-4, atol=1e-6)


def test_no_learning_rate_is_unstable_over_six_decades():
    x = jnp.array([1.0, -1.0, 1.0, 0.5])

    @jax.jit
    def step(params, state, h):
        opt = odeopt.rkc(h, None, max_stages=150)
        updates, state = opt.update(jax.grad(bowl)(params), state, params, value_fn=bowl)
        return params + updates, state

    for h in 10.0 ** np.arange(-4, 3):  # from 0.01 to 10,000 times 1 / sharpness
        params, state, losses = x, odeopt.rkc(0.1, None).init(x), [bowl(x)]
        for _ in range(4):
            params, state = step(params, state, h)
            losses.append(bowl(params))
        assert np.all(np.diff(losses) < 0)
        assert int(state.rejected) == 0


def test_gradients_are_counted_as_they_are_evaluated():
    grad_fn, told = counted(jax.grad(bowl))
    x = jnp.ones(4)
    opt = odeopt.rkc(0.5, None)
    step = jax.jit(lambda s: opt.update(jax.grad(bowl)(x), s, x, grad_fn=grad_fn)[1])
    first = step(opt.init(x))
    jax.effects_barrier()
    stages = int(first.gradients) - 48
    # the gradient is linearized once for all products, which count as 2 (see test_costs)
    assert len(told) == 1 + stages - 1
    second = step(first)
    jax.effects_barrier()
    assert int(second.gradients - first.gradients) == stages + 2
    assert len(told) == 2 * stages


def test_it_follows_a_curvature_that_moves():
    """The sharpest direction changes too, to one in which there was no slope."""

    def valley(z):
        x, y = z[0], z[1:]
        stiffness = jnp.where(x < 1.0, jnp.array([4.0, 1.0, 1.0]), jnp.array([1.0, 1.0, 100.0]))
        return -x + 0.5 * jnp.sum(stiffness * y**2)

    x = jnp.array([0.0, 0.1, 0.1, 1e-3])
    end, _, used = descend(odeopt.rkc(0.2, None), x, valley, 40)
    assert jnp.all(jnp.abs(end[1:]) < 0.1)
    assert used[1] < used[-1]
    enough = RungeKuttaChebyshev(int(used[-1]) - 2)
    assert 0.2 * 100 <= enough.stability_limit < 2 * 0.2 * 100


def test_a_bad_estimate_leaves_the_last_good_one():
    opt = odeopt.rkc(0.5, None)
    x = jnp.ones(4)
    update = jax.jit(lambda s, scale: opt.update(x, s, x, value_fn=bowl, scale=scale)[1])
    good = update(opt.init(x), 1.0)
    for scale in (jnp.nan, jnp.inf, 0.0):
        after = update(good, scale)
        chex.assert_trees_all_equal(after.memory, good.memory)
        assert int(after.gradients - good.gradients) == int(good.gradients) - 46


def test_without_curvature_two_stages_do():
    params, _, used = descend(odeopt.rkc(0.5, None), jnp.ones(3), jnp.sum, 2)
    np.testing.assert_allclose(params, np.zeros(3), atol=1e-6)
    assert list(map(int, used)) == [50, 50]  # the estimate starts anew, since there is none


def test_a_step_that_needs_too_many_stages_is_rejected():
    x = jnp.ones(4)
    params, state, used = descend(odeopt.rkc(1e3, None, max_stages=20), x, bowl, 2)
    np.testing.assert_array_equal(params, x)
    assert int(state.rejected) == 2
    assert list(map(int, used)) == [50, 50]  # the estimate, and no more than two stages


def test_a_rule_shrinks_a_step_that_needs_too_many_stages():
    opt = odeopt.rkc(odeopt.stepsize.gain_ratio(first=1e4), None, max_stages=20)
    x = jnp.ones(4)
    params, state, _ = descend(opt, x, bowl, 12)
    assert 0 < int(state.rejected) < 12
    assert bowl(params) < 1e-2 * bowl(x)


def test_with_gain_ratio_no_start_diverges_where_a_step_raises_the_curvature():
    loss = lambda x: jnp.mean(jnp.cosh(3 * x) - 1) + 50 * (x[0] - x[1] ** 2) ** 2
    x = jnp.array([1.0, -2.0, 0.5])

    @jax.jit
    def losses(first):
        opt = odeopt.rkc(odeopt.stepsize.gain_ratio(first=first), None)

        def step(carry, _):
            x, state = carry
            value, grads = jax.value_and_grad(loss)(x)
            updates, state = opt.update(grads, state, x, value=value, value_fn=loss)
            return (x + updates, state), value

        return jax.lax.scan(step, (x, opt.init(x)), length=40)[1]

    for first in (1e-2, 1.0, 1e4):
        path = np.asarray(losses(first))
        assert np.all(np.diff(path) <= 1e-6 * path[:-1])
        assert path[-1] < 1e-4 * path[0]


@pytest.mark.slow
def test_chosen_stages_under_vmap():
    rates = jnp.array([1e-3, 0.1, 1.0])
    x = jnp.array([1.0, -1.0, 1.0, 0.5])

    def once(rate):
        opt = odeopt.rkc(rate, None)
        return opt.update(jax.grad(bowl)(x), opt.init(x), x, value_fn=bowl)[0]

    one = jax.jit(once)
    for rate, update in zip(rates, jax.jit(jax.vmap(once))(rates), strict=True):
        np.testing.assert_allclose(update, one(rate), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_chosen_stages_of_masked_parameters():
    x = jnp.array([1.0, -1.0, 1.0, 0.5])
    params = {"a": x, "b": jnp.ones(2)}
    loss = lambda p: bowl(p["a"]) * jnp.sum(p["b"]) / 2
    opt = optax.masked(odeopt.rkc(0.1, None), {"a": True, "b": False})
    grads = jax.grad(loss)(params)
    updates, _ = opt.update(grads, opt.init(params), params, value_fn=loss, full_params=params)
    alone, *_ = descend(odeopt.rkc(0.1, None), x, bowl, 1)
    np.testing.assert_allclose(x + updates["a"], alone, rtol=1e-5)


# bad input


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"stages": 1}, ValueError, r"stages is 1.*odeopt\.euler"),
        ({"stages": None, "max_stages": 1}, ValueError, "max_stages is 1.*at least 2"),
        ({"order": 3}, ValueError, "order is 3.*1 or 2"),
        ({"damping": -0.1}, ValueError, "damping is -0.1.*at least 0"),
        ({"damping": float("nan")}, ValueError, "damping is nan"),
        ({"stages": 2.5}, TypeError, "stages is a float.*static_args"),
        ({"stages": True}, TypeError, "stages is a bool"),
        ({"damping": "0.1"}, TypeError, "damping is a str"),
    ],
)
def test_bad_input(kwargs, error, message):
    with pytest.raises(error, match=message):
        odeopt.rkc(0.1, **kwargs)


def test_staged_mode_is_refused():
    with pytest.raises(ValueError, match=r"staged= has no effect with RungeKuttaChebyshev"):
        odeopt.ode_optimizer(flows.GradientFlow(), RungeKuttaChebyshev(), 0.1, staged=True)


@pytest.mark.untyped
def test_chosen_stages_are_for_the_gradient_flow_of_an_optimizer():
    with pytest.raises(ValueError, match=r"suit HeavyBallFlow.*stages=10"):
        odeopt.ode_optimizer(flows.HeavyBallFlow(0.9), RungeKuttaChebyshev(None), 0.1)
    with pytest.raises(ValueError, match=r"RKC\(stages=10\)"):
        RKC(stages=None)


@pytest.mark.untyped
def test_inject_hyperparams_needs_to_know_the_stages():
    x = jnp.ones(4)
    make = optax.inject_hyperparams(odeopt.rkc)
    with pytest.raises(TypeError, match="static_args"):
        make(learning_rate=0.1).init(x)
    static = ("stages", "order", "damping", "max_stages")
    opt = optax.inject_hyperparams(odeopt.rkc, static_args=static)(learning_rate=0.1, stages=5)
    update = functools.partial(opt.update, value_fn=bowl)
    plain = odeopt.rkc(0.1, 5)
    expected, _ = plain.update(jax.grad(bowl)(x), plain.init(x), x, value_fn=bowl)
    np.testing.assert_allclose(update(jax.grad(bowl)(x), opt.init(x), x)[0], expected, rtol=1e-6)
