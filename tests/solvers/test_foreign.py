"""Any other diffrax solver as an optimizer, through diffrax's own step."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest

import odeopt
from odeopt.solvers import DiffraxMethod, ExplicitRungeKutta, as_method

from .cases import follow, gradient_field, loss, start

EIGENVALUES = (1000.0, 10.0, 0.1)
IMPLICIT = {
    "ImplicitEuler": diffrax.ImplicitEuler,
    "Kvaerno3": diffrax.Kvaerno3,
    "Kvaerno5": diffrax.Kvaerno5,
}


def quadratic_field(x):
    return -jnp.array(EIGENVALUES) * x


def tight(cls, **kwargs):
    return cls(root_finder=diffrax.VeryChord(rtol=1e-12, atol=1e-12), **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "stages"), [(diffrax.Dopri8(), 13), (diffrax.Tsit5(), 6), (diffrax.Euler(), 1)]
)
def test_explicit_solvers_take_odeopt_s_loop(solver, stages, x64):
    assert isinstance(as_method(solver), ExplicitRungeKutta)
    end, state = follow(odeopt.from_diffrax(solver, 0.1), gradient_field, start(), 3)
    assert state.gradients == 3 * stages
    term = diffrax.ODETerm(lambda t, x, args: gradient_field(x))
    expected = diffrax.diffeqsolve(term, solver, 0.0, 0.3, 0.1, start()).ys[0]
    np.testing.assert_allclose(end, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_solvers_equal_diffeqsolve_on_a_stiff_quadratic(name, x64):
    solver, h, n = tight(IMPLICIT[name]), 0.1, 5
    end, state = follow(odeopt.from_diffrax(solver, h), quadratic_field, jnp.ones(3), n)
    term = diffrax.ODETerm(lambda t, x, args: quadratic_field(x))
    expected = diffrax.diffeqsolve(term, solver, 0.0, n * h, h, jnp.ones(3)).ys[0]
    # the root finder works on the increment here and on the point there, each to 1e-12 times 1000
    np.testing.assert_allclose(end, expected, rtol=0, atol=1e-8)
    assert state.gradients == -1
    assert state.rejected == 0
    assert state.steps == n


@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_solvers_are_stable_far_beyond_every_explicit_limit(name, x64):
    h = 100 / EIGENVALUES[0]
    x, state = follow(odeopt.from_diffrax(IMPLICIT[name](), h), quadratic_field, jnp.ones(3), 50)
    assert abs(x[0]) < 1e-4  # damped, to the default tolerance of the root finder times 100
    # the slow direction is followed: exp(-0.1 * 50 h), with ImplicitEuler's error lambda h = 0.01
    assert x[2] == pytest.approx(np.exp(-EIGENVALUES[2] * 50 * h), rel=0.01)
    assert state.rejected == 0


@pytest.mark.parametrize("jit", [False, True])
def test_a_failed_root_find_rejects_the_step(jit):
    """One iteration is not enough for a nonlinear equation at a large step."""
    solver = diffrax.ImplicitEuler(
        root_finder=optx.Newton(rtol=1e-8, atol=1e-8), root_find_max_steps=1
    )
    opt = odeopt.from_diffrax(solver, 10.0)
    x = start()

    def update(x, state):
        return opt.update(jax.grad(loss)(x), state, x, value_fn=loss)

    updates, state = (jax.jit(update) if jit else update)(x, opt.init(x))
    np.testing.assert_array_equal(updates, jnp.zeros_like(x))
    assert (state.rejected, state.steps, state.time) == (1, 1, 0.0)


def test_a_field_that_is_not_finite_rejects_the_step():
    opt = odeopt.from_diffrax(diffrax.ImplicitEuler(), 0.1)
    x = start()
    updates, state = opt.update(
        jax.grad(loss)(x), opt.init(x), x, value_fn=lambda x: loss(x) * jnp.nan
    )
    np.testing.assert_array_equal(updates, jnp.zeros_like(x))
    assert state.rejected == 1


def test_an_implicit_step_solves_for_the_increment():
    """As for explicit methods: -1e-5 at 1000 survives float32."""
    opt = odeopt.from_diffrax(diffrax.ImplicitEuler(), 0.1)
    x = jnp.float32(1000)
    updates, _ = opt.update(jnp.float32(1e-4), opt.init(x), x, value_fn=lambda x: 1e-4 * x)
    assert updates == pytest.approx(-1e-5, rel=1e-5)


def test_a_wrapped_solver_keeps_its_wrapper(x64):
    """Step doubling of Heun's method: two half steps, extrapolation left to the error estimate."""
    wrapped = diffrax.HalfSolver(diffrax.Heun())
    assert isinstance(as_method(wrapped), DiffraxMethod)
    end, _ = follow(odeopt.from_diffrax(wrapped, 0.2), gradient_field, start(), 1)
    halves, _ = follow(odeopt.heun(0.1), gradient_field, start(), 2)
    np.testing.assert_allclose(end, halves, rtol=1e-12, atol=1e-12)


