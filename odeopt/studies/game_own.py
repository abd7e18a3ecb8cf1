"""A game of the user's own: every solver at equal gradients, by the engine that makes races."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
import pandas as pd
from jaxtyping import Array, PyTree

from .. import alternating, game_gradient
from ..arguments import as_arrays
from ..checks import is_known
from ..flows.game import PerPlayer, Players
from . import game_plane as plane
from .engine import Figure, Lab, Results, Table, groups, race_figures, races
from .engine.checksums import checksum_of
from .engine.optimizers import Entry, refuse_one_rate
from .engine.problem import Problem, line, whole_numbers
from .engine.race import Race
from .engine.store import Record
from .engine.tuner import TUNING_SEED

BOUND = 10.0
"""A run is bounded while |z|, of all players, is at most so many times the larger of 1 and |z| at
the start."""
UNCOUNTED, MIDPOINT = "midpoint", 4
"""The implicit midpoint rule does not say how many gradients it takes: a step counts as one of RK4,
and it is not called the lowest."""

_FORM = "Write losses as loss(players) or loss(players, batch), and init(key)."


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Game:
    """The losses of players and where they begin.

    Attributes:
        losses: One for each player, by name or in order, as `odeopt.game_gradient` takes them:
            `loss(players)`, or `loss(players, batch)`; a random one takes a `key` too.
        init: `init(key)`, the first parameters: a dict or a tuple with a floating-point tree for
            each player.
        data: A tree of arrays with one example a row; a batch is the same tree with fewer rows.
        name: The name in tables and records.
        batch_size: Examples a step sees; `None` is all of them.
        metric: `metric(players)`, a scalar, lower is better; by default the norm of the joint
            gradient on all data.
        rates: Learning rates to try.

    Raises:
        ValueError: For losses of other players or that are not scalars, parameters that are not
            floating-point, a batch that is larger than the data, or rates that are not positive.
    """

    losses: PerPlayer
    init: Callable[[Array], PyTree[Array]]
    data: PyTree = ()
    _: dataclasses.KW_ONLY
    name: str = "my game"
    batch_size: int | None = None
    metric: Callable[[PyTree[Array]], Any] | None = None
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)

    def __repr__(self) -> str:
        return f"<Game {self.name!r}>"

    def __post_init__(self) -> None:
        rates = self.rates if isinstance(self.rates, tuple | list) else ()
        if not rates or not all(is_known(h) and 0 < h < math.inf for h in rates):
            words = "write positive numbers, as in rates=(0.01, 0.1)."
            raise ValueError(f"Game {self.name!r}: rates is {self.rates!r}: {words}")
        try:
            given = {"batch": self.data, "key": jax.random.key(0)}
            jax.eval_shape(functools.partial(self.grad_fn, **given), self.start(0))
        except Exception as error:
            words = str(error) if isinstance(error, ValueError) else f"{line(error)}. {_FORM}"
            words = words.replace("value_fn", "a loss")
            raise ValueError(f"Game {self.name!r}: {words}") from error
        _ = self.problem  # it refuses data and a metric that do not fit

    def start(self, seed: int) -> PyTree[Array]:
        """The players of a seed."""
        players = as_arrays(self.init(jax.random.key(seed)))
        for wrong in whole_numbers(players):
            raise ValueError(wrong)
        return players

    @functools.cached_property
    def grad_fn(self) -> Callable[..., PyTree[Array]]:
        """The gradient of each player's loss in its own parameters."""
        return game_gradient(self.losses)

    @functools.cached_property
    def problem(self) -> Problem:
        """What is raced on: its loss is the metric, and |z| is what it measures besides."""

        def measured(params: PyTree[Array], batch: PyTree, key: Array) -> Any:
            players = jax.lax.stop_gradient(params)  # no step follows the metric's gradient
            if self.metric is not None:
                return self.metric(players)
            return optax.tree.norm(self.grad_fn(players, batch=batch, key=key))

        return Problem(
            measured,
            self.start,
            self.data,
            name=self.name,
            batch_size=self.batch_size,
            validation=np.zeros(1),  # none is needed, but without any nothing is measured
            metric=lambda params, _: {"validation": optax.tree.norm(params)},
        )

    @property
    def version(self) -> str:
        """A checksum of losses, metric, data, initial point and rates."""
        with jax.enable_x64(self.problem.x64):
            given = {"batch": self.data, "key": jax.random.key(0)}
            traced = jax.make_jaxpr(functools.partial(self.grad_fn, **given))(self.start(0))
            return checksum_of(traced, (), self.problem.version, tuple(self.rates))

    def entries(self, own: Mapping[str, Callable[[Any], Any]]) -> list[Entry]:
        """The solvers of the games of two numbers, and the user's own optimizers."""
        updates = (1,) * len(Players.of(self.start(0)).names)
        makes = {**plane.METHODS, "alternating": lambda h: alternating(h, updates), **own}
        found = [self._entry(name, make) for name, make in makes.items()]
        for entry in found:
            if entry.name in own:
                refuse_one_rate(entry.name, functools.partial(self._first_step, entry))
        return found

    def _first_step(self, entry: Entry, rate: Any) -> Any:
        optimizer, players = optax.with_extra_args_support(entry.make(rate)), self.start(0)
        given = {"batch": self.data, "key": jax.random.key(0)}
        return optimizer.update(players, optimizer.init(players), players, **given)

    def _entry(self, name: str, make: Callable[[Any], Any]) -> Entry:
        """An optimizer that takes the players' gradients where a race hands it the metric's."""

        def made(rate: Any) -> optax.GradientTransformationExtraArgs:
            opt = optax.with_extra_args_support(make(rate))

            def update(_: Any, state: Any, players: Any, **more: Any) -> Any:
                given = {name: more[name] for name in ("batch", "key")}
                grads = self.grad_fn(players, **given)
                return opt.update(grads, state, players, grad_fn=self.grad_fn, **given)

            return optax.GradientTransformationExtraArgs(opt.init, update)

        cost = getattr(make(1.0), "gradients_per_step", 1) or MIDPOINT
        return Entry(name, made, gradients_per_step=cost)


