"""Two sides timed in turn, in one process: what is compared saw the same machine."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

ROUNDS = 21
QUICK_ROUNDS = 5
_LONG_ENOUGH = 4e-3  # seconds that one reading should last, so that the clock does not matter


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        group: The benchmark it belongs to.
        name: What is divided by what.
        value: The ratio: median over rounds, or an exact count.
        low: Lower quartile, or the value itself where it is exact.
        high: Upper quartile.
        rounds: Rounds measured; 0 where the value is exact.
        seconds: Median seconds of the numerator, None where nothing is timed.
        aim: What the ratio should stay below, or equal if exact, or exceed if it says so.
    """

    group: str
    name: str
    value: float
    low: float
    high: float
    rounds: int
    seconds: float | None = None
    aim: str = ""


def exact(group: str, name: str, value: float, aim: str = "") -> Row:
    """A row for something that is counted, not timed."""
    return Row(group, name, value, value, value, 0, None, aim)


def ratio(group: str, name: str, pairs: Sequence[tuple[float, float]], aim: str = "") -> Row:
    """A row from seconds (numerator, denominator) of each round."""
    ratios = [a / b for a, b in pairs]
    median = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (median,) * 3
    seconds = statistics.median(a for a, _ in pairs)
    return Row(group, name, median, low, high, len(pairs), seconds, aim)


class Loop:
    """A compiled step called again and again on its own output, whose buffers it may reuse.

    Args:
        step: `step(carry, *rest) -> carry`; `carry` is donated.
        carry: Its first value; copied, so that both sides of a pair can start from one tree.
        rest: Arguments that stay.
        divide: Steps in a call; 1/4 where four calls are compared with one.
    """

    def __init__(
        self, step: Callable[..., Any], carry: Any, *rest: Any, divide: float = 1.0
    ) -> None:
        self._carry = jax.tree.map(lambda leaf: leaf.copy(), carry)
        self._rest = rest
        # keep_unused: outputs may then take the buffers of a carry that is not read
        jitted = jax.jit(step, donate_argnums=0, keep_unused=True)
        self._compiled = jitted.lower(self._carry, *rest).compile()
        self._divide = divide

    def seconds(self, calls: int) -> float:
        """Seconds of one call, averaged over `calls` of them in a row."""
        begin = time.perf_counter()
        for _ in range(calls):
            self._carry = self._compiled(self._carry, *self._rest)
        jax.block_until_ready(self._carry)
        return (time.perf_counter() - begin) / calls / self._divide


class Call:
    """A function called again and again on the same arguments, as a user calls it.

    Args:
        function: `function(*arguments)`, compiled or not.
        arguments: What it is handed.
    """

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._function = function
        self._arguments = arguments

    def seconds(self, calls: int) -> float:
        """Seconds of one call, averaged over `calls` of them in a row."""
        begin = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(self._function(*self._arguments))
        return (time.perf_counter() - begin) / calls


def once_each(first: Call, second: Call, rounds: int) -> list[tuple[float, float]]:
    """Seconds of one call of both sides in each round, compilation included."""
    return [(first.seconds(1), second.seconds(1)) for _ in range(rounds)]


def paired(first: Loop, second: Loop, rounds: int) -> list[tuple[float, float]]:
    """Seconds of both sides in each round; who goes first alternates."""
    for side in (first, second):
        side.seconds(3)
    calls = [max(1, round(_LONG_ENOUGH / side.seconds(5))) for side in (first, second)]
    pairs = []
    for index in range(rounds):
        if index % 2:
            b, a = second.seconds(calls[1]), first.seconds(calls[0])
        else:
            a, b = first.seconds(calls[0]), second.seconds(calls[1])
        pairs.append((a, b))
    return pairs
