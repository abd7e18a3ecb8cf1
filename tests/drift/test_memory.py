"""The counter-term with memory: order 2 from the first step on, each on the method's own flow."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import drift, flows, solvers

from .cases import descent, difference, flow, follow, loss, rates, start

TIME, MU, EPS = 1.0, 0.8, 0.5
STEPS = np.array([512, 1024])  # chosen by looking: asymptotic from here on


def ball_clock(ahead):
    """The step size of `n` steps of a heavy ball that starts at rest, so that they last TIME."""

    def rate(n):
        weights = (1 - MU ** (jnp.arange(STEPS[-1]) + 1 + ahead)) / (1 - MU)
        return TIME / jnp.sum(jnp.where(jnp.arange(STEPS[-1]) < n, weights, 0.0))

    return rate


def normalized(root, decay=0.0):
    """`-g / (|g| + eps) - w x`, or with eps under the root."""

    def leaf(f, x):
        return f / (jnp.sqrt(f * f + EPS) if root else jnp.abs(f) + EPS) - decay * x

    return lambda y: jax.tree.map(leaf, descent(y), y)


# name: (optimizer of a rate and a correction, the field that it follows, rate of n steps)
CASES = {
    "heavy_ball": (
        lambda h, c: odeopt.heavy_ball(h, MU, correction=c),
        descent,
        ball_clock(0),
    ),
    "nesterov": (lambda h, c: odeopt.nesterov(h, MU, correction=c), descent, ball_clock(1)),
    "adam": (
        lambda h, c: odeopt.adam(h, MU, 0.9, EPS, correction=c),
        normalized(False),
        lambda n: TIME / n,
    ),
    "adam, eps under the root": (
        lambda h, c: odeopt.adam(h, MU, 0.9, 0.0, EPS, correction=c),
        normalized(True),
        lambda n: TIME / n,
    ),
    "adamw": (
        lambda h, c: odeopt.adamw(h, MU, 0.9, EPS, weight_decay=0.3, correction=c),
        normalized(False, 0.3),
        lambda n: TIME / n,
    ),
    "rmsprop": (
        lambda h, c: odeopt.rmsprop(h, 0.9, EPS, bias_correction=True, correction=c),
        normalized(True),
        lambda n: TIME / n,
    ),
    "rmsprop, eps outside": (
        lambda h, c: odeopt.rmsprop(
            h, 0.9, EPS, eps_in_sqrt=False, bias_correction=True, correction=c
        ),
        normalized(False),
        lambda n: TIME / n,
    ),
}


def order_of(make, field, rate, steps=STEPS):
    @jax.jit
    def error(n):
        end, state = follow(make(rate(n)), descent, start(), n)
        return difference(end, flow(field, start(), TIME, 1000)), state

    found = [error(n) for n in steps]
    clipped = optax.tree.get(found[0][1], "clipped")
    assert clipped is None or clipped == 0
    return rates([e for e, _ in found])[0]


@pytest.mark.parametrize(("correction", "order"), [(2, 2), (None, 1)])
@pytest.mark.parametrize("name", CASES)
def test_order_from_the_first_step_on(name, correction, order, x64):
    make, field, rate = CASES[name]
    assert abs(order_of(lambda h: make(h, correction), field, rate) - order) < 0.1


@pytest.mark.parametrize(
    ("name", "flow", "steps"),
    [
        ("heavy_ball", flows.HeavyBallFlow, STEPS),
        ("nesterov", flows.HeavyBallFlow, STEPS),
        ("adam", flows.AdamFlow, 8 * STEPS),
        ("adamw", flows.AdamFlow, 8 * STEPS),
        ("rmsprop", flows.RMSpropFlow, 8 * STEPS),
    ],
)
def test_a_wrong_factor_costs_the_order(name, flow, steps, x64, monkeypatch):
    """Moments aged twice as much. Adam's term of order 2 then is large, so that it takes longer."""
    right = flow.aged
    wrong = lambda *args: jax.tree.map(lambda x: 2 * x, right(*args))
    monkeypatch.setattr(flow, "aged", wrong)
    make, field, rate = CASES[name]
    assert abs(order_of(lambda h: make(h, 2), field, rate, steps) - 1) < 0.1


