"""A GAN of small networks that learns a mixture of 16 Gaussians, by any method for games."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from .. import alternating, drift, game_gradient, game_runge_kutta, simultaneous, solvers
from . import game_plane as plane
from .engine.optimizers import check_own
from .engine.store import Record
from .names import lookup
from .networks import layers, network_init

SIDE = 4
SPREAD = 0.1
"""Standard deviation of a mode; neighbours are 1 apart."""
CENTERS = np.stack(np.meshgrid(*2 * [np.arange(SIDE) - 0.5 * (SIDE - 1)]), -1).reshape(-1, 2)
LATENT, HIDDEN = 8, 32
BATCH = 128
SAMPLES = 1600
"""Drawn at every look: 100 for each mode, were they even."""
NEAR = 2.0
"""A sample belongs to a mode within so many standard deviations."""
ENOUGH = 30
"""Samples that a mode needs to count as covered: a fifth of its share."""
LOOKS = 20
LAST = 0.25
"""Share of the looks, at the end of a run, that its figures are means over."""
PENALTY = 0.01
"""Strength of ODE-GAN's penalty, as in its authors' experiments with a mixture."""

Players = dict[str, Any]
ORDER = {"discriminator": 1, "generator": 1}


def network(params: Any, inputs: Array) -> Array:
    """A network of rectified units, the last layer linear."""
    return layers(params, inputs, jax.nn.relu)


def generator_loss(players: Players, noise: Array) -> Float[Array, ""]:
    """Non-saturating: the discriminator should take what is made for real."""
    made = network(players["generator"], noise)
    return jnp.mean(jax.nn.softplus(-network(players["discriminator"], made)))


def discriminator_loss(players: Players, real: Array, noise: Array) -> Float[Array, ""]:
    """Cross-entropy of telling real from made."""
    made = network(players["generator"], noise)
    told = jnp.mean(jax.nn.softplus(-network(players["discriminator"], real)))
    return told + jnp.mean(jax.nn.softplus(network(players["discriminator"], made)))


LOSSES: dict[str, Callable[..., Any]] = {
    "discriminator": discriminator_loss,
    "generator": generator_loss,
}
PENALIZED = drift.ode_gan_penalty(
    LOSSES, PENALTY, generator="generator", discriminator="discriminator"
)


@dataclasses.dataclass(frozen=True)
class Method:
    """How to step the game.

    Attributes:
        make: From the learning rate to an optimizer of the game.
        rates: Learning rates to choose from.
        losses: Of the players.
        dearer: Operations of a gradient of these losses over one of `LOSSES`.
    """

    make: Callable[[Any], optax.GradientTransformationExtraArgs]
    rates: tuple[float, ...]
    losses: dict[str, Callable[..., Any]] = dataclasses.field(default_factory=lambda: LOSSES)
    dearer: float = 1.0

    @property
    def cost(self) -> int:
        """Rounds of gradients that a step costs, a round being one gradient for each player.

        Operations of the compiled step over those of a simultaneous one, not calls; one where the
        optimizer is not of this library.
        """
        return round(self.dearer * getattr(self.make(1.0), "gradients_per_step", 1))


def adam_in_turn(learning_rate: Any) -> optax.GradientTransformationExtraArgs:
    """Two of optax's Adam, the discriminator first, the generator at the new discriminator."""
    adam = optax.adam(learning_rate, b1=0.5)

    def init(players: Players) -> dict[str, Any]:
        return {name: adam.init(players[name]) for name in ORDER}

    def update(
        grads: Players, state: dict[str, Any], players: Players, *, grad_fn: Any, **arguments: Any
    ) -> tuple[Players, dict[str, Any]]:
        moved, updates, after = players, {}, {}
        for turn, name in enumerate(ORDER):
            now = grads if turn == 0 else grad_fn(moved, turn, **arguments)
            updates[name], after[name] = adam.update(now[name], state[name], players[name])
            moved = {**moved, name: optax.apply_updates(players[name], updates[name])}
        return updates, after

    return optax.GradientTransformationExtraArgs(init, update)


_RMS = {"stage_transform": optax.scale_by_rms(decay=0.999)}
"""Adam's metric, as a transformation of every stage."""


PLAIN = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8)
SCALED = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
OWN = (*SCALED, *PLAIN)
"""Of a method that nobody has tried before."""
METHODS = {
    **{name: Method(make, PLAIN) for name, make in plane.METHODS.items() if name != "midpoint"},
    "alternating": Method(lambda h: alternating(h, ORDER), PLAIN),
    # The penalty's own gradient, of a gradient, is half a round more in every stage.
    "rk4-penalty": Method(plane.METHODS["rk4"], PLAIN, PENALIZED, dearer=1.5),
    "adam": Method(adam_in_turn, SCALED),
    "alternating-rms": Method(lambda h: alternating(h, ORDER, **_RMS), SCALED),
    "interaction-rms": Method(lambda h: simultaneous(h, correction="interaction", **_RMS), SCALED),
    "rk4-rms": Method(lambda h: game_runge_kutta(h, solvers.RK4(), **_RMS), SCALED),
}
QUICK = tuple(name for name in METHODS if name not in ("joint", "interaction-rms"))


