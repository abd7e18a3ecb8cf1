"""Counter-terms of games with two or more players."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_kind
from ..flows import GameFlow, Players, State
from ..flows.game import alone
from ..objective import Objective
from ..sums import add, multiple, scaled
from .clip import AbstractCorrected, check_clip, clipped
from .corrected import CLIP, Form

GameTerms: TypeAlias = Literal["joint", "interaction", "self", "published"]
"""The counter-terms: all; only of other players; only a player's own; all with other weights."""


def corrected_game(
    flow: GameFlow, terms: GameTerms, *, form: Form = "difference", clip: float | None = CLIP
) -> "CorrectedGame":
    r"""A game with the counter-terms of simultaneous or alternating steps of Euler's method.

    With the field $V_i = -s_i\nabla_{x_i}L_i$ and its derivatives $V_{ij}$ in player j, a step
    of size h goes along

    $$V_i + \tfrac h2\textstyle\sum_jw_{ij}V_{ij}V_j.$$

    | weights | simultaneous (`solvers.Euler()`) | alternating (`solvers.Lie()`) |
    | --- | --- | --- |
    | own, $w_{ii}$ | 1 | $1/k$ for k updates a round |
    | of a player that has not moved yet | 1 | 1 |
    | of a player that has already moved | | -1 |

    "joint" has all weights: the iterates follow the joint flow $\dot x = V$ with order 2.
    "interaction" leaves out a player's own weight, "self" all others. "published" are the weights
    in the text of arXiv:2105.13922, where every player has its own clock: those of other players
    times $s_i/s_j$, and $s_i/s_j - 2$ of a player that has already moved; order 1 if speeds differ.
    The table is derived here.

    Form "difference": V at players shifted by $\tfrac h2w_{ij}V_j$. For "joint" simultaneous steps
    this is one more gradient (the midpoint rule). For other terms it is one for each player, of
    which only that player's is used: under `jit` the others are not computed. An alternating move
    costs one gradient at its start and one at the shifted point. Form "derivatives": a product with
    the derivative in place of the shifted gradient, counted as 2.

    Args:
      flow: the game; with `updates` for alternating steps, without for simultaneous ones.
      terms: "joint", "interaction", "self" or "published".
      form: shifted gradients or derivatives, which differ in terms of order $h^2$.
      clip: the largest counter-term, relative to the norm of the whole field; see
        `drift.corrected`.

    Raises:
      TypeError: a flow that is not a game.
      ValueError: unknown terms, an unknown form, or a clip that is not positive.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> game = odeopt.flows.GameFlow()
      >>> flow = odeopt.drift.corrected_game(game, "interaction")
      >>> opt = odeopt.ode_optimizer(flow, odeopt.solvers.Euler(), 0.1)
      >>> turn = lambda z, stage: (z[1], -z[0])  # of L_1 = pq, L_2 = -pq
      >>> z = jnp.array(1.0), jnp.array(0.0)
      >>> updates, state = opt.update(turn(z, 0), opt.init(z), z, grad_fn=turn)
      >>> [round(float(x), 4) for x in updates]  # cos h - 1, sin h
      [-0.005, 0.1]
    """
    check_kind(GameFlow, "flows.GameFlow()", flow=flow)
    if terms not in get_args(GameTerms):
        raise ValueError(f"No counter-term is called {terms!r}: {', '.join(get_args(GameTerms))}.")
    if form not in get_args(Form):
        raise ValueError(f'form is {form!r}; it is "difference" or "derivatives".')
    check_clip(clip)
    return CorrectedGame(base=flow, terms=terms, form=form, clip=clip)


class CorrectedGame(AbstractCorrected):
    """The result of `corrected_game`."""

    base: GameFlow
    terms: GameTerms = eqx.field(static=True)
    form: Form = eqx.field(static=True)
    clip: float | None

    gradient_part: ClassVar[str | None] = None

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """The increment of the game, with the counter-terms of simultaneous steps."""
        params, aux = z
        plain = self.base.moved(objective.here(params), h)
        players = Players.of(plain)
        weights = [self._weights(i, players, None) for i in range(len(players.names))]
        if self.terms == "joint":  # one shift for all
            term = self._shifted(params, players, weights[0], objective, h)
        else:
            trees = [
                Players.of(self._shifted(params, players, w, objective, h)).trees[i]
                for i, w in enumerate(weights)
            ]
            term = players.rebuild(trees)
        term, short = clipped(term, term, plain, self.clip)
        return jax.tree.map(jnp.add, plain, term), self.moved(self.inner(aux), short)

    def part(
        self, name: str, z: State, objective: Objective, h: Scalar, fraction: float | Array
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """The move of one player, with the counter-terms of alternating steps."""
        params, aux = z
        plain = self.base.moved(objective.here(params), h)
        players = Players.of(plain)
        index, times = self.base.mover(name, players)
        # when each player moves in a round, and how often
        rounds = {player: (i, k) for i, (player, k) in enumerate(self.base.updates or ())}
        order = players.each(rounds, "updates")
        weights = self._weights(index, players, order)
        term = alone(Players.of(self._shifted(params, players, weights, objective, h)), index)
        term, short = clipped(term, term, plain, self.clip)
        part = jnp.asarray(fraction / times, float)
        total = jax.tree.map(lambda v, t: scaled(part, v + t), plain, term)
        return alone(Players.of(total), index), self.outer(aux, self.inner(aux), short)

    def _weights(
        self, index: int, players: Players, order: list[tuple[int, int]] | None
    ) -> list[Any]:
        """The weights `w_ij` of one player; `order` is None for simultaneous steps."""
        speeds = self.base.speeds_of(players)

        def weight(j: int) -> Any:
            own, past = j == index, order is not None and order[j][0] < order[index][0]
            if (own and self.terms == "interaction") or (not own and self.terms == "self"):
                return 0.0
            if own:
                return 1.0 if order is None else 1 / order[index][1]
            if self.terms == "published":
                return speeds[index] / speeds[j] - (2.0 if past else 0.0)
            return -1.0 if past else 1.0

        return [weight(j) for j in range(len(players.names))]

    def _shifted(
        self,
        params: PyTree[Array],
        players: Players,
        weights: Sequence[Any],
        objective: Objective,
        h: Scalar,
    ) -> PyTree[Array]:
        """The counter-terms of these weights; `players` holds the increments of a plain step."""
        halves = [0.5 * weight for weight in weights]
        tangent = players.rebuild([*map(multiple, halves, players.trees)])
        if self.form == "derivatives":
            # `moved` is linear, so it applies to the product; the given gradient has no derivative.
            return self.base.moved(objective.product(params)(tangent), h)
        there = self.base.moved(objective.gradient(add(params, tangent)), h)
        return jax.tree.map(jnp.subtract, there, players.rebuild(players.trees))
