"""What a user can ask of the study, checked before anything is computed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..engine.study import versions
from ..names import lookup
from .entries import ENTRIES
from .goals import GOALS, SUITE

QUICK_PROBLEMS = (
    *("quadratic-kappa1e6", "logistic", "digits-mse", "digits-ce"),
    *("poisson", "burgers"),
)
QUICK_SOLVERS = ("sgd", "momentum", "adam", "lbfgs", "rkc", "linearly_implicit_euler")
QUICK_SEEDS, FULL_SEEDS = 3, 5


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide a study's results; a resumed study must have the same.

    Attributes:
        problems: Problems, by name.
        solvers: Solvers and rivals, by name.
        seeds: Fresh seeds 1..seeds that are reported; seed 0 tunes.
    """

    problems: tuple[str, ...]
    solvers: tuple[str, ...]
    seeds: int

    @classmethod
    def of(
        cls,
        *,
        problems: Sequence[str] | None,
        solvers: Sequence[str] | None,
        seeds: int | None,
        full: bool,
    ) -> "Settings":
        """Fill in the defaults of a quick or full study and check everything.

        Raises:
            ValueError: Naming the option that is wrong.
        """
        asked = cls(
            problems=tuple(dict.fromkeys(problems or (GOALS if full else QUICK_PROBLEMS))),
            solvers=tuple(dict.fromkeys(solvers or (ENTRIES if full else QUICK_SOLVERS))),
            seeds=(FULL_SEEDS if full else QUICK_SEEDS) if seeds is None else seeds,
        )
        for name in asked.problems:
            lookup("problem", name, GOALS)
        for name in asked.solvers:
            lookup("solver", name, ENTRIES)
        if asked.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, not {asked.seeds}.")
        return asked

    def as_dict(self) -> dict[str, Any]:
        """What is stored beside the results and compared on resume."""
        return {"suite": SUITE, **dataclasses.asdict(self), "versions": versions()}
