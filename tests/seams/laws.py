"""The laws. Each takes what a run has left behind, and raises AssertionError where it is broken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import odeopt
from odeopt.state import states
from odeopt.zoo.registry import REGISTRY

from .cases import CALLS, TOLERANCE, Configuration, Fault, loss, params_of
from .runs import History, Run


def _check(holds: Any, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _broken(tree: Any) -> list[str]:
    """Paths of leaves with entries that are not finite."""
    return [
        jax.tree_util.keystr(path)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
        if jnp.issubdtype(x.dtype, jnp.inexact) and not np.all(np.isfinite(x.astype(_wide(x))))
    ]


def _wide(x: np.ndarray) -> Any:
    return np.complex128 if np.iscomplexobj(x) else np.float64


def _at(tree: Any, n: int) -> Any:
    return jax.tree.map(lambda x: x[n], tree)


def _same(a: Any, b: Any) -> bool:
    return all(
        np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def keeps_types(run: Run, history: History) -> None:
    """Shapes, dtypes and structure of the state never change; updates have the leaves' dtypes."""
    for name, before, after in (
        ("state", run.state, history.state),
        ("updates", run.params, history.updates),
        ("params", run.params, history.params),
    ):
        _check(jax.tree.structure(before) == jax.tree.structure(after), f"{name}: structure")
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            _check(x.dtype == y.dtype and x.shape == y.shape[1:], f"{name}: {x.dtype} to {y.dtype}")
    own = [state for _, state in states(run.state)]
    _check(not any(x.weak_type for x in jax.tree.leaves(own)), "a weak type in the state")


def stays_finite(history: History) -> None:
    """Where nothing bad comes in, nothing bad comes out, in the state neither."""
    found = _broken((history.params, history.updates, history.state))
    _check(not found, f"not finite: {found}")


def descends(run: Run, history: History) -> None:
    """The optimizer does what it is for."""
    start, end = excess(history, 0), excess(history, CALLS)
    _check(end < 0.95 * start, f"the loss went from {start:.3g} to {end:.3g}")


def excess(history: History, n: int) -> float:
    """The loss after `n` calls, above its minimum; in 64 bits."""
    wide = lambda x: np.asarray(x).astype(_wide(x))
    return float(_loss64(jax.tree.map(wide, _at(history.params, n))))


def _loss64(params: Any) -> float:
    flat = [np.ravel(x) for x in jax.tree.leaves(params)]
    squares = [np.abs(x) ** 2 for x in flat]
    own = sum(np.sum((0.5 + 0.25 * (i % 2)) * s + 0.02 * s**2) for i, s in enumerate(squares))
    return own + 0.05 * sum(np.sum(np.real(x)) for x in flat) ** 2


def zero_size_is_the_identity(run: Run, history: History, fault: Fault) -> None:
    """A step of size 0 moves nothing, and everything stays finite."""
    stays_finite(history)
    ode = history.ode()
    leaves = history.own(history.params, run.configuration)
    # `inject_hyperparams` asks a schedule at every call, by a count of its own
    injected = run.configuration.wrapper == "inject"
    for n in range(CALLS):
        step = n if injected else min(int(ode.steps[n]), CALLS - 1)
        staged = ode.progress != ()
        size = ode.progress.step_size[n + 1] if staged else fault.sizes[step]
        if size == 0 and not _rounds(run.configuration):
            for x in leaves:
                _check(np.array_equal(x[n + 1], x[n]), f"step {step} of size 0 moved: call {n}")


def _rounds(configuration: Configuration) -> bool:
    """Whether what rounding has kept back may still arrive."""
    return configuration.wrapper == "compensated"


def zero_gradient_moves_nothing(run: Run, history: History) -> None:
    """Where the loss is flat nothing moves, and everything stays finite."""
    stays_finite(history)
    if run.configuration.optimizer == "adamw":  # parameters decay all the same
        return
    for x in history.own(history.params, run.configuration):
        _check(np.all(x == x[:1]), "moved without a gradient")


def can_reject(configuration: Configuration) -> bool:
    """Whether a bad step is rejected: by rules that look at steps, and by `guard`."""
    return configuration.rule not in ("fixed", "schedule") or configuration.wrapper == "guard"


