"""What can be read off a compiled program without running it."""

import re
from collections.abc import Callable
from typing import Any

import jax


def compile_program(function: Callable[..., Any], *args: Any, donate: Any = ()) -> Any:
    """The compiled program of `function` at these arguments."""
    return jax.jit(function, donate_argnums=donate).lower(*args).compile()


def dots(compiled: Any) -> int:
    """Matrix products in the optimized program, those inside fusions and library calls included."""
    text = compiled.as_text()
    return len(re.findall(r' dot\(|custom_call_target="[^"]*matmul', text))


def bytes_accessed(compiled: Any) -> float:
    """Bytes that the program reads and writes, by XLA's own analysis."""
    analysis = compiled.cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["bytes accessed"])


COLLECTIVES = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter", "all-reduce")


def collectives(compiled: Any) -> dict[str, int]:
    """How many of each kind the optimized program has; kinds that it has none of are left out."""
    text = str(compiled.as_text())
    counts = {kind: len(re.findall(rf"{kind}(?:-start)?\(", text)) for kind in COLLECTIVES}
    return {kind: count for kind, count in counts.items() if count}


def temporaries(compiled: Any) -> int:
    """Bytes alive within the program beside its arguments and results."""
    return int(compiled.memory_analysis().temp_size_in_bytes)
