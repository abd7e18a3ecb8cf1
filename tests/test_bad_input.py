"""Bad input gets an error that says what to write instead, and nothing is lost."""

import inspect
import pickle

import chex
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optax.contrib import MuonDimensionNumbers

import odeopt
from odeopt import stepsize
from odeopt.zoo.registry import REGISTRY

from .table import STAGED, TABLE, VARIED

pytestmark = pytest.mark.whole
multi_stage = pytest.mark.parametrize("name", [n for n in VARIED if TABLE[n][1] > 1])
everyone = pytest.mark.parametrize("name", VARIED)

LOSS = lambda x: jnp.sum(x**2)
PARAMS = jnp.array([1.0, 2.0])
GRADS = 2 * PARAMS


def update(opt, grads=GRADS, params=PARAMS, **kwargs):
    return opt.update(grads, opt.init(PARAMS), params, **kwargs)


def test_a_game_without_gradients_shows_the_line_to_write():
    players = {"p": jnp.ones(2), "q": jnp.ones(2)}
    opt = odeopt.alternating(0.1)
    with pytest.raises(ValueError, match=r"for a game `grad_fn=odeopt\.game_gradient\(losses\)`"):
        opt.update(players, opt.init(players), players)


@multi_stage
def test_a_missing_value_fn_shows_the_line_to_write(name):
    with pytest.raises(ValueError, match=r"(?s)opt\.update\(.*value_fn=loss.*staged=True"):
        update(TABLE[name][0](0.1))


@multi_stage
def test_missing_parameters(name):
    with pytest.raises(ValueError, match=r"opt\.update\(grads, state, params"):
        update(TABLE[name][0](0.1), params=None, value_fn=LOSS)


@pytest.mark.parametrize(
    ("value_fn", "error", "message"),
    [
        (lambda x: x**2, ValueError, r"shape \(2,\).*jnp\.mean"),
        (lambda x: jnp.sum(x**2)[None], ValueError, r"shape \(1,\)"),
        (lambda x: {"loss": jnp.sum(x)}, TypeError, "returned a dict.*scalar"),
        (lambda x: (jnp.sum(x), 1, 2), TypeError, r"returned a tuple.*\(loss, aux\)"),
        (lambda x: None, TypeError, "returned a NoneType"),
        (lambda x: jnp.sum(x) * 1j, TypeError, "complex"),
        (lambda x, batch: jnp.sum(x), TypeError, r"'batch'.*batch=batch"),
    ],
)
def test_value_functions_that_return_something_else(value_fn, error, message):
    with pytest.raises(error, match=message):
        update(odeopt.heun(0.1), value_fn=value_fn)


def test_a_whole_equinox_model_as_params_is_told_what_to_pass():
    model = eqx.nn.MLP(1, 1, 2, 1, key=jax.random.key(0))
    opt = odeopt.euler(0.1)
    grads = eqx.filter(model, eqx.is_inexact_array)
    with pytest.raises(ValueError, match="full_params=model"):
        opt.update(grads, opt.init(grads), model)


@pytest.mark.parametrize("given", ["value_fn", "grad_fn"])
def test_a_loss_that_fails_on_a_filtered_model_is_told_of_full_params(given):
    model = eqx.nn.MLP(1, 1, 2, 1, key=jax.random.key(0))
    loss = lambda model: jnp.sum(model(jnp.ones(1)))
    of_loss = {"value_fn": loss, "grad_fn": lambda model, stage: eqx.filter_grad(loss)(model)}
    opt, params = odeopt.heun(0.1), eqx.filter(model, eqx.is_inexact_array)
    given = {given: of_loss[given]}
    with pytest.raises(TypeError, match="'NoneType' object is not callable") as error:
        opt.update(params, opt.init(params), params, **given)
    assert "full_params=model" in "".join(error.value.__notes__)  # JAX adds one of its own
    opt.update(params, opt.init(params), params, **given, full_params=model)


