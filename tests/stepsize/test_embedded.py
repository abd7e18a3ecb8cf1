"""Error control: from any first step, through any jump of curvature, in any loop."""

import chex
import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt

from ..table import mixed_loss, mixed_params

PAIRS = {
    "heun": (odeopt.heun, diffrax.Heun()),
    "bosh3": (odeopt.bosh3, diffrax.Bosh3()),
    "dopri5": (odeopt.dopri5, diffrax.Dopri5()),
    "tsit5": (odeopt.tsit5, diffrax.Tsit5()),
}
pairs = pytest.mark.parametrize("name", PAIRS)


def wall(z):
    """Curvature 1 in y for x < 0, a thousand beyond; the flow is driven from there to here."""
    x, y = z
    return 0.5 * (x - 2.0) ** 2 + 0.5 * (1.0 + 999.0 * jax.nn.sigmoid(20.0 * x)) * y**2


def descend(opt, start, loss, steps):
    def step(carry, _):
        params, state = carry
        updates, state = opt.update(jax.grad(loss)(params), state, params, value_fn=loss)
        return (optax.apply_updates(params, updates), state), loss(params)

    return jax.jit(lambda start: jax.lax.scan(step, (start, opt.init(start)), length=steps))(start)


@pytest.mark.parametrize("first", [1e-6, 1e-3, 1.0, 1e2])
@pairs
def test_no_divergence_where_the_curvature_jumps_a_thousandfold(name, first):
    rule = odeopt.stepsize.embedded_error(rtol=1e-3, atol=1e-3, first=first)
    start = jnp.array([-2.0, 1.0])
    (end, state), losses = descend(PAIRS[name][0](rule), start, wall, 4000)
    assert jnp.all(losses <= 1.01 * losses[0])
    assert float(wall(end)) < 1e-2 * losses[0]
    assert float(state.time) > 1.0
    # the fixed step that is fine at the start is not
    (lost, _), _ = descend(PAIRS[name][0](0.5), start, wall, 4000)
    assert not float(wall(lost)) < 1e-2 * losses[0]


@pairs
def test_a_rejected_step_is_zero_counted_and_smaller(name):
    start = jnp.array([-2.0, 1.0])
    opt = PAIRS[name][0](odeopt.stepsize.embedded_error(1e-3, 1e-3, first=1e2))
    state = opt.init(start)
    updates, after = opt.update(jax.grad(wall)(start), state, start, value_fn=wall)
    chex.assert_trees_all_equal(updates, jnp.zeros(2))
    assert (int(after.steps), int(after.rejected), float(after.time)) == (1, 1, 0.0)
    assert float(after.rule[0]) < 1e2


INTEGRAL = {"pcoeff": 0.0, "icoeff": 1.0}  # diffrax's defaults


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [({}, {"pcoeff": 0.4, "icoeff": 0.3}), (INTEGRAL, {})],
    ids=["own", "theirs"],
)
@pairs
def test_the_first_steps_are_those_of_diffeqsolve(name, ours, theirs, x64):
    make, solver = PAIRS[name]
    start = jnp.array([1.0, -2.0, 0.5])
    loss = lambda x: jnp.sum(jnp.cosh(x)) + x[0] * x[1]
    first = 0.01
    rule = odeopt.stepsize.embedded_error(1e-4, 1e-6, first=first, **ours)
    (end, state), _ = descend(make(rule), start, loss, 30)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, args: -jax.grad(loss)(x)),
        solver,
        0.0,
        float(state.time),
        first,
        start,
        stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-6, **theirs),
    )
    # the same method, controller and first step; diffrax only clips its last step to the end
    np.testing.assert_allclose(end, solution.ys[-1], rtol=1e-9, atol=1e-12)
    assert int(solution.stats["num_rejected_steps"]) == int(state.rejected)


@pairs
def test_near_the_stability_limit_few_steps_are_rejected(name, x64):
    sharpness = jnp.logspace(-3, 1, 20)
    loss = lambda x: 0.5 * jnp.sum(sharpness * x**2)
    rejected, time = zip(
        *(
            (int(state.rejected), float(state.time))
            for coefficients in ({}, INTEGRAL)
            for rule in [odeopt.stepsize.embedded_error(1e-2, 1e-3, **coefficients)]
            for (_, state), _ in [descend(PAIRS[name][0](rule), jnp.ones(20), loss, 200)]
        ),
        strict=True,
    )
    assert 3 * rejected[0] <= rejected[1]
    assert 200 / 8 <= rejected[1] <= 200 / 4  # of diffrax's default
    assert time[0] > time[1]


@pairs
def test_non_finite_gradients_are_survived(name):
    edge = lambda x: jnp.sum(x - jnp.log(x))  # nan beyond x = 0
    start = jnp.array([2.0, 0.5])
    opt = PAIRS[name][0](odeopt.stepsize.embedded_error(1e-3, 1e-3, first=50.0))
    (end, state), _ = descend(opt, start, edge, 200)
    chex.assert_trees_all_close(end, jnp.ones(2), atol=1e-2)
    assert int(state.rejected) > 0


def test_mixed_trees_keep_their_types_and_nothing_recompiles():
    params = mixed_params()
    opt = odeopt.bosh3(odeopt.stepsize.embedded_error(1e-2, 1e-2))
    state = opt.init(params)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def controlled(params, state):
        grads = jax.tree.map(jnp.conj, jax.grad(mixed_loss)(params))
        updates, state = opt.update(grads, state, params, value_fn=mixed_loss)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, after = controlled(params, state)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
    assert float(state.time) > 0


def test_explicit_sharding():
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
        start = jax.device_put(jnp.linspace(-1, 1, 16), split)
        opt = odeopt.tsit5(odeopt.stepsize.embedded_error(1e-3, 1e-3))
        field = lambda x, stage: jnp.sinh(x)
        step = jax.jit(lambda x, s: opt.update(field(x, 0), s, x, grad_fn=field))
        updates, state = step(start, opt.init(start))
        assert updates.sharding.is_equivalent_to(split, 1)
        text = step.lower(start, state).compile().as_text()
    assert "all-gather" not in text


@pytest.mark.parametrize("make", [odeopt.euler, odeopt.rk4, odeopt.ssprk3])
def test_a_method_without_an_estimate_is_refused(make):
    with pytest.raises(ValueError, match=r"has no error estimate.*bosh3"):
        make(odeopt.stepsize.embedded_error(1e-3, 1e-3))


def test_staged_mode_refuses_it():
    with pytest.raises(ValueError, match="EmbeddedError needs an error estimate"):
        odeopt.heun(odeopt.stepsize.embedded_error(1e-3, 1e-3), staged=True)


@pytest.mark.parametrize("name", ["rtol", "atol", "first", "limit"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_bad_tolerances(name, value):
    arguments = {"rtol": 1e-3, "atol": 1e-3, name: value}
    with pytest.raises(ValueError, match=f"{name} is .*must be positive"):
        odeopt.stepsize.embedded_error(**arguments)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_a_tolerance_below_the_parameters_dtype_is_one_all_the_same(dtype):
    """In float16 1e-8 is 0, and the error of an entry at rest over it no number."""
    opt = odeopt.bosh3(odeopt.stepsize.embedded_error(rtol=1e-2, atol=1e-8))
    x = jnp.array([1.0, 0.0], dtype)
    loss = lambda x: 0.5 * jnp.sum(x.astype(jnp.float32) ** 2)
    _, state = opt.update(jax.grad(loss)(x), opt.init(x), x, value_fn=loss)
    assert state.rejected == 0
