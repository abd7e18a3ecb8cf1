"""On a quadratic the principal flow passes through every iterate of gradient descent, at any step.

Also where descent oscillates (hλ = 1.8) and where it diverges (hλ = 2.1). There the error of
gradient flow is of the size of the initial distance from the minimum or larger.
"""

import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np

from ... import drift
from ..claim import Bound, Claim
from ..reference import solve

CURVATURES, STEPS = np.array([0.8, 1.8, 2.1]), 8
"""Times h = 1: between them the iterates begin to oscillate, and to diverge."""


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Largest distance of an iterate from both flows, in every direction."""
    field = drift.principal_flow(lambda x: 0.5 * jnp.sum(CURVATURES * x**2))
    times = np.arange(STEPS + 1)
    iterates = (1 - CURVATURES) ** times[:, None]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Complex dtype")  # held to 1e-8 by test_principal.py
        along, start = lambda t, y, _: field(y, 1.0), jnp.ones(3, complex)
        path = solve(along, start, times, first=0.05, rtol=1e-12)
    flows = {"principal": path.real, "gradient": np.exp(-CURVATURES * times[:, None])}
    return {
        f"{name} flow, hλ = {curvature}": float(np.abs(iterates - flow).max(axis=0)[i])
        for name, flow in flows.items()
        for i, curvature in enumerate(CURVATURES)
    }


CLAIM = Claim(
    __doc__,
    ("principal",),
    experiment,
    tuple(Bound(f"principal flow, hλ = {c}", high=1e-5) for c in CURVATURES),
    control=tuple(Bound(f"gradient flow, hλ = {c}", high=1e-5) for c in CURVATURES),
    seeds=(1, 1),
    seconds=(8, 8),
)
