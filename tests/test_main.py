import sys

import pytest

import odeopt.__main__


def test_without_the_studies_extra_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cyclopts", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "odeopt.cli", raising=False)
    with pytest.raises(SystemExit, match=r"'cyclopts'.*pip install 'odeopt-jax\[studies\]'"):
        odeopt.__main__.main()


def test_a_broken_module_of_our_own_is_not_blamed_on_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "odeopt.cli", None)
    with pytest.raises(ModuleNotFoundError, match=r"odeopt\.cli"):
        odeopt.__main__.main()
