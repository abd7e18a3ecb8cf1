"""One self-contained HTML page about a study, and an index of such pages. Uses jinja2."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
import jinja2
import pandas as pd

from .load import word_of
from .settings import idle, versions
from .store import SETTINGS, StoreError, write_text
from .study import Results
from .terminal import cell

REPORT, VERDICT, INDEX = "report.html", "verdict.json", "index.html"
_MARK = "<!-- an index of odeopt's reports -->"


def write(results: Results, out: Path) -> Path:
    """Write `report.html`, with everything inside it, and its figures as files; return its path."""
    study, figures = results.study, []
    for figure in study.figures if results.records else ():
        if plot := figure.draw(results):
            panels = list(plot.svgs(figure.name).values())
            for number, svg in enumerate(panels):
                write_text(out / "figures" / f"{figure.name}-{number}.svg", svg)
            found = {"finding": figure.finding(results), "legend": plot.legend(figure.name)}
            figures.append({"about": figure, "panels": panels, "wide": plot.width > 5, **found})
    with jax.enable_x64(True):  # as its tasks have it
        method = study.method(results)
    claims = results.judged
    page = _render(
        "page.html.jinja",
        study=study,
        results=results,
        figures=figures,
        claims=rows(claims.loc[:, (claims != "").any()], {}),
        tables=[
            (table, rows(results.table(table.name), table.columns))
            for table in study.tables
            if len(results.table(table.name)) and table.columns
        ],
        method=method,
        settings={
            name: value if isinstance(value, float) else cell(value)
            for name, value in study.about(results.settings)["settings"].items()
        },
        versions=versions(),
        command=command(results),
        records=[file.name for file in sorted(out.glob("runs*.jsonl")) if file.stat().st_size],
    )
    write_text(out / REPORT, page)
    about = {"study": study.name, "question": study.question, "verdict": results.verdict}
    write_text(out / VERDICT, json.dumps(about) + "\n")
    return out / REPORT


def rows(data: pd.DataFrame, columns: Any) -> dict[str, Any]:
    """Headings with their meanings, and cells as (text, what it is sorted by)."""
    names = [name for name in columns if name in data] if columns else list(data)
    return {
        "headings": [columns[name] if columns else (name, "") for name in names],
        "rows": [
            [(text := cell(row[name]), "" if text == "–" else str(row[name])) for name in names]
            for row in data.to_dict(orient="records")
        ],
    }


def command(results: Results) -> str:
    """The command line that makes the same study."""
    words = ["odeopt", results.study.name]
    for field in dataclasses.fields(results.settings):
        name, value = field.name, getattr(results.settings, field.name)
        if value != field.default and name not in idle(results.settings):
            option = f"--{name.replace('_', '-')}"
            texts = [word_of(item) for item in (value if isinstance(value, tuple) else (value,))]
            if name == results.study.selection:
                words += texts
            elif value is True:
                words.append(option)
            else:
                words += [option, ",".join(texts)]
    return shlex.join(words)


def write_index(folder: Path) -> Path:
    """Write `index.html` with the verdict of every report in the folders of `folder`.

    A report that cannot be read is listed with the reason. Raises a `ValueError` if there is none,
    or an `index.html` that is not of this kind.
    """
    found = []
    for file in sorted(folder.glob(f"*/{VERDICT}")):
        name = file.parent.name
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            made = json.loads((file.parent / SETTINGS).read_text(encoding="utf-8"))["versions"]
            report = {key: str(about[key]) for key in ("question", "verdict")}
            report["made"] = f"odeopt {made['odeopt']}, jax {made['jax']}"
        except (OSError, ValueError, KeyError, TypeError) as error:
            verdict = f"Cannot be read: {error!r}. Make this report again."
            report = {"question": name, "verdict": verdict, "made": "unknown versions"}
        found.append({**report, "path": f"{quote(name)}/{REPORT}"})
    if not found:
        raise StoreError(
            f"no report in the folders of {folder}: make one with --out {folder}/NAME."
        )
    index = folder / INDEX
    old = index.read_text(encoding="utf-8", errors="replace") if index.is_file() else ""
    if index.exists() and _MARK not in old:
        raise StoreError(f"{index} is not an index of reports; move it away first.")
    write_text(index, _MARK + _render("index.html.jinja", reports=found))
    return index


def _render(template: str, **values: Any) -> str:
    """A page from a template of this folder; everything in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("odeopt.studies.engine", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
