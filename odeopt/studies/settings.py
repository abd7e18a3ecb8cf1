"""What a user can ask of the stability study, checked before anything is computed."""

import dataclasses
import math
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from .. import __version__
from .entries import Entry, find
from .names import lookup
from .problems import PROBLEMS, QUICK_PROBLEMS, SUITE

QUICK_SOLVERS = ("sgd", "momentum", "adam", "heun", "ssprk3", "rk4", "tsit5")
FULL_SOLVERS = (
    *("sgd", "momentum", "adam", "heun", "midpoint", "ralston"),
    *("bosh3", "ssprk3", "rk4", "dopri5", "tsit5"),
    *("nesterov", "conformal_leapfrog", "relativistic", "rk_momentum"),
    *("rmsprop", "adamw", "rk_adam"),
    *("euler@drift_adjusted", "euler@corridor", "bosh3@embedded_error"),
    *("rkc", "rkc2", "linearly_implicit_euler", "rosenbrock2"),
    *("exponential_euler", "implicit_euler"),
)
# Multiples of every solver's gradients per step, so that all spend the same to the last gradient.
QUICK_GRADIENTS, FULL_GRADIENTS = 120, 1800


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide a study's results; a resumed study must have the same.

    Attributes:
        solvers: Optimizers, by name.
        problems: Problems, by name.
        rates: Learning rates instead of the automatic grid.
        seeds: Fresh seeds 1..seeds that are reported; seed 0 tunes.
        gradients: Gradients that every run may spend.
        batch_size: Examples of a mini-batch.
    """

    solvers: tuple[str, ...]
    problems: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: int
    gradients: int
    batch_size: int | None

    @classmethod
    def of(
        cls,
        *,
        solvers: Sequence[str] | None,
        problems: Sequence[str] | None,
        rates: Sequence[float] | None,
        seeds: int | None,
        gradients: int | None,
        batch_size: int | None,
        full: bool,
    ) -> "Settings":
        """Fill in the defaults of a quick or full study and check everything.

        Raises:
            ValueError: Naming the option that is wrong.
        """
        asked = cls(
            solvers=tuple(dict.fromkeys(solvers or (FULL_SOLVERS if full else QUICK_SOLVERS))),
            problems=tuple(dict.fromkeys(problems or (PROBLEMS if full else QUICK_PROBLEMS))),
            rates=tuple(sorted({float(rate) for rate in rates or ()})),
            seeds=(5 if full else 3) if seeds is None else seeds,
            gradients=(FULL_GRADIENTS if full else QUICK_GRADIENTS)
            if gradients is None
            else gradients,
            batch_size=batch_size,
        )
        for name in asked.problems:
            lookup("problem", name, PROBLEMS)
        for rate in asked.rates:
            if not (rate > 0 and math.isfinite(rate)):
                raise ValueError(f"--rates must be positive numbers, not {rate:g}.")
        if asked.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, not {asked.seeds}.")
        if asked.batch_size is not None and asked.batch_size < 1:
            raise ValueError(f"--batch-size must be at least 1, not {asked.batch_size}.")
        dearest = max(entry.gradients_per_step for entry in asked.entries())
        if asked.gradients < dearest:
            raise ValueError(
                f"--gradients must be at least {dearest}, the cost of one step of the dearest "
                f"solver asked for, not {asked.gradients}."
            )
        return asked

    def entries(self) -> list[Entry]:
        """The optimizers; a `ValueError` names the nearest names of one that is not there."""
        return [find(name) for name in self.solvers]

    def as_dict(self) -> dict[str, Any]:
        """What is stored beside the results and compared on resume."""
        return {"suite": SUITE, **dataclasses.asdict(self), "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of what computes the results."""
    packages = ("jax", "jaxlib", "optax", "diffrax", "numpy")
    return {
        "odeopt": __version__,
        **{name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
    }
