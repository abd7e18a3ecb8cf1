"""Who takes part besides solvers of gradient flow, and what a step of each costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from benchmarks.sweep import run_one_by_one
from odeopt import flows, solvers, stepsize
from odeopt.studies import spectra, stability
from odeopt.studies.engine import optimizers
from odeopt.studies.engine.optimizers import contenders, find
from odeopt.studies.engine.runner import Runner
from odeopt.studies.engine.steps import step_function
from odeopt.studies.problems import build
from odeopt.zoo.registry import REGISTRY

pytestmark = pytest.mark.usefixtures("x64")

STEPS = 8


@pytest.fixture
def kappa(x64):
    return build(["quadratic-kappa1e6"])[0]


@functools.cache
def program(make, steps=STEPS):
    """`rate -> parameters and state after some steps`, compiled once; the rate is traced."""
    (problem,) = build(["quadratic-kappa1e6"])
    data = tuple(jnp.asarray(array) for array in problem.data)

    @jax.jit
    def run(rate):
        optimizer = make(rate)
        step = step_function(problem.objective, optimizer)
        carry = problem.init(0), optimizer.init(problem.init(0))
        return jax.lax.fori_loop(0, steps, lambda _, carry: step(*carry, data)[:2], carry)

    return run


@pytest.mark.parametrize("name", optimizers.OTHERS)
def test_a_study_counts_what_the_state_counts(name):
    entry = find(name)
    _, state = program(entry.make)(0.05)
    if not entry.counted:
        assert int(state.gradients) == STEPS * entry.gradients_per_step


@pytest.mark.slow
def test_what_is_evaluated_is_what_the_optimizer_hands_out(kappa):
    entry = find("log_time_adam")
    (curve,) = Runner(kappa, entry, STEPS, [0]).run([(0.05, 0)])
    params, state = program(entry.make)(0.05)
    data = tuple(jnp.asarray(array) for array in kappa.data)
    at = [float(kappa.loss(point, data)) for point in (entry.read(state, params), params)]
    assert curve.final == pytest.approx(at[0], rel=1e-9)
    assert curve.final != pytest.approx(at[1], rel=1e-3)


@pytest.mark.parametrize("name", optimizers.OTHERS)
def test_what_the_study_calls_a_rate_changes_the_run(name):
    entry = find(name)
    steps = 2 if name == "linearly_implicit_euler" else STEPS  # after a few it is at the minimum
    one, _ = program(entry.make, steps)(0.01)
    other, _ = program(entry.make, steps)(0.1)
    start = build(["quadratic-kappa1e6"])[0].init(0)
    assert float(jnp.abs(one - start).max()) > 0
    assert float(jnp.abs(one - other).max()) > 1e-3 * float(jnp.abs(other - start).max())


def test_caps_are_caps():
    for name in ("euler@corridor", "euler@drift_adjusted"):
        _, state = program(find(name).make)(0.01)
        assert float(state.time) == pytest.approx(STEPS * 0.01)  # far below what the rule wants


def test_a_tolerance_is_kept():
    ends = {}
    for rtol in (1e-2, 1e-4):
        _, state = program(find("bosh3@embedded_error").make)(rtol)
        ends[rtol] = float(state.time)
    assert ends[1e-4] < ends[1e-2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flow", "solver"),
    [
        ("heavy_ball", flows.HeavyBallFlow, solvers.Lie()),
        ("nesterov", flows.NesterovFlow, solvers.Lie()),
        ("conformal_leapfrog", flows.HeavyBallFlow, solvers.Strang()),
        ("rk_momentum", flows.HeavyBallFlow, solvers.as_method(solvers.RK4())),
    ],
)
def test_limits_are_those_of_flow_and_solver_and_are_measured(name, flow, solver, kappa):
    entry = find(name)
    limit = solvers.stability_limit(flow(optimizers.MOMENTUM), solver)
    assert entry.limit == pytest.approx(limit, rel=1e-5)
    sweep = Runner(kappa, entry, 240, [0])
    measured = spectra.measured_limit(sweep, entry.limit, 1.0)
    assert measured == pytest.approx(limit, rel=0.01)


def test_the_zoo_and_the_baselines_are_one_method():
    for ours, theirs in (("heavy_ball", "momentum"), ("euler", "sgd")):
        a, b = (program(find(name).make)(0.1)[0] for name in (ours, theirs))
        np.testing.assert_allclose(a, b, rtol=1e-12)
    a = program(find("adamw").make)(0.1)[0]
    b = program(optax.adamw)(0.1)[0]
    np.testing.assert_allclose(a, b, rtol=1e-9)


def test_a_full_study_knows_all_its_solvers_and_uses_budgets_to_the_last_gradient():
    for budget, names in (
        (stability.Settings().gradients, stability.QUICK_SOLVERS),
        (stability.FULL["gradients"], stability.FULL_SOLVERS),
    ):
        for name in names:
            assert budget % find(name).gradients_per_step == 0, name


@pytest.mark.slow
def test_a_study_of_momentum_and_rules_has_equal_gradients():
    names = ["conformal_leapfrog", "bosh3@embedded_error"]
    options = {"problems": ["quadratic-kappa1e6"], "seeds": 1, "gradients": 24}
    result = stability.run(solvers=names, **options)
    runs = result.of("run")
    whole = runs[runs.status == "ok"]
    assert set(whole.optimizer) == set(names)
    assert set(whole.gradients) == {24}
    assert set(result.table("summary").optimizer) == set(names)


@pytest.mark.slow
def test_what_a_step_costs_may_be_known_only_to_the_state(kappa):
    entry = find("linearly_implicit_euler")
    (curve,) = Runner(kappa, entry, 25, [0]).run([(1.0, 0)])
    # A gradient, one output a sample, and the loss at the end of each step; 27 would be too many.
    assert (curve.made, curve.used) == (8, 24)
    np.testing.assert_array_equal(curve.gradients, 3 * curve.steps)
    assert curve.loss[-1] == pytest.approx(run_one_by_one(kappa, entry, [(1.0, 0)], 8)[0])
    result = stability.run(
        solvers=["linearly_implicit_euler"], problems=["quadratic-kappa1e6"], seeds=1, gradients=25
    )
    runs = result.of("run")
    assert set(runs.gradients) == {24}
    assert set(runs.gradients_per_step) == {3}
    assert {len(loss) for loss in runs.loss} == {26}


@pytest.mark.slow
def test_every_explicit_solver_and_baseline_takes_part():
    rows = {name for name, row in REGISTRY.items() if row.family == "explicit"}
    explicit = rows & set(dir(odeopt)) - {"runge_kutta", "from_diffrax"}
    assert len(explicit) > 9
    known = optimizers.makers()
    assert set(known) == {"sgd", "momentum", "adam", *explicit, *optimizers.OTHERS}
    assert {find(name).name for name in known} == set(known)


def test_theory_is_read_off_the_optimizer():
    for name in ("rk4", "low_storage4", "rkc", "heavy_ball"):
        entry = find(name)
        about = odeopt.describe(entry.make(0.1))
        assert (entry.limit, entry.gradients_per_step) == (
            about["stability_limit"],
            about["gradients_per_step"],
        )
    assert find("rk4").order == 4
    assert find("heavy_ball").order is None  # it is one, but of another flow


def test_a_wrapped_solver_races_at_its_full_price():
    inside = contenders(
        {
            "chain": lambda h: optax.chain(odeopt.rk4(h), optax.clip(1.0)),
            "pair": lambda h: optax.partition({"a": odeopt.heun(h), "b": odeopt.euler(h)}, "a"),
            "plain": lambda h: optax.chain(optax.clip(1.0), optax.sgd(h)),
        }
    )
    states = {"given": jnp.zeros(2)}
    assert [one.counted for one in inside] == [True, True, False]
    for one, cost in zip(inside, [4, 2, 1], strict=True):
        if one.counted:
            before = one.make(0.1).init(states)
            loss = lambda p: jnp.sum(p["given"] ** 2)
            _, after = optax.with_extra_args_support(one.make(0.1)).update(
                states, before, states, value_fn=loss
            )
            assert int(one.cost(before, after)) == cost


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        odeopt.linearly_implicit_euler,
        lambda h: optax.chain(odeopt.linearly_implicit_euler(h)),
        lambda h: odeopt.linearly_implicit_euler(stepsize.gain_ratio(first=h)),
        lambda h: odeopt.euler(stepsize.sharpness(h, every=5)),
    ],
    ids=["fixed", "chain", "gain_ratio", "sharpness"],
)
def test_what_a_step_costs_on_a_problem_is_counted_there(kappa, make):
    """Each is dearer or cheaper here than on another problem."""
    (mine,) = contenders({"mine": make})
    (curve,) = Runner(kappa, mine, 200, [0]).run([(0.05, 0)])
    _, state = program(make, curve.made)(0.05)
    counted = optax.tree.get(state, "gradients")
    assert curve.used == int(counted)
    assert 100 < curve.used <= 200


def test_a_rate_that_must_be_a_number_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"must take a traced learning rate.*Drop float\(h\)"):
        contenders({"mine": lambda h: optax.sgd(float(h))})


def test_own_optimizers_are_functions_of_the_rate():
    own, twin = contenders([{"mine": lambda h: optax.chain(optax.scale(-h))}, "sgd"])
    assert (own.name, own.limit, own.gradients_per_step, own.own) == ("mine", None, 1, True)
    assert not twin.own
    (ours,) = contenders({"mine": odeopt.midpoint})
    assert (ours.order, ours.gradients_per_step, round(ours.limit, 6)) == (2, 2, 2.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda h: optax.sgd(optax.linear_schedule(0.0, h, 9)),  # its first step is 0 for any h
        optax.inject_hyperparams(optax.sgd),
        lambda h: odeopt.euler(stepsize.corridor(cap=h)),
        lambda h: optax.contrib.sam(optax.sgd(h), optax.sgd(0.01), opaque_mode=True),
    ],
)
def test_a_rate_may_be_used_late_or_in_the_state(make):
    assert contenders({"mine": make})


def test_a_limit_is_known_where_the_rate_is_the_step_size():
    tenth, square, own = contenders(
        {
            "tenth": lambda h: odeopt.euler(0.1 * h),
            "square": lambda h: odeopt.euler(10 * h**2),  # at h = 0.1 its step size is h
            "own": odeopt.euler,
        }
    )
    assert (tenth.limit, square.limit, own.limit) == (None, None, pytest.approx(2))
    assert tenth.order == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (["rk5"], "unknown solver 'rk5': did you mean rkc or rk4"),
        ([3], "not a int"),
        ({"mine": lambda: optax.sgd(0.1)}, "'mine': calling it with a learning rate fails"),
        ({"mine": lambda h: odeopt.rk4(h, b=1)}, r"fails: TypeError: .*correction\. Write it as"),
        ({"mine": lambda h: odeopt.euler(h, correction="two\n")}, "fails: .*Write it as"),
        ({"mine": lambda h: h}, "'mine' returns a float, not an optax"),
        ({"a/b": optax.sgd}, "'a/b' is no name: write a text without /"),
        ({1: optax.sgd}, "1 is no name"),
        ({"sgd": optax.adam}, "sgd is an optimizer of the study: call yours otherwise"),
        ({"mine": lambda h: optax.sgd(0.1)}, r"make\(h\) ignores h.*: write lambda h: optax"),
        ({"mine": lambda h: odeopt.euler(0.1)}, "ignores h"),
        ({"mine": lambda h: odeopt.rk4(0.1)}, "ignores h"),
        ({"mine": lambda h: odeopt.linearly_implicit_euler()}, "ignores h"),
        ({"mine": lambda h: optax.lbfgs()}, "ignores h"),
        (
            {"mine": lambda h: optax.MultiSteps(optax.sgd(h), 2)},
            r"MultiSteps: write \.gradient_transformation",
        ),
    ],
)
def test_what_is_no_optimizer_is_refused_in_one_line(bad, message):
    with pytest.raises(ValueError, match=message) as error:
        contenders(bad)
    assert "\n" not in str(error.value)