@pytest.mark.parametrize("name", ["heavy_ball", "adamw"])
def test_a_hessian_product_gives_the_same_order(name, x64):
    base = {
        "heavy_ball": flows.HeavyBallFlow(MU),
        "adamw": flows.AdamFlow(MU, 0.9, EPS, weight_decay=0.3),
    }[name]
    corrected = drift.corrected(base, solvers.Lie(), 2, form="derivatives")
    make = lambda h: odeopt.ode_optimizer(corrected, solvers.Lie(), h)
    _, field, rate = CASES[name]
    assert abs(order_of(make, field, rate) - 2) < 0.1


@pytest.mark.parametrize(("correction", "order"), [(2, 2), (None, 1)])
def test_rmsprop_without_bias_correction_once_its_moment_has_settled(correction, order, x64):
    """Its first steps are long, since `v` starts at 0: here it starts where it would settle."""

    @jax.jit
    def error(n):
        opt = odeopt.rmsprop(TIME / n, 0.9, EPS, correction=correction)
        settled = jax.tree.map(jnp.square, descent(start()))
        state = optax.tree.set(opt.init(start()), nu=settled)
        end, _ = follow(opt, descent, start(), n, state=state)
        return difference(end, flow(normalized(True), start(), TIME, 1000))

    # asymptotic later: the weights of v are not those of what it has seen
    assert abs(rates([error(n) for n in 4 * STEPS])[0] - order) < 0.1


def quadratic_factors(name, mu):
    """Of FORMULAS' kind: the counter-term of the settled method on x^2 / 2, over g."""
    return {
        "heavy_ball": (1 + mu) / (2 * (1 - mu) ** 2),
        "nesterov": (1 - mu + 2 * mu**2) / (2 * (1 - mu) ** 2),
    }[name] / (1 - mu)


def aged(flow, age):
    """How much more its moments were, for a gradient that was 1 more each step ago."""
    one = jnp.ones([])
    aux = flow.init(one)._replace(age=jnp.asarray(age, float))
    return flow.aged(aux, one, one)


