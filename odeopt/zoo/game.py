"""Games of several players, by simultaneous, alternating, Runge-Kutta and implicit steps."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

import diffrax
import jax.numpy as jnp
import lineax
import optax
import optimistix as optx

from .. import solvers
from ..checks import check_positive
from ..flows import AbstractFlow, GameFlow
from ..flows.game import PerPlayer
from ..optimizer import LearningRate, Optimizer, ode_optimizer, of_design
from ..solvers import Solver
from .options import Options, named

if TYPE_CHECKING:
    from ..drift.games import GameTerms


def simultaneous(
    learning_rate: LearningRate,
    *,
    speeds: PerPlayer | None = None,
    correction: "GameTerms | None" = None,
    stage_transform: optax.GradientTransformation | None = None,
) -> Optimizer:
    r"""Simultaneous gradient descent of all players: Euler's method on the game.

    Step: $x_i^+ = x_i - hs_i\nabla_{x_i}L_i(x)$ for all players at once. Order 1 on the joint flow
    (`flows.GameFlow`), 1 gradient a step, that is one of each player's. Needs no `grad_fn`. With
    one loss for all and equal speeds it equals `optax.sgd`. Where players turn around each other it
    grows: on $L_1 = pq = -L_2$ by $\sqrt{1 + h^2}$ a step, and on any game without damping.
    The state holds five numbers, one more with a correction.

    Args:
      learning_rate: $h$: a number, a schedule of the number of steps, or a step-size rule.
      speeds: $s_i$, by the players' names (a dict) or in order; None for 1.
      correction: None; "joint" for the counter-terms that make it order 2, 1 gradient more;
        "interaction" for those between players only, "self" for the others, "published" for the
        weights of arXiv:2105.13922, 1 gradient more for each player, of which `jit` computes that
        player's: see `drift.corrected_game`. Needs `grad_fn=` in `update`.
      stage_transform: an optax transformation applied to every gradient, of all players.

    Raises:
      ValueError: a correction that there is not; in `init`, speeds of other players.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> losses = lambda z: z[0] * z[1], lambda z: -z[0] * z[1]
      >>> grad_fn, players = odeopt.game_gradient(losses), (jnp.array(1.0), jnp.array(0.0))
      >>> opt = odeopt.simultaneous(0.1, speeds=(1.0, 2.0))
      >>> updates, state = opt.update(grad_fn(players), opt.init(players), players)
      >>> [round(float(u), 4) for u in updates]
      [-0.0, 0.2]
    """
    flow = GameFlow(speeds)
    return _corrected(flow, solvers.Euler(), learning_rate, stage_transform, correction)


def alternating(
    learning_rate: LearningRate,
    updates: Mapping[str, int] | Sequence[int] = (1, 1),
    *,
    speeds: PerPlayer | None = None,
    correction: "GameTerms | None" = None,
    stage_transform: optax.GradientTransformation | None = None,
) -> Optimizer:
    r"""Alternating gradient descent: the players move in turn, by Lie's splitting of the game.

    Step, of two players: $p^+ = p - hs_1\nabla_pL_1(p, q)$, then
    $q^+ = q - hs_2\nabla_qL_2(p^+, q)$. Order 1 on the joint flow. On $L_1 = pq = -L_2$ it is
    symplectic Euler, and stays bounded for $h\sqrt{s_1s_2} < 2$.

    A player with k updates a round takes them with length $h/k$ each: a round follows every player
    for a time h. Five critic steps at the full rate are
    `updates={"critic": 5, "generator": 1}, speeds={"critic": 5, "generator": 1}`.

    `grads` serve the first move; each further one calls `grad_fn` where the players are then, and
    counts as 1. Under `jit`, the call for `grads` inside it too, only the mover's gradient is
    computed: a round with one update each costs what a simultaneous one does. `value_fn=` in its
    place would be one loss that all players descend, no game.

    Args:
      learning_rate: $h$; see `simultaneous`.
      updates: how often each player moves, in the order of play: by name for a dict of players, by
        number for a tuple.
      speeds: $s_i$, by name or in the order of the players' tree; None for 1.
      correction: as for `simultaneous`, with the weights of alternating steps: order 2 with "joint"
        for 1 gradient more at each move.
      stage_transform: an optax transformation applied to every gradient, of all players.

    Raises:
      ValueError: as for `simultaneous`; updates that are not positive integers, or not those of the
        players.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> losses = lambda z: z[0] * z[1], lambda z: -z[0] * z[1]
      >>> grad_fn, players = odeopt.game_gradient(losses), (jnp.array(1.0), jnp.array(1.0))
      >>> opt = odeopt.alternating(0.1)
      >>> grads, state = grad_fn(players), opt.init(players)
      >>> updates, state = opt.update(grads, state, players, grad_fn=grad_fn)
      >>> [round(float(u), 4) for u in updates]  # q moves by 0.1 times the new p
      [-0.1, 0.09]
    """
    flow = GameFlow(speeds, updates)
    return _corrected(flow, solvers.Lie(), learning_rate, stage_transform, correction)


@named
def game_runge_kutta(
    learning_rate: LearningRate,
    tableau: solvers.Tableau | diffrax.ButcherTableau | diffrax.AbstractSolver,
    *,
    speeds: PerPlayer | None = None,
    **options: Unpack[Options],
) -> Optimizer:
    r"""The joint field of a game by an explicit Runge-Kutta method.

    All players pass through the stages together: of the order of the method on the joint flow, and
    without drift below it. (A Runge-Kutta step of each player while the others are frozen has the
    drift of simultaneous Euler between players; on $L_1 = pq = -L_2$ it *is* Euler's method.) One
    gradient of every player a stage. RK4 is stable on a rotation up to $h\omega = 2.83$.

    Args:
      learning_rate: $h$; see `simultaneous`.
      tableau: `odeopt.solvers.RK4()`, or any other as for `runge_kutta`.
      speeds: see `simultaneous`.
      **options: those of `ode_optimizer`. `correction=3`, say, is the order to which steps then
        follow the joint flow, not one of the names that `simultaneous` takes.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> losses = lambda z: z[0] * z[1], lambda z: -z[0] * z[1]
      >>> grad_fn, players = odeopt.game_gradient(losses), (jnp.array(1.0), jnp.array(0.0))
      >>> opt = odeopt.game_runge_kutta(0.1, odeopt.solvers.RK4())
      >>> grads, state = grad_fn(players), opt.init(players)
      >>> updates, state = opt.update(grads, state, players, grad_fn=grad_fn)
      >>> [round(float(u), 4) for u in updates]  # cos h - 1, sin h
      [-0.005, 0.0998]
    """
    return ode_optimizer(GameFlow(speeds), tableau, learning_rate, **options)


def game_implicit_midpoint(
    learning_rate: LearningRate,
    *,
    speeds: PerPlayer | None = None,
    tolerance: float | None = None,
) -> Optimizer:
    r"""The implicit midpoint rule on the joint field of a game.

    Step: $x^+ = x + hV(\tfrac12(x + x^+))$, solved by Newton's method with GMRES, no Jacobian
    formed. Order 2; conserves every quadratic that the flow conserves, so on $L_1 = pq = -L_2$
    iterates stay on their circle, whatever h. (A game has no loss to minimize, as
    `implicit_midpoint` does.) Not cheap, and `state.gradients` is -1: the solver does not say how
    many it took. A step whose solve fails is rejected. All leaves must have one dtype.

    Args:
      learning_rate: $h$; see `simultaneous`.
      speeds: see `simultaneous`.
      tolerance: of Newton's method, relative and absolute; None for 1e-5, or 1e-13 where JAX's
        default float is double when this is called.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> losses = lambda z: z[0] * z[1], lambda z: -z[0] * z[1]
      >>> grad_fn, players = odeopt.game_gradient(losses), (jnp.array(1.0), jnp.array(0.0))
      >>> opt = odeopt.game_implicit_midpoint(2.0)
      >>> grads, state = grad_fn(players), opt.init(players)
      >>> updates, state = opt.update(grads, state, players, grad_fn=grad_fn)
      >>> [round(float(u), 4) for u in updates]  # a quarter of the circle
      [-1.0, 1.0]
    """
    if tolerance is not None:
        check_positive(tolerance=tolerance)
    else:
        tolerance = 1e-13 if jnp.zeros([]).dtype == jnp.float64 else 1e-5
    newton: optx.Newton = optx.Newton(
        rtol=tolerance,
        atol=tolerance,
        linear_solver=lineax.GMRES(rtol=min(tolerance, 1e-5), atol=tolerance),
    )
    # Not through `as_method`: that would take the minimization, which is for gradient flow.
    midpoint = solvers.DiffraxMethod(solvers.ImplicitMidpoint(newton))
    return ode_optimizer(GameFlow(speeds), midpoint, learning_rate)


def _corrected(
    game: GameFlow,
    solver: Solver,
    learning_rate: LearningRate,
    stage_transform: optax.GradientTransformation | None,
    correction: "GameTerms | None",
) -> Optimizer:
    flow: AbstractFlow = game
    if correction is not None:
        from ..drift.games import corrected_game  # noqa: PLC0415  # few need it

        flow = corrected_game(game, correction)
    opt = ode_optimizer(flow, solver, learning_rate, stage_transform=stage_transform)
    if correction != "joint":
        return opt
    return of_design(dataclasses.replace(opt.design, correction=2))
