"""In which order should mini-batches act? Backward, palindromic and averaged runs."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from . import order_epochs as epochs
from . import order_rest as rest
from .engine import Results, Study, Table, Task, at_least, span, whole
from .engine.load import own_problems
from .engine.problem import Problem
from .engine.ratios import INCOMPARABLE, MEND
from .engine.store import Record
from .problems import SUITE

NETWORK = "network"
KNOWN = (*rest.PROBLEMS, NETWORK)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The choices that decide the results.

    Attributes:
        problems: Problems, separated by commas: regression, softmax, network; your own as
            my_file.py:problem, made with odeopt.studies.Problem, which is trained as the network
            is, at rates that are tuned for each optimizer and order.
        seeds: Runs of each method on the convex problems; networks have five.
    """

    problems: tuple[Any, ...] = KNOWN
    seeds: int = 40

    def __post_init__(self) -> None:
        object.__setattr__(self, "problems", own_problems(self.problems, KNOWN))
        at_least(self, seeds=2)
        for problem in self.problems:
            if isinstance(problem, Problem) and problem.batch_size is None:
                raise ValueError(
                    f"Problem {problem.name!r} has no mini-batches to put in order: give it "
                    "batch_size=, such as 64."
                )

    @property
    def idle(self) -> dict[str, str]:
        """Settings that would change nothing, and what to write."""
        if any(name in rest.PROBLEMS for name in self.problems):
            return {}
        words = (
            f"--seeds is that of the convex problems; networks have {epochs.SEEDS}: leave it out, "
            f"or name a convex problem too, as in --problems {','.join(rest.PROBLEMS)}."
        )
        return {"seeds": words}

    @property
    def convex(self) -> dict[str, rest.Batched]:
        """The convex problems among them."""
        return {name: rest.PROBLEMS[name]() for name in self.problems if name in rest.PROBLEMS}

    @property
    def trained(self) -> list[Problem]:
        """The network and the user's own problems."""
        found = [epochs.network() if problem == NETWORK else problem for problem in self.problems]
        return [problem for problem in found if isinstance(problem, Problem)]


def tasks(settings: Settings) -> list[Task]:
    """Everything that is measured."""
    found: list[Task] = []
    convex = settings.convex
    for name, problem in convex.items():
        for method, about in rest.METHODS.items():
            long = about.times > 1 or about.backward == {}
            make = functools.partial(_rest, name, problem, method, settings.seeds)
            found.append(whole(f"{name}, {method}", make, 5.0 if long else 1.0))
    if "regression" in convex:
        make = functools.partial(epochs.orders, convex["regression"])
        found.append(whole("order of epochs", make))
    for own in settings.trained:
        network = own is epochs.network()
        for optimizer, rates in epochs.RATES.items():
            for rate in rates if network else (None,):
                for order in epochs.ORDERS:
                    name = f"{own.name}, {optimizer}{f' {rate:g}' if rate else ''}, {order}"
                    work = functools.partial(epochs.train, own, optimizer, order, rate)
                    found.append(Task(name, work, x64=network or own.x64))
    return found


def _rest(name: str, problem: rest.Batched, method: str, seeds: int) -> list[Record]:
    return [{**record, "problem": name} for record in rest.run(problem, method, seeds)]


def verdict(results: Results) -> str:
    """What backward order and an average are worth, and whether palindromic order gains."""
    table, lines = results.table("rest"), list[str]()
    rows = table.set_index("method") if len(table) else table
    if {"forward", "averaged", "backward, full"} <= set(rows.index):
        names = ("forward", "averaged", "backward, full")
        forward, average, full = (rows.loc[[name]].set_index("problem") for name in names)
        gain = forward.excess / average.excess
        alike = rest.alike(results).query("method == 'backward, full' and decides")
        lines.append(
            "Forward order, with averaging: for the same gradients the loss of averaged forward "
            f"iterates is {span(gain)} times nearer to the minimum than that of the last iterate. "
            f"Iterates in backward order converge on {int((full.rate < 1).sum())} of {len(full)} "
            f"problems, for {span(full.gradients / forward.gradients)} times the gradients."
        )
        if len(alike):
            lines.append(
                f"On {int((alike.p >= rest.CHANCE).sum())} of {len(alike)} their loss does not "
                "differ significantly from that of forward order."
            )
    judged = results.table("networks")
    networks = judged[judged.comparable] if len(judged) else judged
    if len(networks):
        lower, higher = (
            [f"{r.problem} with {r.optimizer}" for r in networks[which].itertuples()]
            for which in (networks.high < 1, networks.low > 1)
        )
        lines.append(
            "Palindromic order ends clearly lower than reshuffling on "
            f"{', '.join(lower) or 'none'}, and clearly higher on "
            f"{', '.join(higher) or 'none'}, of {len(networks)} pairs of problem and optimizer."
        )
    if len(judged) > len(networks):
        below = ", ".join(judged[~judged.comparable].problem.unique())
        lines.append(f"{INCOMPARABLE.capitalize()}, with losses below zero: {below}; {MEND}.")
    return " ".join(lines) or "There is nothing to compare."


