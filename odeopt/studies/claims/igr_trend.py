"""At equal flow time, gradient norm and sharpness fall as the learning rate grows.

The counter-term of order 2 removes at least half of this trend, and the explicit penalty at the
smallest rate restores it to between half and one and a half. A digits network, full batch; the
share removed is 1 - |slope with the counter-term| / |slope|.

A first version let the penalty restore any more, so that one twice as large passed too.
"""

import functools
from typing import Any

import pandas as pd

from ..claim import Bound, Claim
from ..drift_trends import VARIANTS, Bench, judge
from ..problems import build

HALVINGS = 3


@functools.cache
def bench() -> Bench:
    """Compiled once."""
    return Bench(build(["digits-mse"])[0], 1, HALVINGS, 1)


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Slopes of the logarithms with the rate, and the shares removed and restored."""
    bench().seeds = range(seed + 1, seed + 2)
    runs = [
        record
        for variant in VARIANTS
        for halving in range(HALVINGS + 1)
        for record in bench().run(variant, halving)
    ]
    table = judge(pd.DataFrame(runs))
    most = table[table.largest == table.largest.max()].set_index("quantity")
    return {
        f"{name}, {column}": float(most.loc[name, column])
        for name in ("gradient norm", "sharpness")
        for column in ("slope", "removed", "restored")
    }


CLAIM = Claim(
    __doc__,
    ("igr",),
    experiment,
    (
        Bound("gradient norm, slope", high=0, every=True, null=0),
        Bound("sharpness, slope", high=0, every=True, null=0),
        Bound("gradient norm, removed", low=0.5),
        Bound("sharpness, removed", low=0.5),
        Bound("gradient norm, restored", 0.5, 1.5),
        Bound("sharpness, restored", 0.5, 1.5),
    ),
    seconds=(40, 80),
    data=("digits",),
)
