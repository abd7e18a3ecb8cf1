"""The study of games: what is calculated, what is counted, and what is said of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

import odeopt
from odeopt.studies import Game, game_own, games
from odeopt.studies import game_mixture as mixture
from odeopt.studies import game_plane as plane
from odeopt.studies.engine import Results, page

from .engine import accessible


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in plane.METHODS if m != "alternating"])
def test_a_linear_game_grows_as_calculated(x64, method):
    (record,) = plane.trajectory("damped rotation", method)
    assert record["growth"] == pytest.approx(record["predicted"], rel=1e-9)


def test_alternating_orbits_are_ellipses_and_the_dirac_gan_keeps_its_circle(x64):
    (record,) = plane.trajectory("bilinear", "alternating")
    assert record["predicted"] == pytest.approx(1)
    assert record["highest"] < np.sqrt(1.25 / 0.75)
    plain, corrected = (plane.trajectory("Dirac GAN", m)[0] for m in ("simultaneous", "joint"))
    assert plain["growth"] ** 2 > 5
    assert abs(corrected["highest"] ** 2 - 1) < 0.01
    assert abs(corrected["lowest"] ** 2 - 1) < 0.01


def operations(name):
    players = mixture.start(0)
    step = mixture.stepper(mixture.METHODS[name], 0.1, jax.random.key(0))
    carry = players, mixture.METHODS[name].make(0.1).init(players)
    return jax.jit(step).lower(jnp.int32(0), carry).compile().cost_analysis()["flops"]


@pytest.mark.slow
def test_a_step_is_counted_as_its_compiled_program_computes():
    once = operations("simultaneous")
    for name in ("interaction", "rk4-penalty"):
        cost = mixture.METHODS[name].cost
        assert operations(name) / once == pytest.approx(cost, rel=0.15), name


@pytest.mark.slow
def test_samples_at_the_modes_cover_them_and_a_blur_covers_none(monkeypatch):
    key = jax.random.key(1)
    which = jax.random.randint(key, (mixture.SAMPLES,), 0, 8)
    noise = mixture.SPREAD * jax.random.normal(key, (mixture.SAMPLES, 2))
    half = jnp.asarray(mixture.CENTERS)[which] + noise
    blur = jax.random.uniform(key, (mixture.SAMPLES, 2), minval=-2, maxval=2)
    seen = []
    for made in (half, blur):
        monkeypatch.setattr(mixture, "network", lambda params, noise, made=made: made)
        seen.append(mixture.look({"generator": None}, key))
    assert int(seen[0]["modes"]) == 8
    assert float(seen[0]["share"]) == pytest.approx(1 - np.exp(-2), abs=0.03)  # within 2 deviations
    assert int(seen[1]["modes"]) <= 1


def run(method, rate, seed, modes):
    share, finite = [0.5] * len(modes), [True] * len(modes)
    about = {"kind": "mixture", "method": method, "cost": 1, "rate": rate, "seed": seed}
    about |= {"rounds": 40, "samples": [[0.0, 0.0]]}
    return {**about, "modes": modes, "share": share, "finite": finite}


def made(records):
    return Results(games.STUDY, games.Settings(), records)


def test_runs_are_read_over_their_last_quarter_and_rates_tuned_on_a_seed_of_their_own():
    tuning = [
        run("adam", 0.1, 0, [16, 16, 16, 16, 16, 16, 3, 5]),
        run("adam", 0.2, 0, [0, 0, 0, 0, 0, 0, 9, 11]),
        run("adam", 0.4, 0, [0, 0, 0, 0, 0, 0, 4, 6]),
    ]
    assert mixture.tuned(tuning) == 0.2
    fresh = [run("adam", 0.2, seed, [0, 0, 0, 14, 0, 0, 8, 10 + seed]) for seed in (1, 2)]
    rest = [run("rk4", 0.1, seed, [0, 0, 0, 0, 0, 0, 2, 2]) for seed in (0, 1, 2)]
    results = made([*tuning, *fresh, *rest])
    table = results.table("summary").set_index("method")
    row = table.loc["adam"]
    assert (row.rate, row.rate_low, row.rate_high, row.works, row.seeds) == (0.2, 0.1, 0.4, 2, 2)
    assert (row.modes, row.low, row.high) == (9.75, 9.5, 10.0)
    assert row.lost == pytest.approx(14 - 9.75)
    assert table.loc["rk4", "rate_low"] == 0  # at both ends of its grid
    assert np.isinf(table.loc["rk4", "rate_high"])
    assert "no method covers more of 16 modes than Adam (9.8)" in results.verdict
    assert table.loc["rk4", "rates"] == "one tried"


def test_a_method_that_is_only_tuned_is_in_no_table():
    results = made([run("adam", rate, 0, [8] * 8) for rate in (0.1, 0.2)])
    assert results.table("summary").empty
    assert results.verdict == "There is nothing to compare."


@pytest.mark.parametrize(("seeds", "word", "clear"), [(2, "open", 0), (6, "holds", 1)])
def test_more_modes_than_adam_are_claimed_where_seeds_leave_no_doubt(seeds, word, clear):
    both = [("adam", 8), ("rk4", 15)]
    records = [run(name, 0.1, seed, [n] * 8) for name, n in both for seed in range(seeds + 1)]
    results = made(records)
    (claim,) = [verdict for verdict in results.claims if verdict.claim.name == "beats"]
    assert claim.word == word
    assert f"than Adam (8.0): rk4 (15.0); {clear} of these differences" in results.verdict


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(mixture, "HIDDEN", 4)
    monkeypatch.setattr(mixture, "BATCH", 8)
    monkeypatch.setattr(mixture, "LOOKS", 4)
    monkeypatch.setattr(plane, "METHODS", {"rk4": plane.METHODS["rk4"]})


@pytest.mark.slow
def test_a_study_has_a_row_a_run_and_goes_on_to_the_same_numbers(tiny, tmp_path):
    def mine(rate):
        return mixture.METHODS["simultaneous"].make(rate)

    options = {"methods": ["adam", {"mine": mine}], "seeds": 2, "rounds": 48}
    out = tmp_path / "out"
    results = games.run(**options, out=out)
    runs = pd.read_csv(out / "mixture.csv")
    assert runs.groupby("method").size().to_dict() == {"adam": 6 + 2, "mine": 12 + 2}
    assert runs.modes.between(0, 16).all()
    assert [verdict.word for verdict in results.claims][:2] == ["holds", "holds"]
    text = page.write(results, out).read_text()
    drawn = {part.split('"')[0] for part in text.split('<figure id="')[1:]}
    assert drawn == {figure.name for figure in games.FIGURES} - {"own"}
    assert accessible.faults(text) == []
    assert not jax.config.jax_enable_x64  # as it was

    lines = (out / "runs.jsonl").read_text().splitlines(keepends=True)
    (out / "runs.jsonl").write_text("".join(lines[:-1]))
    games.run(**options, out=out, resume=True)
    assert (out / "runs.jsonl").read_text().splitlines(keepends=True) == lines


def test_the_text_of_the_outcome_is_of_what_is_drawn():
    (outcome,) = [figure for figure in games.FIGURES if figure.name == "outcome"]
    planes = plane.trajectory("damped rotation", "simultaneous")
    found = outcome.finding(Results(games.STUDY, games.Settings(), planes))
    assert (
        found == "|z| at the end of the damped rotation, divided by the start: simultaneous 8.65."
    )


def test_without_time_there_is_nothing_to_compare():
    late = games.run(methods=["adam"], rounds=40, max_minutes=1e-9)
    assert late.table("summary").empty
    assert late.verdict == "No run was made: nothing to compare."


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"methods": "rk5"}, "unknown method 'rk5': did you mean rk4?"),
        ({"methods": {"adam": lambda h: h}}, "adam is an optimizer of the study: call yours"),
        ({"methods": {"midpoint": lambda h: h}}, "midpoint is an optimizer of the study"),
        ({"methods": {"a/b": optax.sgd}}, "'a/b' is no name"),
        ({"methods": {"mine": 3}}, "'mine': calling it with a learning rate fails"),
        ({"methods": {"mine": lambda h: optax.sgd(float(h))}}, "must take a traced learning rate"),
        ({"methods": 3}, "a method is a name or a mapping such as .*, not 3"),
        ({"methods": {}}, "a method is a name or a mapping"),
        ({"methods": [{"a": optax.sgd}, {"a": optax.adam}]}, "two methods are called 'a'"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0"),
        ({"rounds": 1}, "--rounds must be at least 6, not 1"),
        ({"rounds": 9601}, "--rounds must be a multiple of 240, .* not 9601"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(wrong, message):
    with pytest.raises(ValueError, match=message):
        games.run(**wrong)


@pytest.mark.cheap
@pytest.mark.parametrize("rates", [(), (-0.1,), (float("nan"),), 0.1, "ab"])
def test_rates_of_a_game_are_positive_numbers(rates):
    with pytest.raises(ValueError, match=r"Game 'my game': rates is .*: write positive numbers"):
        Game([lambda z: z[0] * z[1], lambda z: -z[0] * z[1]], lambda key: (1.0, 0.0), rates=rates)


def test_a_game_needs_rounds_for_a_step_of_every_solver_and_other_rates_are_another_game():
    game = Game([lambda z: z[0] * z[1], lambda z: -z[0] * z[1]], lambda key: (1.0, 0.0))
    with pytest.raises(ValueError, match="--rounds must be at least 4, not 3"):
        games.run(problems=[game], rounds=3)
    assert games.STUDY.choose(problems=[game], rounds=4)
    with pytest.raises(ValueError, match="--rounds changes nothing in the games of two numbers"):
        games.run(problems=["plane"], rounds=2)
    assert dataclasses.replace(game, rates=(0.1,)).version != game.version


@pytest.mark.cheap
@pytest.mark.parametrize("problems", [["plane"], ["own"], ["own", "plane"]])
def test_methods_that_would_play_nothing_are_refused(problems):
    game = Game([lambda z: z[0] * z[1], lambda z: -z[0] * z[1]], lambda key: (1.0, 0.0), name="own")
    asked = [game if name == "own" else name for name in problems]
    with pytest.raises(ValueError, match="--methods: adam would play none of these games"):
        games.run(problems=asked, methods=["adam"])
    mine = {"mine": odeopt.alternating}
    if "own" in problems:
        assert games.STUDY.choose(problems=asked, methods=[mine])
    else:
        with pytest.raises(ValueError, match="--methods: mine would play none"):
            games.run(problems=asked, methods=[mine])
    every = games.STUDY.choose(full=True, problems=asked)  # nothing was asked of it
    assert "--methods" not in page.command(Results(games.STUDY, every, []))


DAMPING = 0.1
DUEL = {
    "p": lambda z: 0.5 * DAMPING * z["p"] ** 2 + z["p"] * z["q"],
    "q": lambda z: 0.5 * DAMPING * z["q"] ** 2 - z["p"] * z["q"],
}


def beginning(key):
    return {"p": 1.0, "q": jax.random.normal(key)}


@pytest.mark.slow
def test_a_game_of_ones_own_is_bounded_where_theory_says_so(x64):
    game = Game(DUEL, beginning, name="duel", rates=(0.1, 0.3, 3.0))
    results = games.run(problems=[game], seeds=2, rounds=600)
    table = results.table("own").set_index("optimizer")
    # Simultaneous steps converge if and only if h (1 + e^2) < 2 e, in turn up to h = 2, RK4 to 2.8.
    assert table.stable.drop("midpoint").to_dict() == {
        "simultaneous": 0.1,
        "alternating": 0.3,
        "interaction": 0.3,
        "joint": 0.3,
        "rk4": 0.3,
    }
    assert np.isnan(table.loc["midpoint", "unstable"])  # it has no limit
    assert set(table.gradients[table.gradients_per_step <= 4]) == {600}
    runs = results.of("run").query("optimizer == 'joint' and learning_rate == 0.1")
    shrinks = plane.growth(((-DAMPING, -1), (1, -DAMPING)), "joint", 0.1) ** 300
    assert (runs.final_loss / runs.initial_loss).to_numpy() == pytest.approx(shrinks, rel=1e-6)
    assert "In duel, at equal gradients of every player, " in results.verdict
    assert "simultaneous up to h = 0.1, " in results.verdict
    assert results.table("planes").empty


@pytest.mark.parametrize(
    ("size", "end", "status"),
    [
        ([0.1, 9.9, 1.0], 5.0, "ok"),  # the metric may rise
        ([0.1, 10.1, 1.0], 0.1, "diverged"),
        ([5.0, 49.0, 1.0], 0.1, "ok"),
        ([5.0, None, None], None, "diverged"),
        ([5.0, 5.0, 5.0], None, "diverged"),
    ],
)
def test_a_run_is_bounded_by_its_players_not_by_its_metric(size, end, status):
    record = {"validation": size, "final_loss": end, "status": "ok"}
    assert game_own.judged(record)["status"] == status


@pytest.mark.slow
def test_batches_and_keys_reach_the_losses_and_a_metric_decides(tmp_path):
    real = np.linspace(1, 2, 32, dtype=np.float32)

    def critic(z, batch, key):
        made = z[0] + 0.1 * jax.random.normal(key, batch.shape)
        return jnp.mean(z[1] * made - z[1] * batch) + 0.5 * z[1] ** 2

    losses = (lambda z: -z[0] * z[1], critic)
    game = Game(
        losses,
        lambda key: (jnp.zeros(()), jnp.zeros(())),
        real,
        batch_size=8,
        metric=lambda z: jnp.abs(z[0] - 1.5),
        rates=(0.1,),
    )
    mine = {"mine": lambda h: odeopt.alternating(h, (1, 2))}
    out = tmp_path / "out"
    results = games.run(problems=[game], methods=[mine], seeds=1, rounds=400, out=out)
    table = results.table("own")
    assert list(table.optimizer)[-1] == "mine"
    assert (table.initial_loss == 1.5).all()
    assert (table.loss_median < 0.1).all()
    text = page.write(results, out).read_text()
    assert '<figure id="own">' in text
    assert accessible.faults(text) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"losses": {"a": DUEL["p"], "q": DUEL["q"]}},
            r"losses has 2 values, for \['a', 'q'\], but the players",
        ),
        ({"losses": [DUEL["p"]]}, "losses has 1 values, for .*, but the players are"),
        ({"losses": [lambda z: jnp.ones(2) * z["p"]] * 2}, "a loss returned an array.*jnp.mean"),
        ({"losses": [lambda z, noise: z["p"]] * 2}, "also needs 'noise'"),
        ({"init": lambda key: {"p": jnp.array(1), "q": 1.0}}, r"\['p'\].*write 0.0 for 0"),
        ({"init": lambda: DUEL}, r"Write losses as loss\(players\).*and init\(key\)"),
        ({"metric": lambda z: jnp.ones(3)}, r"shape \(3,\), not one real number"),
        ({"data": np.ones(3), "batch_size": 4}, "batch_size is 4, which must be 1 to 3"),
    ],
)
def test_what_is_no_game_says_in_one_line_what_to_write(changes, message):
    given = {"losses": DUEL, "init": beginning, "name": "mine", **changes}
    with pytest.raises(ValueError, match=message) as error:
        Game(**given)
    assert "'mine'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((3.0, 1.0, 2.0), "rk4 ends lowest, at 1 (start: 5); midpoint, whose gradients are not"),
        ((1.0, 1.0, 5.0), "simultaneous and rk4 end level and lowest, at 1 (start: 5); midpoint"),
        ((1.0, 1.0, 5.0), "not counted, ends where it starts. Bounded are"),
        ((5.0, 5.0, 2.0), "no method ends lower than it starts (start: 5, lowest end: 5); mid"),
        ((None, None, 2.0), "no method whose gradients are counted stays bounded; midpoint, whose"),
        ((3.0, 1.0, None), "rk4 ends lowest, at 1 (start: 5). Bounded are"),
    ],
)
def test_ties_and_the_implicit_midpoint_rule_are_named(ends, said):
    records = [
        {
            **dict.fromkeys(("R", "order")), "kind": "run", "problem": "mine", "optimizer": name,
            "learning_rate": 0.1, "seed": seed, "initial_loss": 5.0, "final_loss": end,
            "loss": [5.0, end], "loss_gradients": [0, 9], "gradients": 9, "gradients_per_step": 1,
            "seconds": 0.1, "compile_seconds": 0.1, "status": "ok" if end else "diverged",
        }
        for name, end in zip(("simultaneous", "rk4", "midpoint"), ends, strict=True)
        for seed in (0, 1)
    ]  # fmt: skip
    (verdict,) = game_own.verdict(Results(games.STUDY, games.Settings(), records))
    assert said in verdict


def test_an_optimizer_that_ignores_the_rate_is_refused():
    game = Game(DUEL, beginning)
    assert game.entries({"mine": optax.sgd})
    with pytest.raises(ValueError, match=r"'mine': its make\(h\) ignores h"):
        game.entries({"mine": lambda h: optax.sgd(0.1)})


def test_other_losses_are_another_game_whatever_the_metric():
    def game(damping):
        losses = [lambda z: z[0] * z[1] + damping * z[0] ** 2, lambda z: -z[0] * z[1]]
        metric = lambda z: jnp.abs(z[0]) + jnp.abs(z[1])
        return Game(losses, lambda key: (1.0, 0.5), metric=metric)

    assert game(0.1).version == game(0.1).version != game(0.2).version


def test_a_game_comes_from_a_file_that_has_it(tmp_path):
    file = tmp_path / "my_game.py"
    file.write_text(
        "from odeopt.studies import Game\n"
        "losses = [lambda z: z[0] * z[1], lambda z: -z[0] * z[1]]\n"
        "game = Game(losses, lambda key: (1.0, 0.0))\n"
    )
    (game,) = games.Settings(problems=(f"{file}:game",)).problems
    assert game.name == "my game"
    for name, message in (("match", "has no 'match'"), ("losses", "a list, not a game: make it")):
        with pytest.raises(ValueError, match=message):
            games.Settings(problems=(f"{file}:{name}",))
