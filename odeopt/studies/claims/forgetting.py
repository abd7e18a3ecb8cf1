"""The first task of a round is forgotten more; without the Lie bracket both are forgotten alike.

Digits in two tasks, a step on each in turn, in both orders. Forgetting is the final loss of a task
whose step comes first in each round, minus its final loss if the step comes last; the mean over
both tasks. If the bracket is subtracted after every round, or every other round is reversed, at
most a fifth of it is left. With the wrong sign of the bracket at least as much is left.
"""

from typing import Any

from jax.flatten_util import ravel_pytree

from ..claim import Bound, Claim
from ..experiments import start
from .conflict import losses
from .order_of_tasks import run


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Forgetting over the mean loss, plain; and what is left of it."""
    begin = ravel_pytree(start((64, 6, 10), seed))[0]

    def forgetting(back: bool, sign: float) -> float:
        ends = [losses(run(begin, first, back, sign)) for first in range(2)]
        first, last = ends[0][0] + ends[1][1], ends[0][1] + ends[1][0]
        return float(2 * (first - last) / (first + last))

    plain = forgetting(False, 0.0)
    return {
        "forgetting, over the loss": plain,
        "bracket taken off, over plain": abs(forgetting(False, 1.0) / plain),
        "there and back, over plain": abs(forgetting(True, 0.0) / plain),
        "sign turned, over plain": abs(forgetting(False, -1.0) / plain),
    }


CLAIM = Claim(
    __doc__,
    ("tasks",),
    experiment,
    (
        Bound("forgetting, over the loss", low=0, null=0),
        Bound("bracket taken off, over plain", high=0.2, every=True),
        Bound("there and back, over plain", high=0.2, every=True),
    ),
    control=(Bound("sign turned, over plain", high=0.2),),
    seconds=(20, 40),
    data=("digits",),
)
