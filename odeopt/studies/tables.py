"""Tables of a stability study: the best rate of each optimizer, what it cost, how wide it was.

Uses pandas and rich; works on records only, so that a stored study gives the same tables.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table

from .grid import place
from .records import Record

TUNING_SEED = 0
GOOD = 0.1
"""A rate is good where the loss came down by all but this share of the best decrease."""


def summarize(records: Sequence[Record]) -> pd.DataFrame:
    """One row a problem and optimizer, in the order of their first run.

    Returns:
        Columns: `problem`, `optimizer`, `order`, `R`, `measured_limit` (h * lambda_max, per step,
        quadratics only), `R_per_gradient`, `gradients_per_step`, `gradients` (budget spent by a
        run at the best rate), `sharpness` (initial), `best_rate` (chosen on the tuning seed),
        `best_relative_rate` (h * sharpness / R), `best_rate_per_gradient`, `best_at` ("interior",
        "next to divergence", or the end of the grid it stayed at), `loss_median`, `loss_min`,
        `loss_max` (final losses of the fresh seeds at that rate, infinite for a miss),
        `initial_loss`, `sensitivity`, `width_octaves`, `rates`, `runs`, `diverged`, `timed_out`
        (the last three over all rates and seeds). No times: equal runs give equal tables.
    """
    limits = {
        (record["problem"], record["optimizer"]): record["measured_limit"]
        for record in records
        if record["kind"] == "limit"
    }
    rows = [
        _row(group, limits.get(key))
        for key, group in _runs(records).groupby(["problem", "optimizer"], sort=False)
    ]
    return pd.DataFrame(rows)


def time_table(records: Sequence[Record]) -> pd.DataFrame:
    """Seconds, one row a problem and optimizer: `compile_seconds` of the one program of all runs,
    `seconds` of the runs together, `seconds_per_gradient`, and `seconds_per_run`, the median of
    the runs that were not cut short.
    """
    rows = []
    for (problem, optimizer), group in _runs(records).groupby(["problem", "optimizer"], sort=False):
        whole = group[group.status == "ok"]
        rows.append(
            {
                "problem": problem,
                "optimizer": optimizer,
                "compile_seconds": group.compile_seconds.max(),
                "seconds": group.seconds.sum(),
                "seconds_per_gradient": group.seconds.sum() / max(1, group.gradients.sum()),
                "seconds_per_run": whole.seconds.median(),
            }
        )
    return pd.DataFrame(rows)


def _runs(records: Sequence[Record]) -> pd.DataFrame:
    runs = pd.DataFrame([record for record in records if record["kind"] == "run"])
    if runs.empty:
        return pd.DataFrame(columns=["problem", "optimizer"])
    # Which run of a group was written first depends on kills; the table must not.
    keys = list(zip(runs.problem, runs.optimizer, strict=True))
    order = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    runs["group"] = [order[key] for key in keys]
    return runs.sort_values(["group", "learning_rate", "seed"]).drop(columns="group")


def _row(runs: pd.DataFrame, limit: float | None) -> dict[str, Any]:
    about = runs.iloc[0]
    losses = runs.final_loss.where(runs.status == "ok", np.inf).astype(float)
    table = losses.groupby([runs.learning_rate, runs.seed]).first().unstack()
    tuning = table[TUNING_SEED].fillna(np.inf)
    fresh = table.drop(columns=TUNING_SEED)
    rates = [float(rate) for rate in table.index]
    best = float(tuning.idxmin())
    found = bool(np.isfinite(tuning[best]))
    at_best = fresh.loc[best] if found else pd.Series([np.inf])
    cost = int(about.gradients_per_step)
    spent = runs.gradients[(runs.learning_rate == best) & (runs.status == "ok")]
    initial = float(runs.initial_loss[runs.seed != TUNING_SEED].median())
    per_sharpness = about.sharpness / about.R if about.R else np.nan
    return {
        "problem": about.problem,
        "optimizer": about.optimizer,
        "order": about.order,
        "R": about.R,
        "measured_limit": limit,
        "R_per_gradient": about.R / cost if about.R else None,
        "gradients_per_step": cost,
        "gradients": int(spent.max()) if found and len(spent) else None,
        "sharpness": about.sharpness,
        "best_rate": best if found else None,
        "best_relative_rate": best * per_sharpness if found else None,
        "best_rate_per_gradient": best / cost if found else None,
        "best_at": place(rates, tuning.to_dict()) if found else "nowhere",
        "loss_median": at_best.median(),
        "loss_min": at_best.min(),
        "loss_max": at_best.max(),
        "initial_loss": initial,
        **width(fresh.median(axis=1), initial),
        "rates": len(rates),
        "runs": len(runs),
        "diverged": int((runs.status == "diverged").sum()),
        "timed_out": int((runs.status == "time-out").sum()),
    }


def width(loss: pd.Series, initial: float) -> dict[str, float]:
    """Sensitivity to the learning rate, and the width of its good region.

    The sensitivity is the mean over the rates of min(loss, initial loss), minus the lowest loss.

    Args:
        loss: Median final loss of each rate, ascending rates on a logarithmic grid.
        initial: Loss at the start.
    """
    capped = loss.clip(upper=initial)
    best = capped.min()
    good = (capped <= best + GOOD * (initial - best)) & (capped < initial)
    if not good.any():
        return {"sensitivity": 0.0, "width_octaves": 0.0}
    rates = np.asarray(capped.index, float)
    middle = int(np.argmin(capped.to_numpy()))
    low = high = middle
    while low > 0 and good.iloc[low - 1]:
        low -= 1
    while high + 1 < len(rates) and good.iloc[high + 1]:
        high += 1
    width = float(np.log2(rates[high] / rates[low]))
    return {"sensitivity": float((capped - best).mean()), "width_octaves": width}


def rich_table(problem: str, title: str, summary: pd.DataFrame, times: pd.DataFrame) -> Table:
    """The rows of one problem for a terminal of 80 columns, per step and per gradient."""
    table = Table(
        title=f"{problem}: {title}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        show_edge=False,
    )
    seconds = times[times.problem == problem].set_index("optimizer").seconds_per_run.to_dict()
    rows = summary[summary.problem == problem]
    measured = rows.measured_limit.notna().any()
    limit = ["limit"] if measured else []
    headings = ["optimizer", "R", *limit, "h", "h/R", "h/grad", "loss", "range", "ms", "oct"]
    for heading in [*headings, "div"]:
        table.add_column(heading, justify="right", no_wrap=True)
    table.columns[0].justify = "left"
    lowest = rows.loss_median.min()
    for row in rows.itertuples():
        loss = _text(row.loss_median, 2)
        late = f"+{row.timed_out}" if row.timed_out else ""
        end = "*" if row.best_at in ("lower end", "upper end") else ""
        table.add_row(
            row.optimizer,
            _text(row.R),
            *([_text(row.measured_limit)] if measured else []),
            _text(row.best_rate, 2) + end,
            _text(row.best_relative_rate, 2),
            _text(row.best_rate_per_gradient, 2),
            f"[bold]{loss}[/]" if row.loss_median == lowest else loss,
            f"{_text(row.loss_min, 2)}..{_text(row.loss_max, 2)}",
            _text(1000 * seconds.get(row.optimizer, np.nan), 2),
            _text(row.width_octaves, 2),
            f"{row.diverged}/{row.runs}{late}",
        )
    return table


LEGEND = (
    "R: theory's limit of h * sharpness; limit: the same, measured. h: the rate, tuned on seed 0 "
    "(* at an end of the grid); h/R: in units of R / sharpness; h/grad: h for each gradient of a "
    "step. loss, range: final, fresh seeds, equal gradients. ms: a run. oct: octaves of good "
    "rates. div: diverged of all runs (+ not made in time)."
)
"""What the columns of `rich_table` mean."""


def _text(value: Any, digits: int = 3) -> str:
    if value is None or np.isnan(value):
        return "-"
    if 0 < value < 0.01:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-")
    return f"{value:.{digits}g}"
