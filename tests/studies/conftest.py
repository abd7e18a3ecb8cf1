"""A sweep whose outcome is known: damped modes under each method's stability polynomial."""

import numpy as np
import pytest

from odeopt.studies import stability

POLYNOMIALS = {
    "sgd": [1, 1],
    "heun": [1, 1, 1 / 2],
    "bosh3": [1, 1, 1 / 2, 1 / 6],
    "rk4": [1, 1, 1 / 2, 1 / 6, 1 / 24],
}
LIMITS = {"sgd": 2.0, "heun": 2.0, "bosh3": 2.5127453, "rk4": 2.7852936}
EIGENVALUES = {"one": [4.0, 1.0, 0.1], "two": [20.0, 3.0, 0.5], "three": [1.0, 0.2]}
BUDGET = 240


def _run(problem, optimizer, rate, seed):
    eigenvalues, polynomial = np.array(EIGENVALUES[problem]), POLYNOMIALS[optimizer]
    cost, sharpness = len(polynomial) - 1, eigenvalues.max()
    start = 1 + np.random.default_rng(seed).uniform(0, 0.3, len(eigenvalues))
    factor = np.polynomial.polynomial.polyval(-rate * eigenvalues, polynomial)
    gradients = np.linspace(0, BUDGET, 61)
    with np.errstate(over="ignore"):
        modes = start * np.abs(factor) ** (gradients[:, None] / cost)
        loss = 0.5 * (eigenvalues * modes**2).sum(1)
    loss = [float(x) if np.isfinite(x) else None for x in loss]
    ok = loss[-1] is not None and loss[-1] <= loss[0]
    return {
        "kind": "run", "suite": "1", "problem": problem, "optimizer": optimizer,
        "hyperparameters": {}, "learning_rate": float(rate),
        "relative_rate": float(rate * sharpness / LIMITS[optimizer]), "seed": seed,
        "R": LIMITS[optimizer], "order": cost, "gradients_per_step": cost,
        "sharpness": float(sharpness), "status": "ok" if ok else "diverged",
        "steps": BUDGET // cost, "gradients": BUDGET, "seconds": 0.01 * BUDGET,
        "initial_loss": loss[0], "final_loss": loss[-1], "loss": loss,
        "loss_gradients": gradients.tolist(), "spikes": 0, "compile_seconds": 0.0,
        "versions": {"jax": "0.0"},
        "data_checksum": "ab12" + problem,
    }  # fmt: skip


def synthetic(problems=tuple(EIGENVALUES), optimizers=tuple(POLYNOMIALS), seeds=4, powers=None):
    """Runs, limits, orders, spectra and sharpness traces of a sweep over linear problems."""
    powers = np.arange(-4, 2.5, 0.5) if powers is None else powers
    records = [
        _run(p, o, LIMITS[o] / max(EIGENVALUES[p]) * 1.001 * 2.0**k, seed)
        for p in problems for o in optimizers for k in powers for seed in range(seeds)
    ]  # fmt: skip
    for p in problems:
        records.append({"kind": "spectrum", "problem": p, "eigenvalues": EIGENVALUES[p]})
        for o in optimizers:
            limit, h = LIMITS[o], LIMITS[o] / max(EIGENVALUES[p])
            gradients = np.linspace(0, BUDGET, 9)
            trace = max(EIGENVALUES[p]) * (1 - np.exp(-gradients / 50))
            about = {"problem": p, "optimizer": o, "R": limit}
            records += [
                {"kind": "limit", **about, "measured_limit": limit * 1.002},
                {"kind": "sharpness", **about, "learning_rate": h,
                 "gradients": gradients.tolist(), "sharpness": trace.tolist()},
            ]  # fmt: skip
    for o in optimizers:
        order, steps = len(POLYNOMIALS[o]) - 1, [0.4, 0.2, 0.1, 0.05]
        records.append({
            "kind": "order", "problem": problems[0], "optimizer": o, "nominal_order": order,
            "step_sizes": steps, "errors": [0.3 * h**order for h in steps],
            "observed_order": float(order),
        })  # fmt: skip
    return as_result(records)


def as_result(records):
    runs = [r for r in records if r["kind"] == "run"]
    settings = {
        "suite": "1", "solvers": tuple(dict.fromkeys(r["optimizer"] for r in runs)),
        "problems": tuple(dict.fromkeys(r["problem"] for r in runs)), "rates": (),
        "seeds": 3, "gradients": BUDGET, "batch_size": None,
    }  # fmt: skip
    titles = {name: f"modes {EIGENVALUES.get(name)}" for name in settings["problems"]}
    return stability.Result(records, settings, 12.5, titles)


@pytest.fixture(scope="session")
def make_result():
    """The builder itself, for tests that vary the sweep."""
    return synthetic


@pytest.fixture(scope="session")
def from_records():
    """A result from any list of records."""
    return as_result


@pytest.fixture(scope="session")
def result():
    """Three problems, four optimizers, thirteen rates, four seeds."""
    return synthetic()
