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
    (`flows.GameFlow`), 1 gradient a step, that is one of each player. Needs no `grad_fn`. With one
    loss for all and equal speeds it equals `optax.sgd`. Where players rotate around each other the
    iterates grow: on $L_1 = pq = -L_2$ by $\sqrt{1 + h^2}$ a step, and in any game without damping.
    The state holds five numbers, one more with a correction.

    Args:
      learning_rate: $h$: a number, a schedule of the number of steps, or a step-size rule.
      speeds: $s_i$, by the players' names (a dict) or in order; None for 1.
      correction: None; "joint" for the counter-terms that make it order 2, for 1 more gradient;
        "interaction" for those between players only; "self" for those of each player with itself;
        "published" for the weights of arXiv:2105.13922. The last three cost 1 more gradient for
        each player, of which `jit` computes only that player's: see `drift.corrected_game`. Needs
        `grad_fn=` in `update`.
      stage_transform: an optax transformation applied to every gradient, of all players.

    Raises:
      ValueError: an unknown correction; in `init`, speeds that do not match the players.

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

    A player with k updates a round makes steps of size $h/k$, so a round advances every player by a
    time h. Five critic steps at the full rate are `updates={"critic": 5, "generator": 1},
    speeds={"critic": 5, "generator": 1}`.

    The first move uses `grads`; each further move calls `grad_fn` at the new point, which counts as
    1 gradient. Under a `jit` that includes the call for `grads`, only the moving player's gradient
    is computed: a round with one update each costs as much as a simultaneous step. With `value_fn=`
    instead all players would descend the same loss.

    Args:
      learning_rate: $h$; see `simultaneous`.
      updates: the number of moves of each player, in the order of play: by name for a dict of
        players, by position for a tuple.
      speeds: $s_i$, by name or in the order of the players' tree; None for 1.
      correction: as for `simultaneous`, with the weights of alternating steps: order 2 with "joint"
        for 1 more gradient at each move.
      stage_transform: an optax transformation applied to every gradient, of all players.

    Raises:
      ValueError: as for `simultaneous`; updates that are not positive integers, or do not match the
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

    All players pass through the stages together, so on the joint flow the step has the order of the
    method and no drift below it. (A Runge-Kutta step of each player while the others are frozen has
    the drift of simultaneous Euler between players; on $L_1 = pq = -L_2$ it *is* Euler's method.)
    One gradient of every player a stage. RK4 is stable on a rotation up to $h\omega = 2.83$.

    Args:
      learning_rate: $h$; see `simultaneous`.
      tableau: `odeopt.solvers.RK4()`, or any other as for `runge_kutta`.
      speeds: see `simultaneous`.
      **options: see `ode_optimizer`. `correction` is a number here, such as 3: the order with
        which the steps follow the joint flow, not one of the names of `simultaneous`.

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

    Step: $x^+ = x + hV(\tfrac12(x + x^+))$, solved by Newton's method with GMRES, without forming a
    Jacobian. Order 2. It conserves every quadratic that the flow conserves, so on $L_1 = pq = -L_2$
    iterates stay on their circle at any h. (`implicit_midpoint` minimizes a loss, which a game does
    not have.) A step is expensive, and `state.gradients` is -1, because the solver does not report
    its gradients. A step whose solve fails is rejected. All leaves must have one dtype.

    Args:
      learning_rate: $h$; see `simultaneous`.
      speeds: see `simultaneous`.
      tolerance: relative and absolute tolerance of Newton's method; None for 1e-5, or 1e-13 if
        JAX's default float is float64 when this is called.

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
    # `as_method` would choose the minimization, which is for gradient flow only.
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
