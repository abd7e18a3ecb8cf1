"""Games: every player follows the gradient of its own loss."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import optax
from jaxtyping import Array, PyTree

from ..arguments import check_function, checked_loss, forwarded
from ..arrays import Scalar
from ..checks import check_positive, is_whole
from ..objective import Objective
from ..sums import multiple
from .clock import real
from .flow import AbstractFlow, Moved, Share, State

PerPlayer: TypeAlias = Sequence[Any] | Mapping[Any, Any]
"""One value for each player: by name (a mapping), or in the order of the players' tree."""


def named(values: PerPlayer) -> dict[Any, Any]:
    """The values by the players' names, or by their numbers if they have no names."""
    if not is_several(values):
        raise TypeError(
            f"{values!r:.60} is not one value for each player: write a dict by the players' names, "
            "or a tuple in their order."
        )
    return dict(values) if isinstance(values, Mapping) else dict(enumerate(values))


def is_several(values: Any) -> bool:
    """Whether something has values by name or in order: a mapping, a sequence or an array."""
    return isinstance(values, Mapping | Sequence) or getattr(values, "ndim", 0) > 0


def check_same_number(**given: PerPlayer | None) -> None:
    """Raise a `ValueError` for arguments with values for different numbers of players."""
    numbers = {what: len(named(values)) for what, values in given.items() if values is not None}
    if len({*numbers.values()}) > 1:
        found = ", ".join(f"{what} has {number} values" for what, number in numbers.items())
        raise ValueError(f"{found}: give one value for each player.")


class Players(NamedTuple):
    """The players of a game: the top level of a tree, a dict, tuple or other container.

    Attributes:
      names: keys of a dict, indices of a tuple, or names of fields.
      trees: the parameters of each player.
      rebuild: makes the same container from other trees.
    """

    names: tuple[Any, ...]
    trees: list[PyTree[Any]]
    rebuild: Callable[[Sequence[PyTree[Any]]], PyTree[Any]]

    @classmethod
    def of(cls, players: PyTree[Any]) -> "Players":
        """Take the tree apart. A single array is a game of one player without a name."""
        pairs, structure = jax.tree_util.tree_flatten_with_path(
            players, is_leaf=lambda node: node is not players
        )

        def name(path: tuple) -> Any:
            entry = path[0] if path else None
            return next(
                (getattr(entry, k) for k in ("key", "idx", "name") if hasattr(entry, k)), None
            )

        names = tuple(name(path) for path, _ in pairs)
        rebuild = functools.partial(jax.tree.unflatten, structure)
        return cls(names, [tree for _, tree in pairs], rebuild)

    def each(self, values: PerPlayer, what: str) -> list[Any]:
        """`values` in the order of the players.

        Raises:
          ValueError: the names or the number of values do not match the players.
        """
        by_name = named(values)
        for order in (self.names, range(len(self.names))):
            if by_name.keys() == {*order}:
                return [by_name[name] for name in order]
        raise ValueError(
            f"{what} has {len(by_name)} values, for {[*by_name]}, but the players are "
            f"{[*self.names]}: give one value for each."
        )

    def at(self, name: Any, values: PerPlayer, what: str) -> int:
        """The index of the player whose value `each` finds under a name or number."""
        return self.each({known: known for known in named(values)}, what).index(name)


