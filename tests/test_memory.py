"""Every optimizer needs the memory that its page says."""

import pathlib
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import odeopt
from benchmarks.memory import OPTIMIZERS, step_memory, update_memory
from odeopt.solvers.explicit import LARGE

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "memory.md").read_text()
ROWS = {
    name: (float(state), float(within))
    for name, state, within in re.findall(r"^\| `(.+)` \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.M)
}


def test_the_page_lists_every_optimizer():
    where = "it needs a line in `OPTIMIZERS` of benchmarks/memory.py, and a row in the page"
    assert list(ROWS) == list(OPTIMIZERS), where
    named = {name.partition("(")[0] for name in ROWS} | {"runge_kutta", "from_diffrax"}
    public = {
        name
        for name in dir(odeopt)
        if callable(thing := getattr(odeopt, name))
        and getattr(thing, "__module__", "").startswith("odeopt.zoo")
    }
    assert public - GAMES <= named, where


GAMES = {
    "simultaneous",
    "alternating",
    "game_runge_kutta",
    "game_implicit_midpoint",
}  # no one loss: tests/flows/test_game.py


@pytest.mark.whole
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_needs_no_more_than_the_page_says(name):
    state, within = update_memory(OPTIMIZERS[name])
    assert state == pytest.approx(ROWS[name][0], abs=0.01)
    assert within <= ROWS[name][1] + 0.05


@pytest.mark.slow
def test_momentum_and_adam_need_what_optax_needs():
    for name, theirs in (
        ("heavy_ball", optax.sgd(0.1, 0.9)),
        ("adam", optax.adam(0.1)),
        ("adamw", optax.adamw(0.1)),
        ("rmsprop", optax.rmsprop(0.1)),
        ("muon", optax.contrib.muon(0.1)),
    ):
        ours, optaxs = update_memory(OPTIMIZERS[name]), update_memory(theirs)
        assert ours[0] <= optaxs[0] + 1e-4  # counters
        assert ours[1] <= optaxs[1] + 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "whole", "update"),
    [
        ("rk4", odeopt.rk4, 2.8, 1.3),
        ("ssprk3", odeopt.ssprk3, 2.05, 1.05),
        ("low_storage4", odeopt.low_storage4, 2.05, 1.05),
    ],
)
def test_looped_over_stages_need_fewer_copies_and_large_models_take_them(name, make, whole, update):
    unrolled, looped, chosen = (step_memory(make(0.1, scan_stages=s)) for s in (False, True, None))
    assert looped < whole
    assert looped <= unrolled - 0.95
    assert chosen == looped
    assert update_memory(make(0.1, scan_stages=True))[1] < update
    small = [step_memory(make(0.1, scan_stages=s), width=256) for s in (False, None)]
    assert small[0] == small[1]


def test_a_grad_fn_is_not_looped_over_by_itself():
    params = jax.ShapeDtypeStruct((LARGE,), jnp.float32)
    seen = []

    def grad_fn(p, stage):
        seen.append(stage)
        return p

    opt = odeopt.rk4(0.1)
    state = jax.eval_shape(opt.init, params)
    jax.eval_shape(lambda g, s, p: opt.update(g, s, p, grad_fn=grad_fn), params, state, params)
    assert seen == [1, 2, 3]
