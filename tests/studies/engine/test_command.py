"""The command line: what a shell sees of a study."""

import subprocess
import sys
from types import SimpleNamespace

import cyclopts
import pytest

from odeopt import cli
from odeopt.studies.engine import command
from odeopt.studies.engine.store import default_path

from .toy import STUDY

TOY = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import cyclopts
from tests.studies.engine.toy import STUDY
from odeopt.studies.engine import command
app = cyclopts.App(name="odeopt", result_action="return_value", help_format="plaintext")
app.command(command.command(STUDY), name="toy")
command.main(app, sys.argv[1:])
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    app = cyclopts.App(name="odeopt", result_action="return_value", help_format="plaintext")
    app.command(command.command(STUDY), name="toy")

    def run(*words):
        code = 0
        try:
            command.main(app, ["toy", *words])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_a_study_ends_with_its_verdict_first_tables_and_files(call, tmp_path):
    code, out, err = call("--names", "a,b", "--count", "2")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "The largest root is 9.95 [/red] <i>."
    assert all(len(line) <= 80 for line in lines if "report:" not in line)
    assert "9.95" in out
    assert lines[-1].endswith("report: toy-report/report.html")
    names = {path.name for path in (tmp_path / "toy-report").iterdir()}
    assert {"runs.jsonl", "settings.json", "roots.csv", "claims.csv", "report.html"} <= names


def test_running_again_takes_the_next_folder_and_resume_the_last(call, tmp_path):
    for name in ("toy-report", "toy-report-2"):
        assert default_path(False, "toy-report").name == name
        assert call("--count", "1")[0] == 0
    code, out, _ = call("--count", "1", "--resume")
    assert (code, out.split()[-1]) == (0, "toy-report-2/report.html")


@pytest.mark.cheap
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "0"], "--count must be at least 1, not 0."),
        (["--count", "many"], '"many"'),
        (["--count", "0.6"], "--count is 0.6: write a whole number, such as 4."),
        (["--count", "99.6"], "--count is 99.6: write a whole number"),
        (["--count", "inf"], "--count is inf: write a whole number"),
        (["--devices", "1.5"], "--devices is 1.5: write a whole number, such as 1."),
        (["--cuont", "2"], "Did you mean --count?"),
        (["--share", "1/2"], "--share needs --out"),
        (["--share", "half", "--out", "new"], "--share: half is not of the form 1/4."),
        (["--share", "3/2", "--out", "new"], "--share is 3/2; it must be one of 1/n to n/n."),
        (["--max-minutes", "-1"], "--max-minutes must be positive, not -1."),
        (["--devices", "0"], "--devices must be at least 1, not 0."),
        (["--out", "file/out"], "cannot write to file/out"),
        (["--out", "[/red]", "--resume", "--count", "0"], "--count must be at least 1"),
        (["extra"], "extra stands alone: write --name extra."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(call, tmp_path, words, message):
    (tmp_path / "file").write_text("")
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.cheap
@pytest.mark.parametrize("study", cli.STUDIES, ids=lambda module: module.STUDY.name)
def test_a_problem_without_its_option_is_told_the_option(study, capsys):
    with pytest.raises(SystemExit):
        command.main(cli.app, [study.STUDY.name, "my.py:problem"])
    err = capsys.readouterr().err
    assert err == "Error: my.py:problem stands alone: write --problem my.py:problem.\n"


def test_a_whole_number_keeps_all_its_digits():
    of = lambda word: command.number(int, [SimpleNamespace(value=word)])
    large = 2**53 + 1  # which no float is
    assert [of(word) for word in (str(large), "1e4", "-3", "0.5")] == [large, 10_000, -3, 0.5]


def test_a_folder_named_like_markup_is_a_folder(call, tmp_path):
    code, out, err = call("--out", "[/red]", "--count", "1")
    assert (code, out.split()[-1]) == (0, "[/red]/report.html"), err


def test_a_study_that_has_nothing_to_go_on_with_says_so(call, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in ("TYPO", "empty"):
        code, _, err = call("--count", "1", "--resume", "--out", folder)
        assert code == 0
        assert f"{folder} has no results to go on with: the study begins anew." in err
        assert "begins anew" not in call("--count", "1", "--resume", "--out", folder)[2]
    assert "begins anew" not in call("--count", "1", "--out", "new")[2]


def test_help_names_every_option_with_its_defaults(call):
    code, out, _ = call("--help")
    assert code == 0
    for option in [
        "names",
        "count",
        "pause",
        "out",
        "full",
        "quick",
        "resume",
        "max-minutes",
        "devices",
        "share",
    ]:
        assert f"--{option}" in out
    words = " ".join(out.replace("│", " ").split())
    assert "Letters, separated by commas. [default: a, b, c]" in words
    assert "[default: 4; with --full 8]" in words


def test_a_share_makes_its_part_and_no_report(call, tmp_path):
    for share in ("1/2", "2/2"):
        assert call("--share", share, "--out", "out")[0] == 0
    assert not (tmp_path / "out" / "report.html").exists()
    assert call("--resume", "--out", "out")[0] == 0
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.slow
def test_a_closed_pipe_ends_without_a_traceback(tmp_path, request):
    with subprocess.Popen(
        [sys.executable, "-c", TOY, str(request.config.rootpath), "toy", "--count", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        text=True,
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
    assert process.returncode in (0, 1)
    assert (tmp_path / "toy-report" / "report.html").exists()
