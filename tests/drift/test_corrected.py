"""Runge-Kutta methods with their drift cancelled: orders, forms, cost, clip."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from benchmarks.steps import correction_dots
from odeopt import drift, flows, solvers, stepsize
from odeopt.drift.corrected import Series
from odeopt.solvers import Tableau

from .cases import FIELDS, descent, difference, flow, follow, loss, rates, rotation, start

TIME = 1.0
EULER, MIDPOINT, RK4 = solvers.Euler(), solvers.Midpoint(), solvers.RK4()


def optimizer(flow, solver):
    return lambda h: odeopt.ode_optimizer(flow, solver, h)


def make(solver, order, **kwargs):
    return optimizer(drift.corrected(flows.GradientFlow(), solver, order, **kwargs), solver)


def order_of(make, field, steps):
    """The observed order of an optimizer on the flow itself."""

    @jax.jit
    def error(n):
        end, state = follow(make(TIME / n), field, start(), n)
        exact = flow(field, start(), TIME, 2000)
        return difference(end, exact), state

    found = [error(n) for n in np.array(steps)]
    state = found[-1][1]
    if isinstance(state.aux, drift.Corrected):
        assert state.aux.clipped == 0
    return rates([e for e, _ in found])[-1]


# chosen by looking: asymptotic, and above the rounding of the reference
STEPS = {2: (128, 256), 3: (128, 256), 4: (64, 128), 5: (16, 32)}
CASES = [
    (EULER, 2, "difference", rotation),
    (EULER, 3, "difference", descent),
    (EULER, 4, "difference", rotation),
    (EULER, 2, "derivatives", descent),
    (EULER, 3, "derivatives", rotation),
    (EULER, 4, "derivatives", descent),
    (MIDPOINT, 3, None, rotation),
    (MIDPOINT, 4, None, descent),
    (RK4, 5, None, rotation),
]


@pytest.mark.parametrize(("solver", "order", "form", "field"), CASES)
def test_the_corrected_method_has_the_order(solver, order, form, field, x64):
    rate = order_of(make(solver, order, form=form), field, STEPS[order])
    assert abs(rate - order) < 0.1


def wrong(solver, order, key):
    """One coefficient twice as large: the order of the trees below its own is left."""
    corrected = drift.corrected(flows.GradientFlow(), solver, order)
    table = drift.modifying_integrator(solver, order)
    table[drift.tree(key)] *= 2
    return dataclasses.replace(corrected, tableau=None, taylor=0, coefficients=tuple(table.items()))


@pytest.mark.parametrize(
    ("solver", "order", "key"), [(EULER, 2, "12"), (EULER, 3, "123"), (MIDPOINT, 4, "1233")]
)
def test_a_wrong_factor_costs_the_order(solver, order, key, x64):
    flow = wrong(solver, order, key)
    rate = order_of(optimizer(flow, solver), rotation, STEPS[order])
    assert abs(rate - (order - 1)) < 0.1


def one_step(opt, y, **kwargs):
    return opt.update(jax.grad(loss)(y), opt.init(y), y, value_fn=loss, **kwargs)


@pytest.mark.parametrize(
    ("order", "same"),
    [
        (2, Tableau(a=[[0.5]], b=[0, 1])),
        (3, Tableau(a=[[1 / 3], [0, 2 / 3]], b=[1 / 4, 0, 3 / 4])),
        (4, RK4.coefficients),
    ],
)
def test_eulers_counter_terms_by_differences_are_a_runge_kutta_method(order, same, x64):
    ours, state = one_step(odeopt.euler(0.1, correction=order), start())
    theirs, _ = one_step(odeopt.runge_kutta(0.1, same), start())
    assert difference(ours, theirs) < 1e-15
    assert state.gradients == order


@pytest.mark.parametrize("field", FIELDS)
def test_total_derivatives_equal_the_sum_over_trees(field, x64):
    base = flows.GradientFlow()
    taylor = drift.corrected(base, EULER, 4, form="derivatives", clip=None)
    table = drift.modifying_integrator(EULER, 4)
    trees = Series(base, None, coefficients=tuple(table.items()))

    def gradient(y, stage=0):
        return jax.tree.map(jnp.negative, FIELDS[field](y))

    @jax.jit
    def slopes(h):
        given = odeopt.objective.Objective({"grad_fn": gradient}, gradient(start()))
        moved = [flow.increment((start(), ()), given, h)[0] for flow in (taylor, trees)]
        return jax.tree.map(lambda u: u / h, moved)

    a, b = slopes(0.3)
    assert difference(a, b) < 1e-12
    assert difference(a, FIELDS[field](start())) > 1e-2  # something was compared


def test_a_flow_with_auxiliary_variables_is_corrected_as_a_whole(x64):
    """Euler on the heavy ball's own flow, parameters and momentum together, to order 2."""

    def factory(correct):
        def with_rate(h):
            # the ball's own time runs in units of sqrt(h); its friction is held fixed
            ball = flows.HeavyBallFlow(jnp.exp(-jnp.sqrt(h)))
            return odeopt.ode_optimizer(
                drift.corrected(ball, EULER, 2) if correct else ball, EULER, h
            )

        return with_rate

    def second_order(z):
        x, v = z
        return v, jax.tree.map(lambda f, v: f - v, descent(x), v)

    still = jax.tree.map(jnp.zeros_like, start())
    for correct, order in ((True, 2), (False, 1)):

        @jax.jit
        def error(n, correct=correct):
            end, _ = follow(factory(correct)((TIME / n) ** 2), descent, start(), n)
            return difference(end, flow(second_order, (start(), still), TIME, 1000)[0])

        assert abs(rates([error(n) for n in np.array([128, 256])])[-1] - order) < 0.1


