"""Three methods to apply the newest step first: replay, bracket and linearization."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from .. import loops
from ..objective import Objective
from ..state import Checkpoint, add_count, states

Count = Int[Array, ""]
Result = tuple[PyTree[Array], PyTree[Array], Count]
"""Updates, the state of the wrapped optimizer, gradients used (negative: not known)."""


class Step(NamedTuple):
    """One step of the wrapped optimizer on any batch."""

    optimizer: optax.GradientTransformationExtraArgs
    extra_args: Mapping[str, Any]  # arguments of `update` that all batches share

    def gradient(self, params: PyTree[Array], arguments: Mapping[str, Any]) -> PyTree[Array]:
        """The gradient of a batch; a `grad_fn` is called with stage 0."""
        return Objective({**self.extra_args, **arguments}).gradient(params)

    def __call__(
        self,
        params: PyTree[Array],
        inner: PyTree[Array],
        arguments: Mapping[str, Any],
        grads: PyTree[Array] | None = None,
    ) -> Result:
        """One step from any point; `grads` is the gradient there, evaluated if it is None."""
        if grads is None:
            grads = self.gradient(params, arguments)
        extra = {**self.extra_args, **arguments}
        updates, after = self.optimizer.update(grads, inner, params, **extra)
        return updates, after, _used(inner, after)


class Window(NamedTuple):
    """The steps since the checkpoint."""

    step: Step
    position: Int[Array, ""]  # the number of steps before the newest
    checkpoint: Checkpoint
    stored: PyTree[Array]  # their arguments; rows from `position` on belong to earlier windows
    newest: Mapping[str, Any]

    def row(self, index: Int[Array, ""]) -> PyTree[Array]:
        """The stored arguments of one step."""
        return jax.tree.map(lambda rows: rows[index], self.stored)

    def start(self, inner: PyTree[Array], grads: PyTree[Array] | None) -> Result:
        """The newest step, taken at the checkpoint; a window's first step uses `grads`."""
        at = self.checkpoint.params
        if grads is not None:
            grads = loops.cond(
                self.position == 0, lambda: grads, lambda: self.step.gradient(at, self.newest)
            )
        return self.step(at, inner, self.newest, grads)

    def unused(self, grads: PyTree[Array] | None) -> Count:
        """The number of given gradients that are not used, since they are not at the checkpoint."""
        return jnp.int32(0) if grads is None else jnp.int32(self.position > 0)

    def first(self, updates: PyTree[Array], later: PyTree[Array]) -> PyTree[Array]:
        """`updates`, exactly those of the optimizer, in a window's first step; then `later`."""
        return optax.tree.where(self.position == 0, updates, later)


def replay(
    window: Window, grads: PyTree[Array] | None, params: PyTree[Array], inner: PyTree[Array]
) -> Result:
    """Take all steps of the window again, newest first, on parameters and state."""
    start, state = window.checkpoint
    step, position = window.step, window.position
    newest, state, used = window.start(state, grads)

    def earlier(i: Array, carry: tuple) -> tuple:
        point, state, used = carry
        updates, state, more = step(point, state, window.row(position - 1 - i))
        return optax.apply_updates(point, updates), state, both(used, more)

    carry = optax.apply_updates(start, newest), state, used
    # A while loop with as many rounds as the window has earlier steps.
    end, state, used = loops.fori_loop(0, position, earlier, carry)
    moved = jax.tree.map(jnp.subtract, end, params)
    return window.first(newest, moved), state, both(used, window.unused(grads))


def bracket(
    window: Window, grads: PyTree[Array] | None, params: PyTree[Array], inner: PyTree[Array]
) -> Result:
    """The newest step plus its brackets with all earlier steps, by Hessian products.

    With the displacement U_i of step i, T_1...T_n(x_0) = x + U_n + D(sum U_i) U_n - DU_n (sum U_i)
    at x = T_1...T_{n-1}(x_0), up to terms of third order; sum U_i is x - x_0 to this order.
    """
    step, position = window.step, window.position
    newest, after, cost = step(params, inner, window.newest, grads)

    def product(arguments: Mapping[str, Any], along: PyTree[Array]) -> PyTree[Array]:
        return jax.jvp(lambda point: step(point, inner, arguments)[0], (params,), (along,))[1]

    def second() -> PyTree[Array]:
        passed = jax.tree.map(jnp.subtract, params, window.checkpoint.params)
        back = jax.tree.map(jnp.subtract, newest, product(window.newest, passed))
        return loops.fori_loop(
            0,
            position,
            lambda i, sum_: jax.tree.map(jnp.add, sum_, product(window.row(i), newest)),
            back,
        )

    updates = loops.cond(position > 0, second, lambda: newest)
    products = jnp.where(position > 0, position + 1, 0)
    return updates, after, cost * (1 + 2 * products)


def linearized(
    window: Window, grads: PyTree[Array] | None, params: PyTree[Array], inner: PyTree[Array]
) -> Result:
    """The newest step at the checkpoint, mapped through the earlier steps by one JVP."""
    step, position = window.step, window.position
    newest, after, cost = window.start(inner, grads)

    def earlier(point: PyTree[Array]) -> PyTree[Array]:
        def one(i: Array, point: PyTree[Array]) -> PyTree[Array]:
            updates = step(point, inner, window.row(position - 1 - i))[0]
            return optax.apply_updates(point, updates)

        return loops.fori_loop(0, position, one, point)

    carried = jax.jvp(earlier, (window.checkpoint.params,), (newest,))[1]
    used = both(cost * (1 + 2 * position), window.unused(grads))
    return window.first(newest, carried), after, used


METHODS: dict[str, Callable[..., Result]] = {
    "replay": replay,
    "bracket": bracket,
    "linearized": linearized,
}


def _used(before: PyTree[Array], after: PyTree[Array]) -> Count:
    """The gradients of one step: by its own count, or 1 for an optimizer without a count."""
    counts = [[ode.gradients for _, ode in states(state)] for state in (before, after)]
    if not counts[0]:
        return jnp.int32(1)
    known = [jnp.where(new < 0, -1, new - old) for old, new in zip(*counts, strict=True)]
    return jnp.where(jnp.stack(known).min() < 0, -1, sum(known))


def both(one: Count, other: Count) -> Count:
    """The sum of two gradient counts; -1 (not known) if either is not known."""
    return jnp.where((one < 0) | (other < 0), -1, add_count(one, other))
