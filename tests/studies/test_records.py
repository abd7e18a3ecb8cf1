import json
import math
import os

import numpy as np
import pytest

from odeopt.studies import records


def test_records_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "runs.jsonl"
    first = {"kind": "run", "loss": 0.1 + 0.2, "curve": [1.0, 1e-300]}
    second = {"kind": "limit", "name": "é\n"}
    records.append(path, [first])
    records.append(path, [second])
    assert records.read(path) == [first, second]
    assert path.read_bytes().count(b"\n") == 2


def test_numbers_that_are_not_finite_become_null_of_valid_json(tmp_path):
    path = tmp_path / "runs.jsonl"
    record = {"kind": "run", "loss": np.array([1.0, np.nan, np.inf]), "at": {"x": (math.inf, 1)}}
    records.append(path, [record])

    def refuse(constant):
        raise AssertionError(constant)

    line = json.loads(path.read_text(), parse_constant=refuse)
    assert line == {"kind": "run", "loss": [1.0, None, None], "at": {"x": [None, 1]}}


def test_nothing_is_read_where_nothing_is(tmp_path):
    assert records.read(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("kept", [1, 5, 20])
def test_a_torn_last_line_is_dropped_with_a_notice_and_can_be_followed(tmp_path, kept):
    path = tmp_path / "runs.jsonl"
    records.append(path, [{"kind": "run", "n": n} for n in range(3)])
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    os.truncate(path, len(whole) - len(last) + min(kept, len(last) - 1))
    notices = []
    assert [r["n"] for r in records.read(path, notices.append)] == [0, 1]
    assert len(notices) == 1
    assert "line 3" in notices[0]
    records.append(path, [{"kind": "run", "n": 2}])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("bad", [b"garbage", b'{"kind": "run"', b"[1]", b'{"n": 1}', b"\xff", b""])
def test_a_corrupt_line_is_an_error_that_names_it_and_changes_nothing(tmp_path, bad):
    path = tmp_path / "runs.jsonl"
    before = b'{"kind": "run"}\n' + bad + b'\n{"kind": "run"}\n{"torn'
    path.write_bytes(before)
    with pytest.raises(records.CorruptRecordsError, match=r"runs\.jsonl, line 2 .*--resume"):
        records.read(path)
    assert path.read_bytes() == before


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "summary.csv"
    records.write_text(path, "old")
    records.write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
