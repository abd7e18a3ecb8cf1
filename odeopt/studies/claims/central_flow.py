"""The central flow is the time average of gradient descent at the edge of stability.

On the loss S x²/2 - S - x⁴/20, whose curvature S grows along gradient flow: where descent settles,
curvature and mean square of the oscillation are those of the central flow within 10 and 25 %.
Gradient flow has left 2/h far behind.
"""

from typing import Any

import numpy as np

from ..claim import Claim, Lines, near
from ..drift_pictures import edge


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Ratios of descent to both flows in the last quarter."""
    record = edge()[0]
    x, curvature = np.transpose(record["iterates"])
    late = slice(3 * len(x) // 4, None)
    return {
        "curvature over the central flow's": float(np.mean(curvature[late] / record["flow"][late])),
        "square of x over its variance": float(np.mean(x[late] ** 2 / record["variance"][late])),
        "curvature over gradient flow's": float(
            np.mean(curvature[late] / record["gradient flow"][late])
        ),
        "step": np.arange(len(x)),
        "gradient descent": curvature,
        "central flow": record["flow"],
        "gradient flow": np.minimum(record["gradient flow"], 1.5 * curvature.max()),
    }


CLAIM = Claim(
    __doc__,
    ("central",),
    experiment,
    (
        near("curvature over the central flow's", 1, 0.1),
        near("square of x over its variance", 1, 0.25),
    ),
    control=(near("curvature over gradient flow's", 1, 0.1),),
    seeds=(1, 1),
    seconds=(10, 10),
    figure=Lines("step", ("gradient descent", "central flow", "gradient flow"), "curvature"),
)
