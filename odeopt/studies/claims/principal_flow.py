"""On a quadratic the principal flow passes through every iterate of gradient descent, at any step.

Also where descent oscillates (hλ = 1.8) and where it diverges (hλ = 2.1). There the error of
gradient flow is of the size of the initial distance from the minimum or larger.
"""

from typing import Any

import numpy as np

from ..claim import Bound, Claim
from ..drift_pictures import directions


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Largest distance of an iterate from both flows, in every direction."""
    found: dict[str, Any] = {}
    for record in directions():
        curvature = record["curvature"]
        iterates = np.asarray(record["iterates"])
        flow = np.exp(-curvature * np.arange(len(iterates)))
        found[f"principal flow, hλ = {curvature}"] = record["distance"]
        found[f"gradient flow, hλ = {curvature}"] = float(np.abs(iterates - flow).max())
    return found


CLAIM = Claim(
    __doc__,
    ("principal",),
    experiment,
    tuple(Bound(f"principal flow, hλ = {c}", high=1e-5) for c in (0.8, 1.8, 2.1)),
    control=tuple(Bound(f"gradient flow, hλ = {c}", high=1e-5) for c in (0.8, 1.8, 2.1)),
    seeds=(1, 1),
    seconds=(8, 8),
)
