"""Steps of solvers against gradients, against optax and against diffrax's own step."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import optax

import odeopt
from odeopt import drift
from odeopt.solvers import ExplicitRungeKutta, as_method

from .models import (
    DIGITS,
    WIDE,
    batch_of,
    diffrax_step,
    diffrax_step_and_error,
    four_gradients,
    loss,
    method_step_and_error,
    mlp,
    repeated,
    training_step,
    update_step,
)
from .programs import bytes_accessed, compile_program, dots, temporaries
from .timing import Call, Loop, Row, exact, once_each, paired, ratio

RATE = 1e-3  # small, so that parameters stay where they are, round after round
BATCHES = 8  # steps in one program
LEAVES = (1, 60, 300)
TOTAL = 10_080_000  # parameters, divided among the leaves
# ours, optax's
UPDATES = {
    "euler": (odeopt.euler(RATE), optax.sgd(RATE)),
    "heavy_ball": (odeopt.heavy_ball(RATE, 0.9), optax.sgd(RATE, 0.9)),
    "nesterov": (odeopt.nesterov(RATE, 0.9), optax.sgd(RATE, 0.9, nesterov=True)),
    "adam": (odeopt.adam(RATE), optax.adam(RATE)),
    "adamw": (odeopt.adamw(RATE), optax.adamw(RATE)),
}
# They do more than optax's Adam: find their own step size, take back what is not finite.
CAREFUL = {
    "log_time_adam": (odeopt.log_time_adam(), optax.adam(RATE)),
    "guard(adam)": (odeopt.guard(odeopt.adam(RATE)), optax.adam(RATE)),
}


def gradients(rounds: int) -> Iterator[Row]:
    """An RK4 step, first gradient included, against four gradients."""
    for name, sizes, aims in (
        ("64-32-10", DIGITS, ("1.10", "")),
        ("784-512-512-10", WIDE, ("1.10", "1.05")),
    ):
        for examples, aim in zip((128, 512), aims, strict=True):
            params, where = mlp(sizes), f"MLP {name}, batch {examples}"
            batches = batch_of(sizes, examples, BATCHES)
            points = tuple(jax.tree.map(jnp.copy, params) for _ in range(4))
            four = Loop(repeated(four_gradients), points, points, batches, divide=BATCHES)
            step = _repeated_training(odeopt.rk4(RATE), params, batches)
            pairs = paired(step, four, rounds)
            yield ratio("gradients", f"rk4 step / four gradients, {where}", pairs, aim)
            batch = batch_of(sizes, examples)
            pairs = paired(
                _training(odeopt.rk4(RATE), params, batch),
                _training(optax.sgd(RATE), params, batch, divide=1 / 4),
                rounds,
            )
            yield ratio("gradients", f"rk4 call / four sgd calls, {where}", pairs)


def extra_gradients(name: str) -> float:
    """Gradients in the compiled step of a zoo optimizer beyond the one it is given."""
    params, batch = mlp(DIGITS), batch_of(DIGITS, 128)
    optimizer = getattr(odeopt, name)(RATE)
    carry = params, optimizer.init(params)
    step = compile_program(update_step(optimizer), carry, params, batch, donate=0)
    return dots(step) / dots(compile_program(jax.grad(loss), params, batch))


def dot_counts(rounds: int) -> Iterator[Row]:
    """Matrix products of a step that is given its first gradient, in units of a gradient's."""
    for name, stages in (("heun", 2), ("rk4", 4), ("tsit5", 6)):
        row = f"dots of {name} step given stage 1 / of one gradient"
        yield exact("dots", row, extra_gradients(name), str(stages - 1))


def correction_dots(order: int, form: drift.Form) -> float:
    """Gradients in the compiled step of corrected gradient descent beyond the one it is given."""
    params, batch = mlp(DIGITS), batch_of(DIGITS, 128)
    optimizer = _corrected(order, form)
    carry = params, optimizer.init(params)
    step = compile_program(update_step(optimizer), carry, params, batch, donate=0)
    return dots(step) / dots(compile_program(jax.grad(loss), params, batch))


