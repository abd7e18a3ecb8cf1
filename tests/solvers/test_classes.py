"""Every named method under `diffrax.diffeqsolve`."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .cases import CLASSES, FIELDS, PAIRS, follow, gradient_field, make, start

by_method = pytest.mark.parametrize("name", CLASSES)
# tableaus that diffrax lacks
OWN = [name for name, solver in CLASSES.items() if not hasattr(diffrax, solver.__name__)]
term = diffrax.ODETerm(lambda t, x, args: gradient_field(x))


@pytest.mark.parametrize("field", FIELDS)
@by_method
def test_constant_steps_equal_the_optimizer_s_updates(name, field, x64):
    h, n = 0.05, 20
    along = diffrax.ODETerm(lambda t, x, args: FIELDS[field](x))
    saved = diffrax.diffeqsolve(
        along,
        CLASSES[name](),
        0.0,
        n * h,
        h,
        start(),
        saveat=diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.ConstantStepSize(),
    )
    assert saved.stats["num_steps"] == n
    end, state = jax.jit(lambda x: follow(make(name, h), FIELDS[field], x, n))(start())
    # diffrax's times, and so its step sizes, are sums: 20 roundings of float64, times slopes of 10
    np.testing.assert_allclose(end, saved.ys[0], rtol=1e-12, atol=1e-12)
    assert state.time == pytest.approx(n * h)


@functools.cache
def adaptive(solver, tolerance=1e-4):
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    return diffrax.diffeqsolve(term, solver, 0.0, 1.0, 0.1, start(), stepsize_controller=controller)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_step_adaptively(name, x64):
    exact = adaptive(diffrax.Dopri8(), 1e-13).ys[0]
    saved = adaptive(CLASSES[name]())
    # the tolerance bounds a step's error; ten times it for their sum over a short, damped path
    np.testing.assert_allclose(saved.ys[0], exact, rtol=0, atol=1e-3)
    finer = adaptive(CLASSES[name](), 1e-6)
    np.testing.assert_allclose(finer.ys[0], exact, rtol=0, atol=1e-5)
    assert finer.stats["num_steps"] > saved.stats["num_steps"]


@pytest.mark.parametrize("name", [n for n in CLASSES if n not in PAIRS])
def test_without_an_estimate_adaptive_steps_are_refused(name):
    with pytest.raises(RuntimeError, match="error estimate"):
        adaptive(CLASSES[name]())


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)  # the others have diffrax's own interpolant
def test_dense_output_meets_the_steps(name, x64):
    saved = diffrax.diffeqsolve(
        term,
        CLASSES[name](),
        0.0,
        1.0,
        0.25,
        start(),
        saveat=diffrax.SaveAt(dense=True, steps=True),
    )
    for t, x in zip(saved.ts[:4], saved.ys[:4], strict=True):
        np.testing.assert_allclose(saved.evaluate(t), x, rtol=1e-12, atol=1e-12)
    # between them linear interpolation is the least that an interpolant can be: h^2 max|x''| / 8
    exact = diffrax.diffeqsolve(term, diffrax.Dopri8(), 0.0, 0.125, 0.01, start()).ys[0]
    assert jnp.max(abs(saved.evaluate(0.125) - exact)) < 0.1


@pytest.mark.parametrize("name", [n for n in CLASSES if n not in OWN])
def test_diffrax_s_own_classes_are_subclassed(name):
    cls = CLASSES[name]
    assert issubclass(cls, getattr(diffrax, cls.__name__))
