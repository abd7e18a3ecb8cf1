import sys

import pytest

import odeopt.__main__
import odeopt.cli


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
