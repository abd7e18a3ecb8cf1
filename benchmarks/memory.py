"""Memory of optimizers in copies of the parameters, read off compiled programs that never run."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

import odeopt

from .models import loss, training_step
from .programs import compile_program, temporaries
from .timing import Row, exact

WIDTH, DEPTH, EXAMPLES = 4096, 4, 8
RATE = 1e-3
SOLVERS = odeopt.solvers
# What the table lists: every optimizer, at its defaults but for what is named.
OPTIMIZERS: dict[str, optax.GradientTransformation] = {
    "euler": odeopt.euler(RATE),
    "heun": odeopt.heun(RATE),
    "midpoint": odeopt.midpoint(RATE),
    "ralston": odeopt.ralston(RATE),
    "bosh3": odeopt.bosh3(RATE),
    "ssprk3": odeopt.ssprk3(RATE),
    "rk4": odeopt.rk4(RATE),
    "low_storage4": odeopt.low_storage4(RATE),
    "dopri5": odeopt.dopri5(RATE),
    "tsit5": odeopt.tsit5(RATE),
    "rkc": odeopt.rkc(RATE),
    "rkc(order=2)": odeopt.rkc(RATE, order=2),
    "rkc(stages=None)": odeopt.rkc(RATE, stages=None),
    "heavy_ball": odeopt.heavy_ball(RATE, 0.9),
    "nesterov": odeopt.nesterov(RATE, 0.9),
    "relativistic": odeopt.relativistic(RATE, 0.9),
    "conformal_leapfrog": odeopt.conformal_leapfrog(RATE, 0.9),
    "suzuki_yoshida": odeopt.suzuki_yoshida(RATE, 0.9),
    "rk_momentum(solver=RK4)": odeopt.rk_momentum(RATE, 0.9, SOLVERS.RK4()),
    "chained_momentum(solver=RK4)": odeopt.chained_momentum(RATE, 0.9, SOLVERS.RK4()),
    "rmsprop": odeopt.rmsprop(RATE),
    "adam": odeopt.adam(RATE),
    "adamw": odeopt.adamw(RATE),
    "strang_adam": odeopt.strang_adam(RATE),
    "rk_adam(solver=RK4)": odeopt.rk_adam(RATE, SOLVERS.RK4()),
    "log_time_adam": odeopt.log_time_adam(),
    "muon": odeopt.muon(RATE),
    "soap": odeopt.soap(RATE),
    "log_time_soap": odeopt.log_time_soap(),
    "untuned": odeopt.untuned(),
    "euler(correction=2)": odeopt.euler(RATE, correction=2),
    "heavy_ball(correction=2)": odeopt.heavy_ball(RATE, 0.9, correction=2),
    "adam(correction=2)": odeopt.adam(RATE, correction=2),
    "linearly_implicit_euler": odeopt.linearly_implicit_euler(RATE, "hessian"),
    "rosenbrock2": odeopt.rosenbrock2(RATE, "hessian"),
    "implicit_euler": odeopt.implicit_euler(RATE, "hessian"),
    "implicit_midpoint": odeopt.implicit_midpoint(RATE, "hessian"),
    "trapezoidal": odeopt.trapezoidal(RATE, "hessian"),
    "exponential_euler": odeopt.exponential_euler(RATE, "hessian"),
}


def _shapes(width: int) -> tuple[Any, Any, int]:
    """Parameters of a tanh network of `DEPTH` equal layers, a batch, and bytes of the former."""
    params: dict[str, jax.ShapeDtypeStruct] = {}
    for index in range(DEPTH):
        params[f"w{index}"] = jax.ShapeDtypeStruct((width, width), jnp.float32)
        params[f"b{index}"] = jax.ShapeDtypeStruct((width,), jnp.float32)
    batch = (jax.ShapeDtypeStruct((EXAMPLES, width), jnp.float32),) * 2
    return params, batch, _bytes(params)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def update_memory(
    optimizer: optax.GradientTransformation, width: int = 1024
) -> tuple[float, float]:
    """Copies of the parameters in the state; and within `update`, beside its arguments.

    The gradient and the state are donated, so that the updates live where the gradient did.
    """
    params, batch, size = _shapes(width)
    state = jax.eval_shape(optimizer.init, params)
    extended = optax.with_extra_args_support(optimizer)

    def update(grads: Any, state: Any, params: Any, batch: Any) -> Any:
        return extended.update(grads, state, params, value_fn=loss, batch=batch)

    program = compile_program(update, params, state, params, batch, donate=(0, 1))
    return _bytes(state) / size, temporaries(program) / size


def step_memory(
    optimizer: optax.GradientTransformation, width: int = WIDTH, donate: bool = True
) -> float:
    """Copies of the parameters within a whole training step: gradient, update and apply.

    Where parameters are not donated the new ones, another copy, are not counted.
    """
    params, batch, size = _shapes(width)
    carry = params, jax.eval_shape(optimizer.init, params)
    program = compile_program(training_step(optimizer), carry, batch, donate=0 if donate else ())
    return temporaries(program) / size


def memory(rounds: int) -> Iterator[Row]:
    """State and temporaries in copies of the parameters; stages looped over and unrolled."""
    where = f"{DEPTH} x {WIDTH}^2 MLP"
    yield exact("memory", f"whole step / parameters, sgd, {where}", step_memory(optax.sgd(RATE)))
    for name, make, aim in (
        ("rk4", odeopt.rk4, 2.5),
        ("ssprk3", odeopt.ssprk3, 1.6),
        ("low_storage4", odeopt.low_storage4, 1.6),
    ):
        for scan, how in ((True, "stages in a loop"), (False, "unrolled")):
            optimizer = make(RATE, scan_stages=scan)
            whole = step_memory(optimizer)
            yield exact("memory", f"whole step / parameters, {name}, {how}, {where}", whole)
            kept = step_memory(optimizer, donate=False)
            row = f"whole step, nothing donated / parameters, {name}, {how}, {where}"
            yield exact("memory", row, kept, f"{aim:.2f}" if scan else "")
            beside = update_memory(optimizer, WIDTH)[1]
            row = f"temporaries of the update / parameters, {name}, {how}, {where}"
            yield exact("memory", row, beside)
    for name, optimizer in OPTIMIZERS.items():
        state, beside = update_memory(optimizer)
        yield exact("memory", f"state / parameters, {name}", state)
        yield exact("memory", f"temporaries of the update / parameters, {name}", beside)
