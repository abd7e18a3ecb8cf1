"""Many processes train as one does; and where they cannot, the failure says why and ends."""

import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "data_parallel.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


@pytest.fixture
def children(monkeypatch):
    """Every process that is started."""
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return started


@pytest.fixture(scope="module")
def alone(example):
    """What one process finds, on the devices of this one."""
    return {name: example["train"](name) for name in example["OPTIMIZERS"]}


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_that_share_the_data_train_as_one_does(example, alone, tmp_path, processes):
    out = tmp_path / "found.npz"
    example["launch"](processes, out)
    found = np.load(out)
    assert len(found.files) == 4
    for name, params in alone.items():
        for key, expected in params.items():
            np.testing.assert_allclose(found[f"{name}/{key}"], expected, atol=1e-5)


def test_a_process_that_fails_ends_all_and_is_heard(example, children, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_X64", "perhaps")
    with pytest.raises(RuntimeError, match=r"a process failed(.|\n)*exit code 1(.|\n)*perhaps"):
        example["launch"](2, tmp_path / "none.npz")
    assert [child.poll() is None for child in children] == [False, False]


def test_processes_that_take_too_long_are_stopped(example, children, tmp_path):
    with pytest.raises(RuntimeError, match=r"not done after 0\.2 s\n\nprocess 0, exit code None"):
        example["launch"](2, tmp_path / "none.npz", timeout=0.2)
    assert [child.poll() for child in children] == [-9, -9]
