"""Which axes of a leaf make a matrix."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Inexact, PyTree
from optax.contrib import MuonDimensionNumbers

from ..arguments import by_leaf
from ..sums import parts_of


class Stack(NamedTuple):
    """How a leaf is read as a stack of matrices: (batches, inputs, outputs)."""

    order: tuple[int, ...]  # the axes of the leaf, in that order
    shape: tuple[int, int, int]

    def matrices(self, leaf: Array) -> Inexact[Array, "batches inputs outputs"]:
        """The stack of a leaf."""
        return leaf.transpose(self.order).reshape(self.shape)

    def leaf(self, matrices: Array, like: Array) -> Array:
        """The leaf, with the shape of `like`, that has this stack."""
        ordered = matrices.reshape([like.shape[axis] for axis in self.order])
        return ordered.transpose(sorted(range(like.ndim), key=self.order.__getitem__))


def each(
    dimensions: Any, function: Callable[..., Any], tree: PyTree[Array], *rest: PyTree[Any]
) -> PyTree[Any]:
    """`function(leaf, stack, *rest)` for every leaf, its `Stack`, and the same node of `rest`.

    `dimensions`: `optax.contrib.MuonDimensionNumbers`, one for all leaves, a tree of them, or a
    function of the parameters.
    """
    return jax.tree.map(
        lambda leaf, axes, *rest: function(leaf, _stack(leaf, axes), *rest),
        tree,
        axes_of(dimensions, tree),
        *rest,
    )


def axes_of(dimensions: Any, tree: PyTree[Array]) -> PyTree[MuonDimensionNumbers | None]:
    """The axes of every leaf, from `dimensions` as in `each`; None for a leaf that is no matrix."""
    given = by_leaf("weight_dimension_numbers", dimensions, tree, is_axes)
    for one in jax.tree.leaves(given, is_leaf=is_axes):
        if not is_axes(one):
            raise ValueError(
                f"weight_dimension_numbers has {one!r:.60} for a leaf: write "
                "optax.contrib.MuonDimensionNumbers(0, 1), or None for a leaf that is no matrix."
            )
    return given


def is_axes(node: Any) -> bool:
    """Whether a node of a tree of axes belongs to one leaf."""
    return node is None or isinstance(node, MuonDimensionNumbers)


def _stack(leaf: Array, axes: MuonDimensionNumbers) -> Stack:
    """The `Stack` of a leaf; refuses a leaf that is no matrix, or a matrix that `across` splits."""
    if leaf.ndim < 2:
        raise ValueError(
            f"This flow moves matrices, and a leaf has the shape {leaf.shape}: use `odeopt.muon` "
            "or `odeopt.soap`, which leave it to Adam, or name the leaves with "
            "`flows.GroupedFlow`."
        )
    inputs, outputs = (tuple(axis % leaf.ndim for axis in jax.tree.leaves(side)) for side in axes)
    known = all(-leaf.ndim <= axis < leaf.ndim for axis in jax.tree.leaves(tuple(axes)))
    if not known or set(inputs) & set(outputs):
        raise ValueError(
            f"{axes} of a leaf of shape {leaf.shape}: every axis must be an axis of the leaf, and "
            "belong to the inputs or to the outputs, not to both."
        )
    rest = tuple(axis for axis in range(leaf.ndim) if axis not in inputs + outputs)
    if parts_of(leaf) > 1 and not rest:
        raise ValueError(
            f"across: each device has a part, of shape {leaf.shape}, of a matrix, and this flow "
            "needs the whole. Do not split matrices, or run under `jit` without shard_map."
        )
    size = lambda chosen: math.prod(leaf.shape[axis] for axis in chosen)  # noqa: E731
    return Stack(rest + inputs + outputs, (size(rest), size(inputs), size(outputs)))
