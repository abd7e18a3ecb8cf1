"""With its drift cancelled a GAN stays on the circle of its flow; plain descent leaves it.

The Dirac GAN: one point, one slope. |z|² stays within 1 % over 2,000 steps with the interaction
cancelled, with the joint counter-term and with RK4 on both players; simultaneous descent spirals
outwards.
"""

from typing import Any

from ..claim import Bound, Claim, Lines
from ..game_plane import trajectory

METHODS = ("simultaneous", "interaction", "joint", "rk4")


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """The largest departure of |z|² from its start, relative."""
    found: dict[str, Any] = {}
    for method in METHODS:
        record = trajectory("Dirac GAN", method)[0]
        miss = max(record["highest"] ** 2 - 1, 1 - record["lowest"] ** 2)
        found |= {method: miss, f"radius, {method}": record["radii"]}
        found["step"] = [i * record["every"] for i in range(len(record["radii"]))]
    return found


CLAIM = Claim(
    __doc__,
    ("games", "ode-gan"),
    experiment,
    tuple(Bound(method, high=0.01) for method in METHODS[1:]),
    control=(Bound("simultaneous", high=0.01),),
    seeds=(1, 1),
    seconds=(5, 5),
    figure=Lines("step", [f"radius, {m}" for m in METHODS], "|z|", ""),
)
