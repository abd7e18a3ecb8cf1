"""What backward order does: it comes to rest, and has the law of forward order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import ks_2samp

import odeopt
from odeopt import ordering

from ..drift.models import BATCHES, distance, part, start
from .models import DECAY, RATE, distances, gap, regression, softmax, train

EXAMPLE = {"i": 0}
STEPS = 300


@pytest.mark.slow
@pytest.mark.parametrize("problem", [regression, softmax], ids=["regression", "softmax"])
def test_iterates_come_to_rest_geometrically_where_forward_ones_wobble(x64, problem):
    loss, params, batches = problem()
    epochs = map(ordering.reshuffled(batches), range(1 + STEPS // batches))
    order = np.concatenate(list(epochs))[:STEPS]
    opt = ordering.backward(odeopt.euler(RATE), steps=STEPS, example=EXAMPLE)
    run = jax.jit(lambda: train(opt, loss, params, order)[0])
    found = distances(run())
    steps = np.arange(STEPS)[found > 1e-12]
    rate = np.exp(np.polyfit(steps, np.log(found[steps]), 1)[0])
    assert rate <= 1 - RATE * DECAY + 0.005
    assert found[-1] < 1e-9

    forward = distances(train(odeopt.euler(RATE), loss, params, order, given=True)[0])
    assert forward.min() > 1e-2
    # a window is forward again at every checkpoint, and calmer within
    previous = forward[STEPS // 2 :].mean()
    for window in (8, 64):
        opt = ordering.backward(odeopt.euler(RATE), window, example=EXAMPLE)
        mean = distances(train(opt, loss, params, order)[0])[STEPS // 2 :].mean()
        assert mean < 0.9 * previous
        previous = mean


@pytest.mark.slow
def test_backward_and_forward_iterates_have_the_same_law(x64):
    loss, params, batches = regression()
    steps, runs = 8, 1000
    mean = jax.vmap(lambda i: jax.grad(loss)(params, i)["w"])(jnp.arange(batches)).mean(axis=0)
    along = np.asarray(mean)

    def ends(opt, seed):
        orders = jax.random.randint(jax.random.key(seed), (runs, steps), 0, batches)
        path = jax.jit(jax.vmap(lambda order: train(opt, loss, params, order)[0]["w"][-1]))
        return np.asarray(path(orders)) @ along

    full = ordering.backward(odeopt.euler(RATE), steps=steps, example=EXAMPLE)
    one = lambda rate: ordering.backward(odeopt.euler(rate), 1)
    backward = ends(full, 1)
    assert ks_2samp(backward, ends(one(RATE), 2)).pvalue > 0.01
    # the test can tell: with another rate it is another law
    assert ks_2samp(backward, ends(one(1.5 * RATE), 3)).pvalue < 1e-6


def window_of(method, h):
    """One step of a method on the last batch, from the exact backward point of those before."""
    order = [0, 1, 2, 1]
    value = lambda x, i: part(x, jnp.asarray(BATCHES)[i])
    of = lambda method: ordering.backward(
        odeopt.euler(h), len(order) + 1, example=EXAMPLE, method=method
    )
    path, state = train(of("replay"), value, start(), order)
    x = jax.tree.map(lambda leaf: leaf[-1], path)
    if method == "append":
        return jax.tree.map(lambda p, g: p - h * g, x, jax.grad(value)(x, 0))
    update = jax.jit(lambda state, x: of(method).update(None, state, x, value_fn=value, i=0))
    updates, _ = update(state, x)
    return jax.tree.map(jnp.add, x, updates)


@pytest.mark.parametrize(("method", "order"), [("bracket", 3), ("linearized", 3), ("append", 2)])
def test_local_errors_of_the_shorter_forms(x64, method, order):
    error = jax.jit(lambda h: distance(window_of(method, h), window_of("replay", h)))
    errors = np.array([float(error(h)) for h in (0.01, 0.005, 0.0025)])
    slopes = np.log2(errors[:-1]) - np.log2(errors[1:])
    assert slopes == pytest.approx(order, abs=0.1)


def test_the_linearized_form_is_exact_where_gradients_are_linear(x64):
    loss, params, _ = regression()
    order = np.arange(20)
    paths = [
        train(
            ordering.backward(odeopt.euler(RATE), 8, example=EXAMPLE, method=method),
            loss, params, order,
        )[0]
        for method in ("replay", "linearized", "bracket")
    ]  # fmt: skip
    assert gap(paths[0], paths[1]) < 1e-13
    assert gap(paths[0], paths[2]) > 1e-6
