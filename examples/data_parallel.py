"""Data-parallel training in several processes: the loop of one process, on a mesh over all.

    python examples/data_parallel.py --processes 2

starts two processes on this machine, connected over loopback, and trains a small network with RK4
and then with linearly implicit Euler. Each process holds its share of the data. On a cluster
`train` is the same, and `jax.distributed.initialize()` finds the other processes by itself.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import odeopt

SAMPLES, STEPS = 256, 10

loss = odeopt.composite(
    lambda outputs, targets: jnp.mean((outputs - targets) ** 2),
    lambda params, inputs: jnp.tanh(inputs @ params["in"]) @ params["out"],
)
OPTIMIZERS = {
    "rk4": lambda: odeopt.rk4(0.5),
    "linearly_implicit_euler": lambda: odeopt.linearly_implicit_euler(1.0, solve="cg"),
}


def data(share: slice) -> dict[str, np.ndarray]:
    """The samples of this share; a real loader would read only those."""
    inputs = np.random.default_rng(0).normal(size=(SAMPLES, 8)).astype(np.float32)
    return {"inputs": inputs[share], "targets": np.sin(inputs[share, :2] + inputs[share, 2:4])}


def train(name: str) -> dict[str, np.ndarray]:
    """Train by one optimizer on all devices of all processes; returns the parameters."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    count, index = jax.process_count(), jax.process_index()
    own = data(slice(index * SAMPLES // count, (index + 1) * SAMPLES // count))
    batch = {k: jax.make_array_from_process_local_data(split, x) for k, x in own.items()}

    keys = jax.random.split(jax.random.key(0))
    params = {
        "in": jax.random.normal(keys[0], (8, 32)) / 8**0.5,
        "out": jax.random.normal(keys[1], (32, 2)) / 32**0.5,
    }
    params = jax.device_put(params, whole)
    optimizer = OPTIMIZERS[name]()
    state = jax.jit(optimizer.init, out_shardings=whole)(params)

    @jax.jit
    def step(params, state, batch):
        value, grads = jax.value_and_grad(loss)(params, **batch)
        updates, state = optimizer.update(grads, state, params, value=value, value_fn=loss, **batch)
        return optax.apply_updates(params, updates), state, value

    for _ in range(STEPS):
        params, state, value = step(params, state, batch)
    if index == 0:
        print(f"{count} processes, {name}: loss {float(value):.6f} before step {STEPS}")
    return jax.device_get(params)


def work(index: int, processes: int, port: int, out: Path) -> None:
    """What one process does."""
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index, initialization_timeout=60)
    results = {name: train(name) for name in OPTIMIZERS}
    if index == 0:
        np.savez(out, **{f"{n}/{k}": x for n, params in results.items() for k, x in params.items()})


def launch(processes: int, out: Path, timeout: float = 180) -> None:
    """Start the processes on this machine and wait for them; none is left behind.

    Args:
        processes: How many.
        out: File for the trained parameters, `.npz`.
        timeout: Seconds until all are stopped.

    Raises:
        RuntimeError: With the output of every process, if one fails or time is up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"{index}.log" for index in range(processes)]
        children: list[subprocess.Popen] = []
        try:
            for index, log in enumerate(logs):
                words = [sys.executable, __file__, "--processes", str(processes)]
                words += ["--index", str(index), "--port", str(port), "--out", str(out)]
                with log.open("w") as file:
                    children.append(
                        subprocess.Popen(
                            words, stdout=file, stderr=subprocess.STDOUT, env=environment
                        )
                    )
            # One that fails leaves the others waiting for it.
            while (codes := [child.poll() for child in children]).count(None):
                if any(codes) or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        finally:
            for child in children:
                child.kill()
                child.wait()
        said = [
            f"process {i}, exit code {c}:\n{log.read_text()}"
            for i, (c, log) in enumerate(zip(codes, logs, strict=True))
        ]
    if any(code != 0 for code in codes):
        why = "a process failed" if any(codes) else f"not done after {timeout:g} s"
        raise RuntimeError("\n\n".join([why, *said]))
    print(said[0].split("\n", 1)[1], end="")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("data-parallel.npz"))
    parser.add_argument("--index", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.index is None:
        launch(arguments.processes, arguments.out)
    else:
        work(arguments.index, arguments.processes, arguments.port, arguments.out)
