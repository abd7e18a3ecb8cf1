r"""Grow a network during training: the function and the training dynamics stay the same.

Copy every hidden unit $k$ times and divide its outgoing weights by $k$: the function stays the
same. The incoming weights of each copy have $1/k$ of the gradient of the original unit, the
outgoing weights all of it. The moments of an optimizer are scaled by powers of these factors. With
the rates of `Grown.rates`, copies repeat the steps of their unit for the methods listed there. With
these rates in every stage, every Runge-Kutta method commutes with this map, as with any affine map.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from . import arguments, checks, sums
from . import state as optimizer_state  # names imported from it would be public here

Degree = int | Literal["params"]

DEGREES: Mapping[str, Degree] = {"mu": 1, "momentum": 1, "trace": 1, "nu trace": 0, "nu": 2}
"""Fields of optimizer states, and the power of the gradient that each holds.

0: normalized updates, copied unchanged; "params": values in units of the parameters. "nu f" is a
field `f` after a `nu` of the same parameter, as in `rmsprop(momentum=)`.
"""


@dataclasses.dataclass(frozen=True)
class Units:
    """The hidden units of one layer, and how many each becomes.

    Attributes:
      into: `params -> leaves`, the leaf or leaves that compute the units: weights, biases.
      out: `params -> leaves`, the leaf or leaves that read the units: weights of the next layer.
      copies: $k$, the number of units that each unit becomes.
      into_axis: the axis of the units in the leaves of `into`.
      out_axis: the axis of the units in the leaves of `out`.
    """

    into: Callable[[PyTree[Array]], Any]
    out: Callable[[PyTree[Array]], Any]
    copies: int = 2
    into_axis: int = -1
    out_axis: int = 0

    def __post_init__(self) -> None:
        arguments.check_function(self.into, "into(params)")
        arguments.check_function(self.out, "out(params)")
        checks.check_counts(copies=self.copies)


class Grown(NamedTuple):
    """A grown network and its optimizer state, with the factors of the growth.

    Attributes:
      params: the parameters.
      state: the state of the optimizer.
      copied: a tree like `params`: True where an entry belongs to a copy.
      value_scale: a tree like `params`: the factor of the values, 1 or 1/k.
      gradient_scale: a tree like `params`: the factor of the gradients, 1 or 1/k.
    """

    params: PyTree[Array]
    state: PyTree[Array]
    copied: PyTree[Array]
    value_scale: PyTree[float]
    gradient_scale: PyTree[float]

    def rates(self, *, normalized: bool) -> optax.GradientTransformation:
        """The transformation to chain after the optimizer: each copy repeats the steps of its unit.

        This holds, at a fixed or scheduled rate, for optimizers that are elementwise in the
        gradients and evaluate them at the parameters: gradient descent, momentum, RMSprop and Adam
        (up to eps, which is not scaled). `optax.adamax` needs `degrees={**DEGREES, "nu": 1}`: its
        state looks like Adam's.

        For a method with stages or counter-terms, grow with `in_stages=True` and pass the rates as
        `stage_transform` instead, so that copies evaluate every gradient at the point of their
        unit. The method must be linear in the gradient; counter-terms of flows with moments have
        no such rates.

        Decoupled weight decay must not be scaled: leave it out of the optimizer, and chain
        `optax.add_decayed_weights(-h * w)` after the rates. Optimizers with norms of whole leaves
        or gradients (Muon, SOAP, LARS, LAMB, clipping, rules that measure the step size) have no
        such rates, nor has RAdam, whose first steps are not normalized.

        Args:
          normalized: whether the size of the updates is independent of that of the gradient, as in
            Adam; False for gradient descent, momentum and Runge-Kutta methods.
        """
        checks.check_flags(normalized=normalized)
        rate = jax.tree.map(
            lambda value, gradient: value if normalized else value / gradient,
            self.value_scale,
            self.gradient_scale,
        )
        return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rate))

    def freeze_old(self) -> optax.GradientTransformation:
        """The transformation to chain after the optimizer: only copies move, old units stay."""
        return optax.stateless(
            lambda moves, _: jax.tree.map(lambda new, u: jnp.where(new, u, 0), self.copied, moves)
        )


def grow(
    params: PyTree[Array],
    state: PyTree[Array],
    units: Units | Sequence[Units],
    *,
    degrees: Mapping[str, Degree] = DEGREES,
    in_stages: bool = False,
    split: float | Array = 0.0,
    key: Array | None = None,
) -> Grown:
    r"""Copy hidden units, and map the optimizer state accordingly.

    Leaves of `into` are copied; those of `out` are copied and divided by $k$. In the state, a field
    that holds the power $d$ of the gradient (the first moment: 1, the second: 2) is divided by
    $k^d$ where it belongs to `into`, and copied where it belongs to `out`. The original units come
    first.

    Exact copies stay equal in training. To separate them, freeze the old units
    (`Grown.freeze_old`), or pass `split`. It perturbs the copies of `into`, with sum 0 over the
    copies of a unit, so the function changes only at second order.

    Args:
      params: the parameters: a dict, an Equinox module or any other tree.
      state: the state of any optimizer for these parameters, also in the middle of a run.
      units: the hidden units of one layer, or of several.
      degrees: the power of the gradient that each field of the state holds; see `DEGREES`.
      in_stages: whether the rates are passed as `stage_transform` instead of chained after the
        optimizer. State that is linear in the gradients is then in units of the parameters.
      split: size of the perturbation, relative to the root mean square of each leaf.
      key: the random key of the perturbation.

    Returns:
      Parameters and state to go on with; chain `rates` after the optimizer for the same dynamics.

    Raises:
      TypeError: `units` that are not `Units`.
      ValueError: units that are no leaves, or whose axes differ in length; a field of the state
        that is not in `degrees`, or whose shapes are not those of the parameters, as in SOAP; more
        gradients than steps without `in_stages`; a field that is not linear with `in_stages`;
        counter-terms of a flow with moments; `split` without a key or below 0.

    References: the map of parameters and gradients is from Chen, Goodfellow and Shlens,
    arXiv:1511.05641, and Mazzawi et al., arXiv:2306.11903; the map of the states is derived here
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
    checks.check_flags(in_stages=in_stages)
    units = jax.tree.leaves(units)  # a single `Units` is a leaf
    checks.check_least(0, split=split)
    if not checks.is_zero(split) and key is None:
        raise ValueError("split draws at random: pass key=jax.random.key(0), say.")
    leaves, structure = jax.tree.flatten(params)
    held, state_structure = jax.tree.flatten(state)
    like_params = functools.partial(jax.tree.unflatten, structure)
    changes = _changes(leaves, like_params, units)
    fields = _fields(params, state, degrees, changes, in_stages)
    _check_gradients(state, in_stages)
    values = [change.of(leaf, "params") for leaf, change in zip(leaves, changes, strict=True)]
    if not checks.is_zero(split):
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
    """The change of one leaf: copies along axes, and factors of its values and gradients."""

    repeats: tuple[tuple[int, int], ...] = ()  # `(axis, copies)`, one after the other
    into: tuple[int, int] | None = None  # the last of `repeats` as a leaf of `into`
    value: float = 1.0
    gradient: float = 1.0

    def repeated(self, axis: int, copies: int, *, out: bool) -> "_Change":
        value, gradient = (copies, 1) if out else (1, copies)
        repeats = (*self.repeats, (axis, copies))
        into = self.into if out else (axis, copies)
        return _Change(repeats, into, self.value / value, self.gradient / gradient)

    def of(self, leaf: Array, degree: Degree) -> Array:
        """The grown leaf, if `leaf` has this shape and holds that power of the gradient."""
        factor = self.value if degree == "params" else self.gradient**degree
        for axis, copies in self.repeats:
            leaf = jnp.concatenate([leaf] * copies, axis)
        return leaf if factor == 1 else leaf * factor

    def copied(self, leaf: Array) -> Array:
        new = jnp.zeros(jnp.shape(leaf), bool)
        for axis, copies in self.repeats:
            new = jnp.concatenate([new] + [jnp.ones_like(new)] * (copies - 1), axis)
        return new


