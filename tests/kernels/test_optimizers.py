"""`kernels.using`: the kernel computes the step that the flow's parts or the tableau say."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import odeopt

from ..table import gradient, mixed_loss, mixed_params
from .cases import COMPLETE, lowered

using = odeopt.kernels.using
HEUN = odeopt.solvers.Heun()
MASK = {"w": True, "half": True, "nested": False, "z": True}
# name: (factory, names of its kernels in the program)
OPTIMIZERS = {
    "rk4": (odeopt.rk4, "combination"),
    "rk4-staged": (partial(odeopt.rk4, staged=True), "combination"),
    "rk_adam": (partial(odeopt.rk_adam, solver=HEUN), "combination"),
    "rk_momentum": (partial(odeopt.rk_momentum, momentum=0.9, solver=HEUN), "combination"),
    "heavy_ball": (odeopt.heavy_ball, "momentum"),
    "heavy_ball-clock": (partial(odeopt.heavy_ball, momentum=odeopt.flows.LogTime()), "momentum"),
    "nesterov": (odeopt.nesterov, "momentum"),
    "adam": (odeopt.adam, "adam"),
    "nadam": (partial(odeopt.adam, nesterov=True), "adam"),
    "adamw": (partial(odeopt.adamw, weight_decay=0.1, mask=MASK), "adam"),
    "strang_adam": (odeopt.strang_adam, "adam"),
    "strang_adam-decay": (
        partial(odeopt.strang_adam, weight_decay=0.1, mask=MASK),
        "exponential_adam",
    ),
}


def run(opt, steps=3):
    params = mixed_params()
    state = opt.init(params)

    @jax.jit
    def step(params, state):
        grads = gradient(mixed_loss, params)
        updates, state = opt.update(grads, state, params, value_fn=mixed_loss)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_kernel_takes_the_step_of_the_parts(name):
    factory, _ = OPTIMIZERS[name]
    opt = factory(0.05)
    got, expected = (run(using(kernel, opt)) for kernel in ("interpret_tpu", "jnp"))
    chex.assert_trees_all_equal_shapes_and_dtypes(got, expected)
    # the parts round a bfloat16 leaf after each operation, the kernel once
    halves = [[t.pop("half") for t in _trees_of_params(side)] for side in (got, expected)]
    chex.assert_trees_all_close(*halves, atol=0.02)
    chex.assert_trees_all_close(got, expected, rtol=2e-6, atol=2e-6)


def _trees_of_params(tree):
    """The parameters and whatever in the state is a tree like them."""
    found = []
    is_one = lambda node: isinstance(node, dict) and "half" in node and found.append(node)
    jax.tree.leaves(tree, is_leaf=is_one)
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_program_for_a_gpu_has_the_kernel_and_the_default_has_none(name):
    factory, kernel = OPTIMIZERS[name]
    params = {"w": jnp.ones((16, 256))}
    loss = lambda p: jnp.sum(jnp.cosh(p["w"]))

    def text(opt):
        update = lambda g, s, p: opt.update(g, s, p, value_fn=loss)
        return lowered(update, params, opt.init(params), params, platform="cuda")

    kwargs = {"mask": {"w": True}} if "mask" in getattr(factory, "keywords", {}) else {}
    has_kernel = COMPLETE or "adam" not in kernel  # roots came with jax 0.12
    opt = factory(0.1, **kwargs)
    assert ("mosaic_gpu" in text(using("pallas", opt))) == has_kernel
    assert "custom_call" not in text(opt)


def test_auto_and_jnp_are_one_program():
    params = {"w": jnp.ones((16, 8))}
    texts = set()
    for kernel in ("auto", "jnp"):
        opt = using(kernel, odeopt.adam(0.1))
        state = opt.init(params)
        texts.add(jax.jit(opt.update).lower(params, state, params).as_text())
    assert len(texts) == 1


@pytest.mark.parametrize(
    "factory", [odeopt.rk4, odeopt.heavy_ball, odeopt.adamw, odeopt.strang_adam]
)
def test_an_unknown_kernel_is_refused(factory):
    with pytest.raises(ValueError, match="kernel is 'cuda'"):
        using("cuda", factory(0.1))


def test_what_has_no_kernel_follows_its_parts():
    flow = odeopt.flows.RelativisticFlow(0.9, delta=1.0)
    opt = odeopt.ode_optimizer(flow, odeopt.solvers.Lie(), 0.1)
    chex.assert_trees_all_equal(run(using("interpret_tpu", opt)), run(using("jnp", opt)))
