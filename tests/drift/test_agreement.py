"""Two independent derivations of the modified field: trees, and the step map."""

import jax
import jax.numpy as jnp
import pytest

from odeopt import drift

from .cases import FIELDS, METHODS, difference, start

pytestmark = pytest.mark.usefixtures("x64")
H = 0.1


# Four values of h tell the four terms of a polynomial of degree 3 apart.
SIZES = jnp.array([0.0, 0.5, 1.0, -1.0])
# the order from which on a method has drift
FIRST = {"rk4": 5, "ssprk3": 4, "euler": 2, "implicit euler": 2}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", METHODS)
def test_trees_and_step_map_agree(name, field):
    fields = [
        drift.modified_field(METHODS[name], FIELDS[field], 4, by=by) for by in ("trees", "step")
    ]

    @jax.jit
    def both(y):
        return [jax.vmap(lambda h, f=f: f(y, h))(SIZES) for f in fields]

    trees, step = both(start())
    plain = FIELDS[field](start())
    for i, h in enumerate(SIZES):
        a, b = (jax.tree.map(lambda leaf: leaf[i], side) for side in (trees, step))
        assert difference(a, b) < 1e-10
        # something was compared: the drift that is there, and none that is not
        drifts = FIRST.get(name, 3) <= 4 and h != 0
        assert (difference(a, plain) > 1e-2) == drifts
