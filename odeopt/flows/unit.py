"""Every leaf moves in a unit of length of its own."""

import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar, ratio, root
from ..checks import check_least, is_zero
from ..objective import Objective
from ..sums import entries, inner, norm, scaled
from .clock import real
from .flow import AbstractFlow, Moved, Share, State
from .wrapper import AbstractWrapper


class Unit(NamedTuple):
    """What moves with the parameters in a flow with units.

    Attributes:
      base: auxiliary variables of the flow that is measured in them.
      start: of each leaf, its size when it first moved; 0 before.
      slope: of each leaf, a running mean of the norm of its gradient; `()` with a constant decay.
      steepest: of each leaf, the largest `slope` so far; `()` with a constant decay.
    """

    base: PyTree[Array]
    start: PyTree[Array]
    slope: PyTree[Array] = ()
    steepest: PyTree[Array] = ()


_RATE = 0.1  # of the running mean


class UnitFlow(AbstractWrapper):
    r"""A flow in units of each leaf's own size, with weight decay per unit of length.

    $\dot x = \ell(x)\,u - \omega\,\mathrm{RMS}(u)\,x$, where $u$ is the velocity of `base`, for
    which a flow of unit speed is meant (Adam's, Muon's): a learning rate is then a distance in
    units. The unit of a leaf is $\ell = \sqrt{s_0\max(s_0, \mathrm{RMS}(x))}$. Of leaves of two or
    more axes $s_0$ is the larger of the root mean square before the first step and
    $0.5/\sqrt{\max(\text{inputs}, \text{outputs})}$, outputs being the last axis, so that zeros can
    move. Of vectors and scalars it is 0.1, since with the gains of a normalization, which start at
    1, a network would collapse at three times a good rate. (With $s_0$ itself as the unit a leaf
    that must grow far is slow; with its present size it grows without bound.)

    A leaf that rests does not decay, and one whose velocity keeps its direction grows to
    $s_0/\omega^2$, where both terms cancel, and no further, whatever its speed. It grows as the
    gradients of all leaves fade: with $g$ the running mean of the norm of one (rate 0.1), $\hat g$
    the largest $g$ so far, $r$ the least $\hat g/g$ of all leaves that had a gradient, and $f$ =
    `fading`, $\omega = w\min(1, \max(1/f, (r/f)^2))$. Data that are fitted exactly, which need
    decay, have gradients that fade. A leaf that vanishes takes its own gradient, and those of its
    neighbours, with it: the least faded one tells the two apart.

    It has no field before the first step, only the parts of `base`: step it by `solvers.Lie()`, or
    where `fading` is 1 by another splitting.

    Args:
      base: a flow with parts of which one moves the parameters.
      weight_decay: $w \ge 0$, decoupled, per unit of length.
      fading: $f \ge 1$: decay is whole where all gradients have faded by that factor, and before
        at least the f-th part; 1 for a constant decay.

    Raises:
      ValueError: a negative decay; `fading` below 1; in `update`, a solver other than a splitting.

    References: steps relative to the present size of a leaf are those of Adafactor
    (arXiv:1804.04235) and LAMB (arXiv:1904.00962); of the geometric mean with its start no earlier
    use was found. A decay over the norm of the gradient is AdamS's (arXiv:2011.11152);
    relative to the largest norm, between two bounds and per unit of length it is ours.
    """

    base: AbstractFlow
    weight_decay: Any = eqx.field(converter=real, default=0.0)
    fading: float = eqx.field(static=True, default=1.0)

    linear: ClassVar[bool] = False  # the unit depends on the parameters
    needs_params: ClassVar[bool] = True

    def __check_init__(self) -> None:
        super().__check_init__()
        if "average" in self.base.parts:
            raise ValueError(
                "UnitFlow measures the one part that moves the parameters, and an average moves "
                "them too: write AveragedFlow(UnitFlow(...))."
            )
        check_least(0, weight_decay=self.weight_decay)
        check_least(1, fading=self.fading)

    @property
    def gradient_part(self) -> str | None:  # type: ignore[override]
        """That of `base`; None where the decay looks at the gradient too."""
        return None if self._fades else self.base.gradient_part

    def inner(self, aux: Unit) -> PyTree[Array]:
        return aux.base

    def init(self, params: PyTree[Array]) -> Unit:
        """Nothing known yet: up to three scalars for each leaf, beside what `base` holds."""
        start, *known = (
            jax.tree.map(lambda _: jnp.zeros([], float), params)  # a buffer each
            for _ in range(3 if self._fades else 1)
        )
        return Unit(self.base.init(params), start, *known)

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """Refused: the unit is read off the first step."""
        return AbstractFlow.increment(self, z, objective, h)

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        """The part of `base` in units, with the decay where it moves the parameters."""
        params, aux = z
        moved, base = self.base.part(name, (params, aux.base), objective, h, fraction)
        if moved is None:
            return None, aux._replace(base=base)
        sizes = jax.tree.map(_size, params)
        first = jax.tree.map(_first, params, sizes)
        start = jax.tree.map(lambda s, now: jnp.where(s > 0, s, now), aux.start, first)
        aux = aux._replace(base=base, start=start)
        decay = not is_zero(self.weight_decay)
        share: Scalar | float = 1.0
        if self._fades:
            aux = _looked(aux, objective.here(params))
            share = self._share(aux)

        def leaf(u: Array, x: Array, s: Array, size: Array) -> Array:
            to = scaled(jnp.sqrt(s * jnp.maximum(s, size)), u)
            return to - scaled(self.weight_decay * share * _size(u), x) if decay else to

        return jax.tree.map(leaf, moved, params, start, sizes), aux

    @property
    def _fades(self) -> bool:
        return self.fading > 1 and not is_zero(self.weight_decay)

    def _share(self, aux: Unit) -> Scalar:
        """The share of the decay that acts, by what remains of the least faded gradient."""
        remains = jax.tree.leaves(jax.tree.map(ratio, aux.slope, aux.steepest))
        most = jnp.max(jnp.stack([0.0, *remains]))
        return 1 / jnp.clip((self.fading * most) ** 2, 1.0, self.fading)


def _looked(aux: Unit, gradient: PyTree[Array]) -> Unit:
    """The running mean with this gradient; the first one is its start."""

    def leaf(slope: Array, steepest: Array, x: Array) -> Array:
        now = norm(x).astype(slope.dtype)
        now = jnp.where(jnp.isfinite(now), now, slope)  # squares may overflow
        return jnp.where(steepest > 0, slope + _RATE * (now - slope), now)

    slope = jax.tree.map(leaf, aux.slope, aux.steepest, gradient)
    return aux._replace(slope=slope, steepest=jax.tree.map(jnp.maximum, aux.steepest, slope))


def _size(leaf: Array) -> Scalar:
    """Its root mean square; 0 where it is empty."""
    return root(inner(leaf, leaf) / max(entries(leaf), 1))


def _first(leaf: Array, size: Scalar) -> Scalar:
    """The size at the start, by which the unit is measured."""
    if leaf.ndim < 2 or not leaf.size:
        return jnp.full_like(size, 0.1)
    outputs = leaf.shape[-1]
    return jnp.maximum(size, 0.5 / math.sqrt(max(outputs, leaf.size // outputs)))
