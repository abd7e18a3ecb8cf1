"""Simultaneous descent of two players diverges where their flow and alternating descent converge.

Without the interaction part of the drift simultaneous descent converges too. On the damped rotation
x' = -0.09 x + y, y' = -x - 0.09 y with h = 0.2, where the growth of each method can be calculated.
"""

from typing import Any

from ..claim import Bound, Claim, Lines
from ..game_plane import trajectory

METHODS = ("simultaneous", "alternating", "interaction", "joint")


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """|z| at the end over the start, and how far it is from what is calculated."""
    found: dict[str, Any] = {}
    for method in METHODS:
        record = trajectory("damped rotation", method)[0]
        found |= {method: record["growth"], f"radius, {method}": record["radii"]}
        found["step"] = [i * record["every"] for i in range(len(record["radii"]))]
        if method != "alternating":
            found[f"{method}, over calculated"] = record["growth"] / record["predicted"]
    return found


CLAIM = Claim(
    __doc__,
    ("games",),
    experiment,
    (
        Bound("alternating", high=1e-3),
        Bound("interaction", high=1e-3),
        Bound("joint", high=1e-3),
        Bound("simultaneous", low=1.0),
        Bound("simultaneous, over calculated", 1 - 1e-6, 1 + 1e-6),
        Bound("interaction, over calculated", 1 - 1e-6, 1 + 1e-6),
    ),
    control=(Bound("simultaneous", high=1e-3),),
    seeds=(1, 1),
    seconds=(5, 5),
    figure=Lines("step", [f"radius, {m}" for m in METHODS], "|z|", "y"),
)
