"""The ordinary optax step on a problem, and many of them. Uses JAX and optax."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from ...state import states
from .optimizers import Entry
from .problem import Params, Problem
from .refusals import kinds, line


def step_function(
    loss: Callable[..., jax.Array],
    optimizer: optax.GradientTransformation,
    *,
    line_search: bool = False,
    target: jax.Array | None = None,
) -> Callable[..., tuple[Params, Any, jax.Array]]:
    """The ordinary optax step: `step(params, state, batch, **key) -> (params, state, value)`.

    The value is that of `loss(params, batch, **key)` before the step. With `line_search`, value and
    gradient are those that optax's line searches left in the state. Where the value has reached
    `target` the step is not made.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def step(params: Params, state: Any, batch: Any, **key: jax.Array) -> Any:
        extra: dict[str, Any] = {"value_fn": loss, "batch": batch, **key}
        if line_search:
            of_state = optax.value_and_grad_from_state(loss)
            value, grads = of_state(params, batch, state=state, **key)
        else:
            value, grads = jax.value_and_grad(loss)(params, batch, **key)

        def made() -> tuple[Params, Any]:
            updates, new = optimizer.update(grads, state, params, value=value, grad=grads, **extra)
            return optax.apply_updates(params, updates), new

        if target is None:
            return *made(), value
        return *jax.lax.cond(value <= target, lambda: (params, state), made), value

    return step


def advance(
    problem: Problem,
    optimizer: optax.GradientTransformation,
    steps: Any,
    data: Any,
    params: Params,
    state: Any = None,
) -> tuple[Params, Any]:
    """Parameters and state after so many steps on the same data; the state by default a new one."""
    step = step_function(problem.objective, optimizer)
    carry = params, optimizer.init(params) if state is None else state
    return jax.lax.fori_loop(0, steps, lambda _, carry: step(*carry, data)[:2], carry)


_HINTS = {
    "grad_fn": ". A study hands over no grad_fn=, for it could not count the gradients that an "
    "optimizer takes by it: use a form that takes one gradient a step.",
    "unexpected keyword argument": ". A study hands update value=, grad=, value_fn= and batch=: "
    "take **extra_args there, or return optax.GradientTransformation(*optimizer), which is handed "
    "none of them (of optax.contrib.sam, with opaque_mode=False).",
}
"""What to write where the message of a failing `update` has these words."""


def refuse_broken(problem: Problem, entry: Entry) -> None:
    """Raise a `ValueError` where an optimizer's first step fails, or is not finite though tiny."""
    rate, start = problem.dtype(1e-6), problem.start(0)
    optimizer = entry.make(rate)
    step = jax.jit(step_function(problem.objective, optimizer))
    try:
        before = jax.jit(optimizer.init)(start)
        params, state, _ = step(start, before, problem.first_batch, **problem.fixed_key)
    except Exception as error:
        hint = next((words for part, words in _HINTS.items() if part in str(error)), "")
        raise ValueError(
            f"optimizer {entry.name!r} fails in its first step on {problem.name!r}: {line(error)}"
            f"{hint}"
        ) from error
    if kinds(state) != kinds(before):
        raise ValueError(
            f"optimizer {entry.name!r} has another state after its first step on "
            f"{problem.name!r} ({kinds(state)}) than before ({kinds(before)}), and a compiled loop "
            "keeps one: make init() give the types and shapes that update() returns."
        )
    if any(ode.gradients < 0 for _, ode in states(state)):
        raise ValueError(
            f"optimizer {entry.name!r} takes gradients that cannot be counted, as an implicit "
            "solver of diffrax does, and a study compares at equal gradients: use one of odeopt, "
            "such as odeopt.implicit_euler."
        )
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
        raise ValueError(
            f"optimizer {entry.name!r} gives NaN or infinity in its first step on "
            f"{problem.name!r}, even at a learning rate of {rate:g}: run its update() once on that "
            "gradient and mend the transformation that does."
        )
