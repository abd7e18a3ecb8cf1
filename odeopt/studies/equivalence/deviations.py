"""How far losses are from those of the flow. Uses pandas; works on records only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..records import Record

_COLUMNS = (
    *("family", "problem", "optimizer", "momentum", "b1", "R", "learning_rate", "step"),
    *("step_sharpness", "relative_rate", "worst", "end", "delayed_end"),
)


def deviations(records: Sequence[Record]) -> pd.DataFrame:
    """One row a run that has a flow to be compared with.

    Returns:
        Columns: `family` ("solver", "momentum", "adam rate", "adam constants", "adam betas"),
        `problem`, `optimizer`, `momentum`, `b1`, `R`, `learning_rate`, `step` (flow time of a
        step), `step_sharpness`, `relative_rate` (h * sharpness / R), `worst` and `end` (relative
        difference of the loss to the flow's: largest absolute one at the 60 common flow times,
        and the signed last one), `delayed_end` (the same on the clock that knows momentum's start
        from rest; `end` where there is no momentum). Infinite for a run that blew up.
    """
    rows = []
    for record in records:
        if record["kind"] != "path" or record["family"] == "relative":
            continue
        difference = relative(record["loss"], record["flow_loss"])
        delayed = relative(record["loss"], record.get("delayed_flow_loss", record["flow_loss"]))
        ends = {"worst": np.abs(difference).max(), "end": difference[-1]}
        about = {key: record.get(key) for key in _COLUMNS}
        rows.append({**about, **ends, "delayed_end": delayed[-1]})
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def relative(loss: Any, reference: Any) -> np.ndarray:
    """Relative differences after the start; infinite where a loss is not finite."""
    ratio = np.array(loss, float)[1:] / np.array(reference, float)[1:]
    return np.where(np.isfinite(ratio), ratio - 1, np.inf)


def on_clock(record: Record, factor: float) -> np.ndarray:
    """Relative differences if a step were `factor` times as long in flow time as `record` says.

    The flow's loss is interpolated between the compared times, on a log scale; times beyond the
    last one are left out.
    """
    times = np.array(record["times"], float) * factor
    known = times <= record["times"][-1]
    flow = np.exp(np.interp(times, record["times"], np.log(record["flow_loss"])))
    return relative(np.array(record["loss"], float)[known], flow[known])


def same_steps(one: Record, other: Record) -> np.ndarray:
    """Relative differences of two runs after equally many steps."""
    assert one["steps"] == other["steps"]
    return relative(one["loss"], other["loss"])