def test_up_to_its_own_order_there_is_nothing_to_cancel():
    base = flows.GradientFlow()
    for solver, order in ((EULER, 1), (MIDPOINT, 2), (RK4, 4), (solvers.Lie(), 1)):
        assert drift.corrected(base, solver, order) is base


def test_a_correction_commutes_with_a_penalty(x64):
    """Euler's steps then follow the flow of the penalized loss with order 2."""
    penalized = drift.regularized(flows.GradientFlow(), 0.05)

    @jax.jit
    def error(n):
        opt = odeopt.ode_optimizer(penalized, EULER, TIME / n, correction=2)

        def step(_, carry):
            y, state = carry
            updates, state = opt.update(jax.grad(loss)(y), state, y, value_fn=loss)
            return optax.apply_updates(y, updates), state

        end, _ = jax.lax.fori_loop(0, n, step, (start(), opt.init(start())))
        total = lambda y: loss(y) + 0.05 * sum(jnp.sum(g**2) for g in jax.tree.leaves(descent(y)))
        field = lambda y: jax.tree.map(jnp.negative, jax.grad(total)(y))
        return difference(end, flow(field, start(), TIME, 1000))

    assert abs(rates([error(n) for n in np.array([256, 512])])[0] - 2) < 0.1


def test_a_corrected_flow_may_be_judged_by_its_gain():
    opt = odeopt.euler(stepsize.gain_ratio(), correction=2)
    updates, state = one_step(opt, start())
    assert int(state.rejected) == 0
    assert (
        sum(
            jnp.vdot(u, f)
            for u, f in zip(*map(jax.tree.leaves, (updates, descent(start()))), strict=True)
        )
        > 0
    )


@pytest.mark.parametrize("make", [odeopt.euler, odeopt.midpoint, odeopt.adam])
def test_a_step_of_size_zero_moves_nothing(make):
    updates, state = one_step(make(lambda n: 0.0, correction=2), start())
    assert all(jnp.all(u == 0) for u in jax.tree.leaves(updates))
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state))


# cost


@pytest.mark.slow
def test_dots_of_a_corrected_step_given_its_gradient():
    assert correction_dots(2, "difference") == 1 <= 1.35
    assert correction_dots(3, "difference") == 2 <= 6
    assert correction_dots(2, "derivatives") <= 2.5  # one Hessian product


# the clip