def test_grad_fn_that_does_not_fit():
    with pytest.raises(ValueError, match="grad_fn's result and params must have the same tree"):
        update(odeopt.heun(0.1), grad_fn=lambda x, stage: {"x": x})
    with pytest.raises(ValueError, match=r"grad_fn's result.*shape \(1,\), its parameter \(2,\)"):
        update(odeopt.heun(0.1), grad_fn=lambda x, stage: x[:1])
    with pytest.raises(TypeError, match=r"grad_fn\(params, stage\) also needs 'batch'"):
        update(odeopt.heun(0.1), grad_fn=lambda x, stage, batch: x)


@pytest.mark.parametrize(
    ("grad_fn", "more", "message"),
    [
        (
            jax.grad(lambda p: jnp.sum(p**2)),
            {},
            "takes the parameters alone.*lambda params, stage:",
        ),
        (jax.grad(lambda p, scale=1.0: scale * jnp.sum(p**2)), {}, "has 'scale' in second place"),
        (
            jax.grad(lambda p, batch: batch * jnp.sum(p**2)),
            {"batch": 2.0},
            r"lambda params, stage, batch: jax.grad\(loss\)\(params, batch\)",
        ),
    ],
)
def test_a_gradient_that_would_take_the_stage_for_its_own_argument(grad_fn, more, message):
    with pytest.raises(TypeError, match=message):
        update(odeopt.heun(0.1), grad_fn=grad_fn, **more)
    update(odeopt.heun(0.1), grad_fn=lambda *point: 2 * point[0])


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (jnp.ones(1), ValueError, r"value is an array of shape \(1,\).*jnp.mean"),
        ("low", TypeError, "value is a str; it must be a scalar loss"),
        (1j * jnp.ones(()), TypeError, "complex"),
    ],
)
def test_a_value_that_is_no_loss(value, error, message):
    rule = odeopt.stepsize.corridor()
    with pytest.raises(error, match=message):
        update(odeopt.euler(rule), value=value)
    pair = update(odeopt.euler(rule), value=(jnp.ones(()), {"aux": 1}))[0]
    chex.assert_trees_all_equal(pair, update(odeopt.euler(rule), value=jnp.ones(()))[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda first, limit: odeopt.stepsize.embedded_error(0.1, 0.1, first=first, limit=limit),
        lambda first, limit: odeopt.stepsize.gain_ratio(first=first, limit=limit),
        lambda first, limit: odeopt.stepsize.angle(first=first, limit=limit),
    ],
)
def test_a_first_step_above_the_limit(make):
    with pytest.raises(ValueError, match=r"first is 1\.0; it must be at most 0\.1, which is limit"):
        make(1.0, 0.1)
    make(0.1, 0.1)


def test_a_correction_under_inject_hyperparams_shows_what_to_write():
    injected = optax.inject_hyperparams(odeopt.euler)(learning_rate=0.1, correction=2)
    with pytest.raises(ValueError, match=r'correction is an array.*static_args=\("correction",\)'):
        injected.init(PARAMS)
    fixed = optax.inject_hyperparams(odeopt.euler, static_args=("correction",))
    fixed(learning_rate=0.1, correction=2).init(PARAMS)


@pytest.mark.parametrize("make", [odeopt.euler, odeopt.adam, odeopt.rk4])
def test_arrays_of_numpy_in_double_precision_are_rounded_without_a_word(make):
    opt, params = make(0.1), np.ones(2)
    given, like = (
        opt.update(x, opt.init(x), x, value_fn=LOSS) for x in (params, jnp.asarray(params))
    )
    chex.assert_trees_all_equal(given, like)


@pytest.mark.parametrize("grads", [jnp.ones(2), jnp.ones(2, jnp.bfloat16)])
def test_a_gradient_that_float16_would_round_away(grads):
    params = jnp.ones(2, jnp.float16)
    opt = odeopt.adam(0.1)
    with pytest.raises(TypeError, match=r"grads is .*, its parameter float16.*keep parameters in"):
        opt.update(grads, opt.init(params), params)


@pytest.mark.parametrize("rate", [jnp.array(1e5), optax.constant_schedule(1e5)])
def test_a_size_that_the_parameters_cannot_hold_moves_nothing(rate):
    params = jnp.ones(2, jnp.float16)
    opt = odeopt.euler(rate)
    updates, state = opt.update(jnp.zeros_like(params), opt.init(params), params)
    chex.assert_trees_all_equal(updates, jnp.zeros_like(params))
    assert int(state.rejected) == 1


