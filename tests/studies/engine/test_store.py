import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odeopt.studies.engine import store
from odeopt.studies.engine.store import Store, StoreError

ABOUT = {"format": store.FORMAT, "study": "toy", "settings": {"seeds": 3}, "versions": {"jax": "0"}}


def filled(path, count=4):
    kept = Store(path, ABOUT)
    for n in range(count):
        kept.add(f"run/{n}", [{"kind": "run", "n": n, "loss": [0.1 + 0.2, 1e-300, None]}])
    kept.close()
    return (path / store.RUNS).read_bytes()


def reopened(path, notice=lambda _: None, **options):
    kept = Store(path, ABOUT, resume=True, notice=notice, **options)
    kept.close()
    return kept


def test_records_come_back_as_they_were_written(tmp_path):
    filled(tmp_path / "out")
    kept = reopened(tmp_path / "out")
    assert len(kept) == 4
    assert kept.get("run/2") == [{"kind": "run", "n": 2, "loss": [0.1 + 0.2, 1e-300, None]}]
    assert kept.get("run/9") is None


def test_numbers_that_are_not_finite_become_null_of_valid_json(tmp_path):
    kept = Store(tmp_path / "out", ABOUT)
    made = kept.add("one", [{"x": float("nan"), "y": (float("inf"), 1)}])
    assert made == kept.get("one") == [{"x": None, "y": [None, 1]}]

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "out" / store.RUNS).read_text(), parse_constant=refuse)


@given(cut=st.integers(0, 2000), tail=st.binary(max_size=30))
@settings(max_examples=150, deadline=None)
def test_a_torn_last_line_is_made_again_and_nothing_else_is_lost(cut, tail):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out"
        whole = filled(path)
        kept = whole[: cut % len(whole)]
        tail = tail.replace(b"\n", b"")
        (path / store.RUNS).write_bytes(kept + tail)
        lines, notices = kept.count(b"\n"), []
        torn = kept[kept.rfind(b"\n") + 1 :] + tail
        found = reopened(path, notices.append)
        assert [found.get(f"run/{n}") is not None for n in range(4)] == [
            n < lines for n in range(4)
        ]
        assert len(notices) == bool(torn)
        again = Store(path, ABOUT, resume=True)
        for n in range(lines, 4):
            again.add(f"run/{n}", [{"kind": "run", "n": n, "loss": [0.1 + 0.2, 1e-300, None]}])
        again.close()
        assert (path / store.RUNS).read_bytes() == whole


@pytest.mark.slow
@given(
    line=st.integers(0, 3),
    at=st.integers(0, 500),
    new=st.one_of(
        st.binary(min_size=1, max_size=4),
        st.sampled_from([b"", b"[1]", b"{}", b"null", b"[" * 5000, b"9" * 5000, b"\xff\x00"]),
    ),
    replace=st.booleans(),
)
@settings(max_examples=500, deadline=None)
def test_a_line_that_was_changed_is_named_and_nothing_is_deleted(line, at, new, replace):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out"
        lines = filled(path).split(b"\n")
        old, new = lines[line], new.replace(b"\n", b" ")
        at %= len(old)
        lines[line] = new if replace else old[:at] + new + old[at + len(new) :]
        changed = b"\n".join(lines)
        (path / store.RUNS).write_bytes(changed)
        if lines[line] == old:
            assert len(reopened(path)) == 4
            return
        with pytest.raises(StoreError, match=rf"runs\.jsonl, line {line + 1} .*--resume") as error:
            reopened(path)
        assert "\n" not in str(error.value)
        assert (path / store.RUNS).read_bytes() == changed
        del lines[line]  # what the message says to do
        (path / store.RUNS).write_bytes(b"\n".join(lines))
        assert len(reopened(path)) == 3


def test_a_line_that_is_there_twice_counts_once(tmp_path):
    whole = filled(tmp_path / "out")
    (tmp_path / "out" / store.RUNS).write_bytes(whole + whole)
    assert len(reopened(tmp_path / "out")) == 4