def test_the_clip_limits_the_counter_term_and_counts():
    """On (lambda / 2) x^2 the counter-term is h lambda / 2 of the gradient."""
    quadratic = lambda x: 1.5 * jnp.sum(x**2)
    x = jnp.array([1.0, -2.0])
    for h, factor, short in ((0.2, 1 - 0.3, 0), (0.5, 1 - 0.5, 1), (10.0, 1 - 0.5, 1)):
        opt = odeopt.euler(h, correction=2)
        updates, state = opt.update(3 * x, opt.init(x), x, value_fn=quadratic)
        np.testing.assert_allclose(updates, -h * factor * 3 * x, rtol=1e-6)
        assert float(optax.tree.get(state, "clipped")) == pytest.approx(short, abs=1e-6)
    loose = odeopt.ode_optimizer(
        drift.corrected(flows.GradientFlow(), EULER, 2, clip=None), EULER, 0.5
    )
    updates, state = loose.update(3 * x, loose.init(x), x, value_fn=quadratic)
    np.testing.assert_allclose(updates, -0.5 * (1 - 0.75) * 3 * x, rtol=1e-6)
    assert state.aux == ()


@pytest.mark.parametrize("order", [2, 3, 4])
def test_a_counter_term_that_is_not_finite_is_left_out(order):
    steep = lambda x: jnp.sum(jnp.exp(x**2))
    x = jnp.array([3.0, 1.0])
    opt = odeopt.euler(0.01, correction=order)
    grads = jax.grad(steep)(x)
    updates, state = opt.update(grads, opt.init(x), x, value_fn=steep)
    assert not np.all(np.isfinite(jax.grad(steep)(x - 0.005 * grads)))
    np.testing.assert_allclose(updates, -0.01 * grads, rtol=1e-6)
    assert float(optax.tree.get(state, "clipped")) == pytest.approx(1)


def test_stages_count_by_their_weight():
    """Ralston's second stage, of weight 3/4, alone is clipped: its point is steeper."""
    x, opt = jnp.array(1.0), odeopt.ralston(0.3, correction=3)
    slopes = []

    def steep(y, stage):
        slopes.append(stage)
        return jnp.where(y < 0.9, 40 * y, y)

    _, state = opt.update(x, opt.init(x), x, grad_fn=steep)
    assert float(state.aux.clipped) == pytest.approx(0.75)
    assert set(slopes) == {0, 1}  # each stage's counter-term looks at its own gradient


# what is refused


@pytest.mark.parametrize("order", [-1, 0, 7, pytest.param(2.5, marks=pytest.mark.untyped)])
def test_an_order_that_is_not_there_is_refused(order):
    with pytest.raises(ValueError, match="integer from 1 to 6"):
        drift.corrected(flows.GradientFlow(), EULER, order)
    with pytest.raises(ValueError, match="integer from 1 to 6"):
        odeopt.rk4(0.1, correction=order)


@pytest.mark.untyped
def test_what_cannot_be_corrected_is_refused():
    base = flows.GradientFlow()
    twice = drift.corrected(base, EULER, 2)
    averaged = flows.AveragedFlow(flows.RMSpropFlow())
    for bad in (twice, averaged):
        with pytest.raises(ValueError, match="cannot be corrected"):
            drift.corrected(bad, EULER, 2)
    with pytest.raises(ValueError, match=r"Euler's method, to order 4.*derivatives"):
        drift.corrected(base, MIDPOINT, 3, form="difference")
    with pytest.raises(ValueError, match="form is 'hvp'"):
        drift.corrected(base, EULER, 2, form="hvp")
    with pytest.raises(ValueError, match="clip is -1"):
        drift.corrected(base, EULER, 2, clip=-1)
    for option in ({"form": "difference"}, {"clip": 0.1}):
        with pytest.raises(ValueError, match="neither form nor clip: drop"):
            drift.corrected(base, solvers.ImplicitEuler(), 2, **option)
    with pytest.raises(ValueError, match="no Runge-Kutta method"):
        drift.corrected(base, solvers.Strang(), 2)
    with pytest.raises(ValueError, match="staged mode"):
        odeopt.rk4(0.1, staged=True, correction=5)
    with pytest.raises(ValueError, match="exclude each other"):
        odeopt.heun(stepsize.embedded_error(1e-3, 1e-3), correction=3)
    opt = odeopt.euler(0.1, correction=2)
    with pytest.raises(ValueError, match=r"value_fn=loss"):
        opt.update(start(), opt.init(start()), start())
    with pytest.raises(ValueError, match="needs the parameters"):
        opt.update(start(), opt.init(start()))
