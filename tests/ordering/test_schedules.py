"""Orders of an epoch, and what palindromes are good for."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import drift, ordering

from ..drift.models import BATCHES, distance, last, observed, part, solve, start


@pytest.mark.slow
def test_every_epoch_sees_every_batch_once_in_its_order():
    orders = {
        "forward": ordering.forward(7),
        "reversed": ordering.reversed(7),
        "reshuffled": ordering.reshuffled(7, 3),
        "palindromic": ordering.palindromic(7, 3),
    }
    for order in orders.values():
        epochs = np.stack([order(e) for e in range(6)])
        assert np.all(np.sort(epochs) == np.arange(7))
        assert list(itertools.islice(order, 42)) == epochs.ravel().tolist()
        traced = jax.lax.scan(lambda _, e: (_, order(e)), None, jnp.arange(6))[1]
        np.testing.assert_array_equal(traced, epochs)
    forward, backward = orders["forward"](4), orders["reversed"](4)
    np.testing.assert_array_equal(forward, np.arange(7))
    np.testing.assert_array_equal(backward, np.arange(7)[::-1])
    there = np.stack([orders["palindromic"](e) for e in range(20)])
    np.testing.assert_array_equal(there[::2], there[1::2, ::-1])
    fresh = np.stack([orders["reshuffled"](e) for e in range(10)])
    for random in (there[::2], fresh):
        assert len({tuple(row) for row in random}) == 10
    assert tuple(ordering.reshuffled(7, 4)(0)) != tuple(fresh[0])


def test_no_batches_are_refused():
    for order in (ordering.forward, ordering.reversed, ordering.reshuffled, ordering.palindromic):
        with pytest.raises(ValueError, match="batches is 0"):
            order(0)


@pytest.mark.untyped
def test_epochs_that_are_not_in_the_period_are_refused():
    for backwards in (0, [0], (1,), (-1,)):
        with pytest.raises(ValueError, match="must be a tuple of epochs of the period"):
            ordering.BatchOrder(3, backwards=backwards)


def epochs(order, opt, number):
    """Parameters after so many epochs."""

    def step(carry, i):
        x, state = carry
        batch = jnp.asarray(BATCHES)[i]
        updates, state = opt.update(jax.grad(part)(x, batch), state, x, value_fn=part, batch=batch)
        return (optax.apply_updates(x, updates), state), None

    def epoch(e, carry):
        return jax.lax.scan(step, carry, order(e))[0]

    return jax.lax.fori_loop(0, number, epoch, (start(), opt.init(start())))[0]


@pytest.mark.parametrize(
    ("order", "solver", "expected"),
    [
        (ordering.palindromic(3, None), odeopt.heun, 2),
        (ordering.forward(3), odeopt.heun, 1),
        (ordering.palindromic(3, None), odeopt.euler, 1),  # the order of the method remains
    ],
    ids=["palindromic", "forward", "palindromic Euler"],
)
def test_palindromes_follow_the_flow_of_all_data_with_order_2(x64, order, solver, expected):
    flow = drift.epoch_flow(part, ordered=False, batch=BATCHES)
    end = last(solve(flow, start(), 3.0, 0.0))  # h = 0: no drift, the flow of the mean loss

    @jax.jit
    def run(n):
        return epochs(order, solver(1 / n), n)

    assert observed(lambda n: distance(run(n), end), [128, 256]) == pytest.approx(expected, abs=0.1)


def test_reversal_of_n_steps_is_the_sum_of_brackets_to_second_order(x64):
    fields = [lambda y, b=b: jax.tree.map(jnp.negative, jax.grad(part)(y, b)) for b in BATCHES]
    pairs = list(itertools.combinations(fields, 2))
    brackets = [drift.lie_bracket(f, g)(start()) for f, g in pairs]
    total = jax.tree.map(lambda *leaves: sum(leaves), *brackets)

    @jax.jit
    def error(h):
        ends = [
            epochs(order, odeopt.euler(h), 1)
            for order in (ordering.forward(3), ordering.reversed(3))
        ]
        difference = jax.tree.map(lambda a, b: (a - b) / h**2, *ends)
        return distance(difference, total) / optax.tree.norm(total)

    errors = np.array([error(h) for h in (0.04, 0.02, 0.01)])
    assert errors[-1] < 0.05
    np.testing.assert_allclose(np.log2(errors[:-1]) - np.log2(errors[1:]), 1, atol=0.1)
