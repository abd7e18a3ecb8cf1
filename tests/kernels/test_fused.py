"""Every kernel against its reference in Pallas' interpreter, and what programs do with it."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest

from odeopt import kernels

from .cases import FEW, LEAF, NUMBERS, SIZES, TILES, UPDATES, H, arrays, lowered, trees

FORMS = ["interpret", "interpret_tpu"]


def close(got, expected, dtype):
    """To 1e-6 in float32, to one unit in the last place below; 1e-6 of terms of about 1 near 0."""
    chex.assert_trees_all_equal_dtypes(got, expected)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if theirs.dtype == dtype != jnp.float32:
            size = jnp.abs(theirs)
            unit = jnp.nextafter(size, jnp.full_like(size, jnp.inf)) - size
        else:
            unit = 1e-6 * jnp.abs(theirs)
        apart = jnp.abs(ours.astype(jnp.float32) - theirs.astype(jnp.float32))
        assert jnp.all(apart <= unit.astype(jnp.float32) + 1e-6)


@pytest.mark.parametrize("name", UPDATES)
def test_kernel_is_its_reference_at_every_size(name):
    for form, shapes in zip(FORMS, (SIZES, [s for s in SIZES if len(s) == 2]), strict=True):
        k = trees(shapes, jnp.float32)
        got, expected = (jax.jit(UPDATES[name], static_argnums=1)(k, f) for f in (form, "jnp"))
        close(got, expected, jnp.float32)


@pytest.mark.parametrize("name", UPDATES)
def test_kernel_is_its_reference_in_half_precision(name):
    run = jax.jit(UPDATES[name], static_argnums=1)
    for dtype, form in (
        (jnp.float16, FORMS[0]),
        (jnp.bfloat16, FORMS[0]),
        (jnp.bfloat16, FORMS[1]),
    ):
        k = trees([LEAF if form == FORMS[0] else TILES], dtype)
        close(run(k, form), run(k, "jnp"), dtype)


@pytest.mark.parametrize("name", FEW)
def test_kernel_keeps_float64(name, x64):
    k = arrays((1025,), jnp.float64)
    got, expected = (UPDATES[name](k, form) for form in ("interpret", "jnp"))
    chex.assert_trees_all_close(got, expected, rtol=1e-14, atol=1e-14)


def test_complex_leaves_take_the_reference():
    k = [a + 1j * a[::-1] for a in arrays((7,), jnp.float32)]
    for name in ("combination", "heavy_ball"):
        chex.assert_trees_all_equal(UPDATES[name](k, "interpret"), UPDATES[name](k, "jnp"))


@pytest.mark.parametrize("name", FEW[:3])
def test_derivatives_are_the_reference_s(name):
    k = arrays((1025,), jnp.float32)
    along = arrays((1025,), jnp.float32)[::-1]

    def both(form):
        function = lambda k: UPDATES[name](k, form)
        return jax.jvp(function, (k,), (along,)), jax.vjp(function, k)[1](function(k))

    both = jax.jit(both, static_argnums=0)
    chex.assert_trees_all_close(both("interpret"), both("jnp"), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("form", FORMS)
def test_vmap_over_leaves(name, form):
    k = arrays((3, 33, 130), jnp.bfloat16 if name == "rounding" else jnp.float32)
    one_by_one = [UPDATES[name]([a[i] for a in k], "jnp") for i in range(3)]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    got = jax.vmap(lambda k: UPDATES[name](k, form))(k)
    close(got, expected, k[0].dtype.type)


@pytest.mark.parametrize("form", FORMS)
def test_vmap_over_step_sizes(form):
    k, rates = arrays((33, 130), jnp.float32), jnp.array([0.1, 0.2])
    step = lambda h, form: kernels.momentum_step(h, k[0], k[1], 0.9, kernel=form)
    got = jax.vmap(lambda h: step(h, form))(rates)
    expected = jax.tree.map(lambda *x: jnp.stack(x), *(step(h, "jnp") for h in rates))
    chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-6)


def test_moments_keep_dtypes_of_their_own():
    g, m, v, x = arrays((7,), jnp.bfloat16)
    v = jnp.square(v.astype(jnp.float32))
    step = functools.partial(kernels.adam_step, H, g, m.astype(jnp.float16), v, NUMBERS, params=x)
    update, mu, nu = step(decay=0.1, kernel="interpret")
    assert (update.dtype, mu.dtype, nu.dtype) == (jnp.bfloat16, jnp.float16, jnp.float32)
    chex.assert_trees_all_close((update, mu, nu), step(decay=0.1, kernel="jnp"), rtol=2.0**-7)


def test_the_error_norm_is_the_controller_s():
    """Against the error itself, scaled and averaged as the docstring says."""
    *k, x = arrays((1000,), jnp.float32)
    b, b_error = [0.5, 0.25, 0.25], [0.5, -0.25, -0.25]
    update, squares = kernels.combination_with_error(
        H, b, b_error, k, x, rtol=1e-2, atol=1e-3, kernel="interpret"
    )
    error = kernels.combination(H, b_error, k)
    scaled = error / (1e-3 + 1e-2 * jnp.maximum(jnp.abs(x), jnp.abs(x + update)))
    assert jnp.allclose(squares, jnp.sum(scaled**2), rtol=1e-5)


def test_leaves_of_one_shape_lower_once():
    tree = {str(i): jnp.ones((33, 130)) for i in range(5)}
    step = lambda g: kernels.momentum_step(H, g, g, 0.9, kernel="pallas")
    text = lowered(step, tree, platform="cuda")
    assert text.count("xla.gpu.triton") == 1


def test_pallas_is_refused_on_a_cpu():
    k = arrays((7,), jnp.float32)
    with pytest.raises(ValueError, match="CPU backend"):
        kernels.momentum_step(H, k[0], k[1], 0.9, kernel="pallas")


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="'auto', 'jnp', 'pallas'"):
        kernels.check_kernel("triton")


def test_auto_runs_what_was_measured_and_nothing_was():
    assert kernels.MEASURED == {}
    assert kernels.where("auto", "adam") == ()


def test_auto_takes_the_kernel_where_the_table_says_so(monkeypatch):
    monkeypatch.setitem(kernels.MEASURED, "cuda", frozenset({"momentum"}))
    k = arrays((7,), jnp.float32)
    step = jax.jit(lambda k: kernels.momentum_step(H, k[0], k[1], 0.9))
    texts = {p: lowered(step, k, platform=p) for p in ("cuda", "rocm")}
    assert [p for p, text in texts.items() if "xla.gpu.triton" in text] == ["cuda"]
    expected = kernels.momentum_step(H, k[0], k[1], 0.9, kernel="jnp")
    chex.assert_trees_all_close(step(k), expected, rtol=1e-6)