def _units(layer: Units, name: str, leaves: Sequence[Array], like: Any) -> dict[int, int]:
    """The indices of the leaves that `into` or `out` returns, and their numbers of units."""
    axis, places = getattr(layer, f"{name}_axis"), [object() for _ in leaves]
    try:
        found = map(places.index, jax.tree.leaves(getattr(layer, name)(like(places))))
        return {i: jnp.shape(leaves[i])[axis] for i in found}
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must return leaves of the parameters, and they need an axis {axis}: "
            f'`lambda params: params["w"]`, say.'
        ) from error


def _changes(leaves: Sequence[Array], like: Any, units: Sequence[Units]) -> list[_Change]:
    """The change of each leaf; `like` makes a tree like the parameters of its leaves."""
    changes = [_Change() for _ in leaves]
    for layer in units:
        checks.check_kind(Units, "growth.Units(into, out)", units=layer)
        into, out = (_units(layer, name, leaves, like) for name in ("into", "out"))
        made, taken = [*into.values()], [*out.values()]
        if not made or len({*made, *taken}) > 1:
            raise ValueError(
                f"The leaves of `into` have {made} units along axis {layer.into_axis}, those of "
                f"`out` take up {taken} along axis {layer.out_axis}: the numbers must be equal. "
                "After a flattening give the units an axis of their own: weights of the shape "
                "(positions, units, outputs) and out_axis=1, reshaped in the model."
            )
        for i in into:
            changes[i] = changes[i].repeated(layer.into_axis, layer.copies, out=False)
        for i in out:
            changes[i] = changes[i].repeated(layer.out_axis, layer.copies, out=True)
    return changes


