import pytest
from typer.testing import CliRunner

from odeopt.cli import app
from odeopt.studies.folder import default_path

SMALL = ["--problems", "quadratic-kappa1e6", "--solvers", "sgd,heun", "--seeds", "1"]
SMALL += ["--gradients", "20"]


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Wide enough that no table or message is folded.
    return lambda *words: CliRunner(env={"COLUMNS": "200"}).invoke(app, ["stability", *words])


def test_a_study_ends_with_a_table_files_and_the_report(call, tmp_path):
    result = call(*SMALL, "--solvers", "rk4")
    assert result.exit_code == 0, result.output
    for word in ("estimated", "sgd", "heun", "rk4", "report.html", "h/grad", "diverged"):
        assert word in result.output
    names = {path.name for path in (tmp_path / "stability-report").iterdir()}
    assert {"runs.jsonl", "settings.json", "summary.csv", "timings.csv", "report.html"} <= names
    assert any(name.endswith(".png") for name in names)


def test_running_again_takes_the_next_folder_and_resume_the_last(call, tmp_path):
    assert default_path(resume=False).name == "stability-report"
    (tmp_path / "stability-report").mkdir()
    (tmp_path / "stability-report-2").mkdir()
    assert default_path(resume=False).name == "stability-report-3"
    assert default_path(resume=True).name == "stability-report-2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--solvers", "hune"], "unknown solver 'hune': did you mean heun?"),
        (["--problems", "digits-mes"], "did you mean digits-mse"),
        (["--rates", "0.1,-1"], "--rates must be positive numbers, not -1."),
        (["--rates", "fast"], "--rates: fast is not a list of numbers."),
        (["--seeds", "0"], "--seeds must be at least 1, not 0."),
        (["--gradients", "1"], "--gradients must be at least 2"),
        (["--batch-size", "0"], "--batch-size must be at least 1, not 0."),
        (["--max-minutes", "-1"], "--max-minutes must be positive, not -1."),
        (["--out", "file/out"], "cannot write to file/out"),
        (["--share", "1/2"], "--share needs --out"),
        (["--share", "half", "--out", "new"], "--share: half is not of the form 1/4."),
        (["--share", "3/2", "--out", "new"], "--share is 3/2; it must be one of 1/n to n/n."),
        (["--devices", "0"], "--devices must be at least 1, not 0."),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(call, tmp_path, words, message):
    (tmp_path / "file").write_text("")
    result = call(*SMALL, *words) if words[0] != "--solvers" else call(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_help_names_every_option(call):
    result = call("--help")
    assert result.exit_code == 0
    options = "solvers problems rates seeds gradients batch-size out quick full max-minutes resume"
    options += " devices share"
    for option in options.split():
        assert f"--{option}" in result.output
