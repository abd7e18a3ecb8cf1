"""Ratios of losses, which mean nothing where a loss is below zero."""

from typing import Any, NoReturn

import numpy as np

from .problem import Problem
from .refusals import refuse

INCOMPARABLE = "not comparable by ratio"
"""What stands in the place of a ratio where a loss is below zero."""
MEND = (
    "subtract its least value, or what is below that, so that its minimum is about 0, "
    "or use the study stability"
)
_ROUNDING = float(np.finfo(np.float32).eps)


def negative(losses: Any, first: float = 1.0) -> bool:
    """Whether one of these losses is below zero by more than rounding; `first` gives its size."""
    return bool((np.asarray(losses, float) < -_ROUNDING * abs(first)).any())


def refuse_loss(problem: Problem, found: str, why: str) -> NoReturn:
    """Raise a `ValueError` that says what the loss was `found` to do, and why it is refused."""
    refuse(problem, f"its loss {found}, and {why}: {MEND}.")


def check_start(problem: Problem, loss: float) -> None:
    """Refuse a problem whose loss starts below zero, before anything is run."""
    if loss < 0:
        refuse_loss(problem, f"starts at {loss:.3g}", "this study compares losses by their ratio")
