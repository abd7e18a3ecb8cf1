"""A run goes on from what it has stored, bit for bit: also one killed in the middle of a window."""

import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest

import odeopt
from odeopt import ordering

from ..persistence import restored
from . import resumable


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    script = pathlib.Path(resumable.__file__)
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=script.parents[2],
        env={"PYTHONPATH": str(script.parents[2]), "JAX_PLATFORMS": "cpu"},
    ) as process:
        assert process.stdout.readline() == "beyond\n"
        process.kill()  # SIGKILL
    assert process.returncode == -9

    with ocp.StandardCheckpointer() as checkpointer:
        params, state = checkpointer.restore(tmp_path / "checkpoint", resumable.begin())
    assert int(state.steps) == resumable.SAVED
    whole = resumable.begin()
    for n, batch in enumerate(resumable.DATA):
        if n == resumable.SAVED:
            chex.assert_trees_all_equal(whole, (params, state))
        if n >= resumable.SAVED:
            params, state = resumable.step(params, state, batch)
        whole = resumable.step(*whole, batch)
    chex.assert_trees_all_equal(whole, (params, state))


@pytest.mark.parametrize(
    "opt",
    [
        ordering.backward(odeopt.adam(0.1), 3, example={"shift": 0.0}),
        ordering.backward(odeopt.conformal_leapfrog(0.1, 0.9), 1),
        ordering.backward(
            odeopt.bosh3(odeopt.stepsize.embedded_error(1e-3, 1e-3)),
            steps=5,
            example={"shift": 0.0},
        ),
    ],
    ids=["window", "forward", "whole"],
)
def test_a_state_comes_back_from_pickle_flax_and_orbax(opt, tmp_path):
    loss = lambda params, shift: jnp.sum(jnp.cosh(params["w"] - shift))
    update = jax.jit(lambda s, x, shift: opt.update(None, s, x, value_fn=loss, shift=shift))
    params = {"w": jnp.linspace(-1.0, 1.0, 5)}
    state = opt.init(params)
    for shift in (0.5, 1.0):
        _, state = update(state, params, shift)
    expected = update(state, params, 0.25)
    for found in restored(state, opt.init(params), tmp_path):
        chex.assert_trees_all_equal(found, state)
        chex.assert_trees_all_equal(update(found, params, 0.25), expected)