@pytest.mark.parametrize("mu", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("name", ["heavy_ball", "nesterov"])
def test_the_settled_factor_is_the_closed_form(name, mu, x64):
    """`h c = h k H g / (1 - mu)`, k = (1 + mu) / (2 (1 - mu)^2) for the heavy ball."""
    cls = {"heavy_ball": flows.HeavyBallFlow, "nesterov": flows.NesterovFlow}[name]
    settled = jnp.array(2000.0)
    found = aged(cls(mu), settled).momentum
    # a difference of gradients is w h g here, w = 1 / (1 - mu) the weight of all of them
    in_update = found / (1 - mu) if name == "heavy_ball" else (0.5 + mu * found) / (1 - mu)
    assert float(in_update) == pytest.approx(quadratic_factors(name, mu), rel=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("age", [1, 2, 7])
def test_ages_are_sums_over_what_was_seen(decay, age, x64):
    k = np.arange(age)
    weights = decay**k
    found = aged(flows.AdamFlow(decay, 0.9), age).mu
    assert float(found) == pytest.approx(np.sum((1 - decay) * weights * (k + 0.5)), rel=1e-12)
    for cls, ahead in ((flows.HeavyBallFlow, 0), (flows.NesterovFlow, 1)):
        steps = (1 - decay ** (np.arange(age) + 1 + ahead)) / (1 - decay)  # of time, step 0 first
        ago = np.array([np.sum(steps[age - 1 - j : age - 1]) for j in k])
        expected = np.sum(weights * (ago / steps[-1] + 0.5))
        assert float(aged(cls(decay), age).momentum) == pytest.approx(expected)


def test_momentum_and_moments_are_those_of_the_plain_method():
    """The counter-term moves the parameters alone."""
    grads = jax.grad(loss)(start())
    for name in ("heavy_ball", "adam"):
        states = [
            opt.update(grads, opt.init(start()), start(), value_fn=loss)[1].aux
            for opt in (getattr(odeopt, name)(0.01, correction=c) for c in (None, 2))
        ]
        assert difference(states[0], states[1].aux) == 0


def test_one_gradient_more():
    for opt in (odeopt.heavy_ball(0.01, correction=2), odeopt.adam(0.01, correction=2)):
        calls = []

        def counted(y):
            calls.append(1)
            return loss(y)

        grads = jax.grad(loss)(start())
        _, state = opt.update(grads, opt.init(start()), start(), value_fn=counted)
        assert len(calls) == 1
        assert state.gradients == 2


def test_a_parameter_that_has_never_had_a_gradient_stays_where_it_is():
    """0/0 in the derivative of the root of its second moment."""
    half = lambda y: loss(y) + 0.0 * y["idle"]
    y = start() | {"idle": jnp.array(1.0)}
    for opt in (odeopt.adam(0.01, correction=2), odeopt.rmsprop(0.01, correction=2)):
        updates, _ = opt.update(jax.grad(half)(y), opt.init(y), y, value_fn=half)
        assert updates["idle"] == 0
        assert all(jnp.all(jnp.isfinite(u)) for u in jax.tree.leaves(updates))


SCALES = jnp.logspace(-2, 0, 8)


def descend(opt, n=300):
    """On a quadratic of condition 100 and sharpness 1."""
    quadratic = lambda x: 0.5 * jnp.sum(SCALES * x**2)

    def step(_, carry):
        x, state = carry
        updates, state = opt.update(SCALES * x, state, x, value_fn=quadratic)
        return optax.apply_updates(x, updates), state

    x, state = jax.lax.fori_loop(0, n, step, (jnp.ones(8), opt.init(jnp.ones(8))))
    return quadratic(x), state


def test_the_clip_keeps_large_rates_stable():
    """At h lambda = 0.3 the heavy ball's term is 28 times what it corrects."""
    plain, _ = descend(odeopt.heavy_ball(0.3, 0.9))
    clipped, state = descend(odeopt.heavy_ball(0.3, 0.9, correction=2))
    assert clipped < 10 * plain < 1e-6
    assert 0 < optax.tree.get(state, "clipped") <= 300
    loose = drift.corrected(flows.HeavyBallFlow(0.9), solvers.Lie(), 2, clip=None)
    diverged, _ = descend(odeopt.ode_optimizer(loose, solvers.Lie(), 0.3))
    assert not diverged < 1


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (flows.GradientFlow(), r"Lie\(\)` on GradientFlow.*`aged`.*`solvers.Euler\(\)`"),
        (flows.RelativisticFlow(0.9), "No counter-term is known"),
        (flows.HeavyBallFlow(flows.LogTime()), "decay is a clock"),
        (flows.AdamFlow(b2=flows.LogTime()), "decay is a clock"),
        (flows.AdamFlow(nesterov=True), "nesterov or exact_decay is not known"),
        (flows.AdamFlow(exact_decay=True), "exact_decay is not known"),
        (flows.RMSpropFlow(centered=True), "centered or momentum is not known"),
        (flows.RMSpropFlow(momentum=0.9), "centered or momentum is not known"),
    ],
)
def test_what_has_no_known_counter_term_is_refused(base, message):
    with pytest.raises(ValueError, match=message):
        drift.corrected(base, solvers.Lie(), 2)


