"""Training with low-precision parameters: how updates are added to them."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from .checks import fraction_dtype, is_transformation, known_design
from .kernels import Kernel, add_rounded
from .kernels.choice import check_kernel, chosen


def apply_updates(
    params: PyTree[Array],
    updates: PyTree[Array],
    rounding: Literal["nearest", "stochastic"] = "nearest",
    *,
    step: int | Int[Array, ""] | None = None,
    key: Key[Array, ""] | None = None,
    kernel: Kernel = "auto",
) -> PyTree[Array]:
    r"""`optax.apply_updates`, optionally with stochastic rounding of bfloat16 parameters.

    With rounding to the nearest bfloat16, an update below 1/512 to 1/256 of its parameter leaves it
    unchanged, at every step: training stalls. Stochastic rounding rounds up with the probability
    that makes the sum right in the mean, so small updates accumulate (`kernels.add_rounded`).
    Leaves of other dtypes are rounded to the nearest number.

    Args:
      params: the parameters.
      updates: what the optimizer returned.
      rounding: `"nearest"` or `"stochastic"`.
      step: the number of this step, such as `state.steps`, so that each step rounds differently.
      key: a random key: a new one for each run, or, without `step`, for each step.
      kernel: the kernel that adds and rounds: `"jnp"`, `"pallas"` (for GPU or TPU) or `"auto"`, see
        `odeopt.kernels`.

    Returns:
      The new parameters, in their own dtypes. The bits depend on `step` and `key` only, not on
      backend or sharding.

    Raises:
      ValueError: `"stochastic"` with neither `step` nor `key`; an unknown `rounding` or `kernel`.
      TypeError: a `step` that is not a whole number, such as a time.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> params, updates = jnp.ones(10_000, jnp.bfloat16), jnp.full(10_000, 1e-3)
      >>> mean = lambda x: round(float(jnp.mean(x.astype(jnp.float32))), 4)
      >>> mean(odeopt.apply_updates(params, updates))
      1.0
      >>> mean(odeopt.apply_updates(params, updates, "stochastic", step=0))
      1.001
    """
    check_kernel(kernel)
    if rounding == "nearest":
        return optax.apply_updates(params, updates)
    if rounding != "stochastic":
        raise ValueError(f'rounding is {rounding!r}; it is "nearest" or "stochastic".')
    if step is None and key is None:
        raise ValueError(
            "Stochastic rounding needs random numbers of its own at each step: pass "
            "`step=state.steps`, a `key=`, or both."
        )
    seed = 0 if key is None else jax.random.bits(key, dtype=jnp.uint32)
    with chosen(kernel):
        return add_rounded(params, updates, 0 if step is None else step, seed)


class CompensatedState(NamedTuple):
    """State of `compensated`.

    Attributes:
      inner: the state of the optimizer.
      residue: the part of the updates that rounding has lost so far, a tree like the parameters;
        None in place of leaves with 32 bits or more.
    """

    inner: PyTree[Array]
    residue: PyTree[Array]


def compensated(
    optimizer: optax.GradientTransformation, *, dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    r"""Any optimizer for low-precision parameters, with Kahan's compensated summation.

    The returned update is $u = \mathrm{rd}(\Delta + r)$, with the optimizer's update $\Delta$ and
    the residue $r$ of all earlier steps. Adding u to the parameters x, rounded to the nearest
    number, leaves the residue $r^+ = \Delta + r - (\mathrm{rd}(x + u) - x)$. The parameters are a
    rounded sum of higher precision (W. Kahan, Commun. ACM 8, 1965). Leaves with 32 bits or more are
    updated as usual.

    This must be the last transformation of a chain, and `optax.apply_updates` must add the updates.

    Args:
      optimizer: an optax or odeopt optimizer; its own arguments give it moments in float32
        (`accumulator_dtype=`, `mu_dtype=`).
      dtype: dtype of the residue; None for the parameters' dtype. A bfloat16 parameter has about 16
        bits with a residue of its own dtype, and 24 with a float32 residue.

    Returns:
      An optax transformation, whose state holds one more copy of the parameters. `update` needs
      the parameters.

    Raises:
      ValueError: an optimizer in staged mode, a dtype of integers; from `update`, if it is not
        given the parameters.
      TypeError: something that is not an optimizer.

    Examples:
      >>> import jax.numpy as jnp, odeopt, optax
      >>> x, grads = jnp.ones((), jnp.bfloat16), -jnp.ones((), jnp.bfloat16)
      >>> opt = odeopt.compensated(odeopt.euler(1e-3))  # a quarter of what changes x by itself
      >>> state = opt.init(x)
      >>> for _ in range(100):
      ...     updates, state = opt.update(grads, state, x)
      ...     x = optax.apply_updates(x, updates)
      >>> float(x)
      1.1015625
    """
    if not is_transformation(optimizer):
        raise TypeError(
            f"compensated() wraps an optimizer and got {optimizer!r:.60}: write "
            "`odeopt.compensated(odeopt.adam(1e-3))`."
        )
    design = known_design(optimizer)
    if design is not None and design.staged:
        raise ValueError(
            "compensated() has nothing to add to staged=True, which keeps the points of a step in "
            "the dtype of the parameters, rounded to the nearest: drop staged=True and pass "
            "`value_fn=loss` to update."
        )
    dtype = fraction_dtype("residue", dtype)
    extended = optax.with_extra_args_support(optimizer)
    return optax.GradientTransformationExtraArgs(
        functools.partial(_init, extended, dtype), functools.partial(_update, extended)
    )


# Functions of the module, so that the transformation can be pickled like its optimizer.


def _init(
    optimizer: optax.GradientTransformationExtraArgs, dtype: Any, params: PyTree[Array]
) -> CompensatedState:
    residue = jax.tree.map(
        lambda p: jnp.zeros_like(p, dtype or p.dtype) if _is_low(p) else None, params
    )
    return CompensatedState(optimizer.init(params), residue)


def _update(
    optimizer: optax.GradientTransformationExtraArgs,
    updates: PyTree[Array],
    state: CompensatedState,
    /,
    params: PyTree[Array] | None = None,
    **extra_args: Any,
) -> tuple[PyTree[Array], CompensatedState]:
    if params is None:
        raise ValueError("compensated() needs the parameters: opt.update(grads, state, params)")
    updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
    structure: Any
    leaves, structure = jax.tree.flatten(updates)
    others = map(structure.flatten_up_to, (params, state.residue))
    pairs = [*map(_carried, leaves, *others)]
    updates, residue = (structure.unflatten(pair[i] for pair in pairs) for i in range(2))
    return updates, CompensatedState(inner, residue)


def _carried(update: Array, param: Array, residue: Array | None) -> tuple[Array, Array | None]:
    """The update to return, and the part of it that rounding will lose."""
    if residue is None:
        return update, None
    x, owed = param.astype(jnp.float32), update.astype(jnp.float32) + residue.astype(jnp.float32)
    given = _rounded(owed, param.dtype)
    gained = _rounded(x + given, param.dtype) - x
    return given.astype(param.dtype), (owed - gained).astype(residue.dtype)


def _rounded(x: Array, dtype: Any) -> Array:
    # not by a cast there and back, which XLA may remove
    info = jnp.finfo(dtype)
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)


def _is_low(leaf: Array) -> bool:
    dtype = jnp.result_type(leaf)  # leaf may be a Python float
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
