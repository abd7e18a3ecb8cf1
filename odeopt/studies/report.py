"""One self-contained HTML page about a stability sweep. Uses jinja2 and pandas."""

import base64
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from . import measures
from .records import Record
from .tables import GOOD

BASELINES = ("sgd", "euler")  # the first that takes part; they are the same method

CAPTIONS = {
    "loss_rate": (
        "Final loss against learning rate: median over the reported seeds (lines), their range "
        "(bands), the tuned rate (rings); a cross in the strip on top marks a rate at which at "
        "least one seed diverged. Look at where each line ends and how wide its valley is."
    ),
    "loss_relative": (
        "The same losses against h · sharpness / R, the learning rate in units of each method's "
        "own linear stability limit at the initial point. Look at whether the lines end at 1, "
        "where linear theory says that they should; methods without a limit are left out."
    ),
    "rate_seed": (
        "Every run: learning rate across, seeds as rows within each optimizer (tuning seed on "
        "top), colour for the final loss over the initial one. Look for ragged edges: there, "
        "whether a run survives is a matter of the seed."
    ),
    "loss_gradients": (
        "Loss against gradients spent, each optimizer at its tuned rate: median and range over "
        "the reported seeds. Every stage of a solver is charged; this is the comparison at equal "
        "cost, so look at which line is lowest on the right."
    ),
    "loss_seconds": (
        "The same curves against seconds, each run's time spread evenly over its gradients. "
        "Look for lines that change places: there a gradient is not the whole cost of a step."
    ),
    "sharpness": (
        "Largest Hessian eigenvalue along training, as sharpness · h / R. A line that climbs to 1 "
        "and stays there trains at the edge of stability of its own method."
    ),
    "regions": (
        "Where |R(z)| ≤ 1 (shaded), with z = −h λ for the Hessian's eigenvalues λ at the initial "
        "point and the tuned rate h. All z are real: they lie in a strip on the real axis, a row a "
        "problem. Points outside the shade are directions that grow at first."
    ),
    "profile": (
        "Performance profile: the share of (problem, seed) pairs in which an optimizer at its "
        "tuned rate reaches the target within τ times the gradients of the fastest. Target: "
        f"{measures.TARGET:.0%} of the way from the median initial loss to the best median final "
        "loss of this sweep, to the resolution of the recorded curves; a miss counts as infinity. "
        "Look at the left end (who is fastest) and the right end (who arrives at all)."
    ),
    "order": (
        "Error at a fixed flow time against step size h; dashed: the slope of the method's order. "
        "Look at whether the points are parallel to their dashed line."
    ),
}

SUMMARY = {
    "problem": "problem",
    "optimizer": "optimizer",
    "order": "order",
    "R": "R",
    "R_per_gradient": "R per gradient",
    "measured_limit": "measured limit",
    "best_rate": "tuned h",
    "best_relative_rate": "h·sharpness/R",
    "best_at": "tuned at",
    "loss_median": "final loss, median",
    "loss_min": "lowest",
    "loss_max": "highest",
    "sensitivity": "sensitivity",
    "width_octaves": "good octaves",
    "diverged": "diverged",
    "runs": "of runs",
}
"""Columns of `tables.summarize` that the page shows, and their headings."""


def text(value: Any, digits: int = 3) -> str:
    """A table cell."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float | np.floating):
        return "miss" if np.isinf(value) else f"{value:.{digits}g}"
    return str(value)


def _bracket(row: Any, key: str) -> str:
    """Between which numbers a ratio of stability limits lies."""
    low, high = row[f"{key}_low"], row[f"{key}_high"]
    return f"{low:.2f} or more" if np.isinf(high) else f"{low:.2f} to {high:.2f}"


def _ratio(row: Any, key: str) -> str:
    """The bracket, and on how many problems it leaves no doubt."""
    if not row.get("problems", 0) > 0:
        return "–"
    sides = ", ".join(f"{side} on {row[f'{key}_{side}']:.0f}" for side in ("larger", "smaller"))
    return f"{_bracket(row, key)} ({sides} of {row['problems']:.0f})"


def comparison(table: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of `measures.compare` as the page shows them."""
    return [
        {
            "optimizer": str(name),
            "stability limit, per step": _ratio(row, "step"),
            "per gradient": _ratio(row, "gradient"),
            "lowest loss on": f"{row['lowest']} problems",
            "below the baseline on": f"{row['below']} problems",
            "target reached": f"{row['reached']} of {row['pairs']}",
            "diverged": f"{row['diverged']} of {row['runs']} runs",
        }
        for name, row in table.iterrows()
    ]


