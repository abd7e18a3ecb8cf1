"""Lie brackets, and the conflict of tasks that are stepped together."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from odeopt import drift

from .models import BATCHES, distance, last, observed, part, solve, start

TASKS = [lambda x, b=b: part(x, b) for b in BATCHES]


def twist(y):
    return {"u": y["u"] * y["v"], "v": jnp.sin(y["u"])}


def pull(y):
    return {"u": -jnp.cosh(y["v"]), "v": y["u"] ** 2}


def spin(y):
    return {"u": -y["v"] * jnp.exp(y["u"]), "v": y["u"]}


def add(*trees):
    return jax.tree.map(lambda *leaves: sum(leaves), *trees)


def test_the_bracket_is_antisymmetric_and_satisfies_jacobis_identity(x64):
    y, zero = start(), jax.tree.map(jnp.zeros_like, start())
    bracket = drift.lie_bracket

    @jax.jit
    def cyclic(y):
        fields = twist, pull, spin
        cycles = [(fields[i], fields[i - 2], fields[i - 1]) for i in range(3)]
        return [bracket(f, bracket(g, h))(y) for f, g, h in cycles]

    terms = cyclic(y)
    assert distance(add(*terms), zero) < 1e-14
    assert all(distance(term, zero) > 0.1 for term in terms)
    both = bracket(twist, pull)(y), bracket(pull, twist)(y)
    assert distance(add(*both), zero) < 1e-15 < distance(both[0], zero)
    assert distance(bracket(twist, twist)(y), zero) == 0


def test_linear_fields_commute_as_their_matrices_do(x64):
    a = jnp.array([[1.0, 2.0], [-0.5, 0.3]])
    b = jnp.array([[0.2, 0.0], [1.0, -1.0]])
    y = jnp.array([0.7, -1.3])
    bracket = lambda f, g: drift.lie_bracket(lambda y: f @ y, lambda y: g @ y)(y)
    np.testing.assert_allclose(bracket(a, b), (b @ a - a @ b) @ y, rtol=1e-14)
    np.testing.assert_allclose(bracket(a, a @ a - 3 * a), 0, atol=1e-14)


def test_the_bracket_is_what_the_order_of_two_steps_changes(x64):
    @jax.jit
    def errors(n):
        h = 1 / n
        step = lambda f, y: jax.tree.map(lambda y, k: y + h * k, y, f(y))
        end, other = step(pull, step(twist, start())), step(twist, step(pull, start()))
        bracket = drift.lie_bracket(twist, pull)(start())
        predicted = jax.tree.map(lambda e, b: e + h**2 * b, other, bracket)
        return distance(end, predicted), distance(end, other)

    assert observed(lambda n: errors(n)[0], [128, 256]) == pytest.approx(3, abs=0.1)
    assert observed(lambda n: errors(n)[1], [128, 256]) == pytest.approx(2, abs=0.1)


@pytest.mark.slow
def test_gradient_descent_on_several_tasks_needs_the_conflict_term(x64):
    together = lambda x: sum(task(x) for task in TASKS)

    @jax.jit
    def iterates(n):
        step = lambda _, x: jax.tree.map(lambda p, g: p - g / n, x, jax.grad(together)(x))
        return jax.lax.fori_loop(0, n, step, start())

    @jax.jit
    def flow(h, factor):
        def modified(x, h):
            squares = sum(optax.tree.norm(jax.grad(task)(x), squared=True) for task in TASKS)
            return together(x) + h / 4 * squares + factor * h / 2 * drift.conflict(TASKS)(x)

        field = lambda x, h: jax.tree.map(jnp.negative, jax.grad(modified)(x, h))
        return last(solve(field, start(), 1.0, h))

    for factor, order in [(1.0, 2), (0.0, 1), (2.0, 1)]:
        error = lambda n, factor=factor: distance(iterates(n), flow(1 / n, factor))
        assert observed(error, [128, 256]) == pytest.approx(order, abs=0.1)


def test_conflict_of_a_list_is_that_of_rows_and_of_dense_gradients(x64):
    x = start()
    gradients = [jax.grad(task)(x) for task in TASKS]
    products = [[sum(g[k] * h[k] for k in x) for g in gradients] for h in gradients]
    expected = (np.sum(products) - np.trace(products)) / 2
    np.testing.assert_allclose(drift.conflict(TASKS)(x), expected, rtol=1e-13)
    rows = drift.conflict(part, each=("batch",))
    np.testing.assert_allclose(rows(x, batch=BATCHES), expected, rtol=1e-13)
    with pytest.raises(ValueError, match="which were not passed"):
        rows(x)
    with pytest.raises(ValueError, match="leave it out"):
        drift.conflict(TASKS, each=("batch",))(x)