@pytest.mark.parametrize("make", [odeopt.heavy_ball, odeopt.nesterov])
def test_no_momentum_is_not_none(make):
    with pytest.raises(ValueError, match="momentum is None; it must be"):
        make(0.1, None)


@pytest.mark.parametrize(
    ("name", "staged"), [(n, False) for n in VARIED] + [(n, True) for n in STAGED]
)
def test_params_and_grads_that_do_not_fit(name, staged):
    opt = TABLE[name][0](0.1, staged=True) if staged else TABLE[name][0](0.1)
    with pytest.raises(ValueError, match="grads and params must have the same tree structure"):
        update(opt, grads={"x": GRADS}, value_fn=LOSS)
    with pytest.raises(ValueError, match=r"grads has shape \(3,\), its parameter \(2,\)"):
        update(opt, grads=jnp.ones(3), value_fn=LOSS)
    with pytest.raises(TypeError, match="is complex, its parameter is float32"):
        update(opt, grads=GRADS * 1j, value_fn=LOSS)


@everyone
def test_parameters_that_cannot_follow_a_flow_are_named(name):
    with pytest.raises(TypeError, match=r"params\['step'\] has dtype int32.*optax\.masked"):
        TABLE[name][0](0.1).init({"w": PARAMS, "step": jnp.zeros([], jnp.int32)})


@everyone
@given(
    rate=st.one_of(
        st.floats(max_value=0.0), st.just(float("nan")), st.just(float("inf")), st.just(0)
    )
)
def test_a_learning_rate_that_is_no_step_size(name, rate):
    with pytest.raises(ValueError, match="positive, finite"):
        TABLE[name][0](rate)


@pytest.mark.parametrize("rate", ["0.1", None, True, [0.1], jnp.ones(2)])
def test_a_learning_rate_that_is_no_number(rate):
    with pytest.raises(TypeError, match="pass a number, an optax schedule"):
        odeopt.rk4(rate)


@pytest.mark.parametrize(
    "build",
    [
        lambda: odeopt.from_diffrax(optax.sgd(0.1), 0.1),
        lambda: odeopt.runge_kutta(0.1, optax.adam(0.1)),
        lambda: odeopt.ode_optimizer(odeopt.flows.GradientFlow(), optax.sgd(0.1), 0.1),
    ],
)
def test_an_optax_optimizer_is_no_solver(build):
    with pytest.raises(TypeError, match=r"optax optimizer.*odeopt\.solvers\.RK4\(\)"):
        build()


def test_other_things_that_are_no_solver():
    with pytest.raises(TypeError, match=r"pass an instance, `Heun\(\)`"):
        odeopt.from_diffrax(diffrax.Heun, 0.1)
    with pytest.raises(TypeError, match="is no solver"):
        odeopt.from_diffrax("heun", 0.1)
    with pytest.raises(TypeError, match=r"pass e\.g\. odeopt\.flows\.GradientFlow"):
        odeopt.ode_optimizer(diffrax.Heun(), diffrax.Heun(), 0.1)


def test_an_inconsistent_tableau_is_refused_with_the_sum_that_is_wrong():
    tableau = odeopt.solvers.Tableau
    with pytest.raises(ValueError, match=r"b sums to 0\.9, not to 1"):
        tableau(a=[[0.5]], b=[0.5, 0.4])
    with pytest.raises(ValueError, match=r"stage 2 sums to 0\.5, not to 0\.6 \(its node c\[1\]\)"):
        tableau(a=[[0.5]], b=[0.5, 0.5], c=[0, 0.6])


def test_masked_without_full_params():
    opt = optax.masked(odeopt.heun(0.1), {"a": True, "b": False})
    params = {"a": PARAMS, "b": PARAMS}
    loss = lambda p: LOSS(p["a"]) + LOSS(p["b"])
    with pytest.raises(ValueError, match="full_params=params"):
        opt.update(jax.grad(loss)(params), opt.init(params), params, value_fn=loss)


