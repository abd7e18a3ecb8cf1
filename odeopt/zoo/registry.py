"""One registry of every optimizer: how to build it and what it promises.

Tests, documentation, studies and benchmarks read it; a promise is tested by observation.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import diffrax

from .. import solvers
from ..optimizer import LearningRate, Optimizer
from . import adaptive, explicit, game, implicit, linearized, matrix, momentum, untuned

_HEUN = solvers.Heun()
_KUTTA3 = solvers.Tableau(a=[[1 / 2], [-1, 2]], b=[1 / 6, 2 / 3, 1 / 6])
_BALL = types.MappingProxyType({"momentum": 0.9, "solver": _HEUN})
_STIFF = types.MappingProxyType({"curvature": "hessian", "products": 5})


class Entry(NamedTuple):
    r"""One optimizer and what it promises.

    Attributes:
      function: the named optimizer.
      family: "explicit", "stabilized", "linearized", "implicit", "momentum", "adaptive" or "game".
      follows: the flow that its steps follow: "gradient", "ball" (the heavy ball in its own time,
        in units of $\sqrt h$), "relativistic" (the heavy ball with a speed limit), "adam",
        "rmsprop", "sign" (Adam's flow without memory), "spectral" (Muon's), "kronecker" (SOAP's),
        "averaged" or "game".
      order: order of accuracy along that flow, in its own time step.
      gradients: gradients of a step, the given one included; None if the number varies.
      limit: the largest stable $h\lambda$ on a quadratic, at the defaults; None if there is no
        limit, or if the gradient is normalized.
      memory: memory of the state, in copies of the parameters.
      arguments: arguments of `function` besides the learning rate.
      staged: whether it supports staged mode.
      rests: whether the parameters between calls are another point than the end of a step.
      corrected: order and gradients of a step with `correction=2`; None for no such entry.
      needs: requirements on parameters and loss: a known number of "players", "one dtype" for all
        leaves, a loss with "curvature".
    """

    function: Callable[..., Optimizer]
    family: str
    follows: str
    order: int
    gradients: int | None
    limit: float | None = None
    memory: float = 0.0
    arguments: Mapping[str, Any] = types.MappingProxyType({})
    staged: bool = False
    rests: bool = False
    corrected: tuple[int, int] | None = None
    needs: frozenset[str] = frozenset()

    def build(self, learning_rate: LearningRate, **options: Any) -> Optimizer:
        """Build the optimizer; `options` override `arguments` of the same name."""
        return self.function(learning_rate=learning_rate, **{**self.arguments, **options})


def _explicit(
    function: Callable[..., Optimizer],
    order: int,
    gradients: int,
    limit: float,
    *,
    corrected: tuple[int, int] | None = None,
    **arguments: Any,
) -> Entry:
    row = Entry(function, "explicit", "gradient", order, gradients, limit, arguments=arguments)
    return row._replace(staged=True, corrected=corrected)


def _stiff(function: Callable[..., Optimizer], family: str, order: int) -> Entry:
    needs = frozenset({"curvature"})
    return Entry(function, family, "gradient", order, None, None, 1.0, _STIFF, needs=needs)


_ENTRIES = (
    _explicit(explicit.euler, 1, 1, 2.0, corrected=(2, 2)),
    _explicit(explicit.heun, 2, 2, 2.0),
    _explicit(explicit.midpoint, 2, 2, 2.0),
    _explicit(explicit.ralston, 2, 2, 2.0),
    _explicit(explicit.bosh3, 3, 3, 2.513),
    _explicit(explicit.ssprk3, 3, 3, 2.513),
    _explicit(explicit.rk4, 4, 4, 2.785),
    _explicit(explicit.low_storage4, 4, 6, 4.359),
    _explicit(explicit.dopri5, 5, 6, 3.307),
    _explicit(explicit.tsit5, 5, 6, 3.507),
    _explicit(explicit.runge_kutta, 3, 3, 2.513, tableau=_KUTTA3),
    _explicit(explicit.from_diffrax, 3, 3, 2.513, solver=diffrax.Bosh3()),
    # two stages: the loop traces the loss once, so that tests can count its calls
    Entry(explicit.rkc, "stabilized", "gradient", 1, 2, 7.808, arguments={"stages": 2}),
    _stiff(linearized.linearly_implicit_euler, "linearized", 1),
    _stiff(linearized.exponential_euler, "linearized", 2),
    _stiff(linearized.rosenbrock2, "linearized", 2),
    _stiff(implicit.implicit_euler, "implicit", 1),
    _stiff(implicit.implicit_midpoint, "implicit", 2),
    _stiff(implicit.trapezoidal, "implicit", 2),
    Entry(momentum.heavy_ball, "momentum", "ball", 1, 1, 3.8, 1.0, corrected=(2, 2)),
    Entry(momentum.nesterov, "momentum", "ball", 1, 1, 1.357, 1.0),
    Entry(momentum.conformal_leapfrog, "momentum", "ball", 2, 1, 4.0, 1.0, rests=True),
    Entry(momentum.suzuki_yoshida, "momentum", "ball", 4, 3, 2.472, 1.0, rests=True),
    Entry(momentum.relativistic, "momentum", "relativistic", 1, 1, 3.8, 1.0),
    Entry(momentum.rk_momentum, "momentum", "ball", 2, 2, 0.746, 1.0, _BALL, staged=True),
    Entry(momentum.chained_momentum, "momentum", "ball", 1, 2, 2.0, 1.0, _BALL),
    Entry(adaptive.rmsprop, "adaptive", "rmsprop", 1, 1, memory=1.0),
    Entry(adaptive.adam, "adaptive", "adam", 1, 1, memory=2.0, corrected=(2, 2)),
    Entry(adaptive.adamw, "adaptive", "adam", 1, 1, memory=2.0),
    Entry(adaptive.strang_adam, "adaptive", "adam", 2, 1, memory=2.0, rests=True),
    Entry(adaptive.rk_adam, "adaptive", "adam", 2, 2, None, 2.0, {"solver": _HEUN}, staged=True),
    Entry(untuned.log_time_adam, "adaptive", "averaged", 1, 1, memory=2.0625, rests=True),
    Entry(matrix.muon, "adaptive", "spectral", 1, 1, memory=2.0),
    Entry(matrix.soap, "adaptive", "kronecker", 1, 1, memory=2.0),
    Entry(untuned.log_time_soap, "adaptive", "averaged", 1, 1, memory=3.0625, rests=True),
    Entry(untuned.untuned, "adaptive", "averaged", 1, 1, memory=3.0, rests=True),
    Entry(game.simultaneous, "game", "game", 1, 1, 2.0),
    Entry(game.alternating, "game", "game", 1, 2, needs=frozenset({"players"})),
    Entry(game.game_runge_kutta, "game", "game", 2, 2, 2.0, 0.0, {"tableau": _HEUN}, staged=True),
    Entry(game.game_implicit_midpoint, "game", "game", 2, None, needs=frozenset({"one dtype"})),
)
_NAMED = {entry.function.__name__: entry for entry in _ENTRIES}

_FREE_OF_MEMORY = {"ball": "gradient", "adam": "sign"}  # the flow of a corrected step


def _corrected(entry: Entry) -> Entry:
    assert entry.corrected is not None
    order, gradients = entry.corrected
    arguments = {**entry.arguments, "correction": 2}
    follows = _FREE_OF_MEMORY.get(entry.follows, entry.follows)
    better = entry._replace(follows=follows, order=order, gradients=gradients, arguments=arguments)
    return better._replace(limit=None, staged=False, corrected=None)


def _in_stages(entry: Entry) -> Entry:
    assert entry.gradients is not None
    kept = entry.gradients * (1 + entry.memory)  # the start of the step, and all slopes but one
    return entry._replace(
        memory=entry.memory + kept, arguments={**entry.arguments, "staged": True}, corrected=None
    )


REGISTRY: Mapping[str, Entry] = types.MappingProxyType(
    _NAMED
    | {f"{name}-corrected": _corrected(e) for name, e in _NAMED.items() if e.corrected}
    | {
        f"{name}-staged": _in_stages(e)
        for name, e in _NAMED.items()
        if e.staged and e.gradients is not None and e.gradients > 1
    }
)
"""Name to `Entry`: every named optimizer, and its corrected and staged forms."""