REFUSED = {
    "split": diffrax.SemiImplicitEuler,
    "SDE": diffrax.ItoMilstein,
    "Euler-Heun": diffrax.EulerHeun,
    "multistep": diffrax.LeapfrogMidpoint,
    "IMEX": diffrax.Sil3,
    "IMEX, implicit": diffrax.KenCarp4,
    "stochastic RK": diffrax.SPaRK,
    "stochastic RK, additive": diffrax.ShARK,
    "Langevin": lambda: diffrax.QUICSORT(0.1),
}


@pytest.mark.parametrize("case", REFUSED)
def test_solvers_that_do_not_step_one_field_are_refused(case):
    solver = REFUSED[case]()
    with pytest.raises(
        ValueError, match=r"one-step ODE solver, for example `diffrax\.Kvaerno3"
    ) as e:
        odeopt.from_diffrax(solver, 0.1)
    assert type(solver).__name__ in str(e.value)


def test_staged_mode_is_refused():
    with pytest.raises(ValueError, match=r"staged= has no effect with DiffraxMethod.*value_fn"):
        odeopt.from_diffrax(diffrax.Kvaerno3(), 0.1, staged=True)


def test_the_loss_decreases_in_a_loop_written_for_optax():
    newton = optx.Newton(rtol=1e-6, atol=1e-6)  # diffrax's chord iteration needs smaller steps
    opt = odeopt.from_diffrax(diffrax.Kvaerno3(root_finder=newton), 1.0)
    x, value = start(), loss(start())
    state = opt.init(x)

    @jax.jit
    def update(x, state):
        return opt.update(jax.grad(loss)(x), state, x, value_fn=loss)

    for _ in range(3):
        updates, state = update(x, state)
        x = optax.apply_updates(x, updates)
        assert loss(x) < value
        value = loss(x)
    assert state.rejected == 0


@pytest.mark.parametrize("solver", [diffrax.ImplicitEuler, diffrax.Kvaerno3])
def test_the_solvers_that_messages_advise_move_at_an_ordinary_step(solver):
    """A fixed step that is always rejected would be an optimizer that never starts."""
    _, state = follow(odeopt.from_diffrax(solver(), 0.1), gradient_field, start(), 5)
    assert state.rejected == 0


@pytest.mark.parametrize("checked", [True, False])
def test_an_implicit_solver_says_that_it_does_not_run_inside_shard_map(checked):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    opt, x = odeopt.game_implicit_midpoint(0.1), {"a": jnp.ones(2), "b": jnp.ones(2)}

    def step(x, batch):
        field = lambda x, stage: jax.tree.map(lambda p: p * jax.lax.pmean(batch.mean(), "data"), x)
        return opt.update(x, opt.init(x), x, grad_fn=field)[0]

    spec = jax.sharding.PartitionSpec
    inside = jax.shard_map(
        step, mesh=mesh, in_specs=(spec(), spec("data")), out_specs=spec(), check_vma=checked
    )
    with pytest.raises(ValueError, match="does not run inside this shard_map"):
        inside(x, jnp.ones(4))


@pytest.mark.parametrize(
    "solver", [diffrax.Kvaerno3(), diffrax.HalfSolver(diffrax.Heun()), diffrax.ReversibleHeun()]
)
def test_a_group_without_parameters_takes_empty_steps(solver):
    """As `optax.partition` hands one over where no leaf has its label."""
    opt = optax.partition(
        {"a": odeopt.from_diffrax(solver, 0.1), "b": optax.sgd(0.1)}, lambda p: "b"
    )
    params = jnp.ones(2)
    updates, _ = opt.update(params, opt.init(params), params, value_fn=loss, full_params=params)
    np.testing.assert_allclose(updates, -0.1 * params)
