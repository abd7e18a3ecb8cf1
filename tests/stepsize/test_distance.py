"""Clocks: a distance over the root of the number of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import odeopt
from odeopt.stepsize import anytime, horizon


def sizes(rule, steps):
    """Step sizes that the rule takes; it looks at nothing but their number."""
    opt, x = odeopt.adam(rule), jnp.ones(2)

    def step(state, _):
        state = opt.update(x, state, x)[1]
        return state, state.step_size

    return np.asarray(jax.jit(lambda: jax.lax.scan(step, opt.init(x), length=steps)[1])())


def test_it_rises_then_falls_and_goes_on_at_the_last_size():
    found, n = sizes(horizon(200, 3.0, warm_up=0.1), 300), np.arange(300)
    full = 3.0 / np.sqrt(200)
    np.testing.assert_allclose(found[:20], full * (n[:20] + 1) / 20, rtol=1e-5)
    np.testing.assert_allclose(found[20:200], full * (200 - n[20:200]) / 180, rtol=1e-5)
    np.testing.assert_allclose(found[200:], found[199], rtol=1e-6)


def test_twice_the_horizon_covers_the_same_distance_by_a_random_walk():
    walked = [np.sqrt(np.sum(sizes(horizon(n), n) ** 2)) for n in (1000, 2000)]
    np.testing.assert_allclose(*walked, rtol=1e-3)


def test_a_run_of_any_length_ends_at_a_quarter_of_the_size_of_its_horizon():
    steps, throughout = 3000, anytime(2.0, transition=np.inf)
    assert sizes(throughout, steps)[-1] == pytest.approx(2.0 / 4 / np.sqrt(steps), rel=0.02)
    np.testing.assert_allclose(sizes(anytime(warm_up=99), 99)[-1], 12 / 4 / np.sqrt(198), rtol=1e-6)


def test_after_the_transition_the_size_falls_with_the_number_of_steps():
    found, throughout = (sizes(anytime(transition=t), 2000) for t in (500, np.inf))
    m = np.arange(2000) + 51
    np.testing.assert_allclose(found, throughout * np.minimum(1, np.sqrt(500 / m)), rtol=1e-5)
    np.testing.assert_allclose(found[449:] * m[449:], found[449] * m[449], rtol=1e-5)


def test_a_horizon_of_one_step_is_a_step():
    assert 0 < sizes(horizon(1), 1)[0] <= 12


@pytest.mark.parametrize("rule", [lambda: horizon(400, 90.0, longest=0.2), lambda: anytime(90.0)])
def test_no_step_is_longer_than_the_longest(rule):
    assert sizes(rule(), 200).max() == pytest.approx(rule().longest, rel=1e-6)


def test_a_short_run_has_longer_steps():
    """192 steps of that size and a shorter run with longer ones cover the same time, from 64 on."""
    for steps, longest in [(192, 0.5), (96, 1.0), (64, 1.5), (48, 1.5), (3, 1.5)]:
        assert sizes(horizon(steps, 90.0), steps).max() == pytest.approx(longest, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: horizon(0), "steps is 0"),
        (lambda: horizon(-5), "the number of steps that the run will take"),
        (lambda: horizon(10, 0.0), "distance"),
        (lambda: horizon(10, warm_up=1.0), "warm_up"),
        (lambda: anytime(-1.0), "distance"),
        (lambda: anytime(warm_up=0), "warm_up"),
        (lambda: anytime(transition=0), "transition"),
    ],
)
def test_bad_numbers_are_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()
