"""Python calls in the trace of one update: what a user waits for before XLA starts."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import optax

import odeopt

from .timing import Row, exact

LIMITS = {"euler": 40, "adam": 40, "rk4": 130, "linearly_implicit_euler": 100}
INLINED = ("<listcomp>", "<dictcomp>", "<setcomp>")  # no calls from Python 3.12 on
_FOLDER = str(Path(odeopt.__file__).parent)


def python_calls(optimizer: optax.GradientTransformationExtraArgs) -> Counter[str]:
    """How often each function of odeopt is called in the trace of a second update."""
    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    state, found = optimizer.init(params), Counter[str]()

    def loss(x: Any) -> jax.Array:
        return jnp.sum(jnp.tanh(x["w"] + x["b"]) ** 2)

    def traced() -> None:
        def update(grads: Any, state: Any, x: Any) -> Any:
            return optimizer.update(grads, state, x, value_fn=loss)

        jax.jit(update).trace(params, state, params)

    def count(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(_FOLDER) and code.co_name not in INLINED:
            found[code.co_qualname] += 1

    traced()
    sys.setprofile(count)
    try:
        traced()
    finally:
        sys.setprofile(None)
    return found


def calls(_: int) -> Iterator[Row]:
    """Four optimizers; two leaves."""
    for name, limit in LIMITS.items():
        optimizer = getattr(odeopt, name)(0.02)
        number = python_calls(optimizer).total()
        yield exact("calls", f"Python calls in a traced update, {name}", number, str(limit))
