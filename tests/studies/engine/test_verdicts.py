"""What is said of a claim follows from the rows that it is made of."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from odeopt.studies.engine import Claim, compared, each, groups, span
from odeopt.studies.engine.drawing import Plot
from odeopt.studies.engine.study import Results

from .toy import STUDY, Settings

HALF = compared(
    "roots",
    "{name}, n = {n}",
    "x",
    "above {n}",
    lambda r: None if r["n"] == 2 else r["x"] > 9.9,
)


def results(*claims):
    numbers = [{"kind": "number", "name": "a", "n": n, "x": x} for n, x in enumerate((9, 10, 11))]
    end = {"kind": "end", "name": "last"}
    return Results(dataclasses.replace(STUDY, claims=claims), Settings(), [*numbers, end])


def test_every_row_is_a_comparison_and_an_open_one_stays_open():
    claim = Claim("half", "Half.", "x > 9.9", HALF)
    (verdict,) = results(claim).claims
    assert [check.holds for check in verdict.checks] == [False, True, None]
    assert [check.where for check in verdict.checks] == ["a, n = 0", "a, n = 1", "a, n = 2"]
    assert (verdict.checks[1].value, verdict.checks[1].wanted) == (10, "above 1")
    assert verdict.finding == "Measured: 9 to 11."
    assert verdict.row["holds"] == "1 of 3, 1 open"


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ("roots", "a 0, a 1, a 2"),  # a table
        ("end", "last nan"),  # a kind of record
        (lambda results: results.of("number").query("n > 1"), "a 2"),
        ("nothing of the kind", "none"),
    ],
)
def test_rows_are_those_of_a_table_a_kind_or_a_function(rows, found):
    def filled(results):
        frame = results.frame(rows) if isinstance(rows, str) else rows(results)
        return frame.assign(n=frame.get("n", np.nan))

    assert each("Seen", filled, "{name} {n}")(results()) == f"Seen: {found}."
    if rows != "end":
        assert each("Seen", rows, "{name} {n}")(results()) == f"Seen: {found}."


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([3.0, 1.0, 2.0], "1 to 3"),
        ([1.0, 1.00001], "1"),
        ([np.nan, np.inf, 2.0], "2"),
        ([], "nothing finite"),
        ([np.nan], "nothing finite"),
    ],
)
def test_a_span_is_said_once_where_its_ends_are_the_same(values, words):
    assert span(values) == words


def test_groups_come_as_they_are_met_and_none_of_nothing():
    frame = pd.DataFrame({"name": ["b", "a", "b"], "x": [1, 2, 3]})
    assert [(key, list(rows.x)) for key, rows in groups(frame, "name")] == [
        ("b", [1, 3]),
        ("a", [2]),
    ]
    assert list(groups(pd.DataFrame(), "name")) == []


def test_a_line_brings_its_panel_its_band_and_its_sample():
    plot = Plot()
    assert not plot
    axes = plot.line("p", "mine", [1, 10], [2, 3], ("x", "y"), log="x", band=([1, 2], [3, 4]))
    assert plot
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (axes.get_xlabel(), len(axes.lines), len(axes.collections)) == ("x", 1, 1)
    again = plot.line("p", "yours", [1], [2], marker="")
    assert again is axes
    assert [label for label, _ in plot.legend("figure")] == ["mine", "yours"]
    assert plot.style("mine")["color"] != plot.style("yours")["color"]
    rows = plot.rows("q", "size", ["first", "second"])
    assert [tick.get_text() for tick in rows.get_yticklabels()] == ["first", "second"]
    assert rows.get_ylim()[0] > rows.get_ylim()[1]  # the first one is on top
