"""Losses of players with gradient penalties."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jaxtyping import Array, PyTree

from ..arguments import checked_loss, forwarded
from ..arrays import Scalar
from ..checks import check_finite, is_zero
from ..flows import Players
from ..flows.game import PerPlayer, check_same_number, is_several, named, own_gradient
from ..sums import inner
from .regularized import halved

Loss = Callable[..., Any]


def penalized_game(
    losses: PerPlayer,
    *,
    own: float | PerPlayer = 0.0,
    interaction: float | PerPlayer = 0.0,
    halves: Sequence[str] = (),
) -> Any:
    r"""The losses of a game with gradient penalties: counter-terms in explicit form.

    $$L_i + \tfrac{o_i}2\|\nabla_iL_i\|^2
    + c_i\textstyle\sum_{j\ne i}\langle\nabla_jL_i, \text{stop}(\nabla_jL_j)\rangle$$

    with $\nabla_j$ the derivative in the parameters of player j. Under simultaneous Euler steps of
    size h at speeds $s_i$, $o_i = -hs_i/2$ cancels a player's own drift and, for two players,
    $c_i = -hs_j/2$ cancels that due to the other. `simultaneous(h, correction=...)` does the same:
    it finds the weights itself and costs less, by differences. Under alternating steps the second
    player's $c_i$ has the opposite sign. Positive `own` is a regularizer (arXiv:2105.13922).

    Products of gradients of one batch are biased by its noise. With `halves`, the arguments named
    there are cut in two and each factor uses one half. The mean of the penalties (and of their
    derivatives) over batches of independent samples is then their value on all the data.

    A penalty costs a gradient for each factor, and its derivative about 3.

    Args:
      losses: one for each player, as for `odeopt.game_gradient`; means over samples for `halves`.
      own: $o_i$, one number or one for each player.
      interaction: $c_i$, one number or one for each player.
      halves: names of arguments whose leading axis is an even number of samples.

    Returns:
      Losses in the container that `losses` came in, for `odeopt.game_gradient`.

    Raises:
      ValueError: numbers that are not finite, or not one for each loss; from the losses: names that
        do not fit the players, an odd number of samples, or a name in `halves` that was not passed.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> losses = lambda z: z[0] * z[1], lambda z: -z[0] * z[1]
      >>> calm = odeopt.drift.penalized_game(losses, interaction=-0.05)
      >>> [round(float(loss((jnp.array(1.0), jnp.array(2.0)))), 2) for loss in calm]
      [2.05, -1.8]
    """
    owns = _numbers(own, losses, "own")
    interactions = _numbers(interaction, losses, "interaction")
    check_same_number(losses=losses, own=owns, interaction=interactions)

    def penalized(name: Any) -> Loss:
        def loss(players: PyTree[Array], /, **arguments: Any) -> Scalar:
            everyone = Players.of(players)
            every = everyone.each(losses, "losses")
            i = everyone.at(name, losses, "losses")
            first, second = halved(arguments, halves)
            total = _value(every[i], players, arguments)
            weight = everyone.each(owns, "own")[i]
            if not is_zero(weight):  # what is known to be 0 costs nothing
                a = own_gradient(every[i], everyone, i, first)
                b = own_gradient(every[i], everyone, i, second) if halves else a
                total += 0.5 * weight * inner(a, b)
            weight = everyone.each(interactions, "interaction")[i]
            if not is_zero(weight):
                for j, theirs in enumerate(every):
                    if j != i:
                        mine = own_gradient(every[i], everyone, j, first)
                        stopped = jax.lax.stop_gradient(own_gradient(theirs, everyone, j, second))
                        total += weight * inner(mine, stopped)
            return total

        return loss

    players = Players.of(losses)
    return players.rebuild([penalized(name) for name in players.names])


def ode_gan_penalty(
    losses: PerPlayer, strength: float, *, generator: Any = 0, discriminator: Any = 1
) -> Any:
    r"""The losses of a game with ODE-GAN's penalty on the discriminator's loss.

    $L_D + \lambda\|\nabla_\theta L_G\|^2$ with $\theta$ the generator's parameters. The penalty
    keeps the discriminator from where it would push the generator hard; the generator's loss has no
    penalty (Qin, Wu, Springenberg, Brock, Donahue, Lillicrap and Kohli, arXiv:2010.15040, who step
    the joint field by Runge-Kutta). Its value costs a gradient of the generator's loss.

    Args:
      losses: one for each player, as for `odeopt.game_gradient`.
      strength: $\lambda$.
      generator: name or number of the player whose gradient is penalized.
      discriminator: name or number of the player whose loss gets the penalty.

    Returns:
      Losses in the container that `losses` came in; only the discriminator's is changed.

    Raises:
      ValueError: losses without one of the two players, one player as both, or a strength that is
        not finite.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> losses = {"G": lambda z: z["G"] * z["D"], "D": lambda z: -z["G"] * z["D"]}
      >>> new = odeopt.drift.ode_gan_penalty(losses, 0.5, generator="G", discriminator="D")
      >>> float(new["D"]({"G": jnp.array(1.0), "D": jnp.array(2.0)}))  # -2 + 0.5 D^2
      0.0
    """
    check_finite(strength=strength)

    def penalized(players: PyTree[Array], /, **arguments: Any) -> Scalar:
        everyone = Players.of(players)
        every = everyone.each(losses, "losses")
        g, d = (everyone.at(name, losses, "losses") for name in (generator, discriminator))
        push = own_gradient(every[g], everyone, g, arguments)
        return _value(every[d], players, arguments) + strength * inner(push, push)

    players = Players.of(losses)
    if generator == discriminator or not {generator, discriminator} <= {*players.names}:
        raise ValueError(
            f"The players are {list(players.names)}: say which of them is which, `generator=...` "
            "and `discriminator=...`."
        )
    return players.rebuild(
        [
            penalized if name == discriminator else loss
            for name, loss in zip(players.names, players.trees, strict=True)
        ]
    )


def _value(loss: Loss, players: PyTree[Array], arguments: Mapping[str, Any]) -> Scalar:
    kwargs = forwarded(loss, "loss(players)", 1, arguments, alone=False)
    return checked_loss(loss(players, **kwargs))


def _numbers(given: Any, losses: PerPlayer, what: str) -> dict[Any, Any]:
    """One finite number for each player, by name or in order."""
    numbers = named(given) if is_several(given) else dict.fromkeys(named(losses), given)
    for number in numbers.values():
        check_finite(**{what: number})
    return numbers
