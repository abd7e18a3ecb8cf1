"""Counter-terms and penalties of games: orders against the joint flow, and two derivations."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import drift, solvers
from odeopt.flows import GameFlow
from odeopt.objective import Objective

from .cases import difference, flow, rates

pytestmark = pytest.mark.usefixtures("x64")

SPEEDS = (0.5, 2.0)


def first_loss(z):
    p, q = z
    return jnp.sum(jnp.sin(p * q)) + 0.2 * jnp.sum(p**2) + 0.3 * p[0] * p[1] ** 2


def second_loss(z):
    p, q = z
    return -jnp.sum(jnp.sin(p * q)) + 0.2 * jnp.sum(jnp.cosh(q)) + 0.1 * q[0] * q[1] * p[0]


def third_loss(z):
    return jnp.sum(jnp.cos(z[0] + z[1] * z[2])) + 0.3 * jnp.sum(z[2] ** 2) * z[0][0]


LOSSES = first_loss, second_loss
GRADIENT = odeopt.game_gradient(LOSSES)
TRIPLE = odeopt.game_gradient(
    (lambda z: first_loss(z[:2]), lambda z: second_loss(z[:2]), third_loss)
)


def start(players=2):
    return (jnp.array([0.8, -0.5]), jnp.array([0.4, 0.9]), jnp.array([-0.3, 0.6]))[:players]


def field(z, speeds, grad_fn=GRADIENT):
    return tuple(-s * g for s, g in zip(speeds, grad_fn(z), strict=True))


def step_map(flow_, method, grad_fn):
    """One step as a function of the point and h, through flow and method alone."""

    def step(z, h):
        objective = Objective({"grad_fn": grad_fn}, grad_fn(z))
        taken = method.step(flow_, objective, (z, flow_.init(z)), jnp.asarray(h, float), ())
        return jax.tree.map(jnp.add, z, taken.update)

    return step


def blocks(z, speeds, grad_fn):
    """`V_ij V_j` for all players i, j, by dense derivatives of the field."""
    v = field(z, speeds, grad_fn)
    derivative = jax.jacfwd(lambda z: field(z, speeds, grad_fn))(z)
    n = len(z)
    return [[derivative[i][j] @ v[j] for j in range(n)] for i in range(n)]


SIMULTANEOUS = None
CASES = [
    (SIMULTANEOUS, SPEEDS),
    ({0: 1, 1: 1}, SPEEDS),
    ({1: 1, 0: 2}, SPEEDS),
    ({2: 1, 0: 2, 1: 1}, (0.5, 2.0, 1.5)),
]
TERMS = [
    *((case, terms, "difference") for case in CASES[:2] for terms in ("interaction", "self")),
    *((case, "joint", "derivatives") for case in CASES[:3]),
    (CASES[3], "joint", "difference"),
]


def weights(updates, n):
    """Twice the factor of `V_ij V_j` that a step has too little of, written out."""
    w = np.ones((n, n))
    if updates is not None:
        turn = {player: place for place, player in enumerate(updates)}
        for i, j in itertools.product(range(n), repeat=2):
            if i == j:
                w[i, i] = 1 / updates[i]
            elif turn[j] < turn[i]:
                w[i, j] = -1
    return w


def prepared(updates, speeds):
    n = len(speeds)
    grad_fn = GRADIENT if n == 2 else TRIPLE
    method = solvers.as_method(solvers.Euler()) if updates is None else solvers.Lie()
    return n, grad_fn, method, GameFlow(speeds, updates)


@pytest.mark.slow
@pytest.mark.parametrize(("updates", "speeds"), CASES, ids=str)
def test_the_drift_of_a_step_is_what_the_table_says(updates, speeds):
    """The step's Taylor series in h, against the blocks of the field's derivative."""
    n, grad_fn, method, game = prepared(updates, speeds)
    z, h = start(n), 0.1
    modified = jax.jit(drift.modified_field(step_map(game, method, grad_fn), None, 2))(z, h)
    v, b, w = field(z, speeds, grad_fn), blocks(z, speeds, grad_fn), weights(updates, n)
    expected = tuple(v[i] - 0.5 * h * sum(w[i, j] * b[i][j] for j in range(n)) for i in range(n))
    chex.assert_trees_all_close(modified, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "terms", "form"), TERMS, ids=str)
def test_counter_terms_cancel_what_they_name_and_nothing_else(case, terms, form):
    updates, speeds = case
    n, grad_fn, method, game = prepared(updates, speeds)
    z, h = start(n), 0.1
    corrected = drift.corrected_game(game, terms, form=form, clip=None)
    modified = jax.jit(drift.modified_field(step_map(corrected, method, grad_fn), None, 2))(z, h)
    v, b, w = field(z, speeds, grad_fn), blocks(z, speeds, grad_fn), weights(updates, n)
    left = {"joint": 0 * w, "interaction": np.diag(np.diag(w)), "self": w - np.diag(np.diag(w))}
    expected = tuple(
        v[i] - 0.5 * h * sum(left[terms][i, j] * b[i][j] for j in range(n)) for i in range(n)
    )
    chex.assert_trees_all_close(modified, expected, rtol=1e-10, atol=1e-12)


ORDERS = {
    ("simultaneous", None): 1,
    ("simultaneous", "joint"): 2,
    ("simultaneous", "published"): 1,
    ("simultaneous", "interaction"): 1,
    ("alternating", None): 1,
    ("alternating", "joint"): 2,
    ("alternating", "published"): 1,
    ("alternating", "self"): 1,
}


def observed(make, speeds, ns=(128, 256)):
    """The order against the joint flow at time 1."""
    exact = jax.jit(lambda: flow(lambda z: field(z, speeds), start(), 1.0))()

    @jax.jit
    def end(n):
        opt = make(1 / n)

        def step(_, carry):
            z, state = carry
            updates, state = opt.update(GRADIENT(z), state, z, grad_fn=GRADIENT)
            return optax.apply_updates(z, updates), state

        return jax.lax.fori_loop(0, n, step, (start(), opt.init(start())))[0]

    return float(rates([difference(end(n), exact) for n in ns])[0])


@pytest.mark.parametrize(("kind", "correction"), ORDERS, ids=str)
def test_order_against_the_joint_flow_at_unequal_rates(kind, correction):
    make = lambda h: getattr(odeopt, kind)(h, speeds=SPEEDS, correction=correction)
    assert observed(make, SPEEDS) == pytest.approx(ORDERS[kind, correction], abs=0.1)


@pytest.mark.parametrize("kind", ["simultaneous", "alternating"])
def test_the_published_weights_are_the_consistent_ones_at_equal_rates(kind):
    make = lambda h: getattr(odeopt, kind)(h, speeds=(1.5, 1.5), correction="published")
    assert observed(make, (1.5, 1.5)) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(
    ("solver", "correction", "order"),
    [
        (solvers.Heun(), None, 2),
        (solvers.RK4(), None, 4),
        (solvers.Euler(), 3, 3),
        (solvers.Heun(), 3, 3),
    ],
    ids=["heun", "rk4", "euler-corrected", "heun-corrected"],
)
def test_runge_kutta_follows_the_joint_flow_with_its_order(solver, correction, order):
    make = lambda h: odeopt.game_runge_kutta(h, solver, speeds=SPEEDS, correction=correction)
    assert make(0.1).order == order
    assert observed(make, SPEEDS, (32, 64)) == pytest.approx(order, abs=0.1)


def test_the_implicit_midpoint_rule_has_order_2():
    make = lambda h: odeopt.game_implicit_midpoint(h, speeds=SPEEDS)
    assert observed(make, SPEEDS, (16, 32)) == pytest.approx(2, abs=0.1)


def test_joint_simultaneous_terms_are_those_of_the_modifying_integrator():
    z, h = start(), 0.1

    def update(flow_):
        opt = odeopt.ode_optimizer(flow_, solvers.Euler(), h)
        return opt.update(GRADIENT(z), opt.init(z), z, grad_fn=GRADIENT)[0]

    game = GameFlow(SPEEDS)
    for form in ("difference", "derivatives"):
        chex.assert_trees_all_close(
            update(drift.corrected_game(game, "joint", form=form)),
            update(drift.corrected(game, solvers.Euler(), 2, form=form)),
            rtol=1e-12,
        )


# Dirac GAN: data at 0, generated point theta, discriminator psi x; log(1 + e^-t) losses

DIRAC = odeopt.game_gradient(
    (
        lambda z: -jax.nn.softplus(-z[0] * z[1]),  # theta descends L = -log(1 + e^(-theta psi))
        lambda z: jax.nn.softplus(-z[0] * z[1]),  # psi ascends it
    )
)


@pytest.mark.parametrize(
    ("opt", "calm"),
    [
        (odeopt.simultaneous(0.06), False),
        (odeopt.simultaneous(0.06, correction="joint"), True),
        (odeopt.simultaneous(0.06, correction="interaction"), True),
        (odeopt.game_runge_kutta(0.06, solvers.RK4()), True),
    ],
    ids=["plain", "joint", "interaction", "rk4"],
)
def test_the_dirac_gan_turns_on_a_circle_that_eulers_method_leaves(opt, calm):
    z = jnp.array(0.8), jnp.array(0.0)

    def step(carry, _):
        z, state = carry
        updates, state = opt.update(DIRAC(z), state, z, grad_fn=DIRAC)
        z = optax.apply_updates(z, updates)
        return (z, state), z[0] ** 2 + z[1] ** 2

    _, squares = jax.jit(lambda: jax.lax.scan(step, (z, opt.init(z)), None, 2000))()
    relative = np.asarray(squares) / 0.64
    if calm:
        assert np.all(abs(relative - 1) < 0.01)
    else:
        assert relative[-1] > 5


# penalties


def test_penalties_with_these_weights_are_the_counter_terms():
    h, z = 0.1, start()
    a, b = SPEEDS
    for terms, own, interaction in [
        ("joint", (-h * a / 2, -h * b / 2), (-h * b / 2, -h * a / 2)),
        ("self", (-h * a / 2, -h * b / 2), 0.0),
        ("interaction", 0.0, (-h * b / 2, -h * a / 2)),
    ]:
        losses = drift.penalized_game(LOSSES, own=own, interaction=interaction)
        plain = field(z, SPEEDS, odeopt.game_gradient(losses))
        game = drift.corrected_game(GameFlow(SPEEDS), terms, form="derivatives", clip=None)
        objective = Objective({"grad_fn": GRADIENT}, GRADIENT(z))
        moved = game.increment((z, ()), objective, jnp.array(h))[0]
        chex.assert_trees_all_close(plain, jax.tree.map(lambda u: u / h, moved), rtol=1e-12)


@pytest.mark.slow
def test_in_turn_the_second_players_interaction_has_the_other_sign():
    """Order 2 of alternating steps on penalized losses; order 1 with the simultaneous sign."""

    def make(sign):
        def step(z, h):
            own = (-h / 2, -h / 2)
            grad_fn = odeopt.game_gradient(
                drift.penalized_game(LOSSES, own=own, interaction=(-h / 2, sign * h / 2))
            )
            return step_map(GameFlow(updates=(1, 1)), solvers.Lie(), grad_fn)(z, h)

        return step

    z, h = start(), 0.1
    v = field(z, (1.0, 1.0))
    modified = jax.jit(lambda sign: drift.modified_field(make(sign), None, 2)(z, h))
    right, wrong = modified(1.0), modified(-1.0)
    chex.assert_trees_all_close(right, v, rtol=1e-10, atol=1e-12)
    assert float(difference(wrong, v)) > 1e-3


POPULATION = jnp.array([[0.3, -1.0], [1.2, 0.4], [-0.7, 0.9]])


def noisy(z, data):
    return jnp.mean(jnp.sin(data @ z[0]) * (1 + z[1][0] * z[1][1])) + 0.1 * jnp.sum(z[0] ** 2)


def other(z, data):
    return jnp.mean(jnp.cos(data @ z[1]) * jnp.sum(z[0]))


def average(losses, size):
    """Mean over all batches of `size` samples, drawn with replacement."""
    draws = np.array(list(itertools.product(range(len(POPULATION)), repeat=size)))
    grad_fn = odeopt.game_gradient(losses)
    each = jax.jit(jax.vmap(lambda rows: grad_fn(start(), data=POPULATION[rows])))(draws)
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), each)


@pytest.mark.slow
def test_two_halves_are_unbiased_and_one_batch_is_not():
    weights = {"own": 0.3, "interaction": -0.2}
    losses = noisy, other
    whole = odeopt.game_gradient(drift.penalized_game(losses, **weights))(start(), data=POPULATION)
    halves = average(drift.penalized_game(losses, **weights, halves=("data",)), 2)
    chex.assert_trees_all_close(halves, whole, rtol=1e-12)
    single = average(drift.penalized_game(losses, **weights), 2)
    assert float(difference(single, whole)) > 1e-2


def test_an_argument_of_one_player_alone_is_no_misspelling_for_another():
    """It would warn, and warnings are errors here."""
    losses = lambda z, x: z[0] * z[1] * x, lambda z, scale=1.0: -z[0] * z[1] * scale
    players = jnp.array(1.0), jnp.array(2.0)
    plain = odeopt.game_gradient(losses)(players, x=2.0)
    for penalized in (
        drift.penalized_game(losses, own=0.0),
        drift.ode_gan_penalty(losses, 0.0),
    ):
        assert odeopt.game_gradient(penalized)(players, x=2.0) == plain


@pytest.mark.parametrize(
    "penalized",
    [
        lambda losses: drift.penalized_game(losses, own=(0.3, 0.5), interaction=(0.2, -0.1)),
        lambda losses: drift.ode_gan_penalty(losses, 0.7),
    ],
    ids=["penalized_game", "ode_gan_penalty"],
)
def test_penalties_reach_players_whose_names_are_numbers(penalized):
    in_order = [lambda z, f=f: f((*z.values(),)) for f in LOSSES]
    numbered = dict(zip((1, 2), start(), strict=True))
    found = odeopt.game_gradient(penalized(in_order))(numbered)
    expected = odeopt.game_gradient(penalized(LOSSES))(start())
    chex.assert_trees_all_close(tuple(found.values()), expected, rtol=1e-12)


def test_odegans_penalty_is_the_discriminators_alone():
    names = {"g": noisy, "d": other}
    by_name = {
        "g": lambda z, data: noisy((z["g"], z["d"]), data),
        "d": lambda z, data: other((z["g"], z["d"]), data),
    }
    z = dict(zip(names, start(), strict=True))
    new = drift.ode_gan_penalty(by_name, 0.7, generator="g", discriminator="d")
    before = odeopt.game_gradient(by_name)(z, data=POPULATION)
    after = odeopt.game_gradient(new)(z, data=POPULATION)

    def penalty(d):
        g = jax.grad(lambda g: noisy((g, d), POPULATION))(z["g"])
        return 0.7 * jnp.sum(g**2)

    chex.assert_trees_all_close(after["g"], before["g"])
    expected = before["d"] + jax.grad(penalty)(z["d"])
    chex.assert_trees_all_close(after["d"], expected, rtol=1e-12)
    assert float(jnp.max(jnp.abs(after["d"] - before["d"]))) > 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drift.corrected_game(GameFlow(), "all"), "joint, interaction, self, published"),
        (lambda: drift.corrected_game(GameFlow(), "joint", form="x"), "form is 'x'"),
        (lambda: drift.ode_gan_penalty({"g": noisy, "d": other}, 1.0), "which of them is which"),
        (
            lambda: drift.ode_gan_penalty((noisy, other), 1.0, generator=1, discriminator=1),
            "which of them is which",
        ),
        (lambda: drift.penalized_game(LOSSES, own=(1.0,)), "losses has 2 values, own has 1 values"),
        (lambda: drift.penalized_game(LOSSES, interaction=jnp.ones(3)), "interaction has 3 values"),
        (lambda: drift.penalized_game(LOSSES, own=(1.0, np.nan)), "own is nan"),
        (lambda: drift.penalized_game(LOSSES, own=1.0, halves=("x",))[0](start()), "not passed"),
        (
            lambda: drift.penalized_game((noisy, other), own=1.0, halves=("data",))[0](
                start(), data=POPULATION
            ),
            "even number",
        ),
    ],
)
@pytest.mark.untyped
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.untyped
def test_a_flow_that_is_no_game_is_refused():
    with pytest.raises(TypeError, match=r"flow is GradientFlow\(\).*GameFlow\(\)"):
        drift.corrected_game(odeopt.flows.GradientFlow(), "joint")
