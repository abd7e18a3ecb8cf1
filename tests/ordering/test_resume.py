"""A process killed in the middle of a window goes on from its checkpoint, bit for bit."""

import pathlib
import subprocess
import sys

import chex
import orbax.checkpoint as ocp

from . import resumable


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
