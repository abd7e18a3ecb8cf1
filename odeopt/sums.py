"""Sums over all parameters, on one device or split over many.

Under `jit` an array is whole, however it is sharded, and XLA adds the all-reduce to a sum. Inside
`shard_map` a function sees only its own part, and `across` makes the sums run over all devices.
"""

import contextlib
import contextvars
import functools
import itertools
import math
import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, PyTree

from .arrays import Scalar, hashed, ratio, real_dtype, root, wide_dtype
from .checks import is_transformation

# `map` applies functions of jax to the leaves. A Python function of a leaf would do the same, but
# would be called once for each leaf in every trace.
_DTYPE = operator.attrgetter("dtype")
_FLOAT = operator.methodcaller("astype", float)
_CAST = jax.lax.convert_element_type
_flatten: Callable[[PyTree[Array]], tuple[list[Array], Any]] = jax.tree.flatten

_axes: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("axes", default=())


def across(
    axes: str | Sequence[str], optimizer: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    r"""An optimizer inside `shard_map`, for parameters that are split over mesh axes.

    Inside `shard_map` each device sees only its own part of the parameters, and takes the norm of
    that part. With `across` every sum over parameters (norms, inner products, error estimates,
    finiteness checks) also runs over the devices. Each leaf is summed over those of `axes` along
    which it varies, so a replicated leaf counts once. An elementwise optimizer does not need
    `across`, nor does any optimizer under `jit`, with or without explicit sharding.

    A step-size rule or flow of your own must take its sums from `odeopt.sums` (`inner`, `norm`,
    `finite`). With `jnp.linalg.norm` or `optax.tree.norm` each device would use its own part and
    could decide differently: `update` then raises an error.

    The caller sums its own arguments: `value_fn` must return the whole loss, and `grads` must be
    its gradient, on every device.

    Args:
      axes: names of the mesh axes that leaves are split over, without axes of independent runs.
      optimizer: an optimizer of odeopt; other transformations still take the norm of each part.

    Returns:
      The optimizer, with the same state.

    Raises:
      TypeError: something that is not an optimizer.
      ValueError: in `update`, if no leaf varies over any of `axes` (`shard_map` tells only with
        `check_vma=True`, its default), or if a scalar of the new state, such as a step size or a
        count, depends on the part.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> from jax.sharding import PartitionSpec as P
      >>> mesh = jax.make_mesh((1,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
      >>> opt = odeopt.across("model", odeopt.relativistic(0.1, momentum=0.9, delta=1.0))
      >>> def step(params, grads):
      ...     return opt.update(grads, opt.init(params), params)[0]
      >>> split = jax.shard_map(step, mesh=mesh, in_specs=P("model"), out_specs=P("model"))
      >>> jnp.linalg.norm(split(jnp.ones(4), jnp.full(4, 1e6))).round(3)  # at most 1 / sqrt(delta)
      Array(1., dtype=float32)
    """
    if not is_transformation(optimizer):
        raise TypeError(
            f"across() takes the axes, then an optimizer, and got {optimizer!r:.60}: write "
            '`odeopt.across("model", odeopt.adam(1e-3))`.'
        )
    names = tuple(jax.tree.leaves(axes))
    inside = optax.with_extra_args_support(optimizer)

    def init(params: PyTree[Array]) -> PyTree[Array]:
        with _summed_over(names):
            return inside.init(params)

    def update(
        grads: PyTree[Array],
        state: PyTree[Array],
        /,
        params: PyTree[Array] | None = None,
        **extra: Any,
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        with _summed_over(names):
            if not any(split_over(leaf) for leaf in jax.tree.leaves((grads, params))):
                raise ValueError(
                    f"across({', '.join(names)}): no parameter varies over these axes. If all are "
                    "replicated, drop `across`; if they are split, shard_map must know: drop "
                    "check_vma=False."
                )
            updates, after = inside.update(grads, state, params, **extra)
            if not _decided_by_parts((grads, params, state)) and _decided_by_parts(after):
                raise ValueError(
                    f"across({', '.join(names)}): the devices would decide differently, as a step "
                    "size, a count or another scalar of the state depends on the part of the "
                    "parameters. Take norms and inner products from odeopt.sums, in place of "
                    "optax.tree.norm or jnp.linalg.norm, and let value_fn= return the whole loss."
                )
            return updates, after

    return optax.GradientTransformationExtraArgs(init, update)


def _decided_by_parts(tree: PyTree[Array]) -> bool:
    """Whether a scalar differs between devices."""
    return any(jnp.shape(x) == () and split_over(x) for x in jax.tree.leaves(tree))


@contextlib.contextmanager
def _summed_over(axes: tuple[str, ...]) -> Iterator[None]:
    token = _axes.set(axes)
    try:
        yield
    finally:
        _axes.reset(token)


def split_over(leaf: Array) -> tuple[str, ...]:
    """The axes of `across` along which a leaf differs between devices; () outside `across`."""
    names = _axes.get()
    if not names:
        return ()
    return tuple(name for name in names if name in varying(leaf))


def varying(leaf: Array) -> frozenset[str]:
    """The mesh axes along which `shard_map` knows that an array differs between devices."""
    return frozenset(jax.typeof(leaf).manual_axis_type.varying)


def parts_of(leaf: Array) -> int:
    """The number of parts into which the axes of `across` split a leaf; 1 outside `across`."""
    return math.prod(map(jax.lax.axis_size, split_over(leaf)))


def is_split(leaf: Array, axis: int | None = None) -> bool:
    """Whether a leaf is known to be split over devices: explicitly, or inside `shard_map`.

    Tracing cannot see a sharding that only XLA knows. With `axis`, only an explicit split of that
    axis counts.
    """
    kind = jax.typeof(leaf)
    if axis is not None:
        return kind.sharding.spec[axis] is not None
    return any(kind.sharding.spec) or bool(kind.manual_axis_type.varying)


def total(parts: Sequence[Array], dtype: Any = float) -> Array:
    """The sum of one part from each leaf, with one all-reduce for each set of split axes."""
    parts = [*map(operator.methodcaller("astype", dtype), parts)]
    if _axes.get():
        groups: dict[tuple[str, ...], list[Array]] = {}
        for part in parts:
            groups.setdefault(split_over(part), []).append(part)
        parts = [
            jax.lax.psum(_over(jnp.sum, *group), over) if over else _over(jnp.sum, *group)
            for over, group in groups.items()
        ]
    return _over(jnp.sum, *parts) if parts else jnp.zeros([], dtype)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _over(reduction: Callable[..., Array], *parts: Array) -> Array:
    """A sum or maximum of one part from each leaf."""
    # XLA on CPU makes additions of the sum of a stack, and writes them out again in every leaf that
    # uses the sum: compile time would grow as the square of the number of leaves. `where` hides
    # the stack.
    stack = jnp.stack(parts)
    return reduction(jnp.where(jnp.isnan(stack), jnp.nan, stack), axis=0)


@functools.cache
def _common(a: Any, b: Any) -> Any:
    return np.promote_types(wide_dtype(a), wide_dtype(b))


def scaled(h: Scalar | float, leaf: Array) -> Array:
    """`h * leaf`; the step size is rounded to the leaf's dtype first, as optax does."""
    return jnp.asarray(h, real_dtype(leaf.dtype)).astype(leaf.dtype) * leaf


def multiple(h: Scalar | float, tree: PyTree[Array]) -> PyTree[Array]:
    """`h * tree`, as `scaled`."""
    leaves, structure = _flatten(tree)
    dtypes = [*map(_DTYPE, leaves)]
    numbers = map(jnp.asarray, itertools.repeat(h), map(real_dtype, dtypes))
    return structure.unflatten(map(operator.mul, map(_CAST, numbers, dtypes), leaves))


def add(a: PyTree[Array], b: PyTree[Array]) -> PyTree[Array]:
    """The sum of two trees, in the dtypes of the first."""
    return jax.tree.map(lambda x, y: x + y.astype(x.dtype), a, b)


def widened(tree: PyTree[Array]) -> PyTree[Array]:
    """The tree in at least single precision."""
    return jax.tree.map(lambda x: x.astype(wide_dtype(x.dtype)), tree)


def inner(a: PyTree[Array], b: PyTree[Array]) -> Scalar:
    r"""The real inner product of two trees, $\mathrm{Re}\sum\bar a_ib_i$.

    Inside `across` it covers the whole trees and is the same on every device. Products are formed
    and summed in at least float32, since products of 16-bit numbers would overflow.

    Args:
      a: a tree of arrays.
      b: a tree like it.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> float(odeopt.sums.inner({"w": jnp.ones(3)}, {"w": jnp.full(3, 2.0)}))
      6.0
    """
    x, structure = _flatten(a)
    y = structure.flatten_up_to(b)
    wide = [*map(_common, map(_DTYPE, x), map(_DTYPE, y))]
    products = map(operator.mul, map(jnp.conj, map(_CAST, x, wide)), map(_CAST, y, wide))
    # Not `jnp.vdot`: explicit sharding refuses its contraction.
    parts = [*map(_FLOAT, map(jnp.sum, map(jnp.real, products)))]
    return total(parts) if _axes.get() or not parts else _over(jnp.sum, *parts)


def norm(tree: PyTree[Array]) -> Scalar:
    """The Euclidean norm of a tree; inside `across` of the whole tree, as `inner`.

    Args:
      tree: a tree of arrays.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> float(odeopt.sums.norm({"w": jnp.array([3.0]), "b": jnp.array(4.0)}))
      5.0
    """
    return root(inner(tree, tree))


def levelled(tree: PyTree[Array]) -> tuple[PyTree[Array], Scalar]:
    """The tree divided by its largest entry, and this entry: no square overflows or vanishes.

    A tree of zeros stays what it is. Inside `across` the entry is the largest on all devices.
    """
    sizes = [jnp.zeros([], float)]
    for x in jax.tree.leaves(tree):
        most, over = jnp.max(jnp.abs(x), initial=0).astype(float), split_over(x)
        sizes.append(jax.lax.pmax(most, over) if over else most)
    largest = _over(jnp.max, *sizes)
    return jax.tree.map(lambda x: ratio(x, largest.astype(real_dtype(x.dtype))), tree), largest


def finite(*trees: PyTree[Array]) -> Bool[Array, ""]:
    """Whether every entry is finite; inside `across` on all devices.

    Leaves of the other trees are checked together with those of the first that have their shape and
    sharding, in the order of both: a reduction takes longer to compile than what it reduces.

    Args:
      trees: trees of arrays.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> bool(odeopt.sums.finite(jnp.ones(2), {"w": jnp.array(jnp.inf)}))
      False
    """
    leaves = [
        [jnp.isfinite(x) for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
        for tree in trees
    ]
    width, seen = Counter(map(jax.typeof, leaves[0])), Counter[Any]()
    rows: defaultdict[Any, list[Array]] = defaultdict(list)
    for leaf in itertools.chain(*leaves):
        kind = jax.typeof(leaf)
        rows[kind, seen[kind] % (width[kind] or 1)].append(leaf)
        seen[kind] += 1
    bad = [~jnp.all(functools.reduce(operator.and_, row)) for row in rows.values()]
    return total(bad) == 0


def entries(leaf: Array) -> int:
    """The number of entries of a leaf, on all devices."""
    return leaf.size * parts_of(leaf)


def noise(like: PyTree[Array], seed: Array | int = 0) -> PyTree[Array]:
    """Pseudo-random entries from -1 to 1, in a tree like `like` with the same sharding.

    Each entry is a hash of its position. This takes a tenth of the instructions of `jax.random`,
    which XLA would compile for every leaf.
    """
    leaves, structure = jax.tree.flatten(like)

    def leaf(index: int, like: Array) -> Array:
        word = hashed(hashed(jnp.uint32(seed)) ^ jnp.uint32(index))
        for name in split_over(like):  # its parts must differ
            word = hashed(word ^ jax.lax.axis_index(name).astype(jnp.uint32))
        for axis in range(like.ndim):
            word = hashed(word ^ jax.lax.broadcasted_iota(jnp.uint32, like.shape, axis))
        parts = [(w >> 8).astype(jnp.float32) / 2**23 - 1 for w in (word, hashed(~word))]
        real, imaginary = (part.astype(real_dtype(like.dtype)) for part in parts)
        drawn = jax.lax.complex(real, imaginary) if jnp.iscomplexobj(like) else real
        return drawn + jnp.zeros_like(like)  # `zeros_like` has the sharding

    return jax.tree.unflatten(structure, [leaf(i, x) for i, x in enumerate(leaves)])
