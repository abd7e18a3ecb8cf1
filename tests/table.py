"""What other tests read of the zoo and its registry, and a loss on leaves of every kind."""

import inspect

import jax
import jax.numpy as jnp

import odeopt
from odeopt.zoo.registry import REGISTRY

OPTIMIZERS = {
    name: function
    for name in dir(odeopt)
    if inspect.isfunction(function := getattr(odeopt, name))
    and function.__module__.startswith("odeopt.zoo")
}


def _rows(chosen):
    """name: (factory, gradients a step, order)"""
    return {
        name: (entry.build, entry.gradients, entry.order)
        for name, entry in REGISTRY.items()
        # What plays in turn, or wants one dtype, has rows of its own in `tests/flows/test_game.py`.
        if not entry.needs & {"players", "one dtype"}
        and "staged" not in entry.arguments
        and chosen(entry)
    }


def _one_of_each(rows, key):
    """The first name of each kind."""
    first: dict = {}
    for name in rows:
        first.setdefault(key(REGISTRY[name]), name)
    return list(first.values())


def is_corrected(entry):
    return "correction" in entry.arguments


def _family(family):
    return _rows(lambda entry: entry.family == family and not is_corrected(entry))


EXPLICIT = _family("explicit")
MOMENTUM = _family("momentum")
ADAPTIVE = _family("adaptive")
STABILIZED = _family("stabilized")
CORRECTED = _rows(is_corrected)
GAMES = _family("game")  # one in which all have one loss is gradient flow
# What a step costs is known when it has been made. One row for each kind of method.
STIFF = {
    name: (REGISTRY[name].build, None, None)
    for name in ("linearly_implicit_euler", "exponential_euler", "implicit_euler")
}
TABLE = EXPLICIT | MOMENTUM | ADAPTIVE | STABILIZED | CORRECTED | GAMES | STIFF
# Explicit methods of the same number of stages differ in their tableau only.
VARIED = _one_of_each(
    EXPLICIT, lambda entry: (entry.order, entry.gradients, frozenset(entry.arguments))
)
VARIED += [*MOMENTUM, *ADAPTIVE, *STABILIZED, *CORRECTED, *GAMES]
STAGED = [name for name in VARIED if REGISTRY[name].staged]
IN_STAGES = tuple(name for name in TABLE if REGISTRY[name].staged)
# where the parameters rest elsewhere than at the end of a step
RESTING = [name for name in TABLE if REGISTRY[name].rests]
# The promises that hold for one row of each kind hold for all: used where a test is slow.
KINDS = _one_of_each(
    EXPLICIT | MOMENTUM | ADAPTIVE | CORRECTED,
    lambda entry: (entry.gradients > 1, entry.memory > 0, entry.rests, is_corrected(entry)),
)


def mixed_params():
    """Leaves of every kind: float32, bfloat16, complex, a scalar, an empty one."""
    key = jax.random.key(0)
    return {
        "w": jax.random.normal(key, (3, 4)),
        "half": jnp.linspace(-1, 1, 4, dtype=jnp.bfloat16),
        "nested": {"s": jnp.float32(0.7), "empty": jnp.zeros((0, 2))},
        "z": jnp.array([1.0 + 2.0j, -0.5j], jnp.complex64),
    }


def mixed_loss(params, shift=0.0):
    """A smooth nonlinear loss of `mixed_params`.

    The bfloat16 leaf does not touch the others, so that its rounding stays its own.
    """
    w = params["w"] @ params["w"].T
    return (
        jnp.mean(jnp.tanh(w - shift) ** 2)
        + jnp.mean(jnp.cosh(params["half"].astype(jnp.float32)))
        + 0.5 * params["nested"]["s"] ** 2
        + jnp.sum(params["nested"]["empty"])
        + jnp.sum(jnp.abs(params["z"]) ** 2)
    )


def gradient(loss, params, *args):
    """The gradient in optax's convention (conjugated where complex)."""
    return jax.tree.map(jnp.conj, jax.grad(loss)(params, *args))
