"""Rules that reject long steps, or begin with short ones, lose no run."""

import jax.numpy as jnp
import pytest

import odeopt
from benchmarks.rules import LOSSES, OPTIMIZERS, RULES, losses, neuron, rosenbrock

SAFE = [
    ("embedded_error", "heun"),
    *(("gain_ratio", kind) for kind in ("euler", "heun", "rk4")),
    *(("angle", kind) for kind in OPTIMIZERS),
]


@pytest.mark.slow
@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize(("rule", "kind"), SAFE, ids="-".join)
def test_every_run_ends_lower(rule, kind, make, x64):
    first, last = losses(OPTIMIZERS[kind](RULES[rule]), make)
    assert jnp.all(last < first)


def test_a_cap_mends_corridor_where_the_gradient_vanishes(x64):
    first, last = losses(odeopt.euler(odeopt.stepsize.corridor(cap=10.0)), neuron)
    assert jnp.all(last < first)


def test_rules_without_a_safeguard_can_lose_one(x64):
    """As a control, and so that the table of the documentation is not of easy runs."""
    first, last = losses(OPTIMIZERS["heavy_ball"](RULES["corridor"]), rosenbrock)
    assert not jnp.any(last < first)