def corrections(rounds: int) -> Iterator[Row]:
    """Counter-terms of gradient descent and of momentum against the gradient that they are given.

    Training steps: 1 is the plain step, gradient included, what is above it the counter-term.
    """
    params, batches = mlp(DIGITS), batch_of(DIGITS, 128, BATCHES)
    where = "MLP 64-32-10, batch 128"
    # what is compared, order, form, gradients that the counter-term may cost
    rows: list[tuple[str, int, drift.Form, float | None]] = [
        ("order 2 by differences", 2, "difference", 1.35),
        ("order 2 by a Hessian product", 2, "derivatives", None),
        ("order 3 by differences", 3, "difference", 6.0),
        ("order 3 by derivatives", 3, "derivatives", None),
    ]
    for name, order, form, most in rows:
        products = correction_dots(order, form)
        row = f"dots of {name} / of one gradient"
        yield exact("correction", row, products, f"{most:.2f}" if most else "")
        ours = _repeated_training(_corrected(order, form), params, batches)
        plain = _repeated_training(odeopt.euler(RATE), params, batches)
        row = f"euler, {name} / plain, {where}"
        yield ratio(
            "correction", row, paired(ours, plain, rounds), f"{most + 1:.2f}" if most else ""
        )
    for optimizer in (odeopt.heavy_ball, odeopt.adam):
        ours = _repeated_training(optimizer(RATE, correction=2), params, batches)
        plain = _repeated_training(optimizer(RATE), params, batches)
        row = f"{optimizer.__name__}, order 2 / plain, {where}"
        yield ratio("correction", row, paired(ours, plain, rounds), "2.20")
    begin = time.perf_counter()
    optimizer = _corrected(4, "derivatives")
    compile_program(training_step(optimizer), (params, optimizer.init(params)), _first(batches))
    seconds = time.perf_counter() - begin
    yield exact("correction", "seconds to lower + compile order 4 by derivatives", seconds, "60")