def test_staged_mode_needs_an_explicit_method():
    with pytest.raises(ValueError, match=r"staged=True.*explicit"):
        odeopt.from_diffrax(diffrax.Kvaerno3(), 0.1, staged=True)
    for make in (odeopt.adam, odeopt.muon, odeopt.conformal_leapfrog, odeopt.log_time_adam):
        with pytest.raises(ValueError, match="one gradient needs neither"):
            make(0.1, staged=True)


@pytest.mark.parametrize("after", [optax.scale(0.5), optax.trace(0.9), optax.scale_by_adam()])
def test_a_staged_optimizer_that_is_not_last_in_its_chain(after):
    opt = optax.chain(odeopt.rk4(0.1, staged=True), after)
    state, params = opt.init(PARAMS), PARAMS
    with pytest.raises(ValueError, match="must be the last transformation of its chain"):
        odeopt.step_params(state, params)
    # and outside jit the loop itself notices, at the first call whose point is wrong
    with pytest.raises(ValueError, match="must be the last transformation of its chain"):  # noqa: PT012
        for _ in range(4):
            updates, state = opt.update(jax.grad(LOSS)(params), state, params)
            params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("name", [n for n, entry in REGISTRY.items() if entry.rests])
def test_an_optimizer_that_rests_elsewhere_is_last_in_its_chain(name):
    opt = REGISTRY[name].build(0.1)
    for chain in (
        optax.chain(opt, optax.scale(0.5)),
        optax.named_chain(("first", opt), ("second", optax.scale(0.5))),
        optax.chain(optax.chain(opt), optax.scale(1)),
    ):
        with pytest.raises(ValueError, match=r"rest elsewhere.*must be the last"):
            odeopt.step_params(chain.init(PARAMS), PARAMS)
    odeopt.step_params(optax.chain(optax.scale(0.5), opt).init(PARAMS), PARAMS)


MOVERS = {
    "lookahead": lambda opt: optax.lookahead(opt, 5, 0.5),
    "schedule_free": lambda opt: optax.contrib.schedule_free(opt, 0.1),
    "mechanize": optax.contrib.mechanize,
}


@pytest.mark.parametrize("wrap", MOVERS.values(), ids=MOVERS)
def test_a_wrapper_that_moves_the_parameters_takes_no_optimizer_that_rests_elsewhere(wrap):
    params = {"w": jnp.ones((2, 2))}
    for opt in (odeopt.rk4(0.1, staged=True), odeopt.strang_adam(0.1), odeopt.untuned()):
        pair = optax.LookaheadParams(params, params)
        state = wrap(opt).init(pair if wrap is MOVERS["lookahead"] else params)
        with pytest.raises(ValueError, match=r"moves the parameters by itself.*`odeopt\.adam`"):
            odeopt.step_params(state, params)
    odeopt.step_params(optax.contrib.mechanize(odeopt.rk4(0.1)).init(params), params)


def test_a_loss_by_position_is_refused():
    opt = odeopt.rk4(0.1)
    with pytest.raises(TypeError, match=r"all else by name: .*value_fn=loss"):
        opt.update(GRADS, opt.init(PARAMS), PARAMS, LOSS)


def test_a_state_in_the_middle_of_a_staged_step_is_refused():
    staged, opt = odeopt.rk4(0.1, staged=True), odeopt.rk4(0.1)
    _, state = staged.update(GRADS, staged.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=r"staged=True.*`state = opt\.init\(par"):
        opt.update(GRADS, state, PARAMS, value_fn=LOSS)
    params, state = odeopt.step_params(state, PARAMS), state._replace(progress=())
    assert opt.update(GRADS, state, params, value_fn=LOSS)[1].gradients == state.gradients + 4


@pytest.mark.parametrize("make", [odeopt.log_time_adam, lambda: odeopt.rk4(0.1, staged=True)])
def test_step_params_of_other_parameters(make):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    state = optax.flatten(make()).init(params)
    with pytest.raises(ValueError, match=r"do not look like .*ravel_pytree\(params\)"):
        odeopt.step_params(state, params)
    chex.assert_trees_all_equal(unravel(odeopt.step_params(state, flat)), params)


