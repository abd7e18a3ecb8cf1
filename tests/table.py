"""One table of optimizers; every promise is tested on every row. A new optimizer is a new row."""

from functools import partial

import diffrax
import jax
import jax.numpy as jnp

import odeopt

# name: (factory, gradients a step, order)
EXPLICIT = {
    "euler": (odeopt.euler, 1, 1),
    "heun": (odeopt.heun, 2, 2),
    "midpoint": (odeopt.midpoint, 2, 2),
    "ralston": (odeopt.ralston, 2, 2),
    "bosh3": (odeopt.bosh3, 3, 3),
    "ssprk3": (odeopt.ssprk3, 3, 3),
    "rk4": (odeopt.rk4, 4, 4),
    "low_storage4": (odeopt.low_storage4, 6, 4),
    "dopri5": (odeopt.dopri5, 6, 5),
    "tsit5": (odeopt.tsit5, 6, 5),
    "runge_kutta": (
        partial(
            odeopt.runge_kutta,
            tableau=odeopt.solvers.Tableau(a=[[1 / 3], [0, 2 / 3]], b=[1 / 4, 0, 3 / 4]),
        ),
        3,
        3,
    ),
    "from_diffrax": (
        lambda learning_rate, **kw: odeopt.from_diffrax(diffrax.Bosh3(), learning_rate, **kw),
        3,
        3,
    ),
}
HEUN = odeopt.solvers.Heun()
MOMENTUM = {
    "heavy_ball": (odeopt.heavy_ball, 1, 1),
    "nesterov": (odeopt.nesterov, 1, 1),
    "conformal_leapfrog": (odeopt.conformal_leapfrog, 1, 2),
    "suzuki_yoshida": (odeopt.suzuki_yoshida, 3, 4),
    "relativistic": (odeopt.relativistic, 1, 1),
    "rk_momentum": (partial(odeopt.rk_momentum, momentum=0.9, solver=HEUN), 2, 2),
    "chained_momentum": (partial(odeopt.chained_momentum, momentum=0.9, solver=HEUN), 2, 1),
}
ADAPTIVE = {
    "rmsprop": (odeopt.rmsprop, 1, 1),
    "adam": (odeopt.adam, 1, 1),
    "adamw": (odeopt.adamw, 1, 1),
    "strang_adam": (odeopt.strang_adam, 1, 2),
    "rk_adam": (partial(odeopt.rk_adam, solver=HEUN), 2, 2),
    "log_time_adam": (odeopt.log_time_adam, 1, 1),
}
# Two stages: its loop traces the loss once, so that calls can be counted.
STABILIZED = {"rkc": (partial(odeopt.rkc, stages=2), 2, 1)}
# Their drift cancelled: one gradient more, where the plain step would lead.
CORRECTED = {
    "euler-corrected": (partial(odeopt.euler, correction=2), 2, 2),
    "heavy_ball-corrected": (partial(odeopt.heavy_ball, momentum=0.9, correction=2), 2, 1),
    "adam-corrected": (partial(odeopt.adam, correction=2), 2, 1),
}
# A game in which all have one loss is gradient flow. What moves in turn has rows of its own in
# `tests/flows/test_game.py`: it must know how many players there are, and here they vary.
GAMES = {
    "simultaneous": (odeopt.simultaneous, 1, 1),
    "game_runge_kutta": (partial(odeopt.game_runge_kutta, tableau=HEUN), 2, 2),
}
# What a step costs is known when it has been made. One row for each kind of method.
STIFF = {
    name: (partial(getattr(odeopt, name), curvature="hessian", products=5), None, None)
    for name in ("linearly_implicit_euler", "exponential_euler", "implicit_euler")
}
TABLE = EXPLICIT | MOMENTUM | ADAPTIVE | STABILIZED | CORRECTED | GAMES | STIFF
# The explicit names that are left out differ from these in their tableau only.
VARIED = ["euler", "heun", "ssprk3", "rk4", "tsit5", "runge_kutta", "from_diffrax"]
VARIED += [*MOMENTUM, *ADAPTIVE, *STABILIZED, *CORRECTED, *GAMES]
IN_STAGES = (*EXPLICIT, "rk_momentum", "rk_adam", "game_runge_kutta")
STAGED = [name for name in VARIED if name in IN_STAGES]
# where the parameters rest elsewhere than at the end of a step
RESTING = ["conformal_leapfrog", "suzuki_yoshida", "strang_adam", "log_time_adam"]
# the promises that hold for one row of each kind hold for all: used where a test is slow
KINDS = ["euler", "rk4", "tsit5", "heavy_ball", "suzuki_yoshida", "rk_adam", "log_time_adam"]
KINDS += ["adam-corrected"]


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
