"""What is said in two places is the same: the conda recipe, the paper, the package."""

import re
import tomllib
from pathlib import Path

import jinja2
import yaml  # flax brings it

import odeopt

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_conda_recipe_takes_version_and_dependencies_from_the_sources():
    file = ROOT / "conda" / "recipe" / "meta.yaml"

    def beside(name):
        return (file.parent / name).read_text()

    # Stand-ins for the two functions of conda-build.
    recipe = jinja2.Template(file.read_text(), undefined=jinja2.StrictUndefined).render(
        PYTHON="python",
        load_file_data=lambda name, from_recipe_dir: tomllib.loads(beside(name)),
        load_file_regex=lambda load_file, regex_pattern, from_recipe_dir: re.search(
            regex_pattern, beside(load_file)
        ),
    )
    found = yaml.safe_load(recipe)
    assert found["package"] == {"name": PROJECT["name"], "version": odeopt.__version__}
    run = [f"python {PROJECT['requires-python']}", *PROJECT["dependencies"]]
    assert found["requirements"]["run"] == run
    assert (file.parent / found["source"]["path"] / "pyproject.toml").is_file()
    assert set(found["test"]["requires"]) < set(PROJECT["optional-dependencies"]["studies"])


def test_the_paper_is_short_and_cites_what_it_lists():
    _, head, text = (ROOT / "paper" / "paper.md").read_text().split("---\n", 2)
    assert len(text.split()) <= 900
    cited = set(re.findall(r"@(\w+)", text))
    listed = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "paper" / "paper.bib").read_text(), re.M))
    assert cited == listed
    assert "name: The odeopt authors" in head
