"""Two independent derivations of the modified field agree, and iterates follow it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import drift

from .cases import FIELDS, METHODS, difference, flow, rates, rotation, start

pytestmark = pytest.mark.usefixtures("x64")
# Four values of h tell the four terms of a polynomial of degree 3 apart.
SIZES = jnp.array([0.0, 0.5, 1.0, -1.0])
# the order from which on a method has drift
FIRST = {"rk4": 5, "ssprk3": 4, "euler": 2, "implicit euler": 2}


@pytest.mark.slow
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", METHODS)
def test_trees_and_step_map_agree(name, field):
    fields = [
        drift.modified_field(METHODS[name], FIELDS[field], 4, by=by) for by in ("trees", "step")
    ]

    @jax.jit
    def both(y):
        return [jax.vmap(lambda h, f=f: f(y, h))(SIZES) for f in fields]

    trees, step = both(start())
    plain = FIELDS[field](start())
    for i, h in enumerate(SIZES):
        a, b = (jax.tree.map(lambda leaf: leaf[i], side) for side in (trees, step))
        assert difference(a, b) < 1e-10
        # something was compared: the drift that is there, and none that is not
        drifts = FIRST.get(name, 3) <= 4 and h != 0
        assert (difference(a, plain) > 1e-2) == drifts


TIME = 1.0
STEPS = np.array([32, 64, 128])


def distances(step, modified, y, n=STEPS):
    """Of the iterates from the flow of the modified field, for each number of steps."""

    @jax.jit
    def distance(n):
        h = TIME / n
        end = jax.lax.fori_loop(0, n, lambda _, y: step(y, h), y)
        return difference(end, flow(lambda y: modified(y, h), y, TIME))

    return [distance(k) for k in n]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_eulers_iterates_follow_the_modified_field_with_the_order_of_its_terms(order):
    euler = odeopt.solvers.Euler()
    modified = drift.modified_field(euler, rotation, order)
    step = drift.step_map(euler, rotation)
    assert abs(rates(distances(step, modified, start()))[-1] - order) < 0.1


@pytest.mark.parametrize(("name", "order"), [("midpoint", 4), ("implicit euler", 3)])
def test_other_iterates_follow_theirs(name, order):
    step = drift.step_map(METHODS[name], rotation, iterations=30)
    modified = drift.modified_field(METHODS[name], rotation, order)
    assert abs(rates(distances(step, modified, start()))[-1] - order) < 0.1


# steps that have no tree: momentum and moments are part of `y`


def ball(z, h):
    """A heavy ball, conformal symplectic Euler: friction, kick, drift."""
    x, v = z
    v = jax.tree.map(lambda v, f: jnp.exp(-h) * v + h * f, v, rotation(x))
    return jax.tree.map(lambda x, v: x + h * v, x, v), v


def adaptive(z, h):
    """Adam's kind: both moments relax, the parameters move by their quotient."""
    x, m, s = z
    g = rotation(x)
    m = jax.tree.map(lambda m, g: g + jnp.exp(-2 * h) * (m - g), m, g)
    s = jax.tree.map(lambda s, g: g**2 + jnp.exp(-h) * (s - g**2), s, g)
    x = jax.tree.map(lambda x, m, s: x + h * m / jnp.sqrt(s + 0.1), x, m, s)
    return x, m, s


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(("step", "copies"), [(ball, 2), (adaptive, 3)])
def test_steps_with_memory_follow_their_modified_field(step, copies, order):
    modified = drift.modified_field(step, None, order)
    z = (start(), *[jax.tree.map(lambda leaf: 0.5 * leaf**2, start())] * (copies - 1))
    assert abs(rates(distances(step, modified, z))[-1] - order) < 0.1


def test_any_odeopt_method_has_a_step_map():
    """Chebyshev's, on a linear problem: a step multiplies by R, so the field is log(R) / h."""
    method, h = odeopt.solvers.RungeKuttaChebyshev(3), 1e-2
    field = lambda y: -2.0 * y
    modified = drift.modified_field(method, field, 4)(jnp.array(1.0), h)
    factor = drift.step_map(method, field)(jnp.array(1.0), h)
    # the first term left out is of size (2 h)^5 / h
    assert float(modified) == pytest.approx(float(jnp.log(factor)) / h, abs=1e-6)
    assert abs(modified + 2) > 1e-3