def answer(records: Sequence[Record], runs: pd.DataFrame) -> list[str]:
    """The page's first paragraph: sentences that say what these data say, and nothing else."""
    if runs.empty:
        return ["No run was made, so there is nothing to compare."]
    baseline = next((b for b in BASELINES if b in set(runs.optimizer)), "")
    table = measures.compare(runs, baseline)
    sentences = []
    if baseline and "problems" in table:
        solvers = table[table.solver & (table.problems > 0)]
        for key, word in (("step", "per step"), ("gradient", "per gradient")):
            if len(solvers):
                sentences.append(_verdict(solvers, key, word, baseline))
    sentences += _limits(records, runs, baseline)
    sentences += _race(runs, table, baseline)
    lost = int((runs.status == "diverged").sum())
    made = int((runs.status != "time-out").sum())
    return [*sentences, f"{lost} of the {made} runs made diverged."]


def _verdict(solvers: pd.DataFrame, key: str, word: str, baseline: str) -> str:
    larger = int((solvers[f"{key}_low"] > 1 - measures.ROUNDING).sum())
    smaller = int((solvers[f"{key}_high"] < 1 + measures.ROUNDING).sum())
    each = ", ".join(f"{name} {_bracket(row, key)}" for name, row in solvers.iterrows())
    return (
        f"{word.capitalize()}, the stability limit of {larger} of {len(solvers)} solvers is above "
        f"{baseline}'s, that of {smaller} is not, and for {len(solvers) - larger - smaller} the "
        "grid of rates is too coarse to tell (limit over "
        f"{baseline}'s, from the largest stable and the smallest diverged rates, median over "
        f"problems: {each})."
    )


def _limits(records: Sequence[Record], runs: pd.DataFrame, baseline: str) -> list[str]:
    """The limits measured on quadratics, on a grid much finer than that of the runs."""
    rows = [r for r in records if r["kind"] == "limit" and pd.notna(r["measured_limit"])]
    if not rows:
        return []
    measured = pd.DataFrame(rows)
    worst = abs(measured.measured_limit / measured.R - 1).max()
    limits = measured.groupby("optimizer", sort=False).measured_limit.median()
    sentence = (
        "On the quadratics, where a finer grid finds each method's limit to 0.5 %, the limit is "
        f"within {max(worst, 0.005):.1%} of theory's R"
    )
    cost = runs.drop_duplicates("optimizer").set_index("optimizer").gradients_per_step
    others = [name for name in limits.index if name != baseline and name in cost]
    if baseline in limits and others:
        ratios = limits / limits[baseline]
        each = ", ".join(f"{o} {ratios[o]:.2f} ({ratios[o] / cost[o]:.2f})" for o in others)
        sentence += f"; relative to {baseline}'s, per step (per gradient): {each}"
    return [sentence + "."]


def _race(runs: pd.DataFrame, table: pd.DataFrame, baseline: str) -> list[str]:
    """Who ends lowest at equal gradients."""
    budget = runs.gradients.max()
    problems = runs.problem.nunique()
    winners = table[table.lowest > 0].lowest.sort_values(ascending=False, kind="stable")
    if winners.empty:
        return ["No optimizer ended below its initial loss at its tuned rate."]
    sentences = [
        f"At an equal budget of {budget:.0f} gradients and the tuned rate, the lowest median "
        f"final loss belongs to "
        + ", ".join(f"{name} on {count}" for name, count in winners.items())
        + f" of {problems} problems."
    ]
    solvers = table[table.solver & (table.index != baseline)]
    if baseline and len(solvers):
        each = ", ".join(f"{name} {row['below']}" for name, row in solvers.iterrows())
        sentences.append(f"Solvers that end below {baseline}, and on how many problems: {each}.")
    return sentences


