"""No argument is ignored, of optimizers and of pieces: another value changes the program."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import odeopt
from odeopt import drift, flows, solvers, stepsize
from odeopt.zoo.registry import REGISTRY

from .table import OPTIMIZERS

PLAYED = {entry.function.__name__ for entry in REGISTRY.values() if entry.family == "game"}
TABLEAUS = [solvers.as_method(s, error=True).tableau for s in (solvers.Dopri5(), solvers.Heun())]
NEEDED = {
    "learning_rate": 0.1,
    "momentum": 0.9,
    "delta": 1.0,
    "solver": solvers.Euler(),
    "tableau": TABLEAUS[0],
    "base": flows.AdamFlow(),
    "inner": solvers.as_method(solvers.RK4()),
    "rtol": 1e-3,
    "atol": 1e-3,
    "steps": 100,
    "flow": flows.GradientFlow(),
    "order": 3,
    "strength": 0.1,
}


def one_matrix(params):
    return {name: MuonDimensionNumbers(0, 1) if name == "v" else None for name in params}


def no_leaf(params):
    return jax.tree.map(lambda _: False, params)


CG, DECAYS = {"solve": "cg"}, {"weight_decay": 0.2}
OTHERS = {  # another value than the default, and what must be given too for it to matter
    "learning_rate": (0.03, {}),
    "stage_transform": (optax.scale(0.5), {}),
    "eps": (0.1, {}),
    "weight_decay": (0.2, {}),
    "momentum": (0.5, {}),
    "tolerance": (0.5, CG),
    "solver": (solvers.RK4(), {}),
    "curvature": ("hessian", {}),
    "products": (1, CG),
    "fraction": (0.5, {}),
    "b1": (0.5, {}),
    "b2": (0.5, {}),
    "solve": ("cg", {}),
    "precondition": (True, CG),
    "eps_root": (0.1, {}),
    "mu_dtype": (jnp.float16, {}),
    "mask": (no_leaf, DECAYS),
    "nesterov": (None, {"momentum": 0.9}),
    "speeds": ((1.0, 3.0), {}),
    "iterations": (1, {}),
    "tableau": (TABLEAUS[1], {}),
    "accumulator_dtype": (jnp.float16, {}),
    "first": (0.1, {}),
    "gain": (0.5, {}),
    "rate": (2.0, {}),
    "precondition_frequency": (1, {}),
    "max_precond_dim": (1, {}),
    "weight_dimension_numbers": (one_matrix, {}),
    "muon_weight_dimension_numbers": (one_matrix, {}),
    "updates": ((2, 1), {}),
    "basis": (2, {}),
    "rank": (2, CG),
    "ns_coeffs": ("dion", {}),
    "ns_steps": (2, {}),
    "beta": (0.5, {}),
    "weight_decay_mask": (no_leaf, DECAYS),
    "preconditioning": ("spectral", {}),
    "adam_b1": (0.5, {}),
    "adam_b2": (0.5, {}),
    "adam_eps_root": (0.1, {}),
    "adam_weight_decay": (0.2, {}),
    "adam_learning_rate": (0.02, {}),
    "consistent_rms": (0.5, {}),
    "delta": (5.0, {}),
    "stages": (3, {}),
    "order": (2, {}),
    "damping": (1.0, {}),
    "max_stages": (2, {"stages": None}),
    "decay": (0.5, {}),
    "initial_scale": (1.0, {}),
    "eps_in_sqrt": (None, {"eps": 0.1}),
    "scan_stages": (True, {}),
    "shampoo_beta": (0.5, {}),
    "horizon": (10, {}),
    "base": (flows.RMSpropFlow(), {}),
    "power": (2.0, {}),
    "clock": (flows.LogTime(3.0), {}),
    "dtype": (jnp.float16, {}),
    "fading": (2.0, DECAYS),
    "exact_decay": (None, DECAYS),
    "dimensions": (MuonDimensionNumbers(1, 0), {}),
    "floor": (0.1, {"ns_steps": None, "nesterov": False}),
    "noise": (0.5, {}),
    "inner": (solvers.as_method(solvers.Heun()), {}),
    "outer": (solvers.Strang(), {}),
    "scan": (True, {}),
    "error": (None, {"tableau": TABLEAUS[1]}),
    "kind": ("midpoint", {}),
    "shrink": (0.5, {}),
    "limit": (1e-3, {}),
    "distance": (3.0, {}),
    "warm_up": (0.5, {}),
    "transition": (0.5, {}),
    "longest": (0.01, {}),
    "minimum": (0.1, {}),
    "cap": (0.01, {}),
    "rtol": (1e-2, {}),
    "atol": (1e-2, {}),
    "pcoeff": (0.1, {}),
    "icoeff": (1.0, {}),
    "dcoeff": (0.1, {}),
    "least": (0.1, {}),
    "tries": (3, {}),
    "steps": (10, {}),
    "safety": (0.5, {}),
    "every": (3, {}),
    "flow": (flows.HeavyBallFlow(0.9), {}),
    "strength": (0.5, {}),
    "form": ("derivatives", {}),
    "clip": (0.1, {}),
}
KEYS = jax.random.split(jax.random.key(0), 4)
BATCH = {"x": jax.random.normal(KEYS[0], (8, 5)), "y": jax.random.normal(KEYS[1], (8, 2))}
PARAMS = {
    "w": jax.random.normal(KEYS[2], (5, 4)),
    "b": jnp.linspace(-0.5, 0.5, 4),
    "v": jax.random.normal(KEYS[3], (4, 2)),
}
LOSS = odeopt.composite(
    lambda outputs, y: jnp.mean(jnp.cosh(outputs - y)),
    lambda params, x: jnp.tanh(x @ params["w"] + params["b"]) @ params["v"],
)
PLAYERS = jnp.linspace(0.5, 1.0, 3), jnp.linspace(-1.0, 0.3, 3)


def gain(players):
    return jnp.sum(jnp.sinh(players[0]) * players[1] + 0.1 * players[0] ** 2)


def programs(make, arguments):
    """What `init` and `update` compute, as text: what changes no result is not in it."""
    opt = make(**arguments)
    if make.__name__ in PLAYED:
        params, gradient = PLAYERS, odeopt.game_gradient((gain, lambda players: -gain(players)))
        given = lambda params: {"grad_fn": gradient}
    else:
        params, gradient = PARAMS, lambda params: jax.grad(LOSS)(params, **BATCH)
        given = lambda params: {"value_fn": LOSS, "value": LOSS(params, **BATCH), **BATCH}
    update = lambda params, state: opt.update(gradient(params), state, params, **given(params))
    state = jax.eval_shape(opt.init, params)
    return opt, [
        jax.jit(opt.init).lower(params).as_text(),
        jax.jit(update).lower(params, state).as_text(),
    ]


def another(make, parameter, opt, others):
    """A value that is not the default, and what else to give; a new argument needs a row."""
    if parameter.name == "correction":
        return "joint" if make.__name__ in PLAYED else opt.order + 1, {}
    if isinstance(parameter.default, bool):
        return not parameter.default, others.get(parameter.name, (None, {}))[1]
    return others[parameter.name]


def ignored(make, others=OTHERS):
    """Arguments of which another value than the default changes nothing."""
    parameters = inspect.signature(make).parameters
    needed = {key: NEEDED[key] for key, p in parameters.items() if p.default is p.empty}
    opt, plain = programs(make, needed)
    found = []
    for key, parameter in parameters.items():
        value, more = another(make, parameter, opt, others)
        more = {k: v for k, v in more.items() if k in parameters and k != key}
        before = programs(make, needed | more)[1] if more else plain
        try:
            after = programs(make, needed | more | {key: value})[1]
        except (ValueError, TypeError) as error:
            if key not in str(error):
                found.append(f"{key}: {error}")
            continue
        one_stage = key in ("staged", "scan_stages") and opt.gradients_per_step == 1
        if before == after and not one_stage:  # which cannot be cut, nor looped over
            found.append(key)
    return found


@pytest.mark.whole
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_argument_is_ignored(name):
    assert not ignored(OPTIMIZERS[name])


def test_the_law_sees_what_is_ignored():
    def careless(learning_rate, momentum=0.9, nesterov=False):
        return odeopt.heavy_ball(learning_rate, momentum)

    assert ignored(careless) == ["nesterov"]


# pieces, in an optimizer that makes use of them

MATRICES = {"w": "matrices", "b": "others", "v": "matrices"}


def split(flow, **options):
    return odeopt.ode_optimizer(flow, solvers.Lie(), 0.1, **options)


def of_matrices(flow, **options):
    grouped = flows.GroupedFlow({"matrices": flow, "others": flows.AdamFlow()}, MATRICES)
    return split(grouped, **options)


def spectral(flow):
    order = 2 if flow.ns_steps is None else None  # with derivatives of the exact polar factor
    return of_matrices(flow, correction=order)


def averaged(rule):
    return odeopt.ode_optimizer(flows.AveragedFlow(flows.AdamFlow()), solvers.Lie(), rule)


def momentum(solver):
    return odeopt.ode_optimizer(flows.HeavyBallFlow(0.9), solver, 0.1)


def descent(solver):
    return odeopt.ode_optimizer(flows.GradientFlow(), solver, 0.1)


def explicit(solver):
    rate = 0.1 if solver.tableau.b_error is None else stepsize.embedded_error(1e-3, 1e-3)
    return odeopt.ode_optimizer(flows.GradientFlow(), solver, rate)


def by_euler(flow):
    return odeopt.ode_optimizer(flow, solvers.Euler(), 0.1)


PIECES = {
    flows.AdamFlow: split,
    flows.AveragedFlow: split,
    flows.HeavyBallFlow: split,
    flows.NesterovFlow: split,
    flows.RelativisticFlow: split,
    flows.RMSpropFlow: split,
    flows.UnitFlow: split,
    flows.KroneckerFlow: of_matrices,
    flows.SpectralFlow: spectral,
    solvers.Chained: momentum,
    solvers.Exponential: descent,
    solvers.ExplicitRungeKutta: explicit,
    solvers.Implicit: descent,
    solvers.Rosenbrock: descent,
    solvers.RungeKuttaChebyshev: descent,
    stepsize.angle: averaged,
    stepsize.anytime: odeopt.adam,
    stepsize.corridor: odeopt.euler,
    stepsize.drift_adjusted: odeopt.euler,
    stepsize.embedded_error: odeopt.heun,
    stepsize.gain_ratio: odeopt.linearly_implicit_euler,
    stepsize.horizon: odeopt.adam,
    stepsize.sharpness: odeopt.euler,
    drift.corrected: by_euler,
    drift.regularized: by_euler,
}


LINEAR = {"solver": (solvers.LinearSolver(solve="cg"), {})}
OF_PIECES = {  # what has another value than elsewhere
    solvers.Implicit: LINEAR,
    solvers.Rosenbrock: LINEAR,
}


@pytest.mark.whole
@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_no_argument_of_a_piece_is_ignored(piece):
    def make(**arguments):
        return PIECES[piece](piece(**arguments))

    make.__signature__ = inspect.signature(piece)
    assert not ignored(make, OTHERS | OF_PIECES.get(piece, {}))
