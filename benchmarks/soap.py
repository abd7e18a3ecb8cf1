"""A training step with SOAP against one with Adam, both with their gradient."""

from collections.abc import Iterator
from typing import Any

import odeopt

from .models import WIDE, batch_of, mlp, repeated, training_step
from .timing import Loop, Row, paired, ratio

RATE = 1e-3
STEPS = 10  # in one program, so that each has its share of a refresh every 10 steps
# what is named, options of `odeopt.soap`, aim
VARIANTS: list[tuple[str, dict[str, Any], str]] = [
    ("refresh every 10 steps", {}, "1.50"),
    ("refresh every 10 steps, sides to 512", {"max_precond_dim": 512}, ""),
    ("refresh every 10 steps, sides to 256", {"max_precond_dim": 256}, ""),
]


def soap_steps(rounds: int) -> Iterator[Row]:
    """Both sides of each matrix in eigenbases, and the shorter ones only; small and large batch."""
    params = mlp(WIDE)
    for examples in (128, 1024):
        batches = batch_of(WIDE, examples, STEPS)

        def loop(optimizer: odeopt.Optimizer, batches: Any = batches) -> Loop:
            step = repeated(training_step(optimizer))
            return Loop(step, (params, optimizer.init(params)), batches, divide=STEPS)

        for name, options, aim in VARIANTS:
            pairs = paired(loop(odeopt.soap(RATE, **options)), loop(odeopt.adam(RATE)), rounds)
            where = f"MLP 784-512-512-10, batch {examples}"
            yield ratio("soap", f"soap / adam, step, {name}, {where}", pairs, aim)
