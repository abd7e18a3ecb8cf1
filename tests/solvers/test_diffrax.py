"""What every diffrax class promises, whatever the dtype of its field: the laws of diffrax's own."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from odeopt import solvers

CLASSES = {
    name: cls
    for name in dir(solvers)
    if isinstance(cls := getattr(solvers, name), type) and issubclass(cls, diffrax.AbstractSolver)
}
PAIRS = {"ConformalEuler", "ConformalLeapfrog", "SuzukiYoshida"}  # of position and velocity
MATRIX = np.array([[-0.3, 1.0], [-1.0, -0.2]])
CASES = {  # dtype, from, to
    "float32 backwards": (jnp.float32, 1.0, 0.0),
    "float64 forwards": (jnp.float64, 0.0, 1.0),
    "complex64 backwards": (jnp.complex64, 1.0, 0.0),
}


pytestmark = pytest.mark.filterwarnings("ignore:Complex dtype")


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def rate(leaf):
    return jnp.asarray(0.5j if jnp.iscomplexobj(leaf) else -1.0, leaf.dtype)


def field(t, y, args):
    """A rotation, decay or a turn, and a leaf without entries."""
    turned = jnp.asarray(MATRIX, y["matrix"].dtype) @ y["matrix"]
    return y | {"matrix": turned, "scalar": rate(y["scalar"]) * y["scalar"]}


def start(name, dtype):
    # diffrax's own Runge-Kutta step takes no mixed dtypes where promotion is strict
    other = dtype if issubclass(CLASSES[name], diffrax.AbstractERK) else jnp.float32
    return {
        "matrix": jnp.array([1.0, -2.0], other),
        "scalar": jnp.asarray(1.5, dtype),
        "empty": jnp.zeros((0, 3), other),
    }


def solve(name, y0, t0, t1):
    """20 steps; of a pair, from equal positions and velocities."""
    times = [jnp.float32(t) for t in (t0, t1, (t1 - t0) / 20)]
    if name not in PAIRS:
        return diffrax.diffeqsolve(diffrax.ODETerm(field), CLASSES[name](), *times, y0).ys
    term = diffrax.ODETerm(lambda t, v, args: v)
    kick = diffrax.ODETerm(lambda t, x, args: jax.tree.map(lambda leaf: -leaf, x))
    solver = CLASSES[name](friction=0.5)
    return diffrax.diffeqsolve((term, kick), solver, *times, (y0, y0)).ys


def exact(name, y0, time):
    """By the exponential of each leaf's matrix."""
    expm = lambda matrix: np.asarray(jax.scipy.linalg.expm(time * jnp.asarray(matrix)))
    y0 = jax.tree.map(np.asarray, y0)
    if name in PAIRS:
        along = expm(np.array([[0.0, 1.0], [-1.0, -0.5]])).sum(axis=1)
        return tuple(jax.tree.map(lambda leaf, f=f: leaf * f, y0) for f in along)
    scalar = np.exp(time * np.asarray(rate(y0["scalar"]))) * y0["scalar"]
    return y0 | {"matrix": expm(MATRIX) @ y0["matrix"], "scalar": scalar}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", CLASSES)
def test_any_tree_is_followed_in_both_directions_of_time(name, case, x64):
    dtype, *ends = CASES[case]
    y0 = start(name, dtype)
    found = jax.jit(lambda y: solve(name, y, *ends))(y0)
    dtypes = lambda tree: jax.tree.map(lambda leaf: leaf.dtype, tree)
    assert dtypes(found) == dtypes((y0, y0) if name in PAIRS else y0)
    # a method of order 1 is off by h/2 = 0.025 for every unit of time, and of growth by e
    close = lambda one, other: np.testing.assert_allclose(one[0], other, atol=0.25)
    jax.tree.map(close, found, exact(name, y0, ends[1] - ends[0]))
    if dtype == jnp.complex64:  # a batch is its members
        batch = jax.tree.map(lambda y: jnp.stack([y, -y]), y0)
        both = jax.vmap(lambda y: solve(name, y, *ends))(batch)
        opposite = lambda leaf: np.stack([leaf, -leaf])
        close = lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        jax.tree.map(close, both, jax.tree.map(opposite, found))


def test_adaptive_are_exactly_those_with_an_estimate():
    estimates = {n for n, c in CLASSES.items() if hasattr(c, "tableau") and any(c.tableau.b_error)}
    adaptive = {n for n, c in CLASSES.items() if issubclass(c, diffrax.AbstractAdaptiveSolver)}
    assert adaptive == estimates | {"ImplicitEuler"}  # which takes Heun's method for its estimate


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - PAIRS))
def test_a_state_without_entries_stays(name):
    term = diffrax.ODETerm(lambda t, y, args: -y)
    times = [jnp.float32(t) for t in (0, 1, 0.5)]
    assert diffrax.diffeqsolve(term, CLASSES[name](), *times, jnp.zeros(0)).ys.shape == (1, 0)


def kicked(t, x, args):
    return jnp.cos(2 * t) - jnp.sin(x)


def driven(solver, steps):
    """Position and velocity of a pendulum with friction, pushed in time, after a unit of it."""
    times = 0.1, 1.1, 1 / steps
    start = jnp.array([1.0]), jnp.array([0.5])
    if hasattr(solver, "friction"):
        terms = diffrax.ODETerm(lambda t, v, args: v), diffrax.ODETerm(kicked)
    else:
        field = lambda t, y, args: (y[1], kicked(t, y[0], args) - 0.5 * y[1])
        terms = diffrax.ODETerm(field)
    return jnp.stack(diffrax.diffeqsolve(terms, solver, *times, start, max_steps=2048).ys)


OPTIONS = [(name, {"friction": 0.5} if name in PAIRS else {}) for name in CLASSES]


@pytest.mark.whole
@pytest.mark.parametrize(("name", "options"), [*OPTIONS, ("RKC", {"order": 2})])
def test_the_order_holds_where_the_field_changes_with_time(name, options, x64):
    solver = CLASSES[name](**options)
    exact = driven(diffrax.Dopri8(), 100)
    near, far = (jnp.max(jnp.abs(driven(solver, n) - exact)) for n in (20, 10))
    assert np.log2(far / near) > solver.order(None) - 0.2