@pytest.mark.slow
def test_a_staged_optimizer_that_is_last_is_left_in_peace():
    opt = optax.chain(optax.clip(100.0), odeopt.rk4(1e-6, staged=True))
    params = {"w": jnp.full(3, 1e4), "h": jnp.full(3, 100.0, jnp.bfloat16)}
    loss = lambda p: sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in p.values())
    state = opt.init(params)
    for _ in range(8):
        updates, state = opt.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (
            stepsize.gain_ratio,
            r"learning_rate is gain_ratio.*pass what it makes, `gain_ratio\(\.\.\.",
        ),
        (optax.linear_schedule, r"learning_rate is linear_schedule.*`linear_schedule\(\.\.\.\)`"),
        (lambda: 0.1, "cannot be called with the step count alone"),
        (stepsize.horizon, r"gives Horizon.*`stepsize\.horizon\(1000\)`"),
        (optax.constant_schedule, r"gives <function.*`optax\.constant_schedule\(0\.1\)`"),
        (lambda step: None, "gives None where a number is expected"),
    ],
)
def test_what_makes_a_schedule_or_a_rule_is_none(rate, message):
    with pytest.raises(TypeError, match=message):
        update(odeopt.euler(rate))


def test_an_optimizer_is_no_transformation_of_gradients():
    with pytest.raises(TypeError, match=r"raise the loss\. Pass .*`optax\.scale_by_adam\(\)`"):
        odeopt.rk4(0.1, stage_transform=odeopt.euler(0.1))


def test_arguments_in_another_order():
    with pytest.raises(TypeError, match=r"write `odeopt\.across\(\"model\", odeopt\.adam"):
        odeopt.across(odeopt.adam(0.1), "model")
    with pytest.raises(TypeError, match="value_fn is a ArrayImpl, not a function"):
        odeopt.suggest_learning_rate(odeopt.rk4(0.1), PARAMS, LOSS)


def test_step_params_of_several_runs():
    opt = odeopt.log_time_adam()
    runs = jnp.ones((3, 2))
    state = jax.vmap(opt.init)(runs)
    with pytest.raises(ValueError, match=r"of 3 runs: write `jax.vmap\(odeopt.step_params\)"):
        odeopt.step_params(state, runs)
    assert jax.vmap(odeopt.step_params)(state, runs).shape == (3, 2)


def test_a_loss_whose_batch_has_no_name():
    def loss(params, batch, /):
        return jnp.sum(params * batch)

    opt, params = odeopt.heun(0.1), jnp.ones(2)
    with pytest.raises(TypeError, match=r"takes batch by position only.*move the `/`"):
        opt.update(params, opt.init(params), params, value_fn=loss, batch=params)


def test_step_params_of_a_foreign_state():
    with pytest.raises(ValueError, match="no odeopt optimizer"):
        odeopt.step_params(optax.sgd(0.1).init(PARAMS), PARAMS)


def test_a_flow_that_looks_elsewhere_cannot_be_staged():
    class LookAhead(odeopt.flows.GradientFlow):
        def increment(self, z, objective, h):
            ahead = objective.gradient(jax.tree.map(lambda x: x + 1.0, z[0]))
            return jax.tree.map(lambda g: -h * g, ahead), z[1]

    opt = odeopt.ode_optimizer(LookAhead(), odeopt.solvers.RK4(), 0.1, staged=True)
    with pytest.raises(ValueError, match="staged mode cannot"):
        update(opt)


@pytest.mark.parametrize(
    "make",
    [
        lambda b: odeopt.heavy_ball(0.1, b),
        lambda b: odeopt.nesterov(0.1, b),
        lambda b: odeopt.adam(0.1, b1=b),
        lambda b: odeopt.adam(0.1, b2=b),
        lambda b: odeopt.rmsprop(0.1, b),
        lambda b: odeopt.rmsprop(0.1, momentum=b),
    ],
)
@given(decay=st.one_of(st.floats(min_value=1.0), st.floats(max_value=-1e-30), st.just(jnp.nan)))
def test_a_decay_that_is_no_decay(make, decay):
    with pytest.raises(ValueError, match=r"at least 0 and below 1.*LogTime"):
        make(decay)


