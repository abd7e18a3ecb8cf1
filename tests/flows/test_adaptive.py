"""Adam's direction, whose derivative is written by hand, and the field of RMSprop."""

import jax
import jax.numpy as jnp
import optax
import pytest

import odeopt
from odeopt import flows, solvers
from odeopt.flows.adaptive import adam_direction

ALL = (0, 1, 2, 3)


def quotient(mean, square, eps, eps_root):
    return mean / (jnp.sqrt(square + eps_root) + eps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "derivative",
    [
        lambda f: jax.jacfwd(f, ALL),
        lambda f: jax.jacrev(f, ALL),
        lambda f: jax.jacfwd(jax.jacrev(f, ALL), ALL),
    ],
)
@pytest.mark.parametrize("eps_root", [0.0, 1e-2])
def test_its_derivatives_are_those_of_the_quotient(derivative, eps_root, x64):
    point = jnp.array([0.5, -2.0, 1e-3]), jnp.array([0.3, 4.0, 1e-4]), 1e-3, eps_root
    ours, theirs = derivative(adam_direction)(*point), derivative(quotient)(*point)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.allclose(a, b, rtol=1e-12, atol=0)


RUNS = {
    "adam": (odeopt.adam, optax.adam),
    "nadam": (lambda *a, **k: odeopt.adam(*a, nesterov=True, **k), optax.nadam),
    "adamw": (odeopt.adamw, optax.adamw),
    "strang_adam": (odeopt.strang_adam, None),
    "rk_adam": (lambda *a, **k: odeopt.rk_adam(*a, solvers.Heun(), **k), None),
}


@pytest.mark.parametrize(("ours", "theirs"), RUNS.values(), ids=RUNS)
def test_eps_root_gives_a_run_with_zero_gradients_a_derivative(ours, theirs, x64):
    """Without it there is none, in optax neither."""

    def end(make, scale, **options):
        loss = lambda x: jnp.sum((scale * x) ** 2)
        opt, x = make(0.1, **options), jnp.array([1.0, 0.0])
        state = opt.init(x)
        for _ in range(3):
            more = {} if make is theirs else {"value_fn": loss}
            updates, state = opt.update(jax.grad(loss)(x), state, x, **more)
            x = optax.apply_updates(x, updates)
        return loss(x)

    slope = jax.grad(end, 1)(ours, 1.3, eps_root=1e-12)
    near = [end(ours, 1.3 + step, eps_root=1e-12) for step in (1e-6, -1e-6)]
    assert jnp.allclose(slope, (near[0] - near[1]) / 2e-6, rtol=1e-6)
    assert jnp.isnan(jax.grad(end, 1)(ours, 1.3))
    if theirs is not None:
        assert jnp.allclose(slope, jax.grad(end, 1)(theirs, 1.3, eps_root=1e-12), rtol=1e-12)
        assert jnp.isnan(jax.grad(end, 1)(theirs, 1.3))


@pytest.mark.parametrize(
    "options", [{}, {"eps_in_sqrt": False}, {"centered": True}, {"bias_correction": True}]
)
@pytest.mark.parametrize("solver", [solvers.Euler(), solvers.Heun(), solvers.RK4()])
def test_a_stage_of_rmsprop_that_leaves_the_averages_stays_finite(solver, options):
    """Of a moment that forgets so fast a stage sees less than nothing."""
    flow = flows.RMSpropFlow(decay=0.1, initial_scale=1.0, **options)
    opt = odeopt.ode_optimizer(flow, solver, 1e-4)
    loss = lambda x: 0.5e-2 * jnp.sum(x**2)
    x = jnp.ones(2)
    state = opt.init(x)
    for _ in range(5):
        updates, state = opt.update(jax.grad(loss)(x), state, x, value_fn=loss)
        x = optax.apply_updates(x, updates)
        assert odeopt.sums.finite(x, state.aux)


@pytest.mark.parametrize("options", [{"bias_correction": True}, {"decay": flows.LogTime()}])
def test_the_field_of_rmsprop_starts_at_unit_speed(options):
    """At time 0 the mean square is 0/0, whose limit is the square of the gradient."""
    flow = flows.RMSpropFlow(**options)
    opt = odeopt.ode_optimizer(flow, solvers.Euler(), 0.01)
    x, grads = jnp.ones(2), jnp.array([3.0, -0.2])
    updates, _ = opt.update(grads, opt.init(x), x)
    assert jnp.allclose(updates, -0.01 * jnp.sign(grads), rtol=1e-4)


@pytest.mark.parametrize(
    "flow",
    [
        flows.AdamFlow(b1=0.0),
        flows.AdamFlow(b2=0.0),
        flows.RMSpropFlow(0.0),
        flows.RMSpropFlow(0.9, momentum=0.0),
        flows.HeavyBallFlow(0.0),
        flows.SpectralFlow(b1=0.0),
        flows.AveragedFlow(flows.HeavyBallFlow(0.0)),
    ],
    ids=str,
)
def test_a_decay_of_0_is_refused_when_built_where_a_solver_needs_the_field(flow):
    with pytest.raises(ValueError, match=r"decay of 0 forgets at no finite rate.*Lie\(\)"):
        odeopt.ode_optimizer(flow, solvers.RK4(), 0.1)
    opt, x = odeopt.ode_optimizer(flow, solvers.Lie(), 0.1), jnp.ones((2, 2))
    loss = lambda x: 0.5 * jnp.sum(x**2)
    assert jnp.all(opt.update(x, opt.init(x), x, value_fn=loss)[0] < 0)
