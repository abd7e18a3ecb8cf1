"""Laws of the report: self-contained, escaped, and true to the data."""

import base64
import copy
import html
import re
from html.parser import HTMLParser

import pytest

from odeopt import solvers
from odeopt.studies import measures, plots, report


class _Page(HTMLParser):
    """Collects what a page would load, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        names = ("src", "href", "srcset", "action", "data", "poster")
        self.links += [value for name, value in attributes if name in names]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    figures = plots.draw(result, out)
    return report.write(result, out, figures).read_text(encoding="utf-8"), figures


def _write(result, out):
    return report.write(result, out, {}).read_text(encoding="utf-8")


def test_every_figure_has_a_caption():
    assert set(report.CAPTIONS) == set(plots.DRAWINGS)


def test_page_needs_nothing_outside_itself(written):
    page = _Page(written[0])
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"https?:|url\(|@import", written[0])


def test_page_embeds_every_figure(written):
    text, figures = written
    embedded = [base64.b64decode(link.split(",", 1)[1]) for link in _Page(text).links]
    assert embedded == [file.read_bytes() for file in figures.values()]
    for caption in report.CAPTIONS.values():
        assert caption in html.unescape(text)


def test_hostile_text_is_escaped(result, from_records, tmp_path):
    hostile = "<script>alert('1')</script>"
    records = copy.deepcopy(result.records)
    for record in records:
        if record["problem"] == "one":
            record["problem"] = hostile
        if record["kind"] == "run":
            record |= {"data_checksum": hostile, "versions": {hostile: hostile}}
    text = _write(from_records(records), tmp_path)
    assert "script" not in _Page(text).tags
    assert hostile in "".join(_Page(text).words)


def test_answer_says_what_the_data_say(result):
    runs = measures.table_of(result.records)
    sentences = report.answer(result.records, runs)
    # Rates are half octaves of R/sharpness, so a ratio is known to R over sgd's, times or divided
    # by the root of 2.
    assert "heun 0.71 to 1.41, bosh3 0.89 to 1.78, rk4 0.98 to 1.97" in sentences[0]
    assert "of 0 of 3 solvers is above sgd's, that of 0 is not, and for 3 the grid" in sentences[0]
    assert "heun 0.35 to 0.71, bosh3 0.30 to 0.59, rk4 0.25 to 0.49" in sentences[1]
    assert "of 0 of 3 solvers is above sgd's, that of 3 is not, and for 0 the grid" in sentences[1]
    assert "heun 1.00 (0.50), bosh3 1.26 (0.42), rk4 1.39 (0.35)" in sentences[2]
    assert "sgd on 3 of 3 problems" in sentences[3]
    lost = (runs.status == "diverged").sum()
    assert sentences[-1] == f"{lost} of the {len(runs)} runs made diverged."


def test_answer_turns_with_the_data(make_result):
    records = make_result().records
    for record in records:
        if record["kind"] == "run" and record["optimizer"] in ("rk4", "sgd"):
            record["optimizer"] = {"rk4": "sgd", "sgd": "rk4"}[record["optimizer"]]
    sentences = report.answer(records, measures.table_of(records))
    assert "rk4 0.51 to 1.02, heun 0.51 to 1.02, bosh3 0.64 to 1.28" in sentences[0]
    assert "rk4 on 3 of 3 problems" in " ".join(sentences)


def test_where_no_rate_diverged_the_bracket_is_open(result):
    gentle = [
        r
        for r in result.records
        if r["kind"] == "run" and (r["optimizer"] != "rk4" or r["relative_rate"] < 1)
    ]
    runs = measures.table_of(gentle)
    row = measures.compare(runs, "sgd").loc["rk4"]
    assert row.step_high == float("inf")
    assert "rk4 0.98 or more" in report.answer(gentle, runs)[0]


def test_a_bracket_holds_the_ratio_of_the_limits(result):
    table = measures.compare(measures.table_of(result.records), "sgd")
    for name, solver in (("heun", solvers.Heun()), ("rk4", solvers.RK4())):
        row = table.loc[name]
        assert row.step_low < solver.stability_limit / 2 < row.step_high
        assert row.gradient_smaller == row.problems == 3


def test_missing_runs_are_announced(result, from_records, tmp_path):
    records = copy.deepcopy(result.records)
    late = [r for r in records if r["kind"] == "run"][-7:]
    for record in late:
        nothing = dict.fromkeys(["initial_loss", "final_loss"])
        record |= {
            "status": "time-out",
            "loss": [],
            "loss_gradients": [],
            "gradients": 0,
            **nothing,
        }
    text = _write(from_records(records), tmp_path)
    assert "7 of 624 runs were not made" in text
    assert "were not made" not in _write(result, tmp_path)


@pytest.mark.parametrize(
    "keep",
    [
        pytest.param(lambda r: False, id="nothing"),
        pytest.param(lambda r: r["kind"] != "run", id="no runs"),
        pytest.param(lambda r: r.get("optimizer") == "rk4", id="no baseline"),
        pytest.param(lambda r: r["kind"] == "run" and r["status"] == "diverged", id="all lost"),
    ],
)
def test_small_sweeps_make_a_page(keep, result, from_records, tmp_path):
    text = _write(from_records([r for r in result.records if keep(r)]), tmp_path)
    assert "nan" not in "".join(_Page(text).words).lower().split()


def test_command_reproduces_the_settings():
    settings = {"solvers": ("sgd", "rk4"), "rates": (0.1, 0.2), "seeds": 3, "batch_size": None}
    assert (
        report.command(settings) == "odeopt stability --solvers sgd,rk4 --rates 0.1,0.2 --seeds 3"
    )