TABLES = (
    Table(
        "rest",
        "Convergence, loss and cost",
        rest.summarize,
        {
            "problem": ("problem", "its name"),
            "method": ("method", "the order in which batches act"),
            "gradients": ("gradients", "of one run"),
            "distance": ("distance", f"between iterates, mean of the last {rest.LAST} steps"),
            "last_distance": ("last", "the last distance"),
            "rate": ("rate", "the factor by which the distance shrinks a step, if it does"),
            "spread": ("spread", "root mean square distance from the mean of the last third"),
            "excess": ("excess", "final loss on all data minus the minimum, mean of the seeds"),
            "error": ("error", "its standard error"),
            "p": ("p", "of the signed-rank test that losses are those of forward order"),
        },
        ("problem", "method", "gradients", "distance", "excess", "p"),
        "The bracket form is an expansion for small window × h × curvature, and diverges where "
        "this product is not small.",
    ),
    Table(
        "orders",
        "Epochs as a splitting of the flow of all data",
        lambda r: r.of("order").reindex(columns=["splitting", "order", "observed"]).dropna(),
        {
            "splitting": ("splitting", "the step on each batch, and the order of batches"),
            "order": ("expected", "order of accuracy"),
            "observed": ("observed", "log2 of the last ratio of errors"),
        },
        ("splitting", "order", "observed"),
    ),
    Table(
        "networks",
        "Palindromic over reshuffled",
        epochs.compare,
        {
            "problem": ("problem", "its name"),
            "optimizer": ("optimizer", "momentum is heavy ball with 0.9"),
            "rates": ("rates", "of both orders; tuned for each order on a problem of your own"),
            "reshuffled": ("reshuffled", "final loss on all training data, median of the seeds"),
            "palindromic": ("palindromic", "the same in palindromic order"),
            "ratio": ("ratio", "palindromic divided by reshuffled, paired by seed, geometric mean"),
            "interval": ("90 %", "interval of the ratio"),
            "lower of seeds": ("lower", "seeds in which palindromic order ends lower"),
            "held_out_reshuffled": ("held out, reshuffled", "metric, mean of the seeds"),
            "held_out_palindromic": ("held out, palindromic", "the same in palindromic order"),
        },
        ("problem", "optimizer", "ratio", "interval", "lower of seeds"),
    ),
)


def _method(results: Results) -> Mapping[str, str]:
    titles = {name: problem.title for name, problem in results.settings.convex.items()}
    titles |= {problem.name: problem.title for problem in results.settings.trained}
    return {
        "Problems": "; ".join(f"{name}: {title or 'own'}" for name, title in titles.items()) + ".",
        "Backward order": "x_n = T_1 T_2 … T_n(x_0): the newest batch acts first. If every step "
        "contracts, the iterates converge. If all batches are drawn from the same distribution, "
        "x_n has the same distribution as in forward order, so its expected loss is not lower: "
        "the fluctuation vanishes, not the distance from the minimum. The n-th iterate alone "
        "costs n gradients (gradient descent over the stored batches in reverse order), the "
        "whole trajectory n²/2.",
        "Convex problems": f"Float64, gradient descent with h = {rest.RATE}, {rest.STEPS} steps "
        "('equal gradients': as many steps as full backward order takes gradients). Forward, "
        "backward and averaged runs draw their batches independently, the same ones for each "
        "seed. 'one order', 'reshuffled' and 'palindromic' go through all batches every epoch. "
        "'averaged': a debiased exponential average (optax.ema) over about the last fifth of the "
        "run.",
        "Networks": f"The same batches (of the network {epochs.BATCH} examples) in every epoch, "
        f"{epochs.EPOCHS} epochs, {epochs.SEEDS} seeds; heavy ball with momentum 0.9, Adam; both "
        "orders start at the same points and have the same number of gradients. On a problem of "
        "your own the rate is tuned on seed 0 for each order, and seeds from 1 on are reported.",
        "Gradients": "One gradient is that of one batch. Everything that backward order "
        "evaluates is counted, a Hessian product as two.",
    }


STUDY = Study(
    name="order",
    question="In which order should mini-batches act?",
    summary="Compares forward, backward, palindromic and reshuffled order, and averages: whether "
    "iterates converge, their loss and their cost in gradients. Writes tables, figures and "
    "report.html. Four minutes; five times the seeds with --full.",
    settings=Settings,
    full={"seeds": 200},
    tasks=tasks,
    verdict=verdict,
    tables=TABLES,
    figures=(rest.EXCESS, rest.DISTANCES, epochs.NETWORKS),
    claims=(*rest.CLAIMS, *epochs.CLAIMS),
    method=_method,
    suite=SUITE,
    page="docs/ordering.md",
)
run = STUDY.run