@pytest.mark.parametrize("order", [1, 2, 4])
def test_what_follows_a_linear_field_exactly_has_no_drift(order, x64):
    matrix, y = jnp.array([[1.0, 0.2], [0.2, 0.5]]), jnp.array([1.0, -2.0])
    modified = drift.modified_field(
        odeopt.solvers.Exponential("hessian"), lambda y: -matrix @ y, order
    )
    np.testing.assert_allclose(modified(y, 0.3), -matrix @ y, rtol=1e-9)


@pytest.mark.untyped
def test_what_cannot_be_derived_is_refused():
    euler = odeopt.solvers.Euler()
    with pytest.raises(ValueError, match="pass it"):
        drift.modified_field(euler, None, 2)
    with pytest.raises(ValueError, match="no tree coefficients"):
        drift.modified_field(ball, None, 2, by="trees")
    with pytest.raises(ValueError, match="from 1 to 6"):
        drift.modified_field(euler, rotation, -1)
    with pytest.raises(ValueError, match='"trees", "step" or None'):
        drift.modified_field(euler, rotation, 2, by="tree")
    with pytest.raises(TypeError, match="pass an instance"):
        drift.modified_field(odeopt.solvers.Euler, rotation, 2)
    with pytest.raises(TypeError, match="no solver"):
        drift.modified_field("euler", rotation, 2)


FIELD, SCALAR = (lambda y: jax.tree.map(jnp.negative, y)), (lambda y: jnp.zeros(()))
OF_A_FIELD = {
    "differentials": lambda f: drift.elementary_differentials(f, ONES, [drift.tree("12")]),
    "series": lambda f: drift.b_series({drift.tree("12"): 1.0}, f)(ONES, 0.1),
    "bracket": lambda f: drift.lie_bracket(FIELD, f)(ONES),
    "step": lambda f: drift.step_map(odeopt.solvers.Euler(), f)(ONES, 0.1),
    "implicit step": lambda f: drift.step_map(odeopt.solvers.ImplicitMidpoint(), f)(ONES, 0.1),
    "modified": lambda f: drift.modified_field(odeopt.solvers.Heun(), f, 3)(ONES, 0.1),
    "of a step": lambda f: drift.modified_field(lambda y, h: f(y), None, 2)(ONES, 0.1),
    "edge": lambda f: drift.edge_flow(lambda y, h: f(y)).start(ONES, 0.1),
}
ONES = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(3, jnp.float32), "c": jnp.ones(())}


@pytest.mark.parametrize("name", OF_A_FIELD)
def test_a_field_may_promote_and_must_return_a_tree_like_y(name):
    """A loss handed over for its gradient would be broadcast, or end deep inside JAX."""
    promoting = lambda y: jax.tree.map(lambda x: -jnp.float32(1.0) * x, y)
    for x in jax.tree.leaves(OF_A_FIELD[name](promoting)):
        assert jnp.all(jnp.isfinite(x))
    for other in (SCALAR, lambda y: (y["a"], y["b"]), lambda y: {**y, "b": y["c"]}):
        with pytest.raises(ValueError, match=r"(?s)returned arrays of shape.*a tree like y"):
            OF_A_FIELD[name](other)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_step_map_that_promotes_has_a_modified_field(dtype):
    step = lambda y, h: jax.tree.map(lambda x: x - h * jnp.sin(x), y)
    y = {"a": jnp.array([1.0, 0.5], dtype), "b": jnp.ones(2)}
    found = drift.modified_field(step, None, 2)(y, 0.1)
    expected = drift.modified_field(
        odeopt.solvers.Euler(), lambda y: jax.tree.map(lambda x: -jnp.sin(x), y), 2
    )(y, 0.1)
    assert found["a"].dtype == dtype
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(*map(np.float64, (a, b)), rtol=0.02),
        found,
        expected,
    )


class AdamsBashforth(odeopt.solvers.AbstractMethod):
    """A user's two-step method, which remembers the last increment."""

    order = gradients_per_step = 2

    def init(self, flow, z):
        return jax.tree.map(jnp.zeros_like, z[0])

    def step(self, flow, objective, z, h, memory):
        slope, _ = flow.increment(z, objective, h)
        update = jax.tree.map(lambda k, last: 1.5 * k - 0.5 * last, slope, memory)
        return odeopt.solvers.Step(update, z[1], slope)


def test_a_method_that_remembers_is_refused():
    for make in (drift.step_map, lambda m, f: drift.modified_field(m, f, 2)):
        with pytest.raises(ValueError, match=r"AdamsBashforth remembers.*memory is part of y"):
            make(AdamsBashforth(), lambda y: -y)