@pytest.mark.parametrize(
    "make",
    [
        lambda: odeopt.rk_momentum(0.1, 0.0, odeopt.solvers.RK4()),
        lambda: odeopt.suzuki_yoshida(0.1, 0.0),
    ],
)
def test_a_friction_that_would_be_infinite(make):
    with pytest.raises(ValueError, match=r"momentum is 0.*odeopt\.rk4"):
        make()


def test_weight_decay_needs_the_parameters():
    opt = odeopt.adamw(0.1)
    with pytest.raises(ValueError, match="needs the parameters"):
        update(opt, params=None)


def test_a_solver_in_place_of_a_rate():
    with pytest.raises(TypeError, match="is a class; pass an instance"):
        odeopt.rk_adam(0.1, odeopt.solvers.RK4)


OF_A_LOSS = {
    "sharpness": odeopt.diagnostics.sharpness,
    "spectrum": odeopt.diagnostics.spectrum,
    "principal flow": lambda loss, x, **more: odeopt.drift.principal_flow(loss, **more)(x, 0.1),
    "central flow": lambda loss, x, **more: odeopt.drift.central_flow(loss, **more)(x, 0.1),
    "update": lambda loss, x, **more: odeopt.heun(0.1).update(
        x, odeopt.heun(0.1).init(x), x, **{"value_fn": loss, **more}
    ),
}


@pytest.mark.parametrize("name", OF_A_LOSS)
def test_an_argument_of_the_loss_is_not_replaced_by_the_loss(name):
    named = lambda x, value_fn: value_fn * jnp.sum(x**2)
    with pytest.raises(TypeError, match=r"called `value_fn`.*rename it"):
        OF_A_LOSS[name](named, jnp.ones(2))
    if name != "update":  # where `value_fn=` is the loss
        for loss in (named, lambda x, **more: more["value_fn"] * jnp.sum(x**2)):
            with pytest.raises(TypeError, match=r"called `value_fn`.*rename it"):
                OF_A_LOSS[name](loss, jnp.ones(2), value_fn=3.0)


@pytest.mark.parametrize("make", [lambda: odeopt.rk4(0.1), lambda: odeopt.euler(RULE)])
def test_an_argument_of_the_loss_is_not_taken_for_its_value_or_its_gradient(make):
    for name, loss in (
        ("value", lambda x, value: value * jnp.sum(x**2)),
        ("grad", lambda x, grad=1.0: jnp.sum(grad * x**2)),
    ):
        with pytest.raises(TypeError, match=rf"called `{name}`.*rename it"):
            update(make(), value_fn=loss, **{name: 3.0})
        update(make(), value_fn=lambda value, loss=loss: loss(value, 1.0), **{name: 3.0})