def method_of(asked: Any) -> dict[str, Method]:
    """The method of that name, or those of a mapping from names to functions of the rate.

    Raises `ValueError` for a name that is not there, one of an own method that is, and for what is
    no optimizer.
    """
    if isinstance(asked, str):
        return {asked: lookup("method", asked, METHODS)}
    if not (isinstance(asked, Mapping) and asked):
        raise ValueError(
            'a method is a name or a mapping such as {"mine": lambda h: optax.sgd(h)}, not '
            f"{asked!s:.60}."
        )
    for name, make in asked.items():
        check_own(name, make, {*METHODS, *plane.METHODS})
    return {name: Method(make, OWN) for name, make in asked.items()}


def start(seed: int) -> Players:
    """Networks of two hidden layers."""
    sizes = {"discriminator": [2, HIDDEN, HIDDEN, 1], "generator": [LATENT, HIDDEN, HIDDEN, 2]}
    return {
        name: network_init(size, jnp.float32)(1000 * seed + i)
        for i, (name, size) in enumerate(sizes.items())
    }


def look(players: Players, key: Array) -> dict[str, Array]:
    """Modes covered, and the share of samples that belong to any."""
    made = network(players["generator"], jax.random.normal(key, (SAMPLES, LATENT)))
    distance = jnp.linalg.norm(made[:, None] - CENTERS, axis=-1)
    near = distance < NEAR * SPREAD
    return {
        "modes": jnp.sum(jnp.sum(near, axis=0) >= ENOUGH),
        "share": jnp.mean(jnp.any(near, axis=1)),
        "finite": jnp.all(jnp.isfinite(made)),
        "samples": made[:400],
    }


def stepper(method: Method, rate: Any, key: Array) -> Callable[[Array, tuple], tuple]:
    """`(i, (players, state)) -> (players, state)`: step number i, with a batch of its own."""
    opt, grad_fn = optax.with_extra_args_support(method.make(rate)), game_gradient(method.losses)
    centers = jnp.asarray(CENTERS, jnp.float32)

    def step(i: Array, carry: tuple) -> tuple:
        players, state = carry
        which, where, how = jax.random.split(jax.random.fold_in(key, i), 3)
        mode = jax.random.randint(which, (BATCH,), 0, len(CENTERS))
        batch = {
            "real": centers[mode] + SPREAD * jax.random.normal(where, (BATCH, 2)),
            "noise": jax.random.normal(how, (BATCH, LATENT)),
        }
        grads = grad_fn(players, **batch)
        updates, state = opt.update(grads, state, players, grad_fn=grad_fn, **batch)
        return optax.apply_updates(players, updates), state

    return step


def trainer(method: Method, rounds: int) -> Callable[..., dict[str, Array]]:
    """`(rates, seeds, starts) -> looks` of all of these runs at once, after so many rounds each."""
    steps = rounds // (LOOKS * method.cost)

    def one(rate: Array, seed: Array, players: Players) -> dict[str, Array]:
        step = stepper(method, rate, jax.random.key(seed))

        def between(carry: tuple, n: Array) -> tuple[tuple, dict[str, Array]]:
            carry = jax.lax.fori_loop(n * steps, (n + 1) * steps, step, carry)
            return carry, look(carry[0], jax.random.fold_in(jax.random.key(~seed), n))

        begin = players, method.make(rate).init(players)
        _, looks = jax.lax.scan(between, begin, jnp.arange(LOOKS))
        return {**looks, "samples": looks["samples"][-1]}

    return jax.jit(jax.vmap(one))


def train(
    name: str, method: Method, rates: Sequence[float], seeds: Sequence[int], rounds: int
) -> list[Record]:
    """One run for each pair of a rate and a seed."""
    players = jax.tree.map(lambda *x: jnp.stack(x), *map(start, seeds))
    looks = trainer(method, rounds)(jnp.asarray(rates), jnp.asarray(seeds, jnp.uint32), players)
    about = {"kind": "mixture", "method": name, "rounds": rounds, "cost": method.cost}
    return [
        {
            **about,
            "rate": rate,
            "seed": seed,
            **{key: np.asarray(value[i]) for key, value in looks.items()},
        }
        for i, (rate, seed) in enumerate(zip(rates, seeds, strict=True))
    ]


def tuned(records: Sequence[Record]) -> float:
    """The rate whose run covers most modes over its last looks; among equal ones, most share."""
    best = max(map(judge, records), key=lambda run: (run["modes"], run["share"]))
    return float(best["rate"])


def judge(record: Record) -> dict[str, Any]:
    """The figures of a run: modes covered and share of samples in modes, over its last looks."""
    modes = np.asarray(record["modes"], float)
    last = slice(-max(1, round(LAST * len(modes))), None)
    return {
        **{name: record[name] for name in ("method", "cost", "rate", "seed", "rounds")},
        "modes": modes[last].mean(),
        "wobble": modes[last].std(),
        "best": modes.max(),
        "end": modes[-1],
        "share": np.asarray(record["share"], float)[last].mean(),
        "finite": bool(np.all(record["finite"])),
    }