class SignFlow(flows.AbstractFlow):
    """A user's flow with memory: along a smooth sign of the running average of the gradient."""

    parts = ("average", "move")

    def init(self, params):
        return optax.tree.zeros_like(params), jnp.zeros([], float)

    def part(self, name, z, objective, h, fraction):
        params, (mean, age) = z
        if name == "average":
            grads = objective.here(params)
            return None, (jax.tree.map(lambda m, g: MU * m + (1 - MU) * g, mean, grads), age + 1)
        weight = 1 - MU**age
        return jax.tree.map(lambda m: -h * jnp.tanh(m / weight), mean), (mean, age)

    def aged(self, aux, grads, back):
        k = jnp.arange(STEPS[-1])
        seen = jnp.where(k < aux[1], (1 - MU) * MU**k * (k + 0.5), 0.0)
        return jax.tree.map(lambda d: jnp.sum(seen) * d, back), jnp.zeros_like(aux[1])


@pytest.mark.parametrize(("correction", "order"), [(2, 2), (None, 1)])
def test_a_flow_of_a_user_that_knows_its_ages_is_corrected(correction, order, x64):
    make = lambda h: odeopt.ode_optimizer(SignFlow(), solvers.Lie(), h, correction=correction)
    field = lambda y: jax.tree.map(jnp.tanh, descent(y))
    assert abs(order_of(make, field, lambda n: TIME / n) - order) < 0.1


@pytest.mark.parametrize("name", ["adam", "rmsprop", "heavy_ball"])
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_zero_gradient_below_32_bits_moves_nothing_and_spoils_nothing(name, dtype):
    flat = lambda y: jnp.sum(y["wide"] ** 2) + 0.0 * jnp.sum(y["idle"].astype(jnp.float32))
    y = {"wide": jnp.ones(2), "idle": jnp.ones(3, dtype)}
    opt = {"heavy_ball": lambda: odeopt.heavy_ball(0.01, 0.9, correction=2)}.get(
        name, lambda: getattr(odeopt, name)(0.01, correction=2)
    )()
    updates, state = opt.update(jax.grad(flat)(y), opt.init(y), y, value_fn=flat)
    assert jnp.all(updates["idle"] == 0)
    assert jnp.all(jnp.isfinite(updates["wide"]) & (updates["wide"] < 0))
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state))


def test_orders_and_solvers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="known to order 2"):
        odeopt.adam(0.1, correction=3)
    with pytest.raises(ValueError, match="from 1 to 6"):
        odeopt.heavy_ball(0.1, correction=-1)
    corrected = drift.corrected(flows.HeavyBallFlow(0.9), solvers.Lie(), 2)
    with pytest.raises(ValueError, match=r"corrected for `solvers.Lie"):
        odeopt.ode_optimizer(corrected, solvers.RK4(), 0.1)
    with pytest.raises(ValueError, match="several do"):
        odeopt.ode_optimizer(corrected, solvers.Strang(), 0.1)
    opt = odeopt.adam(0.1, correction=2)
    with pytest.raises(ValueError, match="value_fn=loss"):
        opt.update(start(), opt.init(start()), start())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_single_precision_rounds_the_first_steps_by_little(name):
    """The weight of a young moment, 1 - b^n with b near 1, is not formed by subtraction."""
    cosh = lambda x: jnp.sum(jnp.cosh(x))

    def steps(x):
        opt = getattr(odeopt, name)(0.1, correction=2)
        state, found = opt.init(x), []
        for _ in range(3):
            updates, state = opt.update(jax.grad(cosh)(x), state, x, value_fn=cosh)
            x = x + updates
            found.append(np.asarray(updates, np.float64))
        return np.stack(found)

    start = np.array([1.0, 0.5, 0.1, 0.05])
    with jax.enable_x64(True):
        exact = steps(jnp.asarray(start))
    single = steps(jnp.asarray(start, jnp.float32))
    np.testing.assert_allclose(single, exact, atol=1e-3 * np.max(np.abs(exact)))