class GameFlow(AbstractFlow):
    r"""A game: player i has the parameters $x_i$, the loss $L_i(x)$ and the speed $s_i$.

    $\dot x_i = -s_i\nabla_{x_i}L_i(x)$ for all players on one clock: flow time is the sum of the
    learning rates, and a player of speed $s_i$ has the learning rate $s_ih$. The parameters are a
    container of the players' trees (a dict or a tuple). The gradient has the same structure and
    holds, for each player, the gradient of its own loss (`odeopt.game_gradient`). With one loss for
    all and equal speeds this is gradient flow.

    The parts are the moves of the players in turn: one player takes a step of Euler's method while
    the others are frozen. `odeopt.alternating` documents the step lengths and the gradients.

    Args:
      speeds: one for each player, by name or in order; None for 1.
      updates: as for `odeopt.alternating`; None for a flow that is not split into moves.

    Raises:
      ValueError: updates that are not positive integers, or not as many as speeds; later, names
        that are not players.
    """

    speeds: PerPlayer | None = eqx.field(default=None)
    updates: tuple[tuple[Any, int], ...] | None = eqx.field(static=True, default=None)

    def __init__(
        self,
        speeds: PerPlayer | None = None,
        updates: Mapping[Any, int] | Sequence[int] | None = None,
    ) -> None:
        self.speeds = jax.tree.map(real, speeds)
        self.updates = None if updates is None else tuple(named(updates).items())
        check_same_number(updates=updates, speeds=speeds)
        for speed in () if speeds is None else named(speeds).values():
            check_positive(speeds=speed)
        moves = [1] if updates is None else [*named(updates).values()]
        if not moves or not all(is_whole(k) and k >= 1 for k in moves):
            raise ValueError(
                f"updates is {updates}; it says how often each player moves in a round, at least "
                'once: `updates=(1, 1)`, or `updates={"critic": 5, "generator": 1}`.'
            )

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """One for each move of a round: the name of the player; () without `updates`."""
        return tuple(str(name) for name, times in self.updates or () for _ in range(times))

    @property
    def needs_params(self) -> bool:  # type: ignore[override]
        """True if players move in turn: the second one takes its gradient at another point."""
        return self.updates is not None

    def init(self, params: PyTree[Array]) -> tuple[()]:
        """No auxiliary variables. Refuses names that no player has."""
        players = Players.of(params)
        if not players.names and not isinstance(params, Mapping | Sequence):
            return ()  # optax's stand-in for parameters, by which `tree_map_params` finds them
        if self.speeds is not None:
            players.each(self.speeds, "speeds")
        if self.updates is not None:
            players.each(dict(self.updates), "updates")
        return ()

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """`(-h * speed * gradient, ())`."""
        return self.moved(objective.here(z[0]), h), z[1]

    def moved(self, grads: PyTree[Array], h: Scalar) -> PyTree[Array]:
        """The update of all players in a time `h` against these gradients, at their speeds."""
        players = Players.of(grads)
        own = zip(self.speeds_of(players), players.trees, strict=True)
        return players.rebuild([multiple(-h * speed, tree) for speed, tree in own])

    def speeds_of(self, players: Players) -> list[Any]:
        """The speed of each player, in order."""
        if self.speeds is None:
            return [1.0] * len(players.names)
        return players.each(self.speeds, "speeds")

    def looks_again(self, name: str, moved: Sequence[str]) -> bool:
        """True after any move, because the next player answers it."""
        return bool(moved)

    def mover(self, name: str, players: Players) -> tuple[int, int]:
        """The index of the player that a part moves, and the number of its updates in a round."""
        updates = dict(self.updates or ())
        player = next(player for player in updates if str(player) == name)
        return players.at(player, updates, "updates"), updates[player]

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        """The move of one player, all others frozen."""
        grads = objective.here(z[0])
        index, times = self.mover(name, Players.of(grads))
        return alone(Players.of(self.moved(grads, fraction * h / times)), index), z[1]


def alone(players: Players, index: int) -> PyTree[Array]:
    """The trees of one player, zeros for the others."""
    trees = optax.tree.zeros_like(players.trees)
    trees[index] = players.trees[index]
    return players.rebuild(trees)


def game_gradient(losses: PerPlayer) -> Callable[..., PyTree[Array]]:
    r"""The gradient of a game: each player's loss, differentiated in its own parameters alone.

    `grad_fn(players, stage=0, **arguments)` returns a container like `players` with
    $\nabla_{x_i}L_i(x)$ in the place of player i. Pass its value to `update` as `grads`, and the
    function itself as `grad_fn=` for gradients at further points. The derivative treats the other
    players' parameters as constants, so a loss needs no stop-gradient. Complex gradients are
    conjugated, as optax asks.

    One call costs a gradient for each player. Under `jit` unused gradients are not computed.

    Args:
      losses: one for each player, by name (a dict) or in order. `loss(players, ...)` takes the
        parameters of *all* players and returns a scalar or `(scalar, aux)`. Keyword arguments are
        forwarded to the losses that name them, as `update` does with those of `value_fn`.

    Returns:
      `grad_fn(players, stage=0, **arguments)`, which ignores `stage`.

    Raises:
      TypeError: losses that are not functions, or not one for each player.
      ValueError: from `grad_fn`: the number or the names of the losses do not match the players.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> losses = {"p": lambda x: x["p"] * x["q"], "q": lambda x: -x["p"] * x["q"]}
      >>> grad_fn = odeopt.game_gradient(losses)
      >>> players = {"p": jnp.array(1.0), "q": jnp.array(2.0)}
      >>> jax.tree.map(float, grad_fn(players))
      {'p': 2.0, 'q': -1.0}
      >>> opt = odeopt.alternating(0.1, {"p": 1, "q": 1})
      >>> grads, state = grad_fn(players), opt.init(players)
      >>> updates, state = opt.update(grads, state, players, grad_fn=grad_fn)
    """
    for loss in named(losses).values():
        check_function(loss, "loss(players)")

    def grad_fn(players: PyTree[Array], stage: Any = 0, **arguments: Any) -> PyTree[Array]:
        everyone = Players.of(players)
        own = enumerate(everyone.each(losses, "losses"))
        return everyone.rebuild([own_gradient(loss, everyone, i, arguments) for i, loss in own])

    return grad_fn


def own_gradient(
    loss: Callable[..., Any], players: Players, index: int, arguments: Mapping[str, Any]
) -> PyTree[Array]:
    """The gradient of a loss in the parameters of the player at `index`, conjugated for optax."""
    kwargs = forwarded(loss, "loss(players)", 1, arguments, alone=False)

    def of_own(tree: PyTree[Array]) -> Scalar:
        trees = [*players.trees[:index], tree, *players.trees[index + 1 :]]
        return checked_loss(loss(players.rebuild(trees), **kwargs))

    return optax.tree.conj(jax.grad(of_own)(players.trees[index]))
