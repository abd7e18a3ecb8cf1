"""Implicit and stabilized methods with their drift cancelled: orders, L-stability, descent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import drift, flows, solvers

from .cases import descent, difference, flow, follow, loss, rates, start

TIME = 1.0
EXACT = {"products": 3, "tolerance": 1e-14}
IMPLICIT = functools.partial(odeopt.implicit_euler, curvature="hessian", iterations=20, **EXACT)
LINEAR = functools.partial(odeopt.linearly_implicit_euler, curvature="hessian", **EXACT)
RKC1 = functools.partial(odeopt.rkc, stages=4)
RKC2 = functools.partial(odeopt.rkc, stages=3, order=2)


def observed(make, steps):
    """The observed order of an optimizer on the gradient flow."""

    @functools.partial(jax.jit, static_argnums=1)
    def error(h, n):
        opt = make(h)

        def step(_, carry):
            y, state = carry
            updates, state = opt.update(jax.grad(loss)(y), state, y, value_fn=loss)
            return optax.apply_updates(y, updates), state

        end, _ = jax.lax.fori_loop(0, n, step, (start(), opt.init(start())))
        return difference(end, flow(descent, start(), TIME, 2000))

    return rates([error(TIME / n, n) for n in steps])[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "correction", "order"),
    [
        (IMPLICIT, 2, 2),
        (IMPLICIT, None, 1),
        (LINEAR, 2, 2),
        (LINEAR, None, 1),
        (RKC1, 2, 2),
        (RKC1, None, 1),
        (RKC2, 3, 3),
        (RKC2, None, 2),
    ],
)
def test_the_corrected_method_has_the_order(make, correction, order, x64):
    steps = (64, 128) if make in (IMPLICIT, LINEAR) else (128, 256)
    rate = observed(lambda h: make(h, correction=correction), steps)
    assert abs(rate - order) < 0.1


@pytest.mark.slow
def test_the_other_sign_costs_the_order(x64):
    method = solvers.Rosenbrock(1, solvers.LinearSolver("hessian", **EXACT))
    doubled = drift.regularized(flows.GradientFlow(), lambda h: -h / 4)
    rate = observed(lambda h: odeopt.ode_optimizer(doubled, method, h), (64, 128))
    assert abs(rate - 1) < 0.1


@pytest.mark.parametrize("make", [IMPLICIT, LINEAR])
@pytest.mark.parametrize("z", [1e-3, 1.0, 1e4])
def test_it_stays_l_stable(make, z, x64):
    opt, quadratic = make(z, correction=2), lambda x: 0.5 * x**2
    x = jnp.asarray(1.0)
    updates, _ = opt.update(x, opt.init(x), x, value_fn=quadratic)
    np.testing.assert_allclose(x + updates, 1 / (1 + z + z**2 / 2), rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_the_loss_with_its_penalty_never_rises(curvature, x64):
    x, y = jax.random.normal(jax.random.key(0), (2, 20, 3))
    value_fn = odeopt.composite(
        lambda out, y: jnp.mean((out - y) ** 2), lambda p, x: jnp.sin(3 * x @ p)
    )

    def penalized(p, h):
        value, g = jax.value_and_grad(value_fn)(p, x=x, y=y)
        return value + h / 4 * jnp.sum(g**2)

    for h in (1e-2, 1.0, 1e2, 1e6):
        opt = odeopt.implicit_euler(h, curvature, correction=2)
        p = jnp.eye(3)
        state = opt.init(p)
        for _ in range(3):
            grads = jax.grad(value_fn)(p, x=x, y=y)
            updates, state = opt.update(
                grads, state, p, value=value_fn(p, x=x, y=y), value_fn=value_fn, x=x, y=y
            )
            gone = penalized(p + updates, h) + jnp.sum(updates**2) / (2 * h)
            assert gone <= penalized(p, h) * (1 + 1e-14)
            assert jnp.any(updates != 0)
            p = p + updates


def test_a_tableau_of_stages_is_the_method_itself(x64):
    for order in (1, 2):
        method = solvers.RungeKuttaChebyshev(5, order)
        a, b = method.butcher()
        tableau = solvers.Tableau(a=[row[:i] for i, row in enumerate(a)][1:], b=b)
        ends = [
            follow(odeopt.ode_optimizer(flows.GradientFlow(), m, 0.3), descent, start(), 4)[0]
            for m in (method, tableau)
        ]
        assert difference(*ends) < 1e-13


def test_up_to_its_own_order_there_is_nothing_to_cancel():
    plain = flows.GradientFlow()
    for method in (
        solvers.Implicit("midpoint"),
        solvers.Implicit("trapezoidal"),
        solvers.Rosenbrock(2),
        solvers.Exponential("hessian"),
        solvers.ImplicitMidpoint(),
    ):
        assert drift.corrected(plain, method, 2) is plain


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: odeopt.implicit_euler(0.1, correction=3), "not the gradient of one: order is 3"),
        (lambda: odeopt.linearly_implicit_euler(0.1, correction=2), 'curvature="hessian"'),
        (lambda: odeopt.exponential_euler(0.1, correction=2), 'curvature="hessian"'),
        (lambda: odeopt.implicit_midpoint(0.1, correction=3), "beyond order 2"),
        (lambda: odeopt.rkc(0.1, stages=None, correction=2), "give a number"),
    ],
)
def test_what_cannot_be_corrected_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
