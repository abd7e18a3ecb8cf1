"""Gradient descent follows gradient flow to order 1, and the flow of E + (h/4)‖grad E‖² to order 2.

Subtracting (h/2)Hg from the gradient cancels the drift: the iterates follow gradient flow itself
with order 2. With the wrong sign the order stays 1. On the two-parameter model (ab - 0.6)²/2.
"""

from typing import Any

from ..claim import Bound, Claim, near
from ..drift_orders import orders


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Observed orders, by the study of drift."""
    records = orders("product")
    found: dict[str, Any] = {f"{r['method']}, flow {r['flow']}": r["observed"] for r in records}
    found["h"] = records[0]["step_sizes"]
    return found | {f"error, {r['method']}, flow {r['flow']}": r["errors"] for r in records}


CLAIM = Claim(
    __doc__,
    ("igr", "motion", "b-series"),
    experiment,
    (
        near("gradient descent, flow 1", 1, 0.1),
        near("gradient descent, flow 2", 2, 0.1),
        near("gradient descent, flow 3", 3, 0.1),
        near("counter-term, flow 1", 2, 0.1),
        near("counter-term, order 3, flow 1", 3, 0.1),
    ),
    control=(Bound("doubled drift, flow 1", 1.5),),
    seeds=(1, 1),
    seconds=(15, 15),
)
