"""One pass over a leaf, from one formula: by XLA, by a GPU kernel and by a TPU kernel.

A fused update is a formula in `jax.numpy` for whole arrays (the reference). The kernels run the
same formula on blocks, so there is nothing else to get wrong than blocking, masking and dtypes.

May use: `.choice`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .choice import INTERPRETED, PLATFORMS


@dataclasses.dataclass(frozen=True)
class Fused:
    """A fused update of one leaf.

    Attributes:
      name: its name in `choice.MEASURED`.
      formula: `formula(scalars, arrays, index) -> (outputs, summands)`, elementwise, in
        `jax.numpy`. Arrays come in at least float32; outputs are cast to `dtypes`, summands are
        summed over the leaf. `index` is the flat index of each element, uint32, where asked for.
        Compared by value: a function of a module, or a `functools.partial` is not.
      static: coefficients that the formula is given first.
      dtypes: of the outputs.
      aliases: (array, output) pairs that share a buffer where XLA may.
      sums: number of summands.
      indexed: whether the formula looks at the index.
    """

    name: str
    formula: Callable[..., tuple[Sequence[Array], Sequence[Array]]]
    static: tuple[Any, ...]
    dtypes: tuple[Any, ...]
    aliases: tuple[tuple[int, int], ...] = ()
    sums: int = 0
    indexed: bool = False

    def __call__(
        self, scalars: Sequence[Array], arrays: Sequence[Array], index: Array | None
    ) -> tuple[list[Array], list[Array]]:
        """The formula on arrays or blocks of any shape; outputs in their dtypes."""
        wide = [a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in arrays]
        outputs, summands = self.formula(self.static, scalars, wide, index)
        return [o.astype(d) for o, d in zip(outputs, self.dtypes, strict=True)], list(summands)


Scalars = tuple[Array, ...]
Outputs = tuple[Array, ...]


def apply(fused: Fused, platforms: tuple[str, ...], scalars: Scalars, *arrays: Array) -> Outputs:
    """Outputs, then sums, of a fused update of one leaf.

    Args:
      fused: the update.
      platforms: where its Pallas form runs, from `choice.where`.
      scalars: step size and the like, all of one dtype.
      arrays: the leaves, of one shape.
    """
    fits = arrays[0].size > 0 and all(jnp.isrealobj(a) for a in arrays)
    if not platforms or not fits:
        return reference(fused, scalars, *arrays)
    return _kernel(fused, platforms, scalars, *arrays)


def real_scalars(numbers: Sequence[Any], arrays: Sequence[Array]) -> Scalars:
    """Numbers in the real dtype that an update of these arrays is computed in."""
    reals = [jnp.finfo(a.dtype).dtype for a in arrays]
    wide = functools.reduce(jnp.promote_types, reals, jnp.dtype(jnp.float32))
    return tuple(jnp.asarray(n, wide) for n in numbers)


def unzip(tree: PyTree, like: PyTree[Array], count: int) -> tuple[PyTree[Array], ...]:
    """`count` trees from a tree whose leaves are tuples of so many."""
    return tuple(
        jax.tree.transpose(jax.tree.structure(like), jax.tree.structure((0,) * count), tree)
    )


def reference(fused: Fused, scalars: Scalars, *arrays: Array) -> Outputs:
    """The formula as XLA compiles it."""
    index = None
    if fused.indexed:
        index = jnp.arange(arrays[0].size, dtype=jnp.uint32).reshape(arrays[0].shape)
    outputs, summands = fused(scalars, arrays, index)
    return *outputs, *(jnp.sum(s) for s in summands)


@functools.partial(jax.jit, static_argnums=(0, 1))  # leaves of equal shape lower once
def _kernel(fused: Fused, platforms: tuple[str, ...], scalars: Scalars, *arrays: Array) -> Outputs:
    from .parts import partitioned  # noqa: PLC0415 (which imports this module)

    @jax.custom_jvp
    def differentiable(scalars: Scalars, *arrays: Array) -> Outputs:
        return batchable(scalars, *arrays)

    @differentiable.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Outputs, Outputs]:
        _, tangent = jax.jvp(functools.partial(reference, fused), primals, tangents)
        return differentiable(*primals), tangent

    @jax.custom_batching.custom_vmap
    def batchable(scalars: Scalars, *arrays: Array) -> Outputs:
        placed = functools.partial(_placed, platforms)
        return partitioned(fused, placed, scalars, *arrays)

    @batchable.def_vmap
    def _(size: int, batched: list, scalars: Scalars, *arrays: Array) -> tuple:
        outputs = len(fused.dtypes) + fused.sums
        if any(batched[0]) or fused.sums or fused.indexed:
            axes = jax.tree.map(lambda b: 0 if b else None, tuple(batched))
            form = jax.vmap(functools.partial(reference, fused), in_axes=axes)
            return form(scalars, *arrays), (True,) * outputs
        # elementwise: a batch is a larger leaf
        arrays = tuple(
            a if b else jnp.broadcast_to(a, (size, *a.shape))
            for a, b in zip(arrays, batched[1:], strict=True)
        )
        return _kernel(fused, platforms, scalars, *arrays), (True,) * outputs

    return differentiable(scalars, *arrays)


def _placed(platforms: tuple[str, ...], fused: Fused, scalars: Scalars, *arrays: Array) -> Outputs:
    """The form that each platform runs; what it has no kernel for runs the reference there."""
    from .blocks import on_gpu, on_tpu, suits_tpu  # noqa: PLC0415 (Pallas takes time to import)

    plain = functools.partial(reference, fused)
    gpu, tpu = functools.partial(on_gpu, fused), functools.partial(on_tpu, fused)
    forms = {"cuda": gpu, "rocm": gpu, "tpu": tpu if suits_tpu(arrays) else plain}
    if platforms[0] in INTERPRETED:
        form = forms[INTERPRETED[platforms[0]]]
        return form(scalars, *arrays, **({} if form is plain else {"interpret": True}))
    # Asked for everywhere: on a CPU Pallas itself refuses, when that is compiled.
    other = gpu if platforms == PLATFORMS else plain
    chosen = {platform: forms[platform] for platform in platforms}
    return jax.lax.platform_dependent(scalars, *arrays, **chosen, default=other)
