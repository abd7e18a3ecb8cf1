"""What decides a run, in 16 digits: arrays, traced functions, optimizers; for `--resume`."""

import functools
import hashlib
import re
from types import CodeType, FunctionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import PyTree


def checksum(arrays: PyTree, *also: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of arrays, and of what prints as text."""
    digest = hashlib.sha256("".join(map(str, also)).encode())
    for leaf in jax.tree.leaves(arrays):
        is_key = jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def checksum_of(traced: Any, arrays: PyTree = (), *also: Any) -> str:
    """The same of a traced function with its constants, and of what it is called with."""
    return checksum((arrays, _constants(traced)), *also, _readable(traced))


def _readable(value: Any) -> str:
    """A text without addresses, which differ between processes."""
    return re.sub(r"0x[0-9a-f]+", "", str(value))


def _constants(traced: Any) -> list[Any]:
    """The arrays that a traced function holds, those of the functions inside it too."""
    found = list(traced.consts) if isinstance(traced, ClosedJaxpr) else []
    for equation in traced.eqns:
        for inner in jax.tree.leaves(equation.params):
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                found += _constants(inner)
    return found


def fingerprint(make: Any) -> str:
    """A checksum of what the optimizer of a rate does.

    Every option is a number of its traced step, so that a changed one changes the checksum.
    """
    params = {"matrix": jnp.eye(2), "vector": jnp.ones(2)}

    def step(rate: Any) -> Any:
        loss = functools.partial(optax.tree.norm, squared=True)
        optimizer = optax.with_extra_args_support(make(rate))
        more = {"value": loss(params), "grad": params, "value_fn": loss}
        return optimizer.update(params, optimizer.init(params), params, **more)

    try:
        return checksum_of(jax.make_jaxpr(step)(0.1))
    except Exception:  # it is for other parameters: its code, and what that holds
        return checksum((), _readable(_spelled(make)))


def _spelled(value: Any, depth: int = 8) -> Any:
    """Of a function its instructions and what it holds, functions inside it too; else its text."""
    if depth and isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        return [_spelled(inside, depth - 1) for inside in (value.__code__, *held)]
    if depth and isinstance(value, CodeType):
        inside = [_spelled(constant, depth - 1) for constant in value.co_consts]
        return [value.co_code.hex(), value.co_names, inside]
    return repr(value)
