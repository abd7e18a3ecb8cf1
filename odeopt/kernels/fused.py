"""Updates of one pass over a leaf, run from one formula by XLA, a GPU kernel or a TPU kernel.

A fused update is a formula in `jax.numpy` for whole arrays (the reference). The kernels run the
same formula on blocks, so they can differ from it only by blocking, tails and dtypes.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import wide_dtype, widest
from ..checks import KNOWN
from .choice import INTERPRETED, current, where

Number = float | Array
Outputs = tuple[Array, ...]


@dataclasses.dataclass(frozen=True)
class Fused:
    """A fused update of trees.

    Attributes:
      formula: `formula(numbers, *arrays) -> outputs`, elementwise, in `jax.numpy`. Output number i
        is rounded to the dtype of array number i.
      name: its name in `choice.MEASURED`.
      outputs: the number of outputs.
      in_place: whether a kernel writes output i where array i was.
      indexed: whether the formula's last array is the flat index of each element, uint32.
      roots: whether it takes square roots, which the GPU form supports from jax 0.12 on.
      as_optax: whether the reference computes bfloat16 leaves in bfloat16, as optax does.
    """

    formula: Callable[..., Sequence[Array]]
    name: str
    outputs: int = 1
    in_place: bool = True
    indexed: bool = False
    roots: bool = False
    as_optax: bool = False

    def __call__(
        self, numbers: Sequence[Number], *trees: PyTree[Array], own: Sequence[PyTree[Number]] = ()
    ) -> tuple[PyTree[Array], ...]:
        """Return trees of outputs; `own` has numbers of each leaf, which follow the shared ones."""
        platforms = where(current(), self.name)  # outside of our jit, which would cache it
        structure: Any = jax.tree.structure(trees[0])
        columns = [*map(structure.flatten_up_to, (*trees, *own))]
        shared = _parted(numbers)
        results = []
        for leaf in zip(*columns, strict=True):
            arrays = leaf[: len(trees)]
            floats, others = _parted((*numbers, *leaf[len(trees) :])) if own else shared
            results.append(_leaf(self, platforms, floats, others, *arrays))
        outputs = zip(*results, strict=True) if results else [()] * self.outputs
        return tuple(map(structure.unflatten, outputs))

    def reference(self, numbers: Sequence[Number] | Array, *arrays: Array) -> Outputs:
        """The formula as XLA compiles it.

        Leaves below 32 bits are computed in float32 and rounded once (squares exceed the range of
        float16), bfloat16 not with `as_optax`. A moment in half the precision of its gradient is
        treated as in optax.
        """
        index = None
        if self.indexed:
            index = jnp.arange(arrays[0].size, dtype=jnp.uint32).reshape(arrays[0].shape)
        dtype = arrays[0].dtype
        half = jnp.finfo(dtype).bits < 32 and not (self.as_optax and dtype == jnp.bfloat16)
        return self.on(numbers, arrays, index, wide=half)

    def on(
        self,
        numbers: Sequence[Number] | Array,
        arrays: Sequence[Array],
        index: Array | None,
        *,
        wide: bool = True,
    ) -> Outputs:
        """Apply the formula to arrays or blocks of any shape; `wide`: in at least float32."""
        given = [a.astype(wide_dtype(a.dtype)) for a in arrays] if wide else [*arrays]
        if index is not None:
            given.append(index)
        with jax.numpy_dtype_promotion("standard"):  # moments may have dtypes of their own
            outputs = self.formula(tuple(numbers), *given)
        return tuple(o.astype(a.dtype) for o, a in zip(outputs, arrays, strict=False))


def fused(name: str, **options: Any) -> Callable[[Callable[..., Sequence[Array]]], Fused]:
    """A decorator that makes a formula a `Fused` update, with the options of `Fused`."""
    return functools.partial(Fused, name=name, **options)


def rounded(number: Number, array: Array) -> Number:
    """A number in the dtype of what it multiplies or divides, as optax rounds it."""
    return number if isinstance(number, float) else number.astype(jnp.finfo(array.dtype).dtype)


def _parted(numbers: Sequence[Any]) -> tuple[tuple[float | None, ...], tuple[Array, ...]]:
    """The floats, with None in the place of arrays, and the arrays."""
    floats = [float(n) if isinstance(n, KNOWN) else None for n in numbers]
    others = [n for n, known in zip(numbers, floats, strict=True) if known is None]
    return tuple(floats), tuple(others)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))  # leaves of equal shape are traced once
def _leaf(
    fused: Fused,
    platforms: tuple[str, ...],
    floats: tuple[float | None, ...],
    others: tuple[Array, ...],
    *arrays: Array,
) -> Outputs:
    """Update one leaf. A float stays a Python float: it keeps its digits and widens no dtype."""
    takes = platforms and arrays[0].size > 0 and all(map(jnp.isrealobj, arrays))
    dtype = widest(arrays if takes else arrays[:1])
    rest = iter(n if n.dtype == jnp.uint32 else n.astype(dtype) for n in others)
    known = functools.partial(jnp.asarray, dtype=dtype) if takes else float
    numbers = [next(rest) if n is None else known(n) for n in floats]
    if takes:
        return _kernel(fused, platforms, jnp.stack(numbers), *arrays)
    return fused.reference(numbers, *arrays)


def _kernel(fused: Fused, platforms: tuple[str, ...], numbers: Array, *arrays: Array) -> Outputs:
    from .parts import partitioned  # noqa: PLC0415 (which imports this module)

    @jax.custom_jvp
    def differentiable(numbers: Array, *arrays: Array) -> Outputs:
        return batchable(numbers, *arrays)

    @differentiable.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Outputs, Outputs]:
        return differentiable(*primals), jax.jvp(fused.reference, primals, tangents)[1]

    @jax.custom_batching.custom_vmap
    def batchable(numbers: Array, *arrays: Array) -> Outputs:
        run = functools.partial(_placed, platforms)
        if platforms == ("interpret",):  # the partitioner refuses ordered effects
            return run(fused, numbers, *arrays)
        return partitioned(fused, run, numbers, *arrays)

    @batchable.def_vmap
    def _(size: int, batched: Sequence[bool], *operands: Array) -> tuple[Outputs, Any]:
        axes = tuple(0 if b else None for b in batched)
        return jax.vmap(fused.reference, in_axes=axes)(*operands), (True,) * fused.outputs

    return differentiable(numbers, *arrays)


def _placed(platforms: tuple[str, ...], fused: Fused, numbers: Array, *arrays: Array) -> Outputs:
    """Run the form of each platform; a leaf without a kernel there runs the reference."""
    from . import blocks  # noqa: PLC0415 (Pallas takes time to import)

    plain = fused.reference
    forms = {"cuda": plain, "rocm": plain, "tpu": plain}
    if blocks.suits_gpu(fused, arrays):
        forms["cuda"] = functools.partial(blocks.on_gpu, fused)
    if blocks.suits_tpu(arrays):
        forms["tpu"] = functools.partial(blocks.on_tpu, fused)
    if platforms[0] in INTERPRETED:
        form = forms[INTERPRETED[platforms[0]]]
        return form(numbers, *arrays, **({} if form is plain else {"interpret": True}))
    if platforms == ("pallas",):  # on every platform: on a CPU Pallas raises its own error
        plain = forms["tpu"] if forms["cuda"] is plain else forms["cuda"]
    else:
        forms = {platform: forms[platform] for platform in platforms}
    return jax.lax.platform_dependent(numbers, *arrays, **forms, default=plain)
