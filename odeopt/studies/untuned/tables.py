"""Tables of the study: who ended where, who is ahead, and what the first step changes.

Uses pandas and rich; works on records only, so that a stored study gives the same tables.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from ..engine.tuner import TUNING_SEED
from ..records import Record

FACTOR = 10.0
"""The most that a first step may change a final loss by, to count as one that does not matter."""


COLUMNS = (
    *("problem", "optimizer", "tuned", "purpose", "learning_rate", "seed"),
    *("final", "held_out", "final_loss", "final_validation", "initial_loss", "status"),
)
"""What every table of runs has, an empty one too."""


def runs_of(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run, in the order of problems and optimizers; a divergence ends at infinity."""
    runs = pd.DataFrame(records)
    if runs.empty:
        return pd.DataFrame(columns=[*COLUMNS])
    runs["final"] = runs.final_loss.astype(float).where(runs.status == "ok", np.inf)
    # What is held out at a divergence is as bad; where nothing is held out, there is nothing.
    held = runs.final_validation.astype(float)
    runs["held_out"] = held.where(runs.status == "ok", np.inf)
    nothing = runs.groupby("problem").final_validation.transform(lambda x: x.isna().all())
    runs["held_out"] = runs.held_out.mask(nothing.astype(bool))
    return runs


def summarize(records: Sequence[Record]) -> pd.DataFrame:
    """One row a problem and optimizer.

    Returns:
        Columns: `problem`, `optimizer`, `tuned`; `rate` (chosen on the tuning seed; the first step
        of an untuned optimizer) and `rates`, how many were tried; `loss_median`, `loss_min`,
        `loss_max`, `validation_median` (final, fresh seeds, infinite for a divergence);
        `initial_loss`; `diverged` of `runs` fresh ones; `seconds` of a run. Pairs without a fresh
        run are left out.
    """
    runs = runs_of(records)
    rows = []
    for (problem, optimizer), group in runs.groupby(["problem", "optimizer"], sort=False):
        fresh = group[group.purpose == "fresh"]
        if fresh.empty:
            continue
        rows.append(
            {
                "problem": problem,
                "optimizer": optimizer,
                "tuned": bool(fresh.tuned.iloc[0]),
                "rate": fresh.learning_rate.iloc[0],
                "rates": int((group.seed == TUNING_SEED).sum()),
                "loss_median": fresh.final.median(),
                "loss_min": fresh.final.min(),
                "loss_max": fresh.final.max(),
                "validation_median": fresh.held_out.median(),
                "initial_loss": fresh.initial_loss.median(),
                "diverged": int((fresh.status == "diverged").sum()),
                "runs": len(fresh),
                "seconds": fresh.seconds.median(),
            }
        )
    return _frame(rows, "problem", "optimizer", "tuned", "loss_median")


def judge(records: Sequence[Record]) -> pd.DataFrame:
    """Every untuned optimizer against the best tuned one, one row a problem.

    Returns:
        Columns: `problem`, `optimizer`; `rival`, the tuned one of the lowest median loss; `loss`
        and `rival_loss`, medians; `ratio` of the two, `ahead` if it is below 1; `share` of the
        pairs of fresh seeds (one of each) in which the untuned one ends lower; `validation`,
        `rival_validation`, and `lowest_validation` among all tuned ones.
    """
    summary, runs = summarize(records), runs_of(records)
    fresh = runs[runs.purpose == "fresh"]
    rows = []
    for problem, group in summary.groupby("problem", sort=False):
        tuned = group[group.tuned]
        if tuned.empty:
            continue
        best = tuned.loc[tuned.loss_median.idxmin()]
        theirs = fresh[(fresh.problem == problem) & (fresh.optimizer == best.optimizer)].final
        for row in group[~group.tuned].itertuples():
            mine = fresh[(fresh.problem == problem) & (fresh.optimizer == row.optimizer)].final
            rows.append(
                {
                    "problem": problem,
                    "optimizer": row.optimizer,
                    "rival": best.optimizer,
                    "loss": row.loss_median,
                    "rival_loss": best.loss_median,
                    "ratio": row.loss_median / best.loss_median,
                    "ahead": bool(row.loss_median < best.loss_median),
                    "share": float(np.mean(mine.to_numpy()[:, None] < theirs.to_numpy())),
                    "validation": row.validation_median,
                    "rival_validation": best.validation_median,
                    "lowest_validation": tuned.validation_median.min(),
                }
            )
    return _frame(rows, "problem", "optimizer")