def notices(runs: pd.DataFrame) -> list[str]:
    """What a reader must know before trusting a number."""
    found = []
    if late := int((runs.status == "time-out").sum()):
        found.append(
            f"{late} of {len(runs)} runs were not made, because time was over. They count as "
            "misses; --resume makes them."
        )
    stable = measures.largest_stable(runs)
    if unstable := [" / ".join(key) for key in stable.index[stable.rate.isna()]]:
        found.append(f"No stable rate was found for {', '.join(unstable)}.")
    if (runs.groupby("problem").optimizer.nunique() < runs.optimizer.nunique()).any():
        found.append("Some optimizers have no run on some problems; there they count as misses.")
    return found


def command(settings: Mapping[str, Any]) -> str:
    """The command line that makes the same sweep."""
    options = ("solvers", "problems", "rates", "seeds", "gradients", "batch_size")
    return command_line("stability", settings, options)


def command_line(study: str, settings: Mapping[str, Any], options: Sequence[str]) -> str:
    """The command line of a study with these of its settings, but for those that are empty."""
    words = ["odeopt", study]
    for option in options:
        value = settings.get(option)
        if not value:
            continue
        joined = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words += [f"--{option.replace('_', '-')}", joined]
    return shlex.join(words)


def cells(table: pd.DataFrame) -> list[dict[str, str]]:
    """The rows of a table under its own headings, as `text` says them."""
    return [
        {str(name): text(value) for name, value in row.items()}
        for row in table.to_dict(orient="records")
    ]


def rows(
    table: pd.DataFrame, columns: Mapping[str, str], spoken: Callable[[Any], str]
) -> list[dict[str, str]]:
    """The rows of a table under these headings, numbers as `spoken` says."""

    def cell(value: Any) -> str:
        if isinstance(value, bool | np.bool_):
            return "yes" if value else "no"
        return value if isinstance(value, str) else spoken(value)

    return [
        {heading: cell(row[name]) for name, heading in columns.items()}
        for row in table.to_dict(orient="records")
    ]


def _summary(summary: pd.DataFrame) -> list[dict[str, str]]:
    shown = [column for column in SUMMARY if column in summary]
    return [{SUMMARY[c]: text(row[c]) for c in shown} for row in summary.to_dict(orient="records")]


def render(template: str, **values: Any) -> str:
    """A page from one of the templates of this folder; everything in it is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("odeopt.studies", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def embedded(figures: Mapping[str, Path], captions: Mapping[str, str]) -> list[tuple[str, str]]:
    """Captions, and PNG files as text that a page can hold."""
    return [
        (captions[name], base64.b64encode(file.read_bytes()).decode())
        for name, file in figures.items()
    ]


def write(result: Any, out: Path, figures: Mapping[str, Path]) -> Path:
    """Writes `report.html` with everything inside it: it needs no network and no other file.

    Args:
      result: a `stability.Result`.
      out: an existing folder.
      figures: what `plots.draw` returned.

    Returns:
      The page's path.
    """
    runs = measures.table_of(result.records)
    made = [record for record in result.records if record["kind"] == "run"]
    baseline = next((b for b in BASELINES if b in set(runs.optimizer)), "")
    page = render(
        "report.html.jinja",
        answer=answer(result.records, runs),
        notices=notices(runs),
        baseline=baseline,
        comparison=comparison(measures.compare(runs, baseline)),
        summary=_summary(result.summary),
        figures=embedded(figures, CAPTIONS),
        target=measures.TARGET,
        targets=[(p, text(loss)) for p, loss in measures.targets(runs).items()],
        good=GOOD,
        spacing=_spacing(runs),
        settings=result.settings,
        titles=result.titles,
        seconds=result.seconds,
        command=command(result.settings),
        versions=made[0]["versions"] if made else {},
        checksums={record["problem"]: record["data_checksum"] for record in made},
        costs={record["optimizer"]: record["gradients_per_step"] for record in made},
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _spacing(runs: pd.DataFrame) -> float | None:
    """The widest gap in the rates of methods with a limit: how finely a stable rate is known."""
    limited = runs[runs.R.notna()].groupby(measures.PAIR)
    rates = [np.unique(group) for _, group in limited.learning_rate]
    gaps = [float((r[1:] / r[:-1]).max()) for r in rates if len(r) > 1]
    return max(gaps, default=None)
