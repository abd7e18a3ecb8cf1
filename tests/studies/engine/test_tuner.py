import numpy as np
import pytest

from odeopt.studies.engine import tuner
from odeopt.studies.engine.optimizers import find
from odeopt.studies.engine.tuner import Grid, bracket, place, tune


def valley(best, limit=np.inf):
    """Scores of a valley of rates, and the rates that were asked for."""
    asked = []

    def evaluate(rates):
        asked.extend(rates)
        return [abs(np.log(rate / best)) if rate < limit else np.inf for rate in rates]

    return evaluate, asked


GRIDS = {
    "octaves": Grid.octaves(2.0),
    "half decades": Grid.half_decades(),
    "quarters": Grid.quarter_decades(0.1),
}


@pytest.mark.parametrize("best", [1e-3, 0.02, 1.0, 30.0, 1e3])
@pytest.mark.parametrize("name", GRIDS)
def test_the_best_rate_is_tried_with_both_its_neighbours_or_the_cap_is_reached(name, best):
    evaluate, asked = valley(best)
    found, grid = tune(evaluate, GRIDS[name]), GRIDS[name]
    assert len(set(asked)) == len(asked) == len(found.scores)  # none twice
    assert list(found.scores) == sorted(asked)
    if found.place == "interior":
        rates = list(found.scores)
        at = rates.index(found.best)
        assert rates[at - 1] < best < rates[at + 1] or found.best == pytest.approx(best)
    else:
        assert len(asked) >= len(grid.first) + grid.most * grid.block


@pytest.mark.parametrize("name", GRIDS)
def test_a_best_rate_next_to_divergence_ends_the_search(name):
    evaluate, asked = valley(1e6, limit=0.5)
    found = tune(evaluate, GRIDS[name])
    assert found.place == "next to divergence"
    assert found.best == max(rate for rate in asked if rate < 0.5)


def test_where_every_rate_diverges_smaller_ones_are_tried():
    evaluate, asked = valley(1.0, limit=0.0)
    found = tune(evaluate, GRIDS["octaves"])
    assert (found.place, found.best) == ("none", min(asked))
    assert max(asked) == max(GRIDS["octaves"].rates(GRIDS["octaves"].first))


def test_rates_that_round_to_one_are_one():
    grid = Grid(0.1, 1 + 1e-10, (0, 1, 2), dtype=np.float32)
    assert grid.rates(grid.first) == [np.float32(0.1)]


def test_the_first_grid_lies_around_the_limit_where_there_is_one():
    limited = tuner.first_grid(find("rk4"), 3.0, np.float64)
    rates = limited.rates(limited.first)
    assert len(rates) == 7
    assert min(rates) < find("rk4").limit / 3.0 < max(rates)
    free = tuner.first_grid(find("adam"), 3.0, np.float64)
    assert free.rates(free.first) == pytest.approx(10.0 ** np.arange(-3, 0.1, 0.5))


@pytest.mark.parametrize(
    ("scores", "where"),
    [
        ([3, 1, 2], "interior"),
        ([1, 2, 3], "lower end"),
        ([3, 2, 1], "upper end"),
        ([2, 1, np.inf], "next to divergence"),
        ([1, np.inf, np.inf], "lower end"),
        ([np.inf] * 3, "none"),
    ],
)
def test_the_place_of_the_best_rate(scores, where):
    assert place(dict(zip([1.0, 2.0, 4.0], scores, strict=True))) == where


def test_a_limit_lies_in_a_bracket():
    assert bracket({1.0: False, 2.0: False, 4.0: True, 8.0: False}) == (2.0, 4.0)
    assert bracket({1.0: False}) == (1.0, np.inf)
    stable, unstable = bracket({1.0: True, 2.0: False})
    assert np.isnan(stable)
    assert unstable == 1.0


def test_last_the_rates_beside_the_best_are_tried():
    evaluate, asked = valley(0.13)
    found = tune(evaluate, Grid(0.1, 10.0, (-1, 0, 1), refine=0.25))
    assert asked == pytest.approx([0.01, 0.1, 1.0, 0.1 * 10**-0.25, 0.1 * 10**0.25])
    assert found.best == pytest.approx(0.1)
    assert found.place == "interior"
