"""The suggested rate is the boundary of divergence on quadratics, and stable on a network."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import flows, solvers, suggest_learning_rate
from odeopt.studies import problems

BALL, NESTEROV = flows.HeavyBallFlow(0.9), flows.NesterovFlow(0.8)
CASES = {
    "euler": (solvers.Euler(), None),
    "rk4": (solvers.RK4(), None),
    "tableau": (solvers.Tableau(a=[[1 / 3], [0, 2 / 3]], b=[1 / 4, 0, 3 / 4]), None),
    "diffrax": (diffrax.Bosh3(), None),
    "heavy ball": (solvers.Lie(), BALL),
    "nesterov": (solvers.Lie(), NESTEROV),
    "leapfrog": (solvers.Strang(), BALL),
    "joint rk4": (solvers.RK4(), BALL),
}


@pytest.fixture
def quadratic(x64):
    """A dense one, of condition 1e4."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    hessian = jnp.asarray(basis * np.geomspace(1e-3, 10, 30) @ basis.T)
    return lambda x, scale: 0.5 * scale * x @ hessian @ x


def descend(opt, loss, start, steps, **arguments):
    """The loss after each step."""

    def step(carry, _):
        x, state = carry
        grads = jax.grad(loss)(x, **arguments)
        updates, state = opt.update(grads, state, x, value_fn=loss, **arguments)
        x = optax.apply_updates(x, updates)
        return (x, state), loss(odeopt.step_params(state, x), **arguments)

    return jax.lax.scan(step, (start, opt.init(start)), length=steps)[1]


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_boundary_of_divergence_on_a_quadratic_within_two_percent(name, quadratic):
    solver, flow = CASES[name]
    start = jnp.ones(30)
    rate = suggest_learning_rate(solver, quadratic, start, flow=flow, scale=3.0)

    @jax.jit
    def losses(rate):
        opt = odeopt.ode_optimizer(flow or flows.GradientFlow(), solver, rate)
        return descend(opt, quadratic, start, 1500, scale=3.0)

    below, above = losses(0.98 * rate), losses(1.02 * rate)
    assert jnp.max(below[-100:]) < 0.5 * below[0]
    assert not jnp.max(above[-100:]) < 10 * jnp.max(above[:100])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["euler", "rk4"])
def test_on_the_digits_network_it_is_stable_and_four_times_as_much_is_not(name):
    (problem,) = problems.build(["digits-mse"])
    batch = tuple(map(jnp.asarray, problem.data))
    params = problem.init(0)
    rate = suggest_learning_rate(CASES[name][0], problem.loss, params, batch=batch)

    @jax.jit
    def peaks(rates):
        def peak(rate):
            losses = descend(getattr(odeopt, name)(rate), problem.loss, params, 40, batch=batch)
            return jnp.max(jnp.where(jnp.isfinite(losses), losses, jnp.inf))

        return jax.lax.map(peak, rates)

    start = problem.loss(params, batch)
    once, twice, four_times = peaks(rate * jnp.array([1.0, 2.0, 4.0]))
    assert once < start
    assert not four_times < 100 * start
    if name == "euler":  # within a factor of 2 of the largest rate whose loss stays below its start
        assert twice > start


def test_it_works_under_jit_and_is_infinite_without_positive_curvature():
    loss = lambda x, curvature: 0.5 * jnp.sum(curvature * x**2)
    suggest = jax.jit(
        lambda c: suggest_learning_rate(solvers.Euler(), loss, jnp.ones(3), curvature=c)
    )
    np.testing.assert_allclose(suggest(jnp.array([1.0, 2.0, 8.0])), 0.25, rtol=1e-5)
    assert suggest(-jnp.ones(3)) == suggest(jnp.zeros(3)) == jnp.inf
    assert jnp.isnan(suggest(jnp.full(3, jnp.nan)))


def test_what_has_no_limit_is_refused():
    with pytest.raises(ValueError, match="divides by the size of the gradient"):
        suggest_learning_rate(solvers.Lie(), jnp.sum, jnp.ones(2), flow=flows.AdamFlow(0.9, 0.99))
    with pytest.raises(TypeError, match="is an optax optimizer"):
        suggest_learning_rate(optax.sgd(0.1), jnp.sum, jnp.ones(2))
    with pytest.raises(ValueError, match="has a flow: drop flow="):
        suggest_learning_rate(odeopt.rk4(0.1), jnp.sum, jnp.ones(2), flow=BALL)


@pytest.mark.parametrize(
    "opt",
    [
        odeopt.euler(0.1, stage_transform=optax.scale(10.0)),
        odeopt.ode_optimizer(
            flows.AveragedFlow(flows.GradientFlow(), beta=0.0, power=2.0, weight_decay=1.9),
            solvers.Lie(),
            0.1,
        ),
        odeopt.ode_optimizer(
            flows.GroupedFlow({"a": flows.GradientFlow()}, "a", {"a": 0.3}), solvers.Euler(), 0.1
        ),
    ],
)
def test_where_the_loss_alone_does_not_decide_it_is_refused(opt):
    with pytest.raises(ValueError, match=r"stage_transform|a scale of its own"):
        suggest_learning_rate(opt, jnp.sum, jnp.ones(2))


def test_of_an_optimizer_it_is_that_of_its_flow_and_solver():
    loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * x**2)
    ours = suggest_learning_rate(odeopt.heavy_ball(1.0, 0.9), loss, jnp.ones(2))
    theirs = suggest_learning_rate(solvers.Lie(), loss, jnp.ones(2), flow=BALL)
    assert ours == theirs
    assert float(ours) == pytest.approx(0.38, rel=1e-4)


def test_no_name_of_an_argument_of_the_loss_is_taken():
    loss = lambda x, opt, params, flow, products: 0.5 * opt * params * flow * products * x @ x
    taken = {"flow": 2.0, "products": 5.0}
    rate = suggest_learning_rate(
        odeopt.euler(1.0), loss, jnp.ones(2), arguments=taken, opt=1.0, params=1.0
    )
    assert float(rate) == pytest.approx(0.2)
