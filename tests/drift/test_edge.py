"""The edge flow against the optimizers that it models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import drift, solvers

RATE = 0.1


def growing(y):
    """A curvature that grows until x oscillates, with a softer wall far out."""
    return 0.5 * y[1] * y[0] ** 2 - y[1] - 0.05 * y[0] ** 4


def velocity(y):
    return -jax.grad(growing)(y)


def ball(y, h):
    """Heavy ball, its momentum part of y."""
    point, momentum = y
    momentum = 0.5 * momentum + velocity(point)
    return point + h * momentum, momentum


STEPS = {
    "euler": drift.step_map(solvers.Euler(), velocity),
    "ssprk3": drift.step_map(solvers.SSPRK3(), velocity),
    "rk4": drift.step_map(solvers.RK4(), velocity),
    "heavy ball": ball,
}
START = jnp.array([0.3, 12.0])


def begin(name):
    start = jnp.asarray(START, float)
    return (start, jnp.zeros(2)) if name == "heavy ball" else start


def iterates(name, y, steps):
    found, step = [y], jax.jit(STEPS[name])
    for _ in range(steps):
        found.append(step(found[-1], RATE))
    return found


def test_it_starts_between_the_first_two_iterates():
    edge = drift.edge_flow(STEPS["euler"]).start(START, RATE)
    first, second = iterates("euler", START, 1)
    np.testing.assert_allclose(edge.centre, first)
    np.testing.assert_allclose(first - 2 * edge.amplitude, second, rtol=1e-6)


def follow(field, edge, time):
    """By Heun's method in steps of a sixteenth of the optimizer's."""
    dt = RATE / 16

    def step(_, edge):
        first = field(edge, RATE)
        second = field(jax.tree.map(lambda x, d: x + dt * d, edge, first), RATE)
        return jax.tree.map(lambda x, d, e: x + dt / 2 * (d + e), edge, first, second)

    return jax.jit(lambda edge: jax.lax.fori_loop(0, round(time / dt), step, edge))(edge)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_euler_on_it_is_the_optimizer(x64, name):
    field, y = drift.edge_flow(STEPS[name]), begin(name)
    half = jax.tree.map(lambda x: 0.1 * x, y)
    edge = drift.Edge(jax.tree.map(jnp.subtract, y, half), half)
    for n, expected in enumerate(iterates(name, y, 6)):
        sign = (-1) ** n
        found = jax.tree.map(lambda c, a, sign=sign: c + sign * a, *edge)
        assert all(map(np.allclose, jax.tree.leaves(found), jax.tree.leaves(expected)))
        edge = jax.tree.map(lambda x, d: x + RATE * d, edge, field(edge, RATE))


@pytest.mark.parametrize(
    ("name", "limit"), [("euler", 2.0), ("ssprk3", 2.5127), ("heavy ball", 3.0)]
)
def test_the_amplitude_grows_beyond_the_limit_and_shrinks_below(x64, name, limit):
    field = drift.edge_flow(STEPS[name])
    for share, sign in ((1.05, 1), (0.95, -1)):
        y = jnp.array([0.0, share * limit / RATE])
        small = jnp.array([1e-6, 0.0])
        if name == "heavy ball":  # the eigenvector at -1: momentum 2 x / h
            edge = drift.Edge((y, 0 * y), (small, 2 / RATE * small))
            growth = field(edge, RATE).amplitude[0] @ small
        else:
            growth = field(drift.Edge(y, small), RATE).amplitude @ small
        assert sign * growth > 0


def test_it_follows_descent_along_the_edge_where_gradient_flow_leaves_it(x64):
    field = drift.edge_flow(STEPS["euler"])
    found = follow(field, field.start(jnp.asarray(START, float), RATE), 60.0).centre
    late = jnp.stack(iterates("euler", jnp.asarray(START, float), 600)[-200:]).mean(axis=0)
    assert float(found[1]) == pytest.approx(float(late[1]), rel=0.02)
    assert float(late[1]) == pytest.approx(2 / RATE, rel=0.15)
    flow = follow(
        lambda y, h: drift.Edge(velocity(y.centre), y.amplitude), drift.Edge(START, START), 60.0
    )
    assert float(flow.centre[1]) > 2 * float(late[1])  # the amplitude is what holds it


def test_where_iterates_do_not_oscillate_the_amplitude_dies_out(x64):
    field = drift.edge_flow(STEPS["rk4"])
    y = jnp.array([0.5, 1.05 * 2.785 / RATE])
    velocity = field(drift.Edge(y, jnp.array([1e-3, 0.0])), RATE)
    assert velocity.amplitude[0] < 0
    mean = (STEPS["rk4"](y, RATE) - y) / RATE
    assert jnp.allclose(field(drift.Edge(y, 0 * y), RATE).centre, mean)


@pytest.mark.untyped
def test_it_takes_a_step_map_and_a_pair_of_points():
    for solver in (solvers.Euler(), odeopt.euler(0.1)):
        with pytest.raises(TypeError, match="pass a step map"):
            drift.edge_flow(solver)
    field = drift.edge_flow(drift.step_map(solvers.Euler(), velocity))
    with pytest.raises(TypeError, match=r"Edge\(centre, amplitude\)"):
        field(jnp.ones(2), 0.1)
