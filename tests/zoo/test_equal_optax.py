"""Optimizers that are optax's own, as solvers of a flow."""

import functools

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

import odeopt

from ..table import gradient, mixed_loss, mixed_params

STEPS = 500
CASES = {
    "euler": (odeopt.euler, optax.sgd, [{}]),
    "simultaneous": (odeopt.simultaneous, optax.sgd, [{}]),  # one loss for all players
    "heavy_ball": (
        odeopt.heavy_ball,
        optax.sgd,
        [{"momentum": 0.9}, {"momentum": 0.0}, {"momentum": 0.9, "accumulator_dtype": "bfloat16"}],
    ),
    "nesterov": (
        odeopt.nesterov,
        functools.partial(optax.sgd, nesterov=True),
        [{"momentum": 0.9}, {"momentum": 0.5, "accumulator_dtype": "bfloat16"}],
    ),
    "rmsprop": (
        odeopt.rmsprop,
        optax.rmsprop,
        [
            {},
            {"decay": 0.99, "eps": 1e-3, "eps_in_sqrt": False, "initial_scale": 0.1},
            {"momentum": 0.9, "bias_correction": True},
            {"momentum": 0.9, "nesterov": True},
            # eps large enough to keep the variance of a steady gradient from rounding below zero
            {"centered": True, "eps": 1e-3, "bias_correction": True},
        ],
    ),
    "adam": (
        odeopt.adam,
        optax.adam,
        [
            {},
            {"b1": 0.98, "b2": 0.98, "eps": 1e-4, "eps_root": 1e-6},
            {"mu_dtype": "bfloat16"},
            {"nesterov": True},
        ],
    ),
    "adamw": (
        odeopt.adamw,
        optax.adamw,
        [
            {"weight_decay": 0.1},
            {"weight_decay": optax.linear_schedule(0.1, 0.0, 300)},
            {
                "weight_decay": 0.1,
                "mask": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
                "nesterov": True,
            },
        ],
    ),
}
RATES = {"number": 0.02, "schedule": optax.cosine_decay_schedule(0.05, STEPS)}
ROWS = [
    pytest.param(ours, theirs, kwargs, rate, precision, id=f"{name}-{i}-{rate}-{precision}")
    for name, (ours, theirs, variants) in CASES.items()
    for i, kwargs in enumerate(variants)
    for rate, precision in (("schedule", "single"), ("number", "double"), ("number", "single"))[
        : 3 if i == 0 else 2
    ]
]


def distances(ours, theirs, real):
    """Largest distance and largest size of each leaf, on the way along the same gradients.

    The gradients are those at the points of `theirs`, on a loss that drifts so that nothing
    settles: two runs of their own would show how RMSprop amplifies rounding, not whether the
    optimizers are the same.
    """
    params = mixed_params()
    if real:  # a complex leaf has no momentum in bfloat16
        params["z"] = jnp.abs(params["z"])
    if jax.config.jax_enable_x64:
        wide = {jnp.float32: jnp.float64, jnp.complex64: jnp.complex128}
        params = jax.tree.map(lambda p: p.astype(wide.get(p.dtype.type, p.dtype)), params)

    def step(carry, i):
        pair, states = carry
        grads = gradient(mixed_loss, pair[1], jnp.sin(0.01 * i))
        moved = [
            opt.update(grads, state, point)
            for opt, state, point in zip((ours, theirs), states, pair, strict=True)
        ]
        pair = [optax.apply_updates(p, u) for p, (u, _) in zip(pair, moved, strict=True)]
        apart = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b), initial=0.0), *pair)
        size = jax.tree.map(lambda b: jnp.max(jnp.abs(b), initial=0.0), pair[1])
        return (pair, [state for _, state in moved]), (apart, size)

    def run():
        carry = [params, params], [ours.init(params), theirs.init(params)]
        _, sizes = jax.lax.scan(step, carry, jnp.arange(STEPS))
        return jax.tree.map(jnp.max, sizes)

    return jax.jit(run)()


@pytest.mark.whole
@pytest.mark.parametrize(("ours", "theirs", "kwargs", "rate", "precision"), ROWS)
def test_equal_over_500_steps(ours, theirs, kwargs, rate, precision):
    with jax.enable_x64(precision == "double"):
        pair = (make(RATES[rate], **kwargs) for make in (ours, theirs))
        apart, size = distances(*pair, real="bfloat16" in kwargs.values())
    relative = {
        jax.tree_util.keystr(path): float(distance) / float(largest)
        for (path, distance), largest in zip(
            jax.tree_util.tree_leaves_with_path(apart), jax.tree.leaves(size), strict=True
        )
        if float(largest) > 0  # the empty leaf has no size
    }
    assert relative.pop("['half']") <= 2e-2  # a bfloat16 leaf: a few of its own roundings
    assert max(relative.values()) <= (1e-6 if precision == "single" else 1e-12), relative


def test_trees_by_leaf_may_be_those_of_a_model_that_can_be_called():
    model = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    grads = jax.tree.map(jnp.cos, params)
    mask = jax.tree.map(lambda p: p.ndim > 1, params)
    axes = jax.tree.map(lambda p: MuonDimensionNumbers(1, 0) if p.ndim > 1 else None, params)

    def first(opt):
        return opt.update(grads, opt.init(params), params)[0]

    theirs = first(optax.adamw(0.1, weight_decay=0.5, mask=mask))
    chex.assert_trees_all_close(first(odeopt.adamw(0.1, weight_decay=0.5, mask=mask)), theirs)
    for make, name, tree in (
        (odeopt.strang_adam, "mask", mask),
        (odeopt.soap, "mask", mask),
        (odeopt.soap, "weight_dimension_numbers", axes),
        (odeopt.muon, "weight_decay_mask", mask),
        (odeopt.muon, "muon_weight_dimension_numbers", axes),
    ):
        ours = functools.partial(make, 0.1, weight_decay=0.5)
        by_function = first(ours(**{name: lambda params, tree=tree: tree}))
        chex.assert_trees_all_equal(first(ours(**{name: tree})), by_function)
