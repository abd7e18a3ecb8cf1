"""Every kernel against its reference in Pallas' interpreter, and what programs do with it."""

import dataclasses
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import odeopt
from odeopt import kernels
from odeopt.kernels import choice

from .cases import (
    FEW,
    FORMS,
    LEAF,
    NUMBERS,
    SIZES,
    TILES,
    UPDATES,
    H,
    arrays,
    lowered,
    trees,
)

SHAPES = {"interpret": SIZES, "interpret_tpu": [s for s in SIZES if len(s) == 2]}

MANY = ["jnp", "pallas", "jnp", "pallas"]


@dataclasses.dataclass(frozen=True)
class Design:
    kernel: str


@dataclasses.dataclass(frozen=True)
class Call:
    design: Design

    def __call__(self, *_):
        return ()


class Optimizer(optax.GradientTransformationExtraArgs):
    design = property(lambda self: self.update.design)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("form", FORMS)
def test_kernel_is_its_reference_at_every_size(name, form):
    k = trees(SHAPES[form], jnp.float32)
    got, expected = (jax.jit(UPDATES[name], static_argnums=1)(k, f) for f in (form, "jnp"))
    close(got, expected, jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("form", FORMS)
def test_kernel_is_its_reference_in_half_precision(name, form):
    run = jax.jit(UPDATES[name], static_argnums=1)
    for dtype in (jnp.bfloat16, jnp.float16):
        k = trees([LEAF, TILES] if form == "interpret" else [TILES], dtype)
        got = run(k, form)
        # rounding at random is of bfloat16 leaves; all others compute in float32
        wide = k if name == "rounding" else optax.tree.cast(k, jnp.float32)
        close(got, optax.tree.cast_like(run(wide, "jnp"), got), dtype)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("form", FORMS)
def test_kernel_keeps_float64(name, form, x64):
    k = arrays((1025,), jnp.float64)
    got, expected = (UPDATES[name](k, f) for f in (form, "jnp"))
    chex.assert_trees_all_close(got, expected, rtol=1e-14, atol=1e-14)


def test_complex_leaves_take_the_reference():
    k = [a + 1j * a[::-1] for a in arrays((1025,), jnp.float32)]
    for name in ("combination", "heavy_ball"):
        chex.assert_trees_all_equal(UPDATES[name](k, "pallas"), UPDATES[name](k, "jnp"))


@pytest.mark.parametrize("name", FEW[:3])
@pytest.mark.parametrize("form", FORMS)
def test_derivatives_are_the_reference_s(name, form):
    k = arrays((11, 130), jnp.float32)
    along = arrays((11, 130), jnp.float32)[::-1]

    def both(form):
        function = lambda k: UPDATES[name](k, form)
        return jax.jvp(function, (k,), (along,)), jax.vjp(function, k)[1](function(k))

    both = jax.jit(both, static_argnums=0)
    chex.assert_trees_all_close(both(form), both("jnp"), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
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

    def step(h, form):
        with choice.chosen(form):
            return kernels.momentum_step(h, k[0], k[1], 0.9)

    got = jax.vmap(lambda h: step(h, form))(rates)
    expected = jax.tree.map(lambda *x: jnp.stack(x), *(step(h, "jnp") for h in rates))
    chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_moments_keep_dtypes_of_their_own(form):
    g, m, v, x = arrays((8, 160), jnp.bfloat16)
    m, v = m.astype(jnp.float16), jnp.square(v.astype(jnp.float32))

    def step(form, g, m, v, x):
        with choice.chosen(form):
            return kernels.adam_step(H, g, m, v, NUMBERS, params=x, decay=0.1)

    got = step(form, g, m, v, x)
    assert [leaf.dtype for leaf in got] == [jnp.bfloat16, jnp.float16, jnp.float32]
    wide = step("jnp", *optax.tree.cast((g, m, v, x), jnp.float32))
    chex.assert_trees_all_close(got, optax.tree.cast_like(wide, got), rtol=2.0**-7)


@pytest.mark.parametrize("name", ["adam", "nadam", "adamw", "exponential_adam"])
def test_a_zero_gradient_in_float16_moves_nothing(name):
    k = [jnp.zeros(5, jnp.float16)] * 4
    for leaf in jax.tree.leaves(UPDATES[name](k, "jnp")):
        assert jnp.all(leaf == 0)


def test_squares_below_32_bits_are_taken_in_float32():
    for size in (1e-4, 1e3):  # whose squares float16 does not hold
        g = jnp.full(3, size, jnp.float16)
        update, *_ = kernels.adam_step(H, g, 0 * g, 0 * g, NUMBERS)
        assert jnp.allclose(update, -H, rtol=1e-2)


def test_a_decay_of_zero_does_not_see_the_parameters():
    g, m, v, x = arrays((7,), jnp.float32)
    masked = kernels.adam_step(H, [g], [m], [v * v], NUMBERS, params=[x * jnp.inf], decay=[0.0])
    chex.assert_trees_all_equal(masked, kernels.adam_step(H, [g], [m], [v * v], NUMBERS))


STEPS = {
    "heavy_ball": optax.sgd(0.1, 0.9),
    "nesterov": optax.sgd(0.1, 0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "nadam": optax.nadam(0.1),
    "adamw": optax.adamw(0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.complex64])
def test_the_reference_is_optax_to_the_bit(name, dtype):
    g, x = arrays((1000,), dtype, 2)
    first, adam = jnp.int32(1), not name.endswith(("ball", "rov"))
    weights = [1 - b ** (first + i) for b, i in ((0.9, 0), (0.999, 0), (0.9, 1))]
    state = STEPS[name].init(x)
    expected, _ = jax.jit(STEPS[name].update)(g, state, x)
    numbers = kernels.AdamNumbers(0.9, 0.999, *weights[:2], 1e-8, 0.0)
    if name == "nadam":
        numbers = numbers._replace(ahead=(0.9, weights[2]))
    zero = jnp.zeros_like(g)
    if adam:
        decay = {"params": x, "decay": 0.1} if name == "adamw" else {}
        update, *_ = kernels.adam_step(H, g, zero, zero, numbers, **decay)
    else:
        update, _ = kernels.momentum_step(H, g, zero, 0.9, nesterov=name == "nesterov")
    chex.assert_trees_all_equal(update, expected)


def test_weights_that_are_zero_cost_nothing():
    k = arrays((3,), jnp.float32)
    text = str(jax.make_jaxpr(lambda *k: kernels.combination([0.0, 1.0, 0, 0.5], k))(*k))
    assert (text.count(" mul "), text.count(" add ")) == (2, 1)
    assert jnp.all(kernels.combination([0.0, 0.0], k[:2]) == 0)


def test_leaves_of_one_shape_lower_once():
    tree = {str(i): jnp.ones((33, 130)) for i in range(5)}
    update = lambda g: UPDATES["heavy_ball"]([g, g], "pallas")
    lowered(update, jnp.ones(3), platform="cuda")  # imports Pallas, after which JAX traces anew
    text = lowered(update, tree, platform="cuda")
    assert text.count("custom_call @mosaic_gpu") == 1


def test_pallas_is_refused_on_a_cpu():
    k = arrays(LEAF, jnp.float32)
    with pytest.raises(ValueError, match="CPU backend"):
        UPDATES["heavy_ball"](k, "pallas")


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="'auto', 'jnp', 'pallas'"):
        choice.check_kernel("triton")
    with pytest.raises(ValueError, match="kernel is 'triton'"):
        kernels.using("triton", optax.sgd(0.1))
    for rounding in ("nearest", "stochastic"):
        with pytest.raises(ValueError, match="kernel is 'triton'"):
            odeopt.apply_updates(jnp.ones(2), jnp.ones(2), rounding, step=0, kernel="triton")


def test_the_choice_is_that_of_an_optimizer_not_of_a_chain():
    with pytest.raises(
        TypeError, match=r"optax\.chain\(\.\.\., odeopt\.kernels\.using\('jnp', opt\)"
    ):
        kernels.using("jnp", optax.chain(optax.sgd(0.1)))


def test_the_choice_is_kept_in_the_design():
    design = Design("auto")
    opt = Optimizer(Call(design), Call(design))
    chosen = kernels.using("pallas", opt)
    assert type(chosen) is Optimizer
    assert (chosen.init.design, chosen.update.design) == (Design("pallas"),) * 2
    assert opt.design == design


def test_the_choice_ends_with_the_call():
    with choice.chosen("pallas"):
        assert choice.current() == "pallas"
    assert choice.current() == "auto"
    with pytest.raises(KeyError), choice.chosen("pallas"):
        raise KeyError
    assert choice.current() == "auto"


def test_no_program_is_kept_from_another_choice():
    """The formulas read the choice outside of every jit of their own."""
    k = arrays(LEAF, jnp.float32)
    texts = [lowered(lambda k, f=f: UPDATES["heavy_ball"](k, f), k, platform="cuda") for f in MANY]
    assert ["custom_call" in text for text in texts] == [False, True, False, True]


def test_auto_runs_what_was_measured_and_nothing_was():
    assert kernels.MEASURED == {}
    k = arrays(LEAF, jnp.float32)
    auto, plain = (
        jax.jit(lambda k, f=f: UPDATES["adam"](k, f)).lower(k).as_text() for f in ("auto", "jnp")
    )
    assert auto == plain


def test_auto_takes_the_kernel_where_the_table_says_so(monkeypatch):
    monkeypatch.setitem(kernels.MEASURED, "cuda", frozenset({"momentum"}))
    k = arrays(LEAF, jnp.float32)
    step = jax.jit(lambda k: kernels.momentum_step(H, k[0], k[1], 0.9))
    texts = {p: lowered(step, k, platform=p) for p in ("cuda", "rocm")}
    assert [p for p, text in texts.items() if "mosaic_gpu" in text] == ["cuda"]
    expected = UPDATES["heavy_ball"](k, "jnp")
    chex.assert_trees_all_close(step(k), expected, rtol=1e-6, atol=1e-6)


def test_auto_stays_plain_on_a_cpu_where_every_platform_has_the_kernel(monkeypatch):
    for platform in choice.PLATFORMS:
        monkeypatch.setitem(kernels.MEASURED, platform, frozenset({"momentum"}))
    k = arrays(LEAF, jnp.float32)
    got = jax.jit(lambda k: kernels.momentum_step(H, k[0], k[1], 0.9))(k)
    expected = UPDATES["heavy_ball"](k, "jnp")
    chex.assert_trees_all_close(got, expected, rtol=1e-6, atol=1e-6)


WITH_DEPRECATIONS = """
import warnings

warnings.simplefilter("error", DeprecationWarning)
from tests.kernels.cases import LEAF, TILES, UPDATES, arrays, jnp, lowered

for name, update in UPDATES.items():
    for platform in ("cuda", "tpu"):
        k = [arrays(shape, jnp.bfloat16) for shape in (LEAF, TILES)]
        lowered(lambda k: [update(x, "pallas") for x in k], k, platform=platform)
"""


@pytest.mark.slow
def test_nothing_deprecated_is_called():
    subprocess.run([sys.executable, "-c", WITH_DEPRECATIONS], check=True, timeout=300)
