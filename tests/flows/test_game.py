"""Games of several players: laws of rotation, who moves when, and what it costs."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import odeopt
from odeopt import solvers
from odeopt.flows import GameFlow

H = 0.5
STEPS = 200
BILINEAR = odeopt.game_gradient((lambda z: z[0] * z[1], lambda z: -z[0] * z[1]))


def damped(e):
    """x' = -e x + y, y' = -x - e y."""
    return odeopt.game_gradient(
        (
            lambda z: 0.5 * e * z[0] ** 2 - z[0] * z[1],
            lambda z: 0.5 * e * z[1] ** 2 + z[0] * z[1],
        )
    )


def radii(opt, grad_fn, steps, start=(1.0, 0.5)):
    """|z| after 0, 1, ..., `steps` steps."""
    players = tuple(map(jnp.asarray, start))

    def step(carry, _):
        z, state = carry
        updates, state = opt.update(grad_fn(z), state, z, grad_fn=grad_fn)
        z = optax.apply_updates(z, updates)
        return (z, state), jnp.hypot(*z)

    _, norms = jax.jit(lambda: jax.lax.scan(step, (players, opt.init(players)), None, steps))()
    return np.concatenate([[np.hypot(*start)], norms])


@pytest.mark.parametrize(
    ("solver", "coefficients"),
    [(solvers.RK4(), [1, 1, 1 / 2, 1 / 6, 1 / 24]), (solvers.Heun(), [1, 1, 1 / 2])],
    ids=["rk4", "heun"],
)
def test_the_joint_field_turns_as_the_stability_polynomial_says(x64, solver, coefficients):
    norms = radii(odeopt.game_runge_kutta(H, solver), BILINEAR, STEPS)
    factor = abs(np.polynomial.polynomial.polyval(1j * H, coefficients))
    assert norms[-1] / norms[0] == pytest.approx(factor**STEPS, rel=1e-4)
    np.testing.assert_allclose(norms[1:] / norms[:-1], factor, rtol=1e-12)


def test_simultaneous_steps_grow_at_their_exact_rate_and_alternating_ones_stay_bounded(x64):
    norms = radii(odeopt.simultaneous(H), BILINEAR, STEPS)
    np.testing.assert_allclose(norms / norms[0], (1 + H**2) ** (np.arange(STEPS + 1) / 2), 1e-11)
    # symplectic Euler keeps x^2 + y^2 - h x y, whose level sets have axes in this ratio
    norms = radii(odeopt.alternating(H), BILINEAR, STEPS)
    bound = np.sqrt((1 + H / 2) / (1 - H / 2))
    assert np.all(norms / norms[0] <= bound)
    assert np.all(norms / norms[0] >= 1 / bound)
    assert radii(odeopt.alternating(2.1), BILINEAR, STEPS)[-1] > 1e20  # beyond its limit


@pytest.mark.slow
def test_the_implicit_midpoint_rule_keeps_the_circle(x64):
    for h in (H, 5.0):
        norms = radii(odeopt.game_implicit_midpoint(h), BILINEAR, STEPS)
        np.testing.assert_allclose(norms, norms[0], rtol=1e-12)
        assert np.ptp(norms) > 0  # it moves


def test_the_implicit_midpoint_rule_says_that_it_moved_and_at_the_right_speed(x64):
    opt, z = odeopt.game_implicit_midpoint(H, speeds=(1.0, 4.0)), (jnp.array(1.0), jnp.array(0.5))
    updates, state = opt.update(BILINEAR(z), opt.init(z), z, grad_fn=BILINEAR)
    middle = tuple(a + 0.5 * u for a, u in zip(z, updates, strict=True))
    np.testing.assert_allclose(updates[0], -H * middle[1], rtol=1e-12)
    np.testing.assert_allclose(updates[1], 4 * H * middle[0], rtol=1e-12)
    assert int(state.rejected) == 0


def test_runge_kutta_of_each_player_by_itself_is_eulers_method_on_a_bilinear_game(x64):
    h, z = 0.3, (jnp.array([1.0, 2.0]), jnp.array([0.5, -1.0]))
    matrix = jnp.array([[1.0, 0.3], [-0.2, 0.8]])
    first = lambda p, q: p @ matrix @ q
    grad_fn = odeopt.game_gradient((lambda z: first(*z), lambda z: -first(*z)))
    opt = odeopt.rk4(h)
    grads = grad_fn(z)
    alone = (
        opt.update(grads[0], opt.init(z[0]), z[0], value_fn=lambda p: first(p, z[1]))[0],
        opt.update(grads[1], opt.init(z[1]), z[1], value_fn=lambda q: -first(z[0], q))[0],
    )
    euler = odeopt.simultaneous(h)
    chex.assert_trees_all_close(alone, euler.update(grads, euler.init(z), z)[0], rtol=1e-14)
    joint = odeopt.game_runge_kutta(h, solvers.RK4())
    together = joint.update(grads, joint.init(z), z, grad_fn=grad_fn)[0]
    assert float(jnp.max(jnp.abs(together[0] - alone[0]))) > 0.05


DAMPED = {
    "simultaneous": (odeopt.simultaneous(0.2), False),
    "interaction": (odeopt.simultaneous(0.2, correction="interaction"), True),
    "joint": (odeopt.simultaneous(0.2, correction="joint"), True),
    # A player's own drift is -h e^2 / 2 of damping, far below the h / 2 of rotation.
    "self": (odeopt.simultaneous(0.2, correction="self"), False),
    "alternating": (odeopt.alternating(0.2), True),
    "rk4": (odeopt.game_runge_kutta(0.2, solvers.RK4()), True),
}


@pytest.mark.parametrize("name", DAMPED)
def test_a_damped_rotation_converges_where_its_drift_is_cancelled(x64, name):
    opt, converges = DAMPED[name]
    norms = radii(opt, damped(0.09), 2000)
    assert np.all(norms[-500:] < 1e-6) if converges else np.all(np.diff(norms) > 0)
    assert converges or norms[-1] > 50 * norms[0]


@pytest.mark.parametrize("e", [0.05, 0.3])
def test_simultaneous_steps_converge_if_and_only_if_h_is_below_its_limit(x64, e):
    limit = 2 * e / (1 + e**2)
    for factor, sign in [(0.99, -1), (1.01, 1)]:
        norms = radii(odeopt.simultaneous(factor * limit), damped(e), 500)
        assert np.all(sign * np.diff(norms) > 0)


# the field of a nonlinear game, of players in a dict


def first_loss(z, shift=0.0):
    u, v = z["generator"], z["discriminator"]
    return jnp.sum(jnp.tanh(u[:2] * v)) + 0.3 * jnp.sum((u - shift) ** 2) * jnp.cos(v[0])


def second_loss(z, scale):
    u, v = z["generator"], z["discriminator"]
    return scale * jnp.sum(jnp.sin(u[0] * v)) + 0.5 * jnp.sum(v**4), {"aux": v}


LOSSES = {"generator": first_loss, "discriminator": second_loss}
GRADIENT = odeopt.game_gradient(LOSSES)


def players():
    return {"generator": jnp.array([0.3, -1.0, 0.7]), "discriminator": jnp.array([0.9, -0.4])}


def written_out(opt_arguments, h, speeds=(1.0, 1.0)):
    """One round of alternating descent, as anyone would write it; generator first, speeds g, d."""
    z = players()
    for name, times in opt_arguments.items():
        speed = speeds[0] if name == "generator" else speeds[1]
        for _ in range(times):
            g = GRADIENT(z, 0, scale=2.0, shift=0.1)[name]
            z = {**z, name: z[name] - h * speed / times * g}
    return z


def one_round(opt, calls=None):
    z = players()

    def grad_fn(z, stage, scale, shift):
        if calls is not None:
            calls.append(stage)
        return GRADIENT(z, stage, scale=scale, shift=shift)

    arguments = {"scale": 2.0, "shift": 0.1}
    grads = GRADIENT(z, **arguments)
    updates, state = opt.update(grads, opt.init(z), z, grad_fn=grad_fn, **arguments, unused=1)
    return optax.apply_updates(z, updates), state


@pytest.mark.parametrize(
    "updates",
    [
        {"generator": 1, "discriminator": 1},
        {"discriminator": 1, "generator": 1},
        {"discriminator": 3, "generator": 2},
    ],
    ids=str,
)
def test_alternating_is_what_anyone_would_write(x64, updates):
    calls = []
    speeds = {"generator": 0.5, "discriminator": 2.0}
    z, state = one_round(odeopt.alternating(0.1, updates, speeds=speeds), calls)
    chex.assert_trees_all_close(z, written_out(updates, 0.1, (0.5, 2.0)), rtol=1e-14)
    moves = sum(updates.values())
    assert calls == list(range(1, moves))  # the incoming gradient serves the first
    assert int(state.gradients) == moves
    assert float(state.time) == pytest.approx(0.1)


@pytest.mark.parametrize("correction", [None, "joint"])
def test_players_whose_names_are_numbers_move_in_their_order(correction):
    losses = lambda z: z[0] * z[1] + 0.1 * z[0] ** 2, lambda z: -z[0] * z[1]
    z = jnp.array(1.0), jnp.array(0.5)
    opt = odeopt.alternating(0.1, (1, 2), speeds=(0.5, 2.0), correction=correction)
    grad_fn = odeopt.game_gradient(losses)
    expected, _ = opt.update(grad_fn(z), opt.init(z), z, grad_fn=grad_fn)
    for names in [(1, 2), (7, 8)]:
        numbered = dict(zip(names, z, strict=True))
        grad_fn = odeopt.game_gradient([lambda z, f=f: f((*z.values(),)) for f in losses])
        found, _ = opt.update(grad_fn(numbered), opt.init(numbered), numbered, grad_fn=grad_fn)
        assert found == dict(zip(names, expected, strict=True))


def test_flows_that_wrap_a_game_let_its_players_move_in_turn(x64):
    updates = {"generator": 1, "discriminator": 1}
    game = GameFlow(updates=updates)
    expected = written_out(updates, 0.1)
    for flow in (  # nothing averaged, nothing penalized
        odeopt.flows.AveragedFlow(game, beta=0.0, power=0.0),
        odeopt.drift.regularized(game, 0.0),
    ):
        z, _ = one_round(odeopt.ode_optimizer(flow, solvers.Lie(), 0.1))
        chex.assert_trees_all_close(z, expected, rtol=1e-14)


def test_each_loss_is_differentiated_in_its_own_parameters_only(x64):
    grads = GRADIENT(players(), scale=2.0, shift=0.1)
    z = players()
    g = jax.grad(lambda u: first_loss({**z, "generator": u}, 0.1))(z["generator"])
    d = jax.grad(lambda v: second_loss({**z, "discriminator": v}, 2.0)[0])(z["discriminator"])
    chex.assert_trees_all_close(grads, {"generator": g, "discriminator": d}, rtol=1e-14)


def test_a_missing_argument_is_named():
    with pytest.raises(TypeError, match="'scale'"):
        GRADIENT(players())


def test_players_of_any_container(x64):
    for losses, z in [
        ((lambda z: z[0] * z[1], lambda z: -z[0] * z[1]), (jnp.array(1.0), jnp.array(2.0))),
        ([lambda z: z[0] * z[1], lambda z: -z[0] * z[1]], [jnp.array(1.0), jnp.array(2.0)]),
        (
            {"a": lambda z: z["a"] * z["b"], "b": lambda z: -z["a"] * z["b"]},
            {"a": jnp.array(1.0), "b": jnp.array(2.0)},
        ),
    ]:
        grads = odeopt.game_gradient(losses)(z)
        assert type(grads) is type(z)
        assert jax.tree.map(float, jax.tree.leaves(grads)) == [2.0, -1.0]


FACTORS = {"generator": 0.3, "discriminator": 0.05}


def test_speeds_multiply_the_field_and_not_the_clock(x64):
    grads = GRADIENT(players(), scale=2.0, shift=0.1)
    opt = odeopt.simultaneous(0.1, speeds={"generator": 3.0, "discriminator": 0.5})
    updates, state = opt.update(grads, opt.init(players()), players())
    chex.assert_trees_all_close(updates["generator"], -0.3 * grads["generator"], rtol=1e-14)
    chex.assert_trees_all_close(
        updates["discriminator"], -0.05 * grads["discriminator"], rtol=1e-14
    )
    assert float(state.time) == pytest.approx(0.1)
    schedule = odeopt.simultaneous(lambda step: 0.1 / (1 + step), speeds=(1.0, 2.0))
    z = (jnp.array(1.0), jnp.array(1.0))
    _, state = schedule.update(z, schedule.init(z), z)
    assert float(schedule.update(z, state, z)[0][1]) == pytest.approx(-0.1)


COSTS = {
    "simultaneous": (odeopt.simultaneous(0.1), 1),
    "joint": (odeopt.simultaneous(0.1, correction="joint"), 2),
    "interaction": (odeopt.simultaneous(0.1, correction="interaction"), 3),
    "alternating": (odeopt.alternating(0.1, {"generator": 1, "discriminator": 1}), 2),
    "alternating-joint": (
        odeopt.alternating(0.1, {"generator": 1, "discriminator": 1}, correction="joint"),
        4,
    ),
    "rk4": (odeopt.game_runge_kutta(0.1, solvers.RK4()), 4),
}


@pytest.mark.parametrize("name", COSTS)
def test_the_count_of_gradients_is_that_of_calls(name):
    opt, cost = COSTS[name]
    calls = []
    _, state = one_round(opt, calls)
    assert len(calls) == cost - 1
    assert int(state.gradients) == cost


def test_a_step_without_drift_is_said_to_be_of_order_2():
    """`tests/drift/test_games.py` observes these orders."""
    found = {name: opt.order for name, (opt, _) in COSTS.items()}
    first = dict.fromkeys(("simultaneous", "interaction", "alternating"), 1)
    assert found == {**first, "joint": 2, "alternating-joint": 2, "rk4": 4}


def flops(opt):
    """Of a step with its gradient, compiled: what nobody uses is not computed."""
    z = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 64))}
    wide = lambda z: jnp.sum(jnp.tanh(z["a"] @ z["b"]) @ z["a"])
    grad_fn = odeopt.game_gradient({"a": wide, "b": lambda z: -wide(z)})

    def step(z, state):
        return opt.update(grad_fn(z), state, z, grad_fn=grad_fn)

    return jax.jit(step).lower(z, opt.init(z)).compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_a_jitted_round_computes_one_gradient_a_move():
    both = {"a": 1, "b": 1}
    simultaneous = flops(odeopt.simultaneous(0.1))
    ratio = lambda opt: flops(opt) / simultaneous
    assert ratio(odeopt.alternating(0.1, both)) < 1.2  # no product is shared by the two losses
    assert 1.8 < ratio(odeopt.simultaneous(0.1, correction="interaction")) < 2.25
    assert 3.8 < ratio(odeopt.game_runge_kutta(0.1, solvers.RK4())) < 4.2


@pytest.mark.parametrize("opt", [pair[0] for pair in COSTS.values()], ids=list(COSTS))
def test_jit_scan_and_vmap_change_nothing(opt):
    grad_fn = functools.partial(GRADIENT, scale=2.0)
    state = opt.init(players())

    def step(carry, _):
        z, state = carry
        updates, state = opt.update(grad_fn(z), state, z, grad_fn=grad_fn)
        return (optax.apply_updates(z, updates), state), None

    eager = (players(), state)
    for _ in range(2):
        eager, _ = step(eager, None)
    scanned = jax.jit(lambda c: jax.lax.scan(step, c, None, 2)[0])((players(), state))
    chex.assert_trees_all_close(scanned, eager, rtol=1e-5)
    chex.assert_trees_all_equal_shapes_and_dtypes(scanned[1], state)
    many = jax.tree.map(lambda x: jnp.stack([x, x]), (players(), state))
    mapped = jax.vmap(lambda c: jax.lax.scan(step, c, None, 2)[0])(many)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], mapped), eager, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GameFlow(updates=(1, 0)), "at least once"),
        (lambda: odeopt.alternating(0.1, speeds=(1, 1, 2)), "updates has 2 .* speeds has 3 values"),
        (lambda: odeopt.simultaneous(0.1, correction="both"), "joint, interaction, self"),
        (
            lambda: odeopt.alternating(0.1, (1, 1, 1)).init(players()),
            r"updates has 3 values, for \[0, 1, 2\]",
        ),
        (lambda: odeopt.alternating(0.1, {"g": 1, "discriminator": 1}).init(players()), "'g'"),
        (
            lambda: odeopt.simultaneous(0.1, speeds={"g": 1.0}).init(players()),
            r"speeds has 1 values, for \['g'\]",
        ),
        (lambda: odeopt.game_gradient((first_loss,))(players()), "1 values"),
        (
            lambda: odeopt.ode_optimizer(GameFlow(), solvers.Lie(), 0.1).update(
                players(), odeopt.simultaneous(0.1).init(players()), players()
            ),
            "who moves when",
        ),
    ],
)
def test_what_does_not_fit_the_game_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: odeopt.alternating(0.1, {"first": 2, "second": 1}),
        lambda: odeopt.game_runge_kutta(0.1, solvers.RK4(), speeds={"first": 1.0, "second": 2.0}),
    ],
)
def test_tree_map_params_reads_the_state_of_a_game_whose_players_have_names(make):
    players = {"first": jnp.ones(2), "second": jnp.ones(3)}
    state = make().init(players)
    chex.assert_trees_all_equal(optax.tree_map_params(make(), lambda leaf: leaf + 1, state), state)
    with pytest.raises(ValueError, match="but the players are"):  # no players are not these two
        make().init({})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: odeopt.simultaneous(0.1, speeds={1.0, 2.0}), "or a tuple in their order"),
        (lambda: odeopt.game_gradient(loss for loss in LOSSES), "or a tuple in their order"),
        (lambda: odeopt.game_gradient(first_loss), "or a tuple in their order"),
        (lambda: odeopt.game_gradient((1, 2)), r"loss is a int, .* loss\(players\)"),
    ],
)
@pytest.mark.untyped
def test_what_has_no_order_or_is_no_loss_is_refused_when_built(make, message):
    with pytest.raises(TypeError, match=message):
        make()
