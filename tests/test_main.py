import signal
import subprocess
import sys

import pytest

import odeopt.__main__
import odeopt.cli
from odeopt import interrupt


def test_without_the_studies_extra_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cyclopts", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "odeopt.cli", raising=False)
    with pytest.raises(SystemExit, match=r"'cyclopts'.*pip install 'odeopt-jax\[studies\]'"):
        odeopt.__main__.main()


def test_a_broken_module_of_our_own_is_not_blamed_on_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "odeopt.cli", None)
    with pytest.raises(ModuleNotFoundError, match=r"odeopt\.cli"):
        odeopt.__main__.main()


def test_the_command_says_its_version(capsys):
    odeopt.cli.engine.main(odeopt.cli.app, ["--version"])
    assert capsys.readouterr().out.strip() == odeopt.__version__


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_every_command(shell):
    script = odeopt.cli.app.generate_completion(shell=shell)
    for command in ["--install-completion", *(study.STUDY.name for study in odeopt.cli.STUDIES)]:
        assert command.removeprefix("--") in script


def test_the_command_installs_its_completion(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    odeopt.cli.engine.main(odeopt.cli.app, ["--install-completion", "--shell", "fish"])
    assert "odeopt" in next(tmp_path.rglob("odeopt.fish")).read_text()


def test_only_the_command_ends_by_itself_while_it_is_imported():
    python = "/usr/bin/python"
    for words, original in (
        (["/env/bin/odeopt", "stiff"], [python, "/env/bin/odeopt", "stiff"]),
        (["-m", "stiff"], [python, "-X", "importtime", "-m", "odeopt", "stiff"]),
        (["odeopt.exe"], ["odeopt.exe"]),
    ):
        assert interrupt.is_command(words, original)
    for words, original in (
        (["train.py", "odeopt"], [python, "train.py", "odeopt"]),
        (["-m", "odeopt"], [python, "-m", "pytest", "odeopt"]),
        (["-c"], [python, "-c", "import odeopt"]),
        ([""], [python]),
        ([], []),
    ):
        assert not interrupt.is_command(words, original)
    assert signal.getsignal(signal.SIGINT) is not interrupt.end


# A shell's background job ignores the signal, and so would its children.
HEARD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.parametrize("module", ["numpy", "jax._src.api", "optax", "diffrax", "odeopt.studies"])
def test_an_interrupt_during_the_imports_is_one_line(module):
    words = ["-X", "importtime", "-m", "odeopt", "stability", "--seeds", "0"]
    command = [sys.executable, "-c", HEARD, *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        line = ""
        while not line.rsplit("|", maxsplit=1)[-1].strip().startswith(module):
            line = process.stderr.readline()
            assert line, "the module is not imported any more"
        process.send_signal(signal.SIGINT)
        told = [line for line in process.stderr if not line.startswith("import time:")]
    assert (told, process.returncode) == (["Interrupted.\n"], 130)
