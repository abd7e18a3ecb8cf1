"""Laws of the figures and of the measures that they are drawn from."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from odeopt import solvers
from odeopt.studies import measures, plots

KINDS = ["run", "limit", "order", "spectrum", "sharpness"]


@pytest.fixture(scope="module")
def runs(result):
    return measures.table_of(result.records)


@pytest.fixture(scope="module")
def figures(result, tmp_path_factory):
    return plots.draw(result, tmp_path_factory.mktemp("figures"))


def test_every_plot_is_drawn_in_reading_order(figures):
    assert list(figures) == list(plots.DRAWINGS)
    for file in figures.values():
        pixels = imread(file)
        assert pixels[..., :3].std() > 0.01, f"{file} is blank"


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_kind_only_leaves_plots_out(kind, make_result, from_records, tmp_path):
    records = [r for r in make_result(problems=["one"], seeds=2).records if r["kind"] != kind]
    drawn = plots.draw(from_records(records), tmp_path)
    missing = set(plots.DRAWINGS) - set(drawn)
    expected = {
        "run": set(plots.DRAWINGS) - {"sharpness", "order"},
        "limit": set(),
        "order": {"order"},
        "spectrum": {"regions"},
        "sharpness": {"sharpness"},
    }
    assert missing == expected[kind]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"status": "diverged", "final_loss": None}, id="all diverged"),
        pytest.param(
            {
                **dict.fromkeys(["initial_loss", "final_loss"]),
                **{"status": "time-out", "loss": [], "loss_gradients": [], "gradients": 0},
            },
            id="none made",
        ),
        pytest.param({"relative_rate": None, "R": None, "order": None}, id="no limit known"),
        pytest.param({"optimizer": "someone's"}, id="unknown optimizer"),
        pytest.param({"final_loss": 0.0, "loss": [0.0] * 61}, id="loss is zero"),
    ],
)
def test_odd_sweeps_do_not_crash(change, make_result, from_records, tmp_path):
    records = make_result(problems=["one"], optimizers=["rk4"], seeds=2, powers=[-1.0]).records
    runs = [{**r, **change} for r in records if r["kind"] == "run"]
    assert "rate_seed" in plots.draw(from_records(runs), tmp_path)


@pytest.mark.parametrize("name", ["sgd", "heun", "bosh3", "rk4", "dopri5", "tsit5"])
def test_region_ends_where_the_step_has_modulus_one(name):
    polynomial = np.polynomial.Polynomial(plots.stability_polynomial(name))
    classes = {key.lower(): value for key, value in vars(solvers).items()}
    limit = classes["euler" if name == "sgd" else name]().stability_limit
    assert abs(polynomial(-limit)) == pytest.approx(1, abs=1e-6)
    assert (abs(polynomial(-np.linspace(0.01, 0.99, 50) * limit)) < 1).all()


@pytest.mark.parametrize("name", ["adam", "momentum", "runge", "AbstractMethod"])
def test_no_region_where_there_is_no_polynomial(name):
    assert plots.stability_polynomial(name) is None


def test_profile_is_monotone_and_counts_a_miss_as_infinity():
    cost = pd.DataFrame({"a": [1, 2, np.inf, np.inf], "b": [2, 2, 3, np.inf]})
    profile = measures.performance_profile(cost)
    assert profile.index[0] == 1
    assert (profile.diff().dropna() >= 0).all(axis=None)
    assert profile.stack().between(0, 1).all()
    assert profile.loc[1.0].to_dict() == {"a": 0.5, "b": 0.5}
    assert profile.iloc[-1].to_dict() == {"a": 0.5, "b": 0.75}


def test_tuning_seed_chooses_and_is_not_reported(result, runs):
    best = measures.tuned(runs)
    assert measures.TARGET < 1
    assert set(best.seed) == {1, 2, 3}
    chosen = best.groupby(measures.PAIR).learning_rate.first()
    summary = result.summary.set_index(measures.PAIR).best_rate
    assert chosen.to_dict() == summary.to_dict()


def test_gradients_to_target_is_the_first_point_below_it(runs):
    goal, cost = measures.targets(runs), measures.gradients_to_target(runs)
    run = (
        measures.tuned(runs).query("problem == 'two' and optimizer == 'rk4' and seed == 2").iloc[0]
    )
    below = [g for g, x in zip(run.loss_gradients, run.loss, strict=True) if x <= goal["two"]]
    assert cost.loc[("two", 2), "rk4"] == min(below)


def test_largest_stable_rate_is_the_last_below_the_limit(runs):
    stable = measures.largest_stable(runs)
    for (problem, optimizer), row in stable.iterrows():
        mine = runs[(runs.problem == problem) & (runs.optimizer == optimizer)]
        assert row.rate == mine[mine.relative_rate <= 1].learning_rate.max()
        assert row.unstable == mine[mine.relative_rate > 1].learning_rate.min()


def test_a_rate_above_a_divergence_is_not_stable(runs):
    mine = runs[(runs.problem == "one") & (runs.optimizer == "sgd")].copy()
    rates = np.sort(mine.learning_rate.unique())
    mine.loc[(mine.learning_rate == rates[3]) & (mine.seed == 2), "status"] = "diverged"
    assert measures.largest_stable(mine).rate.item() == rates[2]
    mine.loc[mine.learning_rate == rates[3], "status"] = "time-out"
    assert measures.largest_stable(mine).rate.item() > rates[3]


def test_real_eigenvalues_lie_on_the_real_axis(result, runs):
    figure = plots.DRAWINGS["regions"](result.records, runs)
    lines = [line for ax in figure.axes for line in ax.lines]
    assert len(lines) == 3 * 4  # problems times methods
    assert not any(line.get_ydata().any() for line in lines)