RULE = stepsize.gain_ratio()
ADVICE = ("write", "must be", "hand over", "pass ", "return one", "take it")
BAD_ARGUMENTS = {
    "weight_decay, schedule": lambda: odeopt.untuned(weight_decay=optax.constant_schedule(0.1)),
    "eps, schedule": lambda: odeopt.adam(0.1, eps=optax.constant_schedule(1e-8)),
    "learning_rate, complex": lambda: odeopt.euler(jnp.array(0.1 + 5j)),
    "learning_rate, bool": lambda: odeopt.rk4(jnp.array(True)),
    "momentum, schedule": lambda: odeopt.heavy_ball(0.1, optax.constant_schedule(0.9)),
    "dtype int32": lambda: odeopt.adam(0.1, mu_dtype=jnp.int32).init(PARAMS),
    "dtype 'foo'": lambda: odeopt.adam(0.1, mu_dtype="foo").init(PARAMS),
    "dtype int8": lambda: odeopt.heavy_ball(0.1, accumulator_dtype="int8").init(PARAMS),
    "stage_transform": lambda: odeopt.rk4(0.1, stage_transform=optax.clip),
    "residue of dtype int32": lambda: odeopt.compensated(odeopt.adam(0.1), dtype=jnp.int32),
    "step is": lambda: odeopt.apply_updates(PARAMS, GRADS, "stochastic", step=0.5),
    "into is": lambda: odeopt.growth.Units("w", "b"),
    "units is": lambda: odeopt.growth.grow(PARAMS, LOSS, odeopt.adam(0.1).init(PARAMS)),
    "compensated": lambda: odeopt.compensated(0.1),
    "speeds": lambda: odeopt.simultaneous(0.1, speeds=(-1.0, 1.0)),
    "2.0": lambda: odeopt.simultaneous(0.1, speeds=2.0),
    "3": lambda: odeopt.alternating(0.1, updates=3),
    "clock": lambda: stepsize.angle(clock=10),
    "shrink": lambda: stepsize.angle(shrink=2.0),
    "max_precond_dim": lambda: odeopt.soap(0.1, max_precond_dim=0),
    "ns_coeffs": lambda: odeopt.muon(0.1, ns_coeffs="foo"),
    "weight_dimension_numbers": lambda: odeopt.muon(0.1, muon_weight_dimension_numbers="rows").init(
        jnp.ones((2, 3))
    ),
    "value_fn": lambda: update(odeopt.rk4(0.1), value_fn=LOSS(PARAMS)),
    "in first place, and this one has batch there": lambda: update(
        odeopt.rk4(0.1), value_fn=lambda batch, params: jnp.sum(params * batch), batch=1.0
    ),
    r'samples=\("batch",\)': lambda: update(
        odeopt.linearly_implicit_euler(),
        value_fn=odeopt.composite(LOSS, lambda x, key, batch: batch * x),
        batch=jnp.ones((3, 1)),
        key=jax.random.key(0),
    ),
    "grads has dtype float0": lambda: update(odeopt.adam(0.1), np.zeros(2, jax.dtypes.float0)),
    "The schedule": lambda: update(odeopt.rk4(lambda step: jnp.ones(2)), value_fn=LOSS),
    "The state is a tuple": lambda: odeopt.rk4(0.1).update(
        GRADS, optax.adam(0.1).init(PARAMS), PARAMS, value_fn=LOSS
    ),
    "'aux'": lambda: odeopt.adam(0.1).update(GRADS, odeopt.euler(0.1).init(PARAMS), PARAMS),
    "'rule'": lambda: odeopt.euler(stepsize.gain_ratio()).update(
        GRADS, odeopt.euler(0.1).init(PARAMS), PARAMS, value_fn=LOSS
    ),
    "'progress'": lambda: odeopt.rk4(0.1, staged=True).update(
        GRADS, odeopt.rk4(0.1).init(PARAMS), PARAMS
    ),
    "at these parameters": lambda: odeopt.adam(0.1).update(
        GRADS, odeopt.adam(0.1).init(jnp.ones(3)), PARAMS
    ),
    "full_params": lambda: odeopt.rk4(0.1).update(
        [GRADS], odeopt.rk4(0.1).init([PARAMS]), [PARAMS], value_fn=LOSS, full_params=PARAMS
    ),
    "kernel": lambda: odeopt.kernels.using(odeopt.adam(0.1), "jnp"),
    "loss_fn": lambda: odeopt.composite(PARAMS, LOSS),
    "predict_fn": lambda: odeopt.composite(LOSS, PARAMS),
    "every axis must": lambda: odeopt.soap(
        0.1, weight_dimension_numbers=MuonDimensionNumbers(0, 5)
    ).init(jnp.ones((2, 3))),
    "weight_dimension_numbers must": lambda: odeopt.soap(
        0.1, weight_dimension_numbers={"w": None}
    ).init(PARAMS),
    "learning_rate is Optimizer": lambda: odeopt.diagnostics.drift(LOSS, PARAMS, odeopt.rk4(0.1)),
    "learning_rate is Array": lambda: odeopt.diagnostics.drift(LOSS, 0.1, PARAMS),
    "value_fn is a": lambda: odeopt.diagnostics.drift(PARAMS, LOSS, 0.1),
    "value_fn is a float": lambda: odeopt.diagnostics.drift_terms(0.1, PARAMS, 0.1),
    "epoch is -1": lambda: odeopt.ordering.palindromic(3)(-1),
    "epoch is 0.5": lambda: odeopt.ordering.reshuffled(3)(0.5),
    "The state is a NoneType": lambda: odeopt.euler(0.1).update(GRADS, None, PARAMS),
}