def play(game: Game, entry: Entry, seeds: int, rounds: int, lab: Lab) -> list[Record]:
    """A run at every rate with every seed."""
    numbers = [TUNING_SEED, *range(1, seeds + 1)]
    wanted = [(float(game.problem.dtype(h)), seed) for h in game.rates for seed in numbers]
    race = Race(lab, game.problem, entry, rounds, numbers)
    return [judged(record) for record in race.runs(wanted)]


def judged(record: Record) -> Record:
    """The run, which has diverged where |z| is not bounded, wherever its metric ended."""
    size = np.array(record["validation"], float)
    bounded = np.all(size <= BOUND * max(size[0], 1)) and record["final_loss"] is not None
    return {**record, "status": "ok" if bounded else "diverged"}


def verdict(results: Results) -> list[str]:
    """Of each game: which methods end lowest, and up to which rate each is bounded."""
    found = []
    for game, mine in groups(results.table("own"), "problem"):
        limits = ", ".join(
            f"{r.optimizer} {'at none' if pd.isna(r.stable) else f'up to h = {r.stable:g}'}"
            for r in mine.itertuples()
        )
        found.append(
            f"In {game}, at equal gradients of every player, "
            f"{_lowest(mine[mine.optimizer != UNCOUNTED])}{_uncounted(mine)}. Bounded are {limits}."
        )
    return found


def _lowest(counted: pd.DataFrame) -> str:
    """Which of the methods whose gradients are counted end lowest, all that tie."""
    least, start = counted.loss_median.min(), counted.initial_loss.min()
    if not np.isfinite(least):
        return "no method whose gradients are counted stays bounded"
    if not (counted.loss_median < counted.initial_loss).any():
        return f"no method ends lower than it starts (start: {start:.3g}, lowest end: {least:.3g})"
    names = list(counted.optimizer[np.isclose(counted.loss_median, least, rtol=1e-6, atol=0)])
    lead = f"{names[0]} ends" if len(names) == 1 else f"{' and '.join(names)} end level and"
    return f"{lead} lowest, at {least:.3g} (start: {start:.3g})"


def _uncounted(mine: pd.DataFrame) -> str:
    """Where the implicit midpoint rule ends, which is not compared."""
    ends = mine[(mine.optimizer == UNCOUNTED) & np.isfinite(mine.loss_median)]
    if ends.empty:
        return ""
    row = ends.iloc[0]
    stays = row.loss_min == row.loss_max == row.initial_loss
    where = "where it starts" if stays else f"at {row.loss_median:.3g}"
    return f"; {UNCOUNTED}, whose gradients are not counted, ends {where}"


TABLE = Table(
    "own",
    "Your own games",
    lambda results: races.summary(races.frame(results.records)),
    {
        **races.NAMED,
        "gradients_per_step": ("rounds", "of gradients a step, one for each player"),
        "best_rate": ("rate", "the best of those tried, on seed 0"),
        "loss_median": ("end", "metric at the end: median of the reported seeds"),
        "loss_min": ("lowest", "of the reported seeds"),
        "loss_max": ("highest", "of the reported seeds"),
        "initial_loss": ("start", "metric at the start, median"),
        "stable": ("bounded to", "largest rate up to which every run stays bounded"),
        "unstable": ("not at", "smallest rate at which a run does not stay bounded"),
        "diverged": ("not bounded", "runs, over all rates and seeds"),
        "runs": ("of", "runs"),
    },
    ("problem", "optimizer", "initial_loss", "loss_median", "best_rate", "stable"),
)
FIGURE = Figure(
    "own",
    lambda results: race_figures.loss_against_rate(
        races.frame(results.records), "learning_rate", "learning rate h", "metric at the end"
    ),
    "Metric at the end, by default the norm of the joint gradient: median and range of the "
    "reported seeds at equal gradients. A cross in the strip on top marks a rate at which a run "
    f"is not bounded: |z| of all players above {BOUND:g} times the larger of 1 and |z| at the "
    "start.",
    lambda results: " ".join(verdict(results)),
)