def one_bad_batch_costs_one_step(
    run: Run, history: History, undisturbed: History, fault: Fault
) -> None:
    """Everything stays finite, a rejected step leaves no trace, and training catches up."""
    stays_finite(history)
    ode = history.ode()
    rejected = np.asarray(ode.rejected)
    for n in np.flatnonzero(np.diff(rejected)):
        _check(rejected[n + 1] == rejected[n] + 1, "a step is rejected once")
        for name in ("aux", "memory", "transform", "time", "step_size"):
            was, now = (_at(getattr(ode, name), i) for i in (n, n + 1))
            _check(_same(was, now), f"{name} changed in the rejected call {n}")
        if ode.progress == () and not _rounds(run.configuration):
            for u in history.own(history.updates, run.configuration):
                _check(not np.any(u[n + 1]), f"the rejected call {n} moved")
    caught_up(run, history, undisturbed)


def caught_up(run: Run, history: History, undisturbed: History) -> None:
    """The loss is within a factor 2 of that of the undisturbed run, which has a few steps less.

    Sizes that were cut at a bad stage need a few steps to grow again. Error control does not see
    distances below its tolerance.
    """
    lag = 12 if run.configuration.rule in ("angle", "embedded_error", "gain_ratio") else 4
    lag *= 1 + calls_of_a_step(run)
    ends = [excess(undisturbed, n) for n in range(max(0, CALLS - lag), CALLS + 1)]
    eps = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(run.params))
    allowed = 2 * max(ends) + 8 * eps * excess(undisturbed, 0)
    if run.configuration.rule == "embedded_error":
        allowed += TOLERANCE**2
    end = excess(history, CALLS)
    _check(end <= allowed, f"loss {end:.3g} in place of {allowed:.3g}")


def calls_of_a_step(run: Run) -> int:
    """Calls of `update` for one step."""
    staged = next(iter(states(run.state)))[1].progress != ()
    every = 2 if run.configuration.wrapper == "multi_steps" else 1
    return every * (REGISTRY[run.configuration.optimizer].gradients or 1 if staged else 1)


def bad_batches_are_not_silent(run: Run, history: History, undisturbed: History) -> None:
    """Without a rule that rejects: what is not finite shows in the parameters, as in optax.

    Or it is counted: as a rejected step by a method that could not compute it, as a clipped one by
    a correction that left its term out; or nobody looked, and all is as it would be without.
    """
    broken = _broken(_at(history.state, CALLS))
    shows = _broken(history.own(_at(history.params, CALLS), run.configuration))
    _check(not broken or shows, f"finite parameters, but not {broken}")
    if run.configuration.wrapper == "multi_steps":  # told to skip what is not finite
        return
    end, names = _at(history.state, CALLS), ("rejected", "clipped")
    counted = any(n > 0 for name in names for _, n in optax.tree.get_all_with_path(end, name))
    seen = not _same(history.params, undisturbed.params)
    _check(shows or counted or not seen, "a fault changed the run, and nothing says so")


def summary_is_true(run: Run, history: History) -> None:
    """`summary` and `step_params` read the state through every wrapper, and agree with the run."""
    ode = history.ode()
    end = _at(history.state, CALLS)
    told = odeopt.summary(end)
    if "steps" not in told:
        told = next(about for path, about in told.items() if "own" in path)
    _check(told["accepted"] + told["rejected"] == told["steps"], "accepted + rejected != steps")
    moved = np.flatnonzero(np.diff(np.asarray(ode.time)) > 0)
    _check(len(moved) <= told["accepted"], "more steps took time than were accepted")
    if len(moved):
        n = moved[-1]
        size = float(ode.time[n + 1] - ode.time[n])
        slack = 4 * float(np.finfo(np.asarray(ode.time).dtype).eps) * float(ode.time[-1])
        found = float(ode.step_size[n + 1])
        _check(abs(found - size) <= slack, f"step_size {found}, but the time grew by {size}")
    params = odeopt.step_params(end, _at(history.params, CALLS))
    _check(jax.tree.structure(params) == jax.tree.structure(run.params), "step_params: structure")
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(run.params), strict=True):
        _check(x.dtype == y.dtype and x.shape == y.shape, "step_params: dtype or shape")


def continues_after(run: Run, history: History, good: Fault, store: Any) -> None:
    """A state that was stored in the middle continues bit for bit."""
    half = CALLS // 2
    params, state = _at(history.params, half), _at(history.state, half)
    state = jax.tree.map(jnp.asarray, state)
    params = jax.tree.map(jnp.asarray, params)
    stored = jax.tree.map(jnp.asarray, store(state, run.state))
    expected, found = run(good, params, state), run(good, params, stored)
    _check(_same(expected, found), "a restored state continues otherwise")


