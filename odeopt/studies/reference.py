"""Flows as the studies' references: diffrax, which shares nothing with the optimizers' steps."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree


def solve(
    field: Callable[[Any, Any, Any], Any],
    begin: PyTree,
    times: ArrayLike,
    args: Any = None,
    *,
    first: Any,
    rtol: float,
    atol: float | None = None,
    throw: bool = True,
) -> Any:
    """Where the flow `field(t, y, args)` is at some times, by Dopri8.

    Of one time, that at which it ends, the flow begins at 0; of several, ascending, at the first.
    `first` is the first step, and `atol` is `rtol` by default. The values of each time lie along a
    new first axis. A flow that takes too many steps is an error; without `throw` what it does not
    reach is infinite.
    """
    times = jnp.atleast_1d(jnp.asarray(times, float))
    alone = len(times) == 1
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Dopri8(),
        0.0 if alone else times[0],
        times[-1],
        first,
        begin,
        args=args,
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol if atol is None else atol),
        saveat=diffrax.SaveAt(t1=True) if alone else diffrax.SaveAt(ts=times),
        max_steps=100_000,
        throw=throw,
    )
    return solution.ys


def field(loss: Callable[[Array], Array], order: int) -> Callable[[Array, Array], Array]:
    r"""`(y, h) -> dy/dt`: what gradient descent follows, to an order from 1 (the flow) to 3.

    $-g - \tfrac h2Hg - h^2\bigl(\tfrac13H^2g + \tfrac1{12}E'''(g, g)\bigr)$
    """
    gradient = jax.grad(loss)

    def modified(y: Array, h: Array) -> Array:
        if order == 1:
            return -gradient(y)

        def product(v: Array) -> Callable[[Array], Array]:
            return lambda x: jax.jvp(gradient, (x,), (v,))[1]

        g = gradient(y)
        if order == 2:
            return -g - h / 2 * product(g)(y)
        second, third = jax.jvp(product(g), (y,), (g,))
        return -g - h / 2 * second - h**2 * (product(second)(y) / 3 + third / 12)

    return modified
