"""The drift that is reported, against steps of gradient descent and the exact flow."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import diagnostics

from ..drift.models import BATCHES, distance, last, observed, part, solve, start

whole = lambda x: sum(part(x, batch) for batch in BATCHES)
gradient = jax.grad(whole)


def minus(a, b):
    return jax.tree.map(jnp.subtract, a, b)


def flow(time, x=None):
    field = lambda x, h: jax.tree.map(jnp.negative, gradient(x))
    return last(solve(field, start() if x is None else x, time, 0.0))


def step(x, h, value_fn):
    return jax.tree.map(lambda p, g: p - h * g, x, jax.grad(value_fn)(x))


def round_of(x, h):
    for batch in BATCHES:
        x = step(x, h, lambda x, batch=batch: part(x, batch))
    return x


@pytest.mark.slow
@pytest.mark.parametrize("in_turn", [False, True], ids=["together", "in turn"])
def test_it_is_the_difference_of_a_step_and_the_flow_to_leading_order(x64, in_turn):
    @jax.jit
    def errors(n):
        h = 1 / n
        end = round_of(start(), h) if in_turn else step(start(), h, whole)
        difference = minus(end, flow(h))
        given = {"in_turn": in_turn, "each": ("batch",), "batch": BATCHES}
        terms = diagnostics.drift_terms(part, start(), h, **given)
        found = diagnostics.drift(part, start(), h, **given)
        predicted = jax.tree.map(lambda *leaves: -h * sum(leaves), *terms[1:])
        incomplete = jax.tree.map(lambda own: -h * own, terms.own)
        return (
            distance(difference, predicted),
            abs(optax.tree.norm(difference) - found.size),
            distance(difference, incomplete),
        )

    steps = [128, 256]
    for index, order in [(0, 3), (1, 3), (2, 2)]:  # the last without interaction, or order
        error = lambda n, index=index: errors(n)[index]
        assert observed(error, steps) == pytest.approx(order, abs=0.1)


@pytest.mark.slow
def test_one_loss_has_one_term_half_a_step_of_hg(x64):
    h, x = 0.1, start()
    terms = diagnostics.drift_terms(whole, x, h)
    product = jax.jvp(gradient, (x,), (gradient(x),))[1]
    assert distance(terms.own, jax.tree.map(lambda v: h / 2 * v, product)) < 1e-14
    assert distance(terms.gradient, gradient(x)) < 1e-14
    found = diagnostics.drift(whole, x, h)
    assert (float(found.interaction), float(found.order)) == (0, 0)
    np.testing.assert_allclose(found.own, 1.0, rtol=1e-14)
    # the corridor measure is the same ratio without the step size
    np.testing.assert_allclose(found.relative, h / 2 * diagnostics.corridor(whole, x), rtol=1e-13)


@pytest.mark.slow
def test_parts_split_the_drift_of_their_sum_and_shares_sum_to_1(x64):
    h, x = 0.1, start()
    tasks = [lambda x, b=b: part(x, b) for b in BATCHES]

    @jax.jit
    def measure(x):
        terms = [
            diagnostics.drift_terms(losses, x, h, in_turn=in_turn)
            for losses, in_turn in [(tasks, False), (tasks, True), (tasks[::-1], True)]
        ]
        found = [
            (
                diagnostics.drift(tasks, x, h, in_turn=in_turn),
                diagnostics.drift(part, x, h, in_turn=in_turn, each=("batch",), batch=BATCHES),
            )
            for in_turn in (False, True)
        ]
        return terms, diagnostics.drift_terms(whole, x, h).own, found

    (together, forwards, backwards), of_sum, both = measure(x)
    total = jax.tree.map(jnp.add, together.own, together.interaction)
    assert distance(total, of_sum) < 1e-14
    for in_turn, (found, rows) in enumerate(both):
        np.testing.assert_allclose(found, rows, rtol=1e-12)
        np.testing.assert_allclose(found.own + found.interaction + found.order, 1.0, rtol=1e-13)
        assert (found.interaction == 0) == in_turn
        assert (found.order == 0) != in_turn
    flipped = jax.tree.map(jnp.negative, forwards.order)
    assert distance(backwards.order, flipped) < 1e-15 < distance(flipped, forwards.order)
    assert distance(backwards.own, forwards.own) < 1e-15


def test_cosine_size_and_rest():
    for curvature in [2.0, -2.0]:
        loss = lambda x: 0.5 * curvature * jnp.sum(x**2)
        found = diagnostics.drift(loss, jnp.array([3.0, 4.0]), 0.1)
        np.testing.assert_allclose(found.cosine, np.sign(curvature), rtol=1e-6)
        np.testing.assert_allclose(found.relative, 0.1, rtol=1e-6)  # h |lambda| / 2
        np.testing.assert_allclose(found.size, 0.1 * 0.1 * 10.0, rtol=1e-6)
    np.testing.assert_array_equal(diagnostics.drift(loss, jnp.zeros(2), 0.1), 0.0)


@pytest.mark.slow
def test_of_the_heavy_ball_at_its_own_rate(x64):
    """Past the transient the ball follows gradient flow less that drift, at the rate h/(1 - b)."""
    b = 0.5

    @jax.jit
    def error(n, with_drift):
        h = (1 - b) / n
        opt = odeopt.heavy_ball(h, b)

        def body(_, carry):
            x, state = carry
            updates, state = opt.update(gradient(x), state, x)
            return optax.apply_updates(x, updates), state

        settled, state = jax.lax.fori_loop(0, n // 4, body, (start(), opt.init(start())))
        end, _ = jax.lax.fori_loop(0, n // 2, body, (settled, state))

        def field(x, h):
            terms = diagnostics.drift_terms(whole, x, h * (1 + b) / (1 - b) ** 2)
            return jax.tree.map(lambda g, d: -g - with_drift * d, terms.gradient, terms.own)

        return distance(end, last(solve(field, settled, 0.5, h)))

    for with_drift, order in [(1.0, 2), (0.0, 1)]:
        rate = observed(lambda n: error(n, with_drift), [512, 1024])
        assert rate == pytest.approx(order, abs=0.1)


def contractions(jaxpr):
    """How many matrix products a program makes, loops counted as often as they run."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "dot_general"
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        inside = jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")
        )
        for closed in inside:
            sub = getattr(closed, "jaxpr", closed)
            count += times * contractions(sub) if hasattr(sub, "eqns") else 0
    return count


