"""Step-size rules on random losses: how many runs do not end below the loss at their start."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

import odeopt
from odeopt import stepsize

from .timing import Row, exact

RUNS, STEPS, SIZE = 24, 300, 6
Loss = Callable[[Array], Array]


def quadratic(key: Array) -> Loss:
    """Curvatures from 0.02 to 20, in random directions."""
    logs = jax.random.uniform(key, (SIZE,), minval=-4.0, maxval=3.0)
    basis = jax.random.orthogonal(jax.random.fold_in(key, 1), SIZE)
    return lambda x: 0.5 * jnp.sum(jnp.exp(logs) * (basis @ x) ** 2)


def rosenbrock(key: Array) -> Loss:
    """Rosenbrock's valley, 1 to 10 times as steep as it is flat."""
    steepness = jax.random.uniform(key, minval=1.0, maxval=10.0)
    return lambda x: jnp.sum(steepness * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _inputs(key: Array) -> tuple[Array, Array]:
    scales = jnp.exp(jax.random.normal(jax.random.fold_in(key, 1), (SIZE,)))
    inputs = scales * jax.random.normal(key, (30, SIZE))
    return inputs, inputs @ jax.random.normal(jax.random.fold_in(key, 2), (SIZE,)) / SIZE


def logistic(key: Array) -> Loss:
    """Logistic regression on inputs of unequal scales that can be separated."""
    inputs, outputs = _inputs(key)
    return lambda x: jnp.mean(jnp.logaddexp(0.0, -jnp.sign(outputs) * (inputs @ x)))


def neuron(key: Array) -> Loss:
    """One tanh neuron that can be fitted exactly; it saturates far away."""
    inputs, outputs = _inputs(key)
    return lambda x: jnp.mean((jnp.tanh(inputs @ x) - jnp.tanh(outputs)) ** 2)


LOSSES = (quadratic, rosenbrock, logistic, neuron)  # the infimum of each is 0
RULES: dict[str, stepsize.AbstractRule] = {
    "embedded_error": stepsize.embedded_error(1e-2, 1e-3),
    "gain_ratio": stepsize.gain_ratio(),
    "sharpness": stepsize.sharpness(),
    "drift_adjusted": stepsize.drift_adjusted(),
    "corridor": stepsize.corridor(),
    "angle": stepsize.angle(),
}
OPTIMIZERS: dict[str, Callable[[Any], odeopt.Optimizer]] = {
    "euler": odeopt.euler,
    "heun": odeopt.heun,
    "rk4": odeopt.rk4,
    "heavy_ball": lambda rule: odeopt.heavy_ball(rule, 0.9),
    "adam": odeopt.adam,
}


def losses(optimizer: odeopt.Optimizer, make: Callable[[Array], Loss]) -> tuple[Array, Array]:
    """First and last losses of the runs, each on a loss and from a start of its own."""

    def run(key: Array) -> tuple[Array, Array]:
        loss = make(key)
        start = 2 * jax.random.normal(jax.random.fold_in(key, 3), (SIZE,))

        def step(carry: Any, _: None) -> tuple[Any, None]:
            x, state = carry
            value, grads = jax.value_and_grad(loss)(x)
            updates, state = optimizer.update(grads, state, x, value=value, value_fn=loss)
            return (optax.apply_updates(x, updates), state), None

        (end, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=STEPS)
        return loss(start), loss(end)

    return jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), RUNS))


def rules(rounds: int) -> Iterator[Row]:
    """Runs on all losses that end above their start or not finite, in float64."""
    with jax.enable_x64(True):
        for name, rule in RULES.items():
            for kind, of in OPTIMIZERS.items():
                try:
                    optimizer = of(rule)
                except ValueError:  # the rule does not work with it
                    continue
                runs = [losses(optimizer, make) for make in LOSSES]
                lost = sum(int(jnp.sum(~(last < first))) for first, last in runs)
                row = f"{name}, {kind}: runs of {RUNS * len(LOSSES)} that end no lower"
                yield exact("rules", row, lost)
