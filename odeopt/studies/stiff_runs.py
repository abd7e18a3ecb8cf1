"""The runs of the stiff study: who takes part, where a run ends, and what is tuned."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from threadpoolctl import threadpool_limits

import odeopt

from . import iterative
from .engine import Lab, Task, at_least, whole
from .engine.load import own_optimizers, own_problems
from .engine.optimizers import Entry, contenders, controlled, entry, find
from .engine.problem import Problem
from .engine.race import Race, raced
from .engine.ratios import refuse_loss
from .engine.store import Record
from .engine.tuner import TUNING_SEED, Grid, tune
from .names import lookup
from .problems import build

SUITE = "stiff-1"
"""Version of problems, targets and budgets. A change of any of them needs a new one."""
NEWTON_STEPS = 50
"""For the optimum of a convex loss; ten do, the others change nothing."""
JUDGED = 28
"""Gradients after which the full batch is looked at where steps see mini-batches."""
SWEPT, SWEPT_SEEDS, DECADES = 600, 3, tuple(range(-3, 4))
"""Gradients, seeds and decades of the rates, or first steps, of `SENSITIVE`."""
SENSITIVE = ("sgd", "linearly_implicit_euler", "exponential_euler")
STABLE_ON, FIRST_STABLE, QUARTER_OCTAVE, MOST_CLIMBS = "digits-mse", 0.03, 2**0.25, 60
"""Where the largest stable rates are measured, and how: from 0.03 R, stable for sure, upwards."""
CLIMBING = ("sgd", "rkc")
DESCENT_ON = ("digits-mse", "digits-ce")
DESCENT_DECADES, DESCENT_STEPS, FIXED_COST = tuple(range(-3, 7)), 200, 400
"""Rates and steps of implicit Euler, and more gradients than one of its steps takes."""
MEMORIES = (10, 50)
"""Of L-BFGS, whose setting is chosen among them."""
MOST_PARAMETERS, MOST_JACOBIAN = 5_000, 10**6
"""Up to which BFGS keeps its matrix, and Levenberg-Marquardt decomposes its Jacobian."""


@dataclasses.dataclass(frozen=True)
class Goal:
    """Where a run ends.

    Attributes:
        level: The loss that counts as arrived; where `relative`, the part of the initial gap to
            the optimum that may be left.
        gradients: Budget of a run, the one that sees its last loss included.
        relative: Whether `level` is such a part.
        convex: Whether the optimum is not zero, but found by Newton's method.
    """

    level: float
    gradients: int
    relative: bool = False
    convex: bool = False

    def optimum(self, problem: Problem) -> float:
        """The lowest loss, 0 unless `convex`; needs x64."""
        if not self.convex:
            return 0.0
        data = tuple(jnp.asarray(array) for array in problem.data)

        def newton(_: int, x: jax.Array) -> jax.Array:
            curvature = jax.hessian(problem.loss)(x, data)
            return x - jnp.linalg.solve(curvature, jax.grad(problem.loss)(x, data))

        end = jax.lax.fori_loop(0, NEWTON_STEPS, newton, jnp.zeros_like(problem.init(0)))
        return float(problem.loss(end, data))

    def target(self, initial: Any, optimum: float) -> Any:
        """The loss at which a run with that initial loss has arrived."""
        if not self.relative:
            return 0 * initial + self.level
        return optimum + self.level * (initial - optimum)

    def spoken(self) -> str:
        """The target in a few characters."""
        if not self.relative:
            return f"loss {self.level:g}"
        return f"{self.level:g} of the initial gap" + (" to the optimum" if self.convex else "")


GOALS: dict[str, Goal] = {
    "quadratic-kappa1e6": Goal(1e-5, 50_000, relative=True),
    "quadratic-diabetes2": Goal(1e-5, 50_000, relative=True),
    "logistic": Goal(1e-6, 50_000, relative=True, convex=True),
    "digits-mse": Goal(0.1, 3000),
    "digits-ce": Goal(0.01, 3000),
    "digits-mse-64": Goal(0.1, 3000),
    "digits-ce-64": Goal(0.01, 3000),
    "poisson": Goal(1e-6, 20_000),
    "burgers": Goal(1e-4, 6000),
    "mnist-5k": Goal(0.1, 400),
}
"""By the name of a problem of `studies.problems`, in the order of the tables."""


def _lbfgs(memory: int) -> Entry:
    cost = lambda before, after: optax.tree.get(after, "num_linesearch_steps")  # noqa: E731
    make = lambda _: optax.lbfgs(memory_size=memory)  # noqa: E731
    return Entry("lbfgs", make, counted=True, cost=cost, line_search=True)


def _iterative(name: str) -> Entry:
    """Made for a problem by `_on`: what it keeps depends on the data's shapes."""
    return Entry(name, optax.sgd, counted=True, line_search=True, tuned=False)


