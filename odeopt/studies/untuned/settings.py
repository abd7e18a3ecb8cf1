"""What a user can ask of the study, checked before anything is computed."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..engine.study import versions
from ..names import lookup
from .problems import PROBLEMS, SUITE
from .rivals import TUNED, UNTUNED

QUICK_PROBLEMS = ("quadratic-kappa1e4", "digits-ce-64", "digits-ce-8", "diabetes-mlp")
QUICK_RIVALS = ("nesterov-.99", "adam", "adam-.98", "schedule-free")
QUICK_GRADIENTS, FULL_GRADIENTS = 500, 2000
QUICK_SEEDS, FULL_SEEDS = 3, 5


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide a study's results; a resumed study must have the same.

    Attributes:
        problems: Problems, by name.
        rivals: Tuned optimizers, by name; the untuned ones always take part.
        seeds: Fresh seeds 1..seeds that are reported; seed 0 tunes.
        gradients: Gradients that every run may spend.
    """

    problems: tuple[str, ...]
    rivals: tuple[str, ...]
    seeds: int
    gradients: int

    @classmethod
    def of(
        cls,
        *,
        problems: Sequence[str] | None,
        rivals: Sequence[str] | None,
        seeds: int | None,
        gradients: int | None,
        full: bool,
    ) -> "Settings":
        """Fill in the defaults of a quick or full study and check everything.

        Raises:
            ValueError: Naming the option that is wrong.
        """
        asked = cls(
            problems=tuple(dict.fromkeys(problems or (PROBLEMS if full else QUICK_PROBLEMS))),
            rivals=tuple(dict.fromkeys(rivals or (TUNED if full else QUICK_RIVALS))),
            seeds=(FULL_SEEDS if full else QUICK_SEEDS) if seeds is None else seeds,
            gradients=(FULL_GRADIENTS if full else QUICK_GRADIENTS)
            if gradients is None
            else gradients,
        )
        for name in asked.problems:
            lookup("problem", name, PROBLEMS)
        for name in asked.rivals:
            lookup("rival", name, TUNED)
        if asked.seeds < 1:
            raise ValueError(f"--seeds must be at least 1, not {asked.seeds}.")
        if asked.gradients < 1:
            raise ValueError(f"--gradients must be at least 1, not {asked.gradients}.")
        return asked

    @property
    def optimizers(self) -> tuple[str, ...]:
        """All that take part: the tuned rivals, then the untuned ones."""
        return (*self.rivals, *UNTUNED)

    def as_dict(self) -> dict[str, Any]:
        """What is stored beside the results and compared on resume."""
        return {"suite": SUITE, **dataclasses.asdict(self), "versions": versions()}