def flags():
    """Every public function or class with an argument that is True or False, and its name."""
    for module in (odeopt, odeopt.flows, stepsize, odeopt.diagnostics, odeopt.drift, odeopt.growth):
        for name in dir(module):
            thing = getattr(module, name)
            if name.startswith("_") or not callable(thing) or name == "Scheduled":
                continue
            try:
                parameters = inspect.signature(thing).parameters.values()
            except ValueError:  # of a class of another package
                continue
            for parameter in parameters:
                if parameter.annotation in (bool, bool | None):
                    yield thing, parameter.name


REQUIRED = {
    "learning_rate": 0.1,
    "momentum": 0.9,
    "delta": 1.0,
    "gamma": 1.0,
    "stages": 2,
    "tableau": odeopt.solvers.RK4(),
    "solver": odeopt.solvers.RK4(),
    "flow": odeopt.flows.GradientFlow(),
    "inner": odeopt.solvers.RK4(),
    "value_fn": LOSS,
    "params": PARAMS,
    "state": (),
    "units": (),
}


@pytest.mark.untyped
def test_an_argument_that_is_true_or_false_is_nothing_else():
    for thing, name in flags():
        signature = inspect.signature(thing).parameters.values()
        needed = [p.name for p in signature if p.default is p.empty and p.kind < p.VAR_KEYWORD]
        for flag in ("no", 1):
            with pytest.raises(TypeError, match=f"{name} is {flag!r}; it must be True or False"):
                thing(*(REQUIRED[n] for n in needed), **{name: flag})


@pytest.mark.untyped
def test_an_argument_that_makes_no_sense_is_named_in_one_line():
    for name, call in BAD_ARGUMENTS.items():
        with pytest.raises((ValueError, TypeError), match=name.split(",")[0]) as error:
            call()
        assert "\n" not in str(error.value)
        assert any(word in str(error.value) for word in ADVICE)


@pytest.mark.parametrize("mask", [{"w": True}, ["w"], "w", None, jnp.array([True, False])])
@pytest.mark.parametrize(
    "make",
    [
        lambda mask: odeopt.adamw(0.1, mask=mask),
        lambda mask: odeopt.strang_adam(0.1, weight_decay=0.1, mask=mask),
        lambda mask: odeopt.rk_adam(0.1, odeopt.solvers.Euler(), weight_decay=0.1, mask=mask),
        lambda mask: odeopt.soap(0.1, weight_decay=0.1, mask=mask),
        lambda mask: odeopt.muon(0.1, weight_decay=0.1, weight_decay_mask=mask),
    ],
)
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
def test_a_mask_that_does_not_fit_is_named(make, mask):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    opt = make((lambda params: None) if mask is None else mask)
    with pytest.raises(ValueError, match=r"^mask (must be a tree like|has )"):
        opt.update(params, opt.init(params), params)


@pytest.mark.parametrize("name", [n for n in REGISTRY if "-" not in n])
def test_an_argument_that_there_is_not_is_refused_in_the_name_of_the_optimizer(name):
    with pytest.raises(TypeError, match=rf"^{name}\(\) .*argument 'betas'"):
        REGISTRY[name].build(0.1, betas=(0.9, 0.999))


def test_an_array_as_the_rate_is_equal_to_itself_and_can_be_pickled():
    rate = jnp.array(0.1)
    assert odeopt.rk4(rate) == odeopt.rk4(rate)
    assert odeopt.rk4(rate) != odeopt.rk4(jnp.array(0.1))
    restored = pickle.loads(pickle.dumps(odeopt.rk4(rate)))
    np.testing.assert_array_equal(
        update(restored, value_fn=LOSS)[0], update(odeopt.rk4(rate), value_fn=LOSS)[0]
    )


@pytest.mark.parametrize("rule", [odeopt.stepsize.gain_ratio(), 1.0])
def test_a_gradient_function_does_not_stand_for_the_loss(rule):
    opt = odeopt.euler(rule) if rule != 1.0 else odeopt.implicit_euler(rule)
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="gives it gradients only"):
        opt.update(x, opt.init(x), x, grad_fn=lambda params, stage: params)
