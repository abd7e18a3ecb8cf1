"""Solvers of optimistix as optax transformations, so that they race like any other optimizer.

One `update` is one iteration: a trial point, taken or not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix
from jax.flatten_util import ravel_pytree

from ..split import Composite
from .engine.problem import Params, Problem

_NO_TAGS: frozenset[object] = frozenset()
_TOLERANCES = 1e-12, 1e-12  # for its own test of convergence, which ends no run


class IterationState(NamedTuple):
    """State of an optimistix solver between two iterations.

    `value` is the loss at the parameters, infinite before the first iteration, as in optax's line
    searches, so that `optax.value_and_grad_from_state` finds it; that looks for a `grad` too, which
    is not used. `inner` are the arrays of the solver's own state, `moved` whether the last
    iteration took its trial point, `gradients` what the iterations have cost.
    """

    value: jax.Array
    grad: Params
    inner: list[jax.Array]
    moved: jax.Array
    gradients: jax.Array


def transformation(
    solver: Any,
    problem: Problem,
    fn: Callable[[Params, Any], jax.Array],
    loss_of: Callable[[Any], jax.Array],
    derivative: int,
) -> optax.GradientTransformationExtraArgs:
    """An optimistix solver on a full-batch problem, of whose data only shapes are taken.

    It works on `fn(params, batch)`; `loss_of` is the loss at the parameters, of the solver's
    `f_info` there. An iteration costs one evaluation, and `derivative` gradients if the one before
    has moved.
    """
    function = lambda params, batch: (fn(params, batch), None)  # noqa: E731

    def begin(params: Params, batch: Any) -> Any:
        struct = jax.eval_shape(fn, params, batch)
        return solver.init(function, params, batch, {}, struct, None, _NO_TAGS)

    def init(params: Params) -> IterationState:
        data = jax.tree.map(jnp.asarray, problem.data)
        inner = jax.tree.leaves(eqx.filter(begin(params, data), eqx.is_array))
        value, grad = jnp.asarray(jnp.inf, problem.dtype), optax.tree.zeros_like(params)
        return IterationState(value, grad, inner, jnp.bool_(False), jnp.int32(0))

    def update(
        grads: Params, state: IterationState, params: Params, *, batch: Any, **_: Any
    ) -> tuple[Params, IterationState]:
        # What is static in a solver's state holds the traced function: it is made anew.
        dynamic, static = eqx.partition(begin(params, batch), eqx.is_array)
        before = eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), state.inner), static)
        there, after, _ = solver.step(function, params, batch, {}, before, _NO_TAGS)
        leaves = jax.tree.leaves(eqx.filter(after, eqx.is_array))
        # The first iteration evaluates the start, whose gradient is counted already.
        cost = jnp.where(before.first_step, 0, 1) + jnp.where(state.moved, derivative, 0)
        new = IterationState(
            value=loss_of(after.f_info).astype(state.value.dtype),
            grad=state.grad,
            # With x64 enabled its step sizes are float64, whatever the parameters are.
            inner=[x.astype(old.dtype) for x, old in zip(leaves, state.inner, strict=True)],
            moved=after.num_accepted_steps > before.num_accepted_steps,
            gradients=state.gradients + cost,
        )
        return jax.tree.map(jnp.subtract, there, params), new

    return optax.GradientTransformationExtraArgs(init, update)


def residuals(loss: Any, params: Params, batch: Any) -> jax.Array:
    """The r of loss = |r|^2 / 2, where the loss is a sum of squares, one of each output.

    Of such a loss of the outputs the gradient is g = H (outputs - targets) with diagonal H, and
    r = H^(-1/2) g. Elsewhere it is no such thing: see `least_squares_rows`.
    """
    split = loss.split({"batch": batch}, None)
    outputs, unravel = ravel_pytree(split.predict(params))
    slope = jax.grad(lambda flat: split.loss(unravel(flat)))
    g, diagonal = jax.jvp(slope, (outputs,), (jnp.ones_like(outputs),))
    return g / jnp.sqrt(diagonal)


def least_squares_rows(problem: Problem) -> int:
    """How many `residuals` a problem has; 0 where its loss at the first start is not |r|^2 / 2."""
    if not isinstance(problem.objective, Composite):
        return 0
    params, data = problem.start(0), jax.tree.map(jnp.asarray, problem.data)
    r = jax.jit(lambda params, data: residuals(problem.objective, params, data))(params, data)
    same = np.isclose(0.5 * jnp.vdot(r, r), problem.full_loss(params, data), rtol=1e-4)
    return r.size if same else 0


def levenberg_marquardt(problem: Problem) -> optax.GradientTransformationExtraArgs:
    """Optimistix's Levenberg-Marquardt on the residuals of a least-squares problem.

    A Jacobian costs as many gradients as a sample has outputs, as in odeopt's exact solves.
    """
    loss: Any = problem.objective
    split = loss.split({"batch": problem.data}, None)
    leaves = jax.tree.leaves(jax.eval_shape(split.predict, problem.start(0)))
    return transformation(
        optimistix.LevenbergMarquardt(*_TOLERANCES),
        problem,
        lambda params, batch: residuals(loss, params, batch),
        lambda info: 0.5 * jnp.vdot(info.residual, info.residual),
        sum(leaf.size for leaf in leaves) // leaves[0].shape[0],
    )


def bfgs(problem: Problem) -> optax.GradientTransformationExtraArgs:
    """Optimistix's BFGS: an evaluation is one gradient, whether its point is taken or not."""
    solver: Any = optimistix.BFGS(*_TOLERANCES)
    return transformation(solver, problem, problem.objective, lambda info: info.f, 0)
