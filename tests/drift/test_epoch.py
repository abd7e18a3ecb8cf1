"""What epochs of mini-batches, and rounds of tasks, follow."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odeopt import drift

from .models import BATCHES, distance, last, observed, part, solve, start

gradient = jax.grad(part)


def epoch(x, batches, h):
    """One Euler step on each batch."""

    def step(x, batch):
        return jax.tree.map(lambda p, g: p - h * g, x, gradient(x, batch)), None

    return jax.lax.scan(step, x, batches)[0]


@jax.jit
def mean_over_orders(h):
    orders = np.array(list(itertools.permutations(range(len(BATCHES)))))
    ends = jax.vmap(lambda batches: epoch(start(), batches, h))(BATCHES[orders])
    return jax.tree.map(lambda x: x.mean(axis=0), ends)


@pytest.fixture
def model(x64):
    """`(ordered, time, h) -> end` of the flow, compiled once for each `ordered`."""
    return {
        ordered: jax.jit(
            lambda time, h, ordered=ordered: last(
                solve(drift.epoch_flow(part, ordered=ordered, batch=BATCHES), start(), time, h)
            )
        )
        for ordered in (True, False)
    }


@pytest.mark.slow
def test_the_mean_over_all_orders_follows_the_penalized_loss_with_local_order_3(model):
    def error(n, flow=model[False]):
        h = 1 / n
        return distance(mean_over_orders(h), flow(3 * h, h))

    steps = [128, 256]
    assert observed(error, steps) == pytest.approx(3, abs=0.1)
    plain = lambda n: error(n, lambda time, h: model[False](time, 0.0))
    assert observed(plain, steps) == pytest.approx(2, abs=0.1)  # without the penalty
    given = lambda n: error(n, model[True])
    assert observed(given, steps) == pytest.approx(2, abs=0.1)  # with one order's bracket


@pytest.mark.slow
def test_a_given_order_needs_the_bracket(model):
    @jax.jit
    def iterates(n):
        return jax.lax.fori_loop(0, n, lambda _, x: epoch(x, BATCHES, 1 / n), start())

    steps = [64, 128]
    for ordered, order in [(True, 2), (False, 1)]:
        error = lambda n, flow=model[ordered]: distance(iterates(n), flow(3.0, 1 / n))
        assert observed(error, steps) == pytest.approx(order, abs=0.1)


def test_every_other_epoch_backwards_needs_none(model):
    @jax.jit
    def iterates(n):
        def both(_, x):
            return epoch(epoch(x, BATCHES, 1 / n), BATCHES[::-1], 1 / n)

        return jax.lax.fori_loop(0, n // 2, both, start())

    error = lambda n: distance(iterates(n), model[False](3.0, 1 / n))
    assert observed(error, [64, 128]) == pytest.approx(2, abs=0.1)


def test_the_bracket_is_the_sum_of_lie_brackets_and_tasks_are_batches(x64):
    h, x, m = 0.1, start(), len(BATCHES)
    with_bracket = drift.epoch_flow(part, batch=BATCHES)(x, h)
    without = drift.epoch_flow(part, ordered=False, batch=BATCHES)(x, h)
    fields = [lambda y, b=b: jax.tree.map(jnp.negative, gradient(y, b)) for b in BATCHES]
    brackets = [drift.lie_bracket(f, g)(x) for f, g in itertools.combinations(fields, 2)]
    expected = jax.tree.map(lambda *leaves: h / (2 * m) * sum(leaves), *brackets)
    difference = jax.tree.map(jnp.subtract, with_bracket, without)
    assert distance(difference, expected) < 1e-14 < distance(expected, without)

    tasks = [lambda x, b=b: part(x, b) for b in BATCHES]
    assert distance(drift.epoch_flow(tasks)(x, h), with_bracket) < 1e-14


@pytest.mark.slow
def test_the_formula_for_two_tasks(x64):
    """As in arXiv:2311.00235, in units of rounds: twice the flow time."""
    h, x = 0.1, jnp.array([0.8, -0.6])
    one, two = (lambda x, b=b: part({"u": x[0], "v": x[1]}, b) for b in BATCHES[:2])
    g1, g2, h1, h2 = jax.grad(one)(x), jax.grad(two)(x), jax.hessian(one)(x), jax.hessian(two)(x)
    squares = lambda x: sum(jnp.sum(jax.grad(task)(x) ** 2) for task in (one, two))
    expected = -(g1 + g2) - h / 4 * jax.grad(squares)(x) + h / 2 * (h2 @ g1 - h1 @ g2)
    np.testing.assert_allclose(2 * drift.epoch_flow([one, two])(x, h), expected, rtol=1e-13)


def test_the_epoch_loss_is_the_potential_of_the_mean_and_one_batch_estimates_it(x64):
    h, x = 0.1, start()
    total = drift.epoch_loss(part, h)
    slope = jax.grad(lambda x: total(x, batch=BATCHES))(x)
    field = drift.epoch_flow(part, ordered=False, batch=BATCHES)(x, h)
    assert distance(slope, jax.tree.map(jnp.negative, field)) < 1e-14
    assert (
        distance(slope, jax.grad(lambda x: drift.epoch_loss(part, 0.0)(x, batch=BATCHES))(x))
        > h / 10
    )

    each = [total(x, batch=batch[None]) for batch in jnp.asarray(BATCHES)]
    np.testing.assert_allclose(sum(each) / len(each), total(x, batch=BATCHES), rtol=1e-14)


def test_rows_and_tasks_are_checked():
    field = drift.epoch_flow(lambda x, a, b: a * b * x, a=jnp.ones(3), b=jnp.ones(2))
    with pytest.raises(ValueError, match=r"leading axes.*stack the batches"):
        field(jnp.array(1.0), 0.1)
    with pytest.raises(ValueError, match="leading axes"):
        drift.epoch_flow(lambda x, a: a * x, a=jnp.ones([]))(jnp.array(1.0), 0.1)
    with pytest.raises(ValueError, match="no loss"):
        drift.epoch_flow([])(jnp.array(1.0), 0.1)