def both_sides(name: str, leaves: int) -> tuple[Any, Any, tuple[Any, ...]]:
    """Update and apply of ours and of optax's on `leaves` equal leaves: carry, grads."""
    params = {str(index): jnp.ones(TOTAL // leaves) for index in range(leaves)}
    sides = []
    for optimizer in (UPDATES | CAREFUL)[name]:
        sides.append((update_step(optimizer), (params, optimizer.init(params))))
    return sides[0], sides[1], (jax.tree.map(lambda p: 0.5 * p, params), None)


def moved_bytes(name: str, leaves: int) -> tuple[float, float]:
    """Bytes that the compiled update of ours and of optax's read and write."""
    *sides, rest = both_sides(name, leaves)
    ours, theirs = (
        bytes_accessed(compile_program(step, carry, *rest, donate=0)) for step, carry in sides
    )
    return ours, theirs


def updates(rounds: int) -> Iterator[Row]:
    """Updates against those of optax, gradients given, all of the carry donated."""
    for name in UPDATES:
        for leaves in LEAVES:
            (ours, our_carry), (theirs, their_carry), rest = both_sides(name, leaves)
            pairs = paired(Loop(ours, our_carry, *rest), Loop(theirs, their_carry, *rest), rounds)
            where = f"{name} / optax, update of 10M parameters, {leaves} leaves"
            yield ratio("updates", f"{where}, time", pairs, "1.02")
            moved = moved_bytes(name, leaves)
            yield exact("updates", f"{where}, bytes", moved[0] / moved[1], "1.00")
    for name in CAREFUL:
        for leaves in LEAVES:
            (ours, our_carry), (theirs, their_carry), rest = both_sides(name, leaves)
            pairs = paired(Loop(ours, our_carry, *rest), Loop(theirs, their_carry, *rest), rounds)
            where = f"{name} / optax.adam, update of 10M parameters, {leaves} leaves"
            yield ratio("updates", f"{where}, time", pairs, "1.40" if "log" in name else "")


def compile_time(rounds: int) -> Iterator[Row]:
    """Tracing, lowering and compiling: RK4 against one gradient, RKC against fewer stages.

    And the update of `log_time_adam` against that of optax's Adam, with few and with many leaves.
    """
    params, batch = mlp(DIGITS), batch_of(DIGITS, 128)

    def training(optimizer: optax.GradientTransformation) -> None:
        compile_program(training_step(optimizer), (params, optimizer.init(params)), batch)

    def gradient() -> None:
        compile_program(_fresh_gradient(), params, batch)

    for scan, name in ((False, "unrolled"), (True, "scan_stages")):
        rk4 = Call(training, odeopt.rk4(RATE, scan_stages=scan))
        row = f"lower + compile, rk4 step / one gradient, {name}"
        yield ratio("compile", row, once_each(rk4, Call(gradient), rounds), "3")
    many, few = (Call(training, odeopt.rkc(RATE, stages)) for stages in (50, 5))
    row = "lower + compile, rkc step, 50 stages / 5 stages"
    yield ratio("compile", row, once_each(many, few, rounds), "1.20")
    for where, leaves, times in (("", params, rounds), (", 300 leaves", [params["w0"]] * 300, 3)):
        ours, theirs = (Call(_compile_update, o, leaves) for o in CAREFUL["log_time_adam"])
        row = f"lower + compile, log_time_adam update / optax.adam's{where}"
        yield ratio("compile", row, once_each(ours, theirs, min(rounds, times)), "2.50")


def _compile_update(optimizer: optax.GradientTransformation, params: Any) -> None:
    compile_program(update_step(optimizer), (params, optimizer.init(params)), params, None)


def foreign(rounds: int) -> Iterator[Row]:
    """Our stage loop against diffrax's step on the same tableau, first gradient included.

    diffrax evaluates it again; it is not counted here for the one that an optax loop hands over.
    """
    sides = {"rk4": odeopt.solvers.RK4(), "tsit5": diffrax.Tsit5()}
    for examples in (128, 512):
        params, batches = mlp(DIGITS), batch_of(DIGITS, examples, BATCHES)
        for name, solver in sides.items():
            ours = _repeated_training(getattr(odeopt, name)(RATE), params, batches)
            step = repeated(diffrax_step(solver, RATE))
            theirs = Loop(step, params, batches, divide=BATCHES)
            pairs = paired(ours, theirs, rounds)
            row = f"{name} step / diffrax's own step, MLP 64-32-10, batch {examples}"
            yield ratio("diffrax", row, pairs)
    for name, sizes in (("64-32-10", DIGITS), ("784-512-512-10", WIDE)):
        params, batches = mlp(sizes), batch_of(sizes, 128, BATCHES)
        method = as_method(diffrax.Tsit5(), error=True)
        assert isinstance(method, ExplicitRungeKutta)
        given = jax.tree.map(lambda p: 1e-3 * p, params)
        own = diffrax_step_and_error(diffrax.Tsit5(), RATE)
        for gradient, what, aims in (
            (None, "evaluated", ("", "")),
            (given, "given", ("0.85", "0.70")),
        ):
            both = method_step_and_error(method, RATE, gradient), own
            carry = params, params
            a, b = (Loop(repeated(step), carry, batches, divide=BATCHES) for step in both)
            where = f"tsit5 and its error, stage 1 {what} / diffrax's step, MLP {name}, batch 128"
            yield ratio("diffrax", f"{where}, time", paired(a, b, rounds), aims[0])
            first, second = (
                temporaries(compile_program(step, carry, _first(batches), donate=0))
                for step in both
            )
            yield exact("diffrax", f"{where}, temporaries", first / second, aims[1])


def curvature(rounds: int) -> Iterator[Row]:
    """Steps that linearize the field against one gradient; the network of the studies."""
    params, batches = mlp(DIGITS), batch_of(DIGITS, 128, BATCHES)
    plain = _repeated_training(odeopt.euler(RATE), params, batches)
    for name, optimizer in (
        ("linearly_implicit_euler, 5 products", _linear(odeopt.linearly_implicit_euler)),
        ("implicit_euler, at most 2 times 5 products", _linear(odeopt.implicit_euler)),
        ("exponential_euler, 5 products", _linear(odeopt.exponential_euler)),
    ):
        pairs = paired(_repeated_training(optimizer, params, batches), plain, rounds)
        yield ratio("curvature", f"{name} / gradient descent, MLP 64-32-10, batch 128", pairs)


def _linear(make: Callable[..., Any]) -> optax.GradientTransformationExtraArgs:
    more = {"iterations": 2} if make is odeopt.implicit_euler else {}
    return make(1.0, "hessian", products=5, tolerance=0.0, **more)


def _corrected(order: int, form: drift.Form) -> optax.GradientTransformationExtraArgs:
    euler = odeopt.solvers.Euler()
    flow = drift.corrected(odeopt.flows.GradientFlow(), euler, order, form=form)
    return odeopt.ode_optimizer(flow, euler, RATE)


def _first(batches: Any) -> Any:
    return jax.tree.map(lambda array: array[0], batches)


def _training(
    optimizer: optax.GradientTransformation, params: Any, batch: Any, divide: float = 1.0
) -> Loop:
    return Loop(training_step(optimizer), (params, optimizer.init(params)), batch, divide=divide)


def _repeated_training(optimizer: optax.GradientTransformation, params: Any, batches: Any) -> Loop:
    step = repeated(training_step(optimizer))
    return Loop(step, (params, optimizer.init(params)), batches, divide=BATCHES)


def _fresh_gradient() -> Callable[..., Any]:
    # A new function each time, which nothing has cached a trace of.
    return lambda params, batch: jax.grad(lambda p: loss(p, batch))(params)