def robustness(records: Sequence[Record]) -> pd.DataFrame:
    """What the size of the first step changes, one row a problem and untuned optimizer.

    Returns:
        Columns: `problem`, `optimizer`; `first_steps`, how many were tried; `loss_low` and
        `loss_high`, the lowest and highest of their median final losses; `spread`, their ratio;
        `steady`, whether that is below `FACTOR`; `worst`, the first step of the highest.
    """
    runs = runs_of(records)
    rows = []
    untuned = runs[~runs.tuned.astype(bool)]
    for (problem, optimizer), group in untuned.groupby(["problem", "optimizer"], sort=False):
        losses = group.groupby("learning_rate").final.median()
        if len(losses) < 2:
            continue
        spread = losses.max() / losses.min()
        rows.append(
            {
                "problem": problem,
                "optimizer": optimizer,
                "first_steps": len(losses),
                "loss_low": losses.min(),
                "loss_high": losses.max(),
                "spread": spread,
                "steady": bool(spread < FACTOR),
                "worst": float(losses.idxmax()),
            }
        )
    return _frame(rows, "problem", "optimizer")


def _frame(rows: list[dict[str, Any]], *columns: str) -> pd.DataFrame:
    """A table of these rows; without any, one that still has some columns."""
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def answer(verdict: pd.DataFrame, first_steps: pd.DataFrame) -> list[str]:
    """Sentences that say what these data say, losses as plainly as wins, and nothing else."""
    sentences = []
    for name, rows in verdict.groupby("optimizer", sort=False):
        behind = rows[~rows.ahead]
        sentence = (
            f"With nothing tuned, {name} ends below the best of the tuned optimizers on "
            f"{int(rows.ahead.sum())} of {len(rows)} problems."
        )
        if len(behind):
            each = ", ".join(
                f"{r.problem} ({r.ratio:.2g} times the loss of {r.rival})"
                for r in behind.itertuples()
            )
            sentence += f" It is behind on {each}."
        sentences.append(sentence)
        held = rows[rows.validation.notna()]
        if len(held):
            better = int((held.validation < held.rival_validation).sum())
            lowest = int((held.validation < held.lowest_validation).sum())
            sentences.append(
                f"On held-out data {name} is below that rival on {better} of {len(held)} problems "
                f"and below all tuned ones on {lowest}."
            )
        steps = first_steps[first_steps.optimizer == name]
        if len(steps):
            sensitive = [
                f"{r.problem} ({r.spread:.2g})" for r in steps.itertuples() if not r.steady
            ]
            sentences.append(
                f"First steps from 1e-5 to 1e-2 change its final loss by less than a factor of "
                f"{FACTOR:.0f} on {int(steps.steady.sum())} of {len(steps)} problems"
                + (f"; by more on {', '.join(sensitive)}." if sensitive else ".")
            )
    return sentences or ["No problem has both a tuned and an untuned optimizer that is done."]


def problem_table(problem: str, title: str, summary: pd.DataFrame) -> Table:
    """The rows of one problem for a terminal of 80 columns, the lowest loss first."""
    table = plain_table(
        f"{problem}: {title}", "optimizer", "rate", "loss", "range", "held out", "ms"
    )
    rows = summary[summary.problem == problem].sort_values("loss_median", kind="stable")
    for row in rows.itertuples():
        loss = text(row.loss_median)
        table.add_row(
            row.optimizer if row.tuned else f"[bold]{row.optimizer}[/]",
            text(row.rate) if row.tuned else "untuned",
            loss if row.tuned else f"[bold]{loss}[/]",
            f"{text(row.loss_min)}..{text(row.loss_max)}",
            text(row.validation_median),
            text(1000 * row.seconds),
        )
    return table


def verdict_table(verdict: pd.DataFrame) -> Table:
    """Who is ahead, for a terminal of 80 columns."""
    headings = ("problem", "untuned", "loss", "best tuned", "its loss", "ratio", "seeds", "")
    table = plain_table("Untuned against the best tuned", *headings)
    for row in verdict.itertuples():
        table.add_row(
            row.problem,
            row.optimizer,
            text(row.loss),
            row.rival,
            text(row.rival_loss),
            text(row.ratio),
            f"{row.share:.0%}",
            "ahead" if row.ahead else "[red]behind[/]",
        )
    return table


def robustness_table(first_steps: pd.DataFrame) -> Table:
    """What the first step changes, for a terminal of 80 columns."""
    headings = ("problem", "untuned", "lowest", "highest", "spread", "worst from")
    table = plain_table("Final loss over first steps from 1e-5 to 1e-2", *headings)
    for row in first_steps.itertuples():
        spread = text(row.spread)
        table.add_row(
            row.problem,
            row.optimizer,
            text(row.loss_low),
            text(row.loss_high),
            spread if row.steady else f"[red]{spread}[/]",
            text(row.worst),
        )
    return table


LEGEND = (
    "rate: tuned on seed 0. loss, range: training loss after equal gradients, median and range of "
    "the fresh seeds. held out: median validation loss. ms: a run. ratio: of the two losses, below "
    "1 is ahead. seeds: share of pairs of seeds in which the untuned one ends lower. spread: "
    "highest over lowest."
)
"""What the columns of the tables mean."""


def plain_table(title: str, *headings: str) -> Table:
    """An empty table, its numbers right-aligned."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.columns[0].justify = "left"
    return table


def text(value: Any) -> str:
    """A number of two digits."""
    if value is None or np.isnan(value):
        return "-"
    return "diverged" if np.isinf(value) else f"{value:.2g}"