def test_it_costs_3_gradients_or_6_a_part():
    def loss(params, x):
        hidden = x
        for weight in params:
            hidden = jnp.tanh(hidden @ weight)
        return jnp.sum(hidden**2)

    params, x = [jnp.ones((4, 4))] * 6, jnp.ones((5, 3, 4))
    cost = lambda f: contractions(jax.make_jaxpr(f)(params).jaxpr)
    one = cost(lambda p: jax.grad(loss)(p, x[0]))
    alone = cost(lambda p: diagnostics.drift(loss, p, 0.1, x=x[0]))
    parts = cost(lambda p: diagnostics.drift(loss, p, 0.1, each=("x",), x=x))
    assert one == 17  # of every layer one forward and two backward, the last for 5 inputs only
    assert alone <= 3 * one
    assert parts <= 6 * len(x) * one
    assert parts > 5 * len(x) * one  # the measurement can fail


def test_losses_of_a_list_may_name_arguments_of_their_own():
    """What another loss names is no misspelling: that would warn, and warnings are errors here."""
    first = lambda x, batch: jnp.sum(x * batch)
    second = lambda x, scale=1.0: scale * jnp.sum(x**2)
    g = diagnostics.drift_terms([first, second], jnp.ones(2), 0.1, batch=2.0).gradient
    np.testing.assert_allclose(g, 4.0)
    with pytest.warns(UserWarning, match="scal, which the loss does not name"):
        diagnostics.drift_terms([first, second], jnp.ones(2), 0.1, batch=2.0, scal=2.0)


@pytest.mark.parametrize("size", [1e-30, 1e-21, 1e21, 1e30])
def test_measures_are_the_same_for_gradients_of_every_size(size):
    """Of a quadratic they do not depend on the distance to its minimum."""
    loss = lambda x, row: 0.5 * jnp.sum(jnp.array([1.0, 2.0]) * (row * x) ** 2)
    opt, rows = odeopt.euler(0.1), jnp.array([1.0, 1.5])

    def measured(x):
        whole = lambda x: loss(x, 1.0)
        record = odeopt.monitor(opt, whole)(x, opt.init(x))
        return {
            "batch": odeopt.diagnostics.batch_sharpness(loss, x, row=rows),
            "corridor": odeopt.diagnostics.corridor(whole, x),
            "drift": odeopt.diagnostics.drift(loss, x, 0.1, each=("row",), row=rows)[1:],
            "step": odeopt.drift.step_drift(opt, opt.init(x), x, value_fn=whole)[1:],
            "monitor": (record["batch_sharpness"], record["drift_cosine"]),
        }

    x = jnp.ones(2)
    chex.assert_trees_all_close(measured(size * x), measured(x), rtol=1e-5)
    longer = odeopt.diagnostics.drift(loss, size * x, 0.1, row=1.0).size
    one = odeopt.diagnostics.drift(loss, x, 0.1, row=1.0).size
    np.testing.assert_allclose(longer, size * one, rtol=1e-6)
