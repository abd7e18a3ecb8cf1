"""Reports of studies that were stopped: whatever tasks are finished, they are told as they are."""

import pytest
from rich.console import Console

from odeopt.studies import benchmark, drift, equivalence, games, order, stability, stiff
from odeopt.studies.engine import Results, page, terminal

from . import (
    test_benchmark,
    test_drift_study,
    test_equivalence,
    test_games,
    test_order,
    test_stability,
    test_stiff,
)


def _orders(path):
    flows = [("gradient descent", 1, 1), ("gradient descent", 2, 2)]
    return [
        {"kind": "order", "path": path, "method": method, "flow": flow, "order": rate,
         "observed": rate + 0.01}
        for method, flow, rate in flows
    ]  # fmt: skip


def _benchmark():
    records = test_benchmark._example().records
    return [r for r in records if r["problem"] == "wine" and "told" not in r["optimizer"]]


def _drift():
    return [*_orders("product"), *test_drift_study.known()]


def _games():
    circle = {"kind": "plane", "game": "damped rotation", "method": "rk4", "cost": 4, "every": 1}
    circle |= {"growth": 0.9, "predicted": 0.9, "lowest": 0.9, "highest": 1.0, "h": 0.1}
    circle |= {"radii": [1.0, 0.9], "points": [[1.0, 0.0], [0.9, 0.0]]}
    gan = [
        test_games.run(method, rate, seed, [8] * 8)
        for method in ("adam", "rk4")
        for rate, seed in ((0.1, 0), (0.2, 0), (0.2, 1), (0.2, 2))
    ]
    return [circle, {**circle, "method": "joint"}, *gan]


def _order():
    about = {"kind": "rest", "problem": "regression", "used": 1, "rate": None, "spread": [1.0]}
    about |= {f"{which} distance": [1.0] * 2 for which in ("mean", "last", "least")}
    about |= {"last excess": [1.0, 2.0], "distances": [1.0, 0.5], "excess": [2.0, 1.0]}
    about |= {"steps": [1, 2], "gradients": [1, 2]}
    rest = [{**about, "method": m} for m in ("forward", "averaged", "backward, full")]
    return [*rest, *test_order.compared([1.0, 2.0, 4.0], [0.5, 2.5, 4.0]).records]


def _stability():
    spectrum = {"kind": "spectrum", "problem": "p", "eigenvalues": [0.5, 1.0]}
    return [spectrum, *test_stability.SGD, *test_stability.rival(True, 8.0)]


# Of every study, the records of a small run, and what tells the tasks that make them apart.
STUDIES = {
    "benchmark": (benchmark, _benchmark, ("problem", "optimizer")),
    "drift": (drift, _drift, ("path", "problem", "variant", "rate")),
    "equivalence": (
        equivalence,
        test_equivalence.everything,
        ("kind", "problem", "optimizer", "family"),
    ),
    "games": (games, _games, ("game", "method")),
    "order": (order, _order, ("problem", "method", "optimizer", "order")),
    "stability": (stability, _stability, ("problem", "optimizer")),
    "stiff": (stiff, lambda: test_stiff._example().records, ("problem", "optimizer", "kind")),
}


def _tasks(records, keys):
    """The records of each task, in order; what several tasks rest on is among those of each."""
    shared = [record for record in records if record["kind"] in ("goal", "spectrum")]
    found = {}
    for record in (record for record in records if record not in shared):
        of_all = [other for other in shared if other["problem"] == record["problem"]]
        key = tuple(record.get(key) for key in keys)
        found.setdefault(key, of_all).append(record)
    return list(found.values())


def _subsets(tasks):
    """Every prefix, and all but one."""
    count = len(tasks)
    yield from (tasks[: end + 1] for end in range(count))
    yield from (tasks[:n] + tasks[n + 1 :] for n in range(count))


@pytest.mark.cheap
@pytest.mark.parametrize("name", STUDIES)
def test_whatever_tasks_are_finished_there_is_a_report_of_them(name, tmp_path):
    module, records, keys = STUDIES[name]
    tasks, study = _tasks(records(), keys), module.STUDY

    def results(subset):
        return Results(study, study.choose(), [record for task in subset for record in task])

    for subset in _subsets(tasks):
        found = results(subset)
        terminal.show(found, Console(quiet=True))
        assert [found.table(table.name) for table in study.tables]
        for figure in study.figures:
            if figure.draw(found):
                assert figure.finding(found)
    for subset in ([], tasks[:1]):
        page.write(results(subset), tmp_path)
