import errno
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from odeopt.studies import Game, Problem
from odeopt.studies.engine import page
from odeopt.studies.engine.store import Store, StoreError
from odeopt.studies.engine.study import Lab, TimeOver
from odeopt.studies.engine.verdicts import Check, Verdict

from .toy import STUDY

# Children are forked before JAX starts a backend, so that signals fall on work, not on imports.
DISTURBED = """
import os, pathlib, random, signal, sys, time
sys.path.insert(0, sys.argv[4])
from tests.studies.engine.toy import STUDY
from odeopt.studies.engine import command

def child(out):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            options = command.Options(out=out, resume=True)
            with command.mistakes_told():
                command.run(STUDY, options, {"pause": 0.01, "count": 12})
            status = 0
        except SystemExit as end:
            status = end.code
        finally:
            os._exit(status)
    return pid

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
folder, kind = pathlib.Path(sys.argv[1]), getattr(signal, sys.argv[2])
random.seed(int(sys.argv[3]))
assert os.waitpid(child(folder / "undisturbed"), 0)[1] == 0
hits, tries = 0, 0
while hits < 20:
    assert tries < 200
    pid = child(folder / f"disturbed-{tries}")
    time.sleep(random.uniform(0.02, 0.6))
    os.kill(pid, kind)
    status = os.waitpid(pid, 0)[1]
    if kind is signal.SIGKILL:
        hits += status == signal.SIGKILL
    else:
        assert os.waitstatus_to_exitcode(status) in (0, 130), status
        hits += os.waitstatus_to_exitcode(status) == 130
    # A study that was done before its end makes room for a new one.
    tries += (folder / f"disturbed-{tries}" / "verdict.json").exists()
for n in range(tries + 1):
    assert os.waitpid(child(folder / f"disturbed-{n}"), 0)[1] == 0
print(hits)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGINT"])
def test_twenty_signals_change_no_byte_of_the_tables(tmp_path, kind, request):
    root = str(request.config.rootpath)
    command = [sys.executable, "-c", DISTURBED, str(tmp_path), kind, "1", root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "20"
    assert "Traceback" not in done.stderr
    if kind == "SIGINT":
        assert done.stderr.count("Interrupted.") == 20
    wanted = tmp_path / "undisturbed"
    folders = list(tmp_path.glob("disturbed-*"))
    assert folders
    for folder in folders:
        assert (folder / "roots.csv").read_bytes() == (wanted / "roots.csv").read_bytes()
        lines = (folder / "runs.jsonl").read_text().splitlines()
        assert sorted(lines) == sorted((wanted / "runs.jsonl").read_text().splitlines())
        assert not list(folder.glob("**/.*.part"))


def test_a_study_writes_its_tables_and_claims(tmp_path):
    results = STUDY.run(out=tmp_path / "out", names="b")
    table = pd.read_csv(tmp_path / "out" / "roots.csv")
    assert list(table.n) == [0, 1, 2, 3]
    assert results.table("roots").equals(results.of("number"))
    claims = pd.read_csv(tmp_path / "out" / "claims.csv")
    assert list(claims.verdict) == ["holds"]
    assert list(claims.holds) == ["4 of 4"]


def test_shares_make_the_study_and_the_whole_adds_nothing(tmp_path):
    out, alone = tmp_path / "out", STUDY.run()
    for i in (3, 1, 2):
        STUDY.run(out=out, share=(i, 3))
    assert not (out / "roots.csv").exists()
    together = STUDY.run(out=out, resume=True)
    assert together.records == alone.records
    assert not (out / "runs.jsonl").read_bytes()
    linked = re.findall(r'href="(runs[^"]*)"', page.write(together, out).read_text())
    assert linked == [f"runs-{i}-of-3.jsonl" for i in (1, 2, 3)]


def test_results_and_problems_are_shown_in_a_line_or_two():
    """At a prompt or in a notebook, where all records and data would be thousands of lines."""
    assert repr(STUDY.run()).startswith("<Results of toy, 13 records: ")
    own = Problem(lambda p, batch: jnp.mean(p * batch), lambda seed: jnp.ones(1), np.ones(9))
    assert repr(own) == "<Problem 'my problem', 9 examples>"
    assert repr(Game([lambda z: z[0] ** 2], lambda key: (1.0,))) == "<Game 'my game'>"


def test_resuming_a_finished_study_makes_nothing(tmp_path, monkeypatch):
    first = STUDY.run(out=tmp_path / "out")
    monkeypatch.setattr("tests.studies.engine.toy._number", lambda *_: 1 / 0)
    assert STUDY.run(out=tmp_path / "out", resume=True).records == first.records


def test_time_that_is_over_leaves_whole_tasks_out_and_says_so(tmp_path):
    class Clock(Lab):
        @property
        def time_is_over(self):
            return len(self.store) >= 6

    out, settings = tmp_path / "out", {"names": ("a", "b")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("odeopt.studies.engine.study.Lab", Clock)
        short = STUDY.run(out=out, max_minutes=1, **settings)
    assert short.unfinished == ["b", "last"]
    assert set(short.of("number").name) == {"a"}
    assert "--resume makes them" in short.notices[0]
    whole = STUDY.run(out=out, resume=True, **settings)
    assert (whole.notices, whole.records) == ([], STUDY.run(**settings).records)


def test_nothing_new_is_begun_when_time_is_over():
    lab = Lab(Store(None, {}), deadline=0.0)
    with pytest.raises(TimeOver):
        lab.once("new", lambda: [{}])
    lab.store.add("old", [{"n": 1}])
    assert lab.once("old", lambda: 1 / 0) == [{"n": 1}]


def test_a_full_disk_in_the_middle_loses_nothing(tmp_path, monkeypatch):
    out, fsync, calls = tmp_path / "out", os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device.*--resume"):
        STUDY.run(out=out)
    monkeypatch.undo()
    assert STUDY.run(out=out, resume=True).records == STUDY.run().records
    assert (out / "runs.jsonl").read_text().count("\n") == 13


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"count": 0}, "--count must be at least 1, not 0"),
        ({"cuont": 2}, "unknown setting 'cuont': did you mean count"),
        ({"max_minutes": 0}, "--max-minutes must be positive"),
        ({"resume": True}, "needs out="),
        ({"share": (1, 2)}, "needs out="),
        ({"share": "1/2", "out": "x"}, r"write share=\(1, 3\)"),
        ({"out": 5}, "out is 5: write the name of a folder"),
        ({"count": "2"}, "--count is '2': write a whole number"),
        ({"count": 1.5}, "--count is 1.5: write a whole number"),
        ({"pause": "long"}, "--pause is 'long': write a number"),
        ({"names": []}, "--names is empty: name one at least"),
        ({"max_minutes": "1"}, "--max-minutes is '1': write a number"),
        ({"devices": "2"}, "--devices is '2': write a whole number"),
        ({"devices": 0}, "--devices must be at least 1"),
        ({"devices": 9}, r"--devices is 9, but this process has 8.*jax_num_cpu_devices"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(wrong, message):
    jax.devices()  # JAX has started: it gives no more devices
    with pytest.raises(ValueError, match=message):
        STUDY.run(**wrong)


def test_settings_of_a_full_study_are_those_with_what_is_given_instead():
    assert STUDY.choose(full=True).count == 8
    assert STUDY.choose(full=True, count=3).count == 3
    assert STUDY.choose(names=["a", "b", "a"]).names == ("a", "b")


@pytest.mark.parametrize(
    ("holds", "word"),
    [
        ([], "not measured"),
        ([None], "open"),
        ([True, True], "holds"),
        ([True, None], "holds where it was decided"),
        ([True, False], "holds in part"),
        ([False, False], "does not hold"),
        ([False, None], "does not hold where it was decided"),
    ],
)
def test_a_verdict_is_what_its_comparisons_say(holds, word):
    checks = [Check("here", 1.0, "more", one) for one in holds]
    assert Verdict(STUDY.claims[0], checks).word == word