def _known(name: str, **changes: Any) -> Callable[[], Entry]:
    return lambda: dataclasses.replace(find(name), **changes)


_CG = "linearly_implicit_euler-cg", functools.partial(odeopt.linearly_implicit_euler, solve="cg")


ITERATIVE = {"bfgs": iterative.bfgs, "levenberg_marquardt": iterative.levenberg_marquardt}
ENTRIES: dict[str, Callable[[], Entry]] = {
    "sgd": _known("sgd", unit=0.1),
    "momentum": _known("momentum", unit=0.1),
    "adam": _known("adam", unit=0.01),
    "lbfgs": lambda: _lbfgs(MEMORIES[0]),
    **{name: functools.partial(_iterative, name) for name in ITERATIVE},
    "rkc": _known("rkc", unit=10.0),
    "rkc-auto": lambda: entry(
        "rkc-auto", lambda rate: odeopt.rkc(rate, stages=None), counted=True, unit=10.0
    ),
    "linearly_implicit_euler": _known("linearly_implicit_euler", tuned=False),
    "linearly_implicit_euler-cg": lambda: controlled(*_CG, tuned=False),
    **{
        name: _known(name, tuned=False)
        for name in ("rosenbrock2", "exponential_euler", "implicit_euler")
    },
}
"""Everything that `--solvers` knows, in the order of the tables.

Rivals: optax's SGD, momentum 0.9 and Adam with their rates tuned, its L-BFGS with a memory of 10 or
50; optimistix's BFGS and Levenberg-Marquardt as they are. Solvers: `rkc` with 10 stages, and with
as many as a step asks for, their rates tuned; the others under `gain_ratio`, with nothing tuned.
"""
RIVALS = tuple(ENTRIES)[:6]
QUICK_PROBLEMS = ("quadratic-kappa1e6", "logistic", "digits-mse", "digits-ce", "poisson", "burgers")
QUICK_SOLVERS = (*RIVALS, "rkc", "linearly_implicit_euler")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide the results.

    Attributes:
        problems: Problems, separated by commas; your own as my_file.py:problem, made with
            odeopt.studies.Problem. Levenberg-Marquardt takes part where its loss is a sum of
            squares made by odeopt.composite.
        solvers: Who takes part, separated by commas: the rivals sgd, momentum, adam, lbfgs, bfgs,
            levenberg_marquardt; the solvers rkc, rkc-auto, linearly_implicit_euler,
            linearly_implicit_euler-cg, rosenbrock2, exponential_euler, implicit_euler; your own as
            my_file.py:make, where make(h) returns an optax optimizer.
        seeds: Fresh seeds to report; one more tunes.
        target: The part of the initial loss that is the target on a problem of your own.
        gradients: The budget there.
    """

    problems: tuple[Any, ...] = QUICK_PROBLEMS
    solvers: tuple[Any, ...] = QUICK_SOLVERS
    seeds: int = 3
    target: float = 0.01
    gradients: int = 3000

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", own_problems(self.problems, GOALS))
        object.__setattr__(self, "solvers", own_optimizers(self.solvers))
        self.entries()
        at_least(self, seeds=1, gradients=2)
        if not 0 < self.target < 1:
            raise ValueError(f"--target must be between 0 and 1, not {self.target:g}.")

    @property
    def idle(self) -> dict[str, str]:
        """Settings that would change nothing, and what to write."""
        if any(isinstance(problem, Problem) for problem in self.problems):
            return {}
        words = (
            "--{} is that of problems of your own, and every other one has its own: leave it out, "
            "or name a problem of yours, as in --problems my_file.py:problem."
        )
        return {name: words.format(name) for name in ("target", "gradients")}

    def entries(self) -> list[Entry]:
        """Who takes part."""
        known = (lookup("solver", s, ENTRIES)() if isinstance(s, str) else s for s in self.solvers)
        return contenders(list(known), ENTRIES)

    def goal(self, problem: Problem) -> Goal:
        """Where runs on that problem end."""
        if problem in self.problems:  # the user's
            return Goal(self.target, self.gradients, relative=True)
        return GOALS[problem.name]


FULL = {"problems": tuple(GOALS), "solvers": tuple(ENTRIES), "seeds": 5}


def tasks(settings: Settings) -> list[Task]:
    """Everything that is measured."""
    return [task for p in build(settings.problems) for task in _tasks(settings, p)]


def _tasks(settings: Settings, problem: Problem) -> list[Task]:
    own, found = problem in settings.problems, list[Task]()
    cost = 1e-7 * settings.goal(problem).gradients * problem.examples

    def add(one: Entry, what: str, work: Any, *given: Any, weight: float = 1.0) -> None:
        done = functools.partial(_alone, work, settings, problem, *given)
        found.append(raced(problem, one, done, 1 + weight * cost, what))

    for one in settings.entries():
        on = _on(problem, one)
        if isinstance(on, str):
            about = {"problem": problem.name, "optimizer": one.name, "why": on}
            made = functools.partial(list[Record], [{"kind": "left out", **about}])
            found.append(whole(f"{problem.name}, {one.name}, left out", made, x64=problem.x64))
        else:
            add(on, one.name, _race, on, weight=3 if one.tuned else 1)
        if one.name in SENSITIVE and (own or problem.name.startswith("digits")):
            add(one, f"sensitivity of {one.name}", _sweep, one)
        if one.name in CLIMBING and problem.name == STABLE_ON:
            add(one, f"stable rates of {one.name}", _climb, one, weight=3)
        if one.name == "implicit_euler" and problem.name in DESCENT_ON:
            add(one, "descent of implicit_euler", _descent)
    return found


def _on(problem: Problem, one: Entry) -> Entry | str:
    """The entry on that problem, or why it can only look bad there or not run at all."""
    if not one.line_search:
        return one
    leaves = jax.tree.leaves(problem.start(0))
    size, why = sum(leaf.size for leaf in leaves), ""
    if any(leaf.dtype.itemsize < 4 for leaf in leaves):
        why = "parameters below 32 bits, in which line searches fail"
    elif problem.batch_size is not None:
        why = "goes on with the value of the last batch, so only full batches"
    elif one.name == "bfgs" and size > MOST_PARAMETERS:
        why = f"more than {MOST_PARAMETERS} parameters"
    elif one.name == "levenberg_marquardt":
        rows = iterative.least_squares_rows(problem)
        if not rows:
            why = "the loss is no odeopt.composite of least squares"
        elif rows * size > MOST_JACOBIAN:
            why = f"a Jacobian of more than {MOST_JACOBIAN} entries"
    if why or one.name not in ITERATIVE:
        return why or one
    return dataclasses.replace(one, make=lambda _: ITERATIVE[one.name](problem))


def _alone(work: Callable[..., list[Record]], *given: Any) -> list[Record]:
    # Threads of OpenBLAS spin while they wait for each other: on two busy cores, Cholesky's
    # decomposition of 350 rows made a run take 0.5 s with one thread and 2 to 30 s with two.
    with threadpool_limits(1, user_api="blas"):
        return work(*given)


def _race(settings: Settings, problem: Problem, one: Entry, lab: Lab) -> list[Record]:
    """Tune on the tuning seed where there is something to tune, then run the reported seeds."""
    goal, fresh = settings.goal(problem), range(1, settings.seeds + 1)
    (about,) = found = list(lab.once(f"goal/{problem.name}", lambda: [_goal(problem, goal)]))
    optimum = about["optimum"]
    points = np.unique(np.geomspace(1, goal.gradients - 1, 40).astype(int))
    if problem.batch_size is not None:
        points = np.append(np.arange(JUDGED, goal.gradients - 1, JUDGED), goal.gradients - 1)
    if one.name in ITERATIVE:  # what they are made of is not the same on several devices
        lab = Lab(lab.store, lab.devices[:1], lab.deadline)

    @functools.cache
    def race(memory: float) -> Race:
        return Race(
            lab,
            problem,
            _lbfgs(int(memory)) if memory else one,
            goal.gradients - 1,  # the gradient that sees the last loss is counted too
            [TUNING_SEED, *fresh],
            about={"rival": one.name in RIVALS, "tuned": one.tuned},
            target=lambda initial: goal.target(initial, optimum),
            points=points.tolist(),
        )

    def of(setting: float) -> Race:
        return race(setting if one.name == "lbfgs" else 0.0)

    limit = goal.gradients

    def score(setting: float) -> float:
        """Gradients to the target; a miss is ranked behind by its final loss.

        Once a setting has arrived, no other is given more gradients than that one took.
        """
        nonlocal limit
        wanted = [(setting, TUNING_SEED)]
        (record,) = of(setting).runs(wanted, limit - 1, purpose="tuning", limit=limit)
        found.append(record)
        if record["status"] == "reached":
            limit = min(limit, int(record["reached"]))
            return float(record["reached"])
        if record["status"] == "diverged":
            return np.inf
        return goal.gradients * (1 + record["final_loss"] / record["initial_loss"])

    if one.name == "lbfgs":
        setting = min(map(float, MEMORIES), key=score)
    elif one.tuned:
        grid = Grid.quarter_decades(one.unit, dtype=problem.dtype)
        setting = tune(lambda rates: [score(rate) for rate in rates], grid).best
    else:
        setting = one.unit
    runs = [(setting, seed) for seed in fresh]
    return found + of(setting).runs(runs, purpose="fresh", limit=goal.gradients)


def _goal(problem: Problem, goal: Goal) -> Record:
    begin = problem.initial_loss
    if goal.relative and not goal.convex and not begin > 0:
        refuse_loss(problem, f"starts at {begin:.3g}", "the target is a part of that")
    about = {"level": goal.level, "relative": goal.relative, "optimum": goal.optimum(problem)}
    return {"kind": "goal", "problem": problem.name, **about}


def _few(settings: Settings) -> list[int]:
    return list(range(1, min(settings.seeds, SWEPT_SEEDS) + 1))


def _by_decades(race: Race, decades: Iterable[int]) -> list[Record]:
    rates = [float(race.problem.dtype(10.0**decade)) for decade in decades]
    return race.runs((rate, seed) for rate in rates for seed in race.seeds)


def _sweep(settings: Settings, problem: Problem, one: Entry, lab: Lab) -> list[Record]:
    """Final losses at equal gradients, over six decades of rates or first steps."""
    race = Race(lab, problem, one, SWEPT - 1, _few(settings), kind="sweep", points=1)
    return _by_decades(race, DECADES)


def _climb(settings: Settings, problem: Problem, one: Entry, lab: Lab) -> list[Record]:
    """Rates by quarter octaves, on all seeds, up to the first at which one of them diverges."""
    goal, seeds, found = settings.goal(problem), _few(settings), list[Record]()
    options: dict[str, Any] = {"points": 1, "target": lambda loss: goal.target(loss, 0.0)}
    race = Race(lab, problem, one, goal.gradients - 1, seeds, kind="climb", **options)
    assert one.limit is not None
    rate = FIRST_STABLE * one.limit
    for _ in range(MOST_CLIMBS):
        found += race.runs((float(problem.dtype(rate)), seed) for seed in seeds)
        if any(record["status"] == "diverged" for record in found):
            break
        rate *= QUARTER_OCTAVE
    return found


def _descent(settings: Settings, problem: Problem, lab: Lab) -> list[Record]:
    """Implicit Euler at fixed rates over nine decades: does the loss ever rise?"""
    fixed = entry("implicit_euler, fixed step", odeopt.implicit_euler, counted=True)
    options: dict[str, Any] = {"points": 1, "most": DESCENT_STEPS}
    budget = DESCENT_STEPS * (FIXED_COST + 1)
    race = Race(lab, problem, fixed, budget, _few(settings), kind="descent", **options)
    return _by_decades(race, DESCENT_DECADES)
