"""Three ways to store the state of an optimizer."""

import pickle

import orbax.checkpoint as ocp
from flax import serialization


def restored(tree, empty, folder):
    """`tree` as it comes back from pickle, Flax and Orbax; the last two fill `empty`."""
    yield pickle.loads(pickle.dumps(tree))
    yield serialization.from_bytes(empty, serialization.to_bytes(tree))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", tree)
    with ocp.StandardCheckpointer() as checkpointer:
        yield checkpointer.restore(folder / "state", empty)