def _check_gradients(state: PyTree[Array], in_stages: bool) -> None:
    """Raise a `ValueError` if a method has gradients that the rates do not scale."""
    for path, ode in optimizer_state.states(state):
        if hasattr(ode.aux, "clipped") and jax.tree.leaves(ode.aux.aux):
            raise ValueError(
                f"state{path} has moments and counter-terms, and no rates make copies repeat their "
                f"unit: pass {_AFRESH}"
            )
        if in_stages or checks.is_traced(ode):
            continue
        if np.any((ode.gradients < 0) | (ode.gradients > ode.steps)):
            raise ValueError(
                f"state{path} has taken gradients inside its steps, which copies do not repeat "
                "with rates after the optimizer: pass `in_stages=True`, and hand "
                "`stage_transform=grown.rates(normalized=False)` to the optimizer; or "
                f"pass {_AFRESH}"
            )


_AFRESH = "`state=()` and go on with `opt.init(grown.params)`."
_HYPERPARAMETERS = {"hyperparams", "hyperparams_states"}
"""Fields of `optax.inject_hyperparams`, whose entries may be named like parameters."""


def _fields(
    params: PyTree[Array],
    state: PyTree[Array],
    degrees: Mapping[str, Degree],
    changes: Sequence[_Change],
    in_stages: bool,
) -> list[tuple[int, Degree] | None]:
    """For each leaf of the state: the parameter that its path ends with, and its degree."""
    known = {
        path: (index, jnp.shape(leaf))
        for index, (path, leaf) in enumerate(jax.tree.leaves_with_path(params))
    }
    found: list[tuple[int, Degree] | None] = []
    normalized: set[int] = set()
    for path, leaf in jax.tree.leaves_with_path(state):
        ends = (path[i:] for i in range(len(path) + 1))
        end = next((end for end in ends if end in known), None)
        names = [k.name for k in path[: len(path) - len(end or ())] if hasattr(k, "name")]
        if end is None or _HYPERPARAMETERS & {*names}:
            found.append(None)
            continue
        index, shape = known[end]
        name = names[-1] if names else ""
        # If the parameters are one bare array, numbers of the state seem to belong to it.
        belongs = end or jnp.ndim(leaf) or name in degrees
        if belongs and shape != jnp.shape(leaf) and changes[index] != _Change():
            raise ValueError(
                f"state{jax.tree_util.keystr(path)} has the shape {jnp.shape(leaf)}, and the "
                f"parameter that it belongs to, which grows, {shape}: how it would grow is not "
                f"known. Pass {_AFRESH}"
            )
        if not shape or shape != jnp.shape(leaf):
            found.append(None)
            continue
        after = f"nu {name}"
        if index in normalized and after in degrees:
            name = after
        if name not in degrees:
            raise ValueError(
                f"The state holds a tree like the parameters in {name!r}, and how growth changes "
                "it is not known: pass degrees={**odeopt.growth.DEGREES, "
                f"{name!r}: 1}} where it is linear in gradients, 2 where quadratic, 0 where it "
                'holds updates that are normalized, "params" where it is in units of parameters. '
                f"Or pass {_AFRESH}"
            )
        if name == "nu":
            normalized.add(index)
        degree = degrees[name]
        if in_stages and degree not in (1, "params"):
            raise ValueError(
                f"The state holds {name!r}, which is not linear in the gradients, and no rates in "
                f"its stages make copies repeat the steps of their unit: pass {_AFRESH}"
            )
        found.append((index, "params" if in_stages else degree))
    return found


def _split(leaves: list[Array], changes: list[_Change], size: Any, key: Any) -> list[Array]:
    """Perturb the copies of `into`, with sum 0 over the copies of a unit."""
    moved = [*leaves]
    for index, (leaf, change) in enumerate(zip(leaves, changes, strict=True)):
        if change.into is not None:
            axis, copies = change.into
            noise = jax.random.normal(jax.random.fold_in(key, index), leaf.shape, leaf.dtype)
            parts = jnp.stack(jnp.split(noise, copies, axis))
            parts = parts - jnp.mean(parts, 0)
            scale = size * sums.norm(leaf) / leaf.size**0.5
            moved[index] = leaf + sums.scaled(scale, jnp.concatenate(list(parts), axis))
    return moved
