"""Elementary differentials against dense derivative tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt import drift

from .cases import difference, norm, rotation, start

pytestmark = pytest.mark.usefixtures("x64")
KEYS = ["1", "12", "122", "123", "1222", "1223", "1233", "1234", "12233"]


def dense(y):
    """The differentials as contractions of the derivative tensors of the raveled field."""
    flat, unravel = jax.flatten_util.ravel_pytree(y)
    field = lambda x: jax.flatten_util.ravel_pytree(rotation(unravel(x)))[0]
    first = jax.jacfwd(field)
    second, third = jax.jacfwd(first), jax.jacfwd(jax.jacfwd(first))
    f, a, b, c = field(flat), first(flat), second(flat), third(flat)
    two = lambda u, v: jnp.einsum("ijk,j,k", b, u, v)
    bushy = two(f, f)
    found = [
        f,
        a @ f,
        bushy,
        a @ a @ f,
        jnp.einsum("ijkl,j,k,l", c, f, f, f),
        two(f, a @ f),
        a @ bushy,
        a @ a @ a @ f,
        two(f, bushy),
    ]
    return [unravel(x) for x in found]


@pytest.mark.slow
def test_nested_products_equal_contracted_tensors():
    trees = [drift.tree(key) for key in KEYS]
    found = drift.elementary_differentials(rotation, start(), trees)
    for key, tree, expected in zip(KEYS, trees, dense(start()), strict=True):
        assert difference(found[tree], expected) < 1e-12, key
        assert norm(expected) > 1e-2, key  # something was compared


def test_every_subtree_is_evaluated_once():
    calls = []

    def field(y):
        calls.append(1)
        return rotation(y)

    trees = list(drift.modified_equation(odeopt.solvers.Euler(), 4))
    drift.elementary_differentials(field, start(), trees)
    assert len(calls) == len(trees) == 8


def test_a_b_series_is_the_weighted_sum_and_shares_its_last_derivatives():
    table = drift.modified_equation(odeopt.solvers.Euler(), 4) | {drift.tree("1222"): 0.7}
    calls, h = [], 0.3

    def field(y):
        calls.append(1)
        return rotation(y)

    total = drift.b_series(table, field)(start(), h)
    # the four inner trees 1, 12, 122, 123; f'(...), f''(f, ...) and f'''(f, f, ...) of sums
    assert len(calls) == 7
    # The field has one sine, so that each of its evaluations and derivatives has a sine or cosine.
    written = jax.make_jaxpr(drift.b_series(table, rotation))(start(), h).eqns
    evaluations = sum(equation.primitive.name in ("sin", "cos") for equation in written)
    assert evaluations == 1 + (2 + 4 + 2) + (2 + 4 + 8)
    parts = drift.elementary_differentials(rotation, start(), table)
    weights = {t: h ** (t.nodes() - 1) * float(b) / t.sigma() for t, b in table.items()}
    expected = jax.tree.map(
        lambda *leaves: sum(w * leaf for w, leaf in zip(weights.values(), leaves, strict=True)),
        *(parts[t] for t in table),
    )
    assert difference(total, expected) < 1e-13


@pytest.mark.slow
def test_leaves_keep_their_dtypes_and_masked_ones_stay_empty():
    y = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(3, jnp.float32), "c": ()}
    field = lambda y: jax.tree.map(lambda leaf: -jnp.sin(leaf), y)
    for by in ("trees", "step"):
        modified = drift.modified_field(odeopt.solvers.Heun(), field, 3, by=by)(y, 0.1)
        assert jax.tree.structure(modified) == jax.tree.structure(y)
        assert [leaf.dtype for leaf in jax.tree.leaves(modified)] == [jnp.bfloat16, jnp.float32]
    np.testing.assert_allclose(modified["b"], field(y)["b"], atol=1e-2)
