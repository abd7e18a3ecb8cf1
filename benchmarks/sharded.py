"""Collectives in compiled updates of sharded parameters, on eight devices of a child process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import odeopt

from .programs import collectives, compile_program
from .timing import Row, exact

DEVICES = 8
NAMES = ("euler", "rk4", "tsit5", "heavy_ball", "adam", "log_time_adam", "low_storage4")


def sharded(rounds: int) -> Iterator[Row]:
    """How often an update of parameters that are split over a mesh moves them."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.sharded"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for name, counts in json.loads(child.stdout).items():
        reductions = counts.pop("all-reduce", 0)
        moved = sum(counts.values())
        yield exact("sharded", f"gathers in the update of split parameters, {name}", moved, "0")
        row = f"all-reduces in the update of split parameters, {name}"
        yield exact("sharded", row, reductions)


def _counts() -> dict[str, dict[str, int]]:
    mesh = jax.make_mesh((DEVICES,), ("model",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, P("model"))
    found: dict[str, dict[str, int]] = {}
    with jax.set_mesh(mesh):
        params = {"w": jax.device_put(jnp.ones((1024, 64)), split)}
        for name in NAMES:
            make = getattr(odeopt, name)
            optimizer = make() if name == "log_time_adam" else make(0.1, *_momentum(name))
            state = optimizer.init(params)

            def step(params, state, optimizer=optimizer):  # type: ignore[no-untyped-def]
                gradient = lambda p, stage: jax.tree.map(jnp.sinh, p)  # noqa: E731
                grads = gradient(params, 0)
                return optimizer.update(grads, state, params, grad_fn=gradient)

            found[name] = collectives(compile_program(step, params, state))
    return found


def _momentum(name: str) -> tuple[float, ...]:
    return (0.9,) if name == "heavy_ball" else ()


if __name__ == "__main__":
    print(json.dumps(_counts()))
