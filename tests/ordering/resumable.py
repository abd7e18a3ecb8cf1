"""A run that saves itself once, for the test that kills it: `python resumable.py folder`."""

import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

import odeopt

WINDOW, SAVED = 6, 8  # two steps into the second window
DATA = jax.random.normal(jax.random.key(0), (32, 4, 5))


def loss(params, batch):
    return jnp.mean(jnp.cosh(batch @ params["w"] - 1.0))


opt = odeopt.ordering.backward(
    odeopt.adam(0.05), WINDOW, example={"batch": jax.ShapeDtypeStruct((4, 5), jnp.float32)}
)


@jax.jit
def step(params, state, batch):
    updates, state = opt.update(None, state, params, value_fn=loss, batch=batch)
    return optax.apply_updates(params, updates), state


def begin():
    params = {"w": jnp.linspace(-1.0, 1.0, 5)}
    return params, opt.init(params)


def main(folder):
    params, state = begin()
    for n, batch in enumerate(DATA):
        if n == SAVED:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(folder / "checkpoint", (params, state))
        params, state = step(params, state, batch)
        if n > SAVED:
            print("beyond", flush=True)
            time.sleep(60)  # until it is killed


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
