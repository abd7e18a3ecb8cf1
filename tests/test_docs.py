"""Documents are tested: their Python blocks run, their tables say what the library says."""

import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest

import odeopt

from .solvers.cases import CLASSES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HEADER = (
    "| optimizer | order | gradients a step | R, limit of h·λ a step | R per gradient |\n"
    "| --- | --- | --- | --- | --- |\n"
)


def python_blocks(page: Path) -> list[tuple[int, str]]:
    """Line number and text of each fenced block marked `python`."""
    text = page.read_text()
    fences = re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match.group(1)) for match in fences]


def table() -> str:
    rows = []
    for name, solver_class in CLASSES.items():
        solver = solver_class()
        limit, cost = solver.stability_limit, solver.gradients_per_step
        rows.append(
            f"| `{name}` | {solver.order(None)} | {cost} | {limit:.3f} | {limit / cost:.3f} |\n"
        )
    return HEADER + "".join(rows)


@pytest.mark.whole
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "example"}  # the blocks of a page build on each other
    for line, block in python_blocks(page):
        # Padded, so that a traceback shows the line of the page.
        exec(compile("\n" * line + block, page, "exec"), namespace)


def test_table_of_explicit_solvers():
    page = ROOT / "docs" / "choosing.md"
    assert table() in page.read_text(), f"write into docs/choosing.md:\n\n{table()}"


@pytest.mark.cheap
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [page.parent / target for target in targets if "://" not in target]
    gallery = ROOT / "docs" / "gallery"
    made = {script.with_suffix(kind) for script in gallery.glob("*.py") for kind in (".md", ".svg")}
    assert [target for target in local if not target.exists() and target not in made] == []


def test_every_page_of_theory_has_a_figure():
    theory = (ROOT / "mkdocs.yml").read_text().partition("- Theory:")[2].partition("- Studies:")[0]
    pages = re.findall(r": (\S+\.md)", theory)
    assert len(pages) > 5
    assert [page for page in pages if "![" not in (ROOT / "docs" / page).read_text()] == []


@pytest.mark.cheap
@pytest.mark.parametrize(
    "package",
    ["", ".diagnostics", ".drift", ".flows", ".kernels", ".ordering", ".solvers", ".stepsize"],
)
def test_every_public_name_has_its_api_page(package):
    pages = "\n".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))  # modules and single names
    missing = []
    owner = importlib.import_module(f"odeopt{package}")
    for name in dir(owner):
        value = getattr(owner, name)
        module = getattr(value, "__module__", "")
        public = not name.startswith("_") and module.startswith("odeopt")
        if public and not {module, f"{module}.{name}"} & documented:
            missing.append(f"::: {module}.{name}")
    assert missing == [], "add these lines to a page in docs/api"


def test_names_of_other_libraries_that_pages_link_to_exist():
    pages = json.loads((ROOT / "docs" / "elsewhere.json").read_text())
    names = " ".join(pages.values()).split()
    assert len(names) == len(set(names))
    for name in names:
        pkgutil.resolve_name(name)  # raises if there is none


def test_the_citation_is_of_this_version():
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    assert f"version: {odeopt.__version__}" in lines


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_readme_has_the_two_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    commands = [line for line in lines if line.startswith("python3 -m venv ")]
    assert len(commands) == 2
    assert commands[0].endswith("odeopt stability")
    assert " && .venv-test/bin/pytest" in commands[1]