@pytest.mark.slow
def test_a_second_process_is_told_who_writes_and_a_killed_one_holds_nothing(tmp_path):
    out = tmp_path / "out"
    filled(out)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from odeopt.studies.engine.store import Store\n"
        f"kept = Store(Path(sys.argv[1]), {ABOUT!r}, resume=True)\n"
        "print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=rf"is in use by process {process.pid}; .*--out"):
            reopened(out)
        process.kill()
        process.wait()
    assert len(reopened(out)) == 4


def test_shares_write_beside_each_other_and_the_whole_waits_for_them(tmp_path):
    out = tmp_path / "out"
    first, second = (Store(out, ABOUT, share=(i, 2)) for i in (1, 2))
    first.add("a", [{"n": 1}])
    second.add("b", [{"n": 2}])
    second.add("a", [{"n": 1}])  # what every share needs
    with pytest.raises(StoreError, match="in use"):
        Store(out, ABOUT, share=(2, 2), resume=True)
    with pytest.raises(StoreError, match="in use"):
        reopened(out)
    first.close(), second.close()
    whole = reopened(out)
    assert (whole.get("a"), whole.get("b"), len(whole)) == ([{"n": 1}], [{"n": 2}], 2)


@pytest.mark.parametrize("after", [0, 10])
def test_a_full_disk_is_one_line_and_what_was_kept_stays(tmp_path, monkeypatch, after):
    out = tmp_path / "out"
    whole = filled(out)
    kept = Store(out, ABOUT, resume=True)
    write = os.write

    def full(descriptor, data):
        if after:
            write(descriptor, data[:after])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match=r"No space left on device.*--resume") as error:
        kept.add("run/4", [{"n": 4}])
    assert "\n" not in str(error.value)
    assert kept.get("run/4") is None
    assert (out / store.RUNS).read_bytes() == whole
    monkeypatch.undo()
    kept.add("run/4", [{"n": 4}])
    kept.close()
    assert len(reopened(out)) == 5


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.csv"
    store.write_text(path, "old")

    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StoreError, match="No space left"):
        store.write_text(path, "new")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])
    monkeypatch.undo()
    store.write_text(path, "new")
    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])


def test_a_kill_in_the_middle_of_replacing_a_file_leaves_a_folder_that_resumes(tmp_path):
    out = tmp_path / "out"
    (out / "figures").mkdir(parents=True)
    parts = [out / ".settings.json.1.part", out / "figures" / ".a.svg.1.part"]
    for part in parts:
        part.write_text("{")
    (out / "figures").rename(tmp_path / "figures")  # a study that has just begun has none
    assert len(reopened(out)) == 0
    (tmp_path / "figures").rename(out / "figures")
    reopened(out)
    assert not any(part.exists() for part in parts)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ('{"suite": "quick-1", "solvers": ["sgd"]}', "written by another version of odeopt"),
        ("[1, 2]", "missing or unreadable"),
        ("[" * 100_000, "missing or unreadable"),
        ("{", "missing or unreadable"),
        (None, "missing or unreadable"),
        (json.dumps({**ABOUT, "settings": {"seeds": 4}}), "seeds: 4 there, 3 now"),
        (json.dumps({**ABOUT, "versions": {"jax": "1"}}), "jax: 1 there, 0 now"),
        (json.dumps({**ABOUT, "study": "other"}), "study: other there, toy now"),
    ],
)
def test_a_folder_of_something_else_is_refused_in_one_line(tmp_path, stored, message):
    out = tmp_path / "out"
    whole = filled(out)
    (out / store.SETTINGS).unlink()
    if stored is not None:
        (out / store.SETTINGS).write_text(stored)
    with pytest.raises(StoreError, match=message) as error:
        reopened(out)
    assert "\n" not in str(error.value)
    assert (out / store.RUNS).read_bytes() == whole


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"is not empty.*--resume.*--out"):
        Store(tmp_path, ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to .*--out"):
        Store(tmp_path / "file" / "out", ABOUT)

    def refused(self, *_, **__):
        raise PermissionError(errno.EROFS, "Read-only file system")

    filled(tmp_path / "out")
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(StoreError, match=r"Read-only file system.*--out"):
        reopened(tmp_path / "out")