def update(opt: Any, params: Any, loss: Any = loss, *, by_stage: bool = False, **extra: Any) -> Any:
    """One step, without `jit`; `by_stage`: also with a `grad_fn`."""
    value, grads = jax.value_and_grad(loss)(params)
    if by_stage:
        extra["grad_fn"] = lambda p, stage: jax.grad(loss)(p)
    return opt.update(grads, opt.init(params), params, value_fn=loss, value=value, **extra)


def foresees(opt: Any, first: float) -> None:
    """A quadratic is foreseen exactly, so sizes by the gain ratio grow threefold at each step."""
    quadratic = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 2.0, 5.0]) * x**2)
    params = jnp.ones(3)
    state, sizes = opt.init(params), []
    for _ in range(3):
        value, grads = jax.value_and_grad(quadratic)(params)
        updates, state = opt.update(grads, state, params, value=value, value_fn=quadratic)
        params = params + updates
        sizes.append(float(odeopt.summary(state)["step_size"]))
    _check(np.allclose(sizes, first * 3.0 ** np.arange(3)), f"the sizes are {sizes}")


def narrow_as_wide(build: Any, scale: float, dtype: Any, options: dict[str, Any]) -> None:
    """A step in 16 bits is that in 32 bits, rounded, whatever the size of the gradient."""
    tilted = lambda p: jnp.sum(jnp.array([3.0, -4.0]) * scale * p["x"].astype(jnp.float32))
    found = []
    for kind in (dtype, jnp.float32):
        params = {"x": jnp.asarray([0.75, -0.5], kind)}
        updates, state = update(build(), params, tilted, **options)
        found.append((np.asarray(updates["x"], float), float(state.step_size)))
    (narrow, size), (wide, expected) = found
    eps = float(jnp.finfo(dtype).eps)
    _check(np.isclose(size, expected, rtol=16 * eps), f"size {size} in place of {expected}")
    slack = 32 * eps * np.abs(wide).max() + float(jnp.finfo(dtype).tiny)
    if state.progress != ():  # what leads to the next stage is a difference of points
        slack += eps
    _check(np.allclose(narrow, wide, rtol=0, atol=slack), f"{narrow} in place of {wide}")


def _counted(calls: list[int], shared: list[bool]) -> Any:
    """The gradient of the loss; it and every tangent of it (a product) count where they run.

    `shared`: whether a linearization is at the point of the given gradient. Outside a loop XLA
    takes that gradient once for both, where they are of one loss; within a loop it cannot.
    """

    @jax.custom_jvp
    def tap(grads: Any, same: Any) -> Any:
        jax.debug.callback(lambda: calls.append(1))
        return grads

    @tap.defjvp
    def tangent(primals: tuple, tangents: tuple) -> tuple:
        def seen(_: Any, moved: Any) -> Any:
            jax.debug.callback(lambda: calls.append(2))
            return moved

        moved = jax.custom_derivatives.linear_call(seen, lambda _, t: t, (), tangents[0])
        jax.debug.callback(lambda same: shared.append(bool(same)), primals[1])
        return tap(*primals), moved

    def gradient(params: Any, start: Any) -> Any:
        point, start = jax.lax.stop_gradient((params, start))
        same = jax.tree.map(lambda a, b: jnp.all(a == b), point, start)
        return tap(jax.grad(loss)(params), jnp.all(jnp.stack(jax.tree.leaves(same))).astype(float))

    return gradient


def counts_are_true(opt: Any) -> Any:
    """Gradients are counted as they are evaluated inside `jit`; a product counts as 2."""
    calls, shared = list[int](), list[bool]()
    gradient, params = _counted(calls, shared), params_of("dict", "f32")

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        within = lambda p, stage: gradient(p, params)
        grads = jax.grad(loss)(params)
        updates, state = opt.update(grads, state, params, value_fn=loss, grad_fn=within)
        return optax.apply_updates(params, updates), state

    state = opt.init(params)
    for _ in range(3):
        params, state = step(params, state)
    jax.block_until_ready(params)
    jax.effects_barrier()
    told = int(state.gradients)
    if told == -1:  # it says so
        _check(opt.gradients_per_step is None, "a step has a known cost and is not counted")
        return state
    most = 3 + sum(calls)
    _check(most - sum(shared) <= told <= most, f"{told} counted, {most} evaluated")
    return state
