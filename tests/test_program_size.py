"""The program of an update grows with the leaves, not with their square.

XLA compiles for every leaf what enters it: where that is a sum over all leaves, written out again
each time, a model of a hundred leaves takes minutes to compile.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import odeopt
from odeopt import diagnostics, stepsize
from odeopt.flows import AveragedFlow, GradientFlow
from odeopt.zoo.registry import REGISTRY

RULES = {
    "angle": stepsize.angle(),
    "anytime": stepsize.anytime(),
    "drift_adjusted": stepsize.drift_adjusted(),
    "gain_ratio": stepsize.gain_ratio(),
    "horizon": stepsize.horizon(100),
    "sharpness": stepsize.sharpness(),
}
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    **{name: partial(e.build, 0.01) for name, e in REGISTRY.items() if not e.needs & {"players"}},
    **{name: partial(odeopt.euler, rule) for name, rule in RULES.items()},
    "guard": lambda: odeopt.guard(odeopt.adam(0.1)),
    "averaged": lambda: odeopt.ode_optimizer(
        AveragedFlow(GradientFlow()), odeopt.solvers.Lie(), stepsize.angle(remembers=False)
    ),
    "log_time_adam": odeopt.log_time_adam,  # by their own rules, without a rate
    "untuned": partial(odeopt.untuned, 100),
}


def loss(x: Any) -> jax.Array:
    return jnp.stack([jnp.sum(leaf**2 + leaf**4) for leaf in x]).sum()


def step(optimizer: Any) -> Callable[[Any], Any]:
    """The first update from a point, as a function of it."""

    def first(x: Any) -> Any:
        return optimizer.update(x, optimizer.init(x), x, value=loss(x), value_fn=loss)

    return first


def grows_with_the_leaves(function: Callable[[Any], Any]) -> bool:
    """Whether each leaf adds as much to a program of 16 to 32 leaves as to one of 8 to 16."""

    def lines(leaves: int) -> int:
        params = [jnp.ones((2 + i % 7, 3)) for i in range(leaves)]
        return jax.jit(function).lower(params).compile().as_text().count("\n")

    few, more, many = map(lines, (8, 16, 32))
    return many - more < 1.1 * 2 * (more - few)


@pytest.mark.parametrize("name", ["averaged", "euler-corrected", "linearly_implicit_euler"])
def test_the_program_grows_with_the_leaves(name: str) -> None:
    assert grows_with_the_leaves(step(OPTIMIZERS[name]()))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_program_of_any_optimizer_does(name: str) -> None:
    assert grows_with_the_leaves(step(OPTIMIZERS[name]()))


def _drift(loss: Any, params: Any) -> Any:
    return diagnostics.drift(loss, params, 0.1)


@pytest.mark.parametrize("measure", [diagnostics.batch_sharpness, diagnostics.corridor, _drift])
def test_the_program_of_a_measure_does(measure: Callable[..., Any]) -> None:
    assert grows_with_the_leaves(partial(measure, loss))


def test_a_chain_of_additions_would_not() -> None:
    def scaled(x: list[jax.Array]) -> list[jax.Array]:
        size = sum(jnp.sum(leaf * leaf) for leaf in x)
        return [leaf * (1 - 0.1 * size) for leaf in x]

    assert not grows_with_the_leaves(scaled)


COMPILE = "/jax/core/compile/backend_compile_duration"
EAGER = {
    name: entry.build
    for name, entry in REGISTRY.items()
    if not entry.needs & {"players"}
    # loops of optax and of optimistix
    and name not in ("muon", "untuned", "game_implicit_midpoint")
} | {name: partial(odeopt.euler, rule) for name, rule in RULES.items()}
EAGER["rkc that chooses"] = partial(odeopt.rkc, 0.1, stages=None)


@pytest.mark.parametrize("name", EAGER)
def test_an_update_outside_of_jit_compiles_nothing_that_the_last_one_did(name: str) -> None:
    make, params = EAGER[name], {"w": jnp.linspace(-1.0, 1.0, 6).reshape(3, 2), "b": jnp.ones(2)}
    opt = make() if isinstance(make, partial) else make(0.01)
    state, compiled = opt.init(params), list[str]()

    def loss(x: Any) -> jax.Array:
        return jnp.sum(jnp.tanh(x["w"] + x["b"]) ** 2)

    def count(event: str, _: float, **more: Any) -> None:
        if event == COMPILE:
            compiled.append(event)

    def update() -> None:
        nonlocal params, state
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = opt.update(grads, state, params, value=value, value_fn=loss)
        params = jax.tree.map(jnp.add, params, updates)

    for _ in range(6 * (opt.gradients_per_step or 1) if "staged" in name else 4):
        update()
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for _ in range(2 if "staged" not in name else opt.gradients_per_step or 1):
            update()
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compiled
