r"""Grow a network in training without a jump: the same function, the same dynamics.

Copy every hidden unit $k$ times and divide what leaves it by $k$: the function stays. Each copy
then sees $1/k$ of the gradient that its unit saw, and what leaves it sees all of it; the moments of
an optimizer are mapped by the powers of that. With the rates of `Grown.rates` the copies repeat the
steps of their unit: every Runge-Kutta method commutes with this map, as with any affine one.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

DEGREES: Mapping[str, int] = {"mu": 1, "momentum": 1, "trace": 1, "nu": 2, "lag": 0}
"""Fields of states, and the power of the gradient that they hold; 0: in units of parameters."""


@dataclasses.dataclass(frozen=True)
class Units:
    """The hidden units of one layer, and how many each becomes.

    Attributes:
      into: `params -> leaves`, a leaf or a sequence of leaves that make the units: weights, biases.
      out: the same of the leaves that take them up: the weights of the next layer.
      copies: $k$.
      into_axis: the axis of the units in the leaves of `into`.
      out_axis: the axis of the units in the leaves of `out`.
    """

    into: Callable[[PyTree[Array]], Any]
    out: Callable[[PyTree[Array]], Any]
    copies: int = 2
    into_axis: int = -1
    out_axis: int = 0


class Grown(NamedTuple):
    """A network grown, and how.

    Attributes:
      params: the parameters.
      state: the state of the optimizer.
      copied: a tree like `params`: True where an entry belongs to a copy.
      value_scale: a tree like `params`: by how much values have shrunk, 1 or 1/k.
      gradient_scale: a tree like `params`: by how much gradients have shrunk, 1 or 1/k.
    """

    params: PyTree[Array]
    state: PyTree[Array]
    copied: PyTree[Array]
    value_scale: PyTree[float]
    gradient_scale: PyTree[float]

    def rates(self, *, normalized: bool) -> optax.GradientTransformation:
        """What to chain after the optimizer so that every copy repeats the steps of its unit.

        A Runge-Kutta method of gradient flow takes it as its `stage_transform` instead, so that
        every stage is at the point of the unit.

        Decoupled weight decay must not be scaled: leave it out of the optimizer, and chain
        `optax.add_decayed_weights(-h * w)` after the rates. Optimizers that treat a matrix as a
        whole, such as Muon and SOAP, have no such rates.

        Args:
          normalized: whether its updates have the size of the learning rate whatever that of the
            gradient, as Adam's have; False for gradient descent, momentum and Runge-Kutta methods.
        """
        rate = jax.tree.map(
            lambda value, gradient: value if normalized else value / gradient,
            self.value_scale,
            self.gradient_scale,
        )
        return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rate))

    def freeze_old(self) -> optax.GradientTransformation:
        """What to chain after the optimizer so that only copies move: what was learned stays."""
        return optax.stateless(
            lambda updates, _: jax.tree.map(
                lambda u, new: jnp.where(new, u, 0), updates, self.copied
            )
        )


def grow(
    params: PyTree[Array],
    state: PyTree[Array],
    units: Units | Sequence[Units],
    *,
    degrees: Mapping[str, int] = DEGREES,
    split: float = 0.0,
    key: Array | None = None,
) -> Grown:
    r"""Copy hidden units, and map the state of the optimizer along.

    The leaves of `into` are copied, those of `out` copied and divided by $k$. In the state, a field
    that holds the power $d$ of the gradient (the first moment: 1, the second: 2) is divided by
    $k^d$ where it belongs to `into`, and copied where it belongs to `out`. The original units come
    first.

    Exact copies never separate in training. `split` perturbs the copies of `into`, with sum 0 over
    the copies of a unit, so that the function changes at second order only; or freeze the old units
    (`Grown.freeze_old`).

    Args:
      params: the parameters: a dict, an Equinox module or any other tree.
      state: the state of any optimizer for them, in the middle of a run too.
      units: the hidden units of one layer, or of several.
      degrees: by field of the state, the power of the gradient that it holds.
      split: size of the perturbation, relative to the root mean square of each leaf.
      key: for the perturbation.

    Returns:
      Parameters and state to go on with; chain `rates` after the optimizer for the same dynamics.

    Raises:
      ValueError: copies below 1; a field of the state that `degrees` does not know, or with other
        shapes than the parameters, as SOAP's; `split` without a key.

    References: the map, for function and gradients, is that of Chen, Goodfellow and Shlens,
    arXiv:1511.05641, and Mazzawi et al., arXiv:2306.11903; that of the states is derived here
    (`tests/test_growth.py`).

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> params = {"a": jnp.ones((3, 4)), "b": jnp.ones(4), "c": jnp.ones((4, 2))}
      >>> state = odeopt.adam(1e-3).init(params)
      >>> layer = odeopt.growth.Units(lambda p: (p["a"], p["b"]), lambda p: p["c"])
      >>> grown = odeopt.growth.grow(params, state, layer)
      >>> grown.params["c"].shape, grown.state.aux.mu["a"].shape
      ((8, 2), (3, 8))
    """
    units = jax.tree.leaves(units)  # of which one alone is a leaf
    if split and key is None:
        raise ValueError("split draws at random: pass key=jax.random.key(0), say.")
    if any(layer.copies < 1 for layer in units):
        raise ValueError(f"copies is {[layer.copies for layer in units]}; it must be at least 1.")
    leaves, structure = jax.tree.flatten(params)
    held, state_structure = jax.tree.flatten(state)
    like_params = functools.partial(jax.tree.unflatten, structure)
    changes = _changes(like_params(range(len(leaves))), units)
    fields = _fields(params, state, degrees, changes)
    values = [change.of(leaf, 0) for leaf, change in zip(leaves, changes, strict=True)]
    if split:
        values = _split(values, changes, split, key)
    mapped = [
        leaf if place is None else changes[place[0]].of(leaf, place[1])
        for leaf, place in zip(held, fields, strict=True)
    ]
    copied = [change.copied(leaf) for leaf, change in zip(leaves, changes, strict=True)]
    return Grown(
        like_params(values),
        jax.tree.unflatten(state_structure, mapped),
        like_params(copied),
        like_params(change.value for change in changes),
        like_params(change.gradient for change in changes),
    )


@dataclasses.dataclass(frozen=True)
class _Change:
    """What happens to one leaf: copies along axes, and factors of its values and gradients."""

    repeats: tuple[tuple[int, int], ...] = ()  # `(axis, copies)`, one after the other
    value: float = 1.0
    gradient: float = 1.0

    def into(self, axis: int, copies: int) -> "_Change":
        return _Change((*self.repeats, (axis, copies)), self.value, self.gradient / copies)

    def out(self, axis: int, copies: int) -> "_Change":
        return _Change((*self.repeats, (axis, copies)), self.value / copies, self.gradient)

    def of(self, leaf: Array, degree: int) -> Array:
        """A leaf of this shape which holds that power of the gradient; 0: a parameter."""
        factor = self.value if degree == 0 else self.gradient**degree
        for axis, copies in self.repeats:
            leaf = jnp.concatenate([leaf] * copies, axis)
        return leaf if factor == 1 else leaf * factor

    def copied(self, leaf: Array) -> Array:
        new = jnp.zeros(jnp.shape(leaf), bool)
        for axis, copies in self.repeats:
            new = jnp.concatenate([new] + [jnp.ones_like(new)] * (copies - 1), axis)
        return new


def _changes(places: PyTree[int], units: Sequence[Units]) -> list[_Change]:
    """By leaf; `places` are the parameters with the number of each leaf in its place."""
    changes = [_Change() for _ in jax.tree.leaves(places)]
    for layer in units:
        for i in jax.tree.leaves(layer.into(places)):
            changes[i] = changes[i].into(layer.into_axis, layer.copies)
        for i in jax.tree.leaves(layer.out(places)):
            changes[i] = changes[i].out(layer.out_axis, layer.copies)
    return changes


def _fields(
    params: PyTree[Array],
    state: PyTree[Array],
    degrees: Mapping[str, int],
    changes: Sequence[_Change],
) -> list[tuple[int, int] | None]:
    """For every leaf of the state: the leaf of the parameters that it belongs to, its degree.

    It belongs to one where its path ends in the path of that.
    """
    known = {
        path: (index, jnp.shape(leaf))
        for index, (path, leaf) in enumerate(jax.tree.leaves_with_path(params))
    }
    found: list[tuple[int, int] | None] = []
    for path, leaf in jax.tree.leaves_with_path(state):
        ends = (path[i:] for i in range(len(path) + 1))
        end = next((end for end in ends if end in known), None)
        index, shape = (0, ()) if end is None else known[end]
        if end and shape != jnp.shape(leaf) and changes[index] != _Change():
            raise ValueError(
                f"state{jax.tree_util.keystr(path)} has the shape {jnp.shape(leaf)}, and the "
                f"parameter that it belongs to, which grows, {shape}: how it would grow is not "
                "known. Pass `state=()` and go on with `opt.init(grown.params)`."
            )
        if end is None or not shape or shape != jnp.shape(leaf):
            found.append(None)
            continue
        names = [k.name for k in path[: len(path) - len(end)] if hasattr(k, "name")]
        name = names[-1] if names else ""
        if name not in degrees:
            raise ValueError(
                f"The state holds a tree like the parameters in {name!r}, and what growth does to "
                "it is not known: pass degrees={**odeopt.growth.DEGREES, "
                f"{name!r}: 1}} where it is linear in gradients, 2 where quadratic, 0 where it is "
                "in units of parameters."
            )
        found.append((index, degrees[name]))
    return found


def _split(leaves: list[Array], changes: list[_Change], size: float, key: Any) -> list[Array]:
    """Perturb the copies of `into`, with sum 0 over the copies of a unit."""
    moved = [*leaves]
    for index, (leaf, change) in enumerate(zip(leaves, changes, strict=True)):
        if change.gradient != 1:
            axis, copies = change.repeats[0]
            noise = jax.random.normal(jax.random.fold_in(key, index), leaf.shape, leaf.dtype)
            parts = jnp.stack(jnp.split(noise, copies, axis))
            parts = parts - jnp.mean(parts, 0)
            scale = size * jnp.sqrt(jnp.mean(leaf**2))
            moved[index] = leaf + scale * jnp.concatenate(list(parts), axis)
    return moved
