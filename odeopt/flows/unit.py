"""A flow in which every leaf has its own unit of length."""

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
    """The auxiliary variables of a flow with units.

    Attributes:
      base: auxiliary variables of the base flow.
      start: for each leaf, its initial size `s_0`, set when it first moves; 0 before.
      slope: for each leaf, a running mean of the norm of its gradient; `()` with a constant decay.
      steepest: for each leaf, the largest `slope` so far; `()` with a constant decay.
    """

    base: PyTree[Array]
    start: PyTree[Array]
    slope: PyTree[Array] = ()
    steepest: PyTree[Array] = ()


_RATE = 0.1  # of the running mean


class UnitFlow(AbstractWrapper):
    r"""A flow in units of each leaf's own size, with weight decay per unit of length.

    $\dot x = \ell(x)\,u - \omega\,\mathrm{RMS}(u)\,x$, where $u$ is the velocity of `base`. If
    `base` has unit speed (Adam's and Muon's flow do), a learning rate is a distance in units. The
    unit of a leaf is $\ell = \sqrt{s_0\max(s_0, \mathrm{RMS}(x))}$. For leaves with two or more
    axes, the initial size $s_0$ is the larger of the root mean square before the first step and
    $0.5/\sqrt{\max(\text{inputs}, \text{outputs})}$ (outputs is the last axis), so that zeros can
    move. For vectors and scalars it is 0.1: the gains of a normalization start at 1, and with
    $s_0 = 1$ a network would collapse at three times a good rate. (With $s_0$ itself as the unit, a
    leaf that must grow far is slow; with its present size, it grows without bound.)

    A leaf that does not move does not decay. A leaf whose velocity keeps its direction grows to
    $s_0/\omega^2$ at any speed; there both terms cancel. The decay $\omega$ grows as the gradients
    of all leaves fade. Let $g$ be the running mean of the norm of a leaf's gradient (rate 0.1),
    $\hat g$ the largest $g$ so far, $r$ the least $\hat g/g$ of all leaves that had a gradient, and
    $f$ = `fading`; then $\omega = w\min(1, \max(1/f, (r/f)^2))$. Gradients fade when data are
    fitted exactly, which needs decay. They also fade near a leaf that vanishes, which does not. The
    least faded leaf tells the two cases apart.

    The flow has no field, only the parts of `base`: use `solvers.Lie()`, or another splitting if
    `fading` is 1.

    Args:
      base: a flow with parts, one of which moves the parameters.
      weight_decay: $w \ge 0$, decoupled, per unit of length.
      fading: $f \ge 1$: the decay is full once all gradients have faded by this factor, and at
        least $1/f$ of that before; 1 for a constant decay.

    Raises:
      ValueError: a negative decay; `fading` below 1; a base that averages; when the
        optimizer is built, a solver other than a splitting.

    References: Adafactor (arXiv:1804.04235) and LAMB (arXiv:1904.00962) take steps relative to the
    present size of a leaf; no earlier use of the geometric mean with the initial size was found.
    AdamS (arXiv:2011.11152) divides the decay by the norm of the gradient; the form relative to
    the largest norm, between two bounds and per unit of length, is ours.
    """

    base: AbstractFlow
    weight_decay: Any = eqx.field(converter=real, default=0.0)
    fading: float = eqx.field(static=True, default=1.0)

    linear: ClassVar[bool] = False  # the unit depends on the parameters
    needs_params: ClassVar[bool] = True
    no_field: ClassVar[str] = "only a splitting can set the units in its first step"

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
        """The gradient part of `base`; None if the decay uses the gradient too."""
        return None if self._fades else self.base.gradient_part

    def inner(self, aux: Unit) -> PyTree[Array]:
        return aux.base

    def init(self, params: PyTree[Array]) -> Unit:
        """Zeros. Memory: up to three scalars for each leaf, beside the memory of `base`."""
        start, *known = (
            jax.tree.map(lambda _: jnp.zeros([], float), params)  # a buffer each
            for _ in range(3 if self._fades else 1)
        )
        return Unit(self.base.init(params), start, *known)

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """Refused."""
        return AbstractFlow.increment(self, z, objective, h)

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        """A part of `base` in units; the one that moves the parameters includes the decay."""
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
        """The share `omega / w` of the decay that acts, from the least faded gradient."""
        remains = jax.tree.leaves(jax.tree.map(ratio, aux.slope, aux.steepest))
        most = jnp.max(jnp.stack([0.0, *remains]))
        return 1 / jnp.clip((self.fading * most) ** 2, 1.0, self.fading)


def _looked(aux: Unit, gradient: PyTree[Array]) -> Unit:
    """Update the running means with this gradient; the first gradient starts them."""

    def leaf(slope: Array, steepest: Array, x: Array) -> Array:
        now = norm(x).astype(slope.dtype)
        now = jnp.where(jnp.isfinite(now), now, slope)  # squares may overflow
        return jnp.where(steepest > 0, slope + _RATE * (now - slope), now)

    slope = jax.tree.map(leaf, aux.slope, aux.steepest, gradient)
    return aux._replace(slope=slope, steepest=jax.tree.map(jnp.maximum, aux.steepest, slope))


def _size(leaf: Array) -> Scalar:
    """The root mean square of a leaf; 0 if it is empty."""
    return root(inner(leaf, leaf) / max(entries(leaf), 1))


def _first(leaf: Array, size: Scalar) -> Scalar:
    """The initial size of a leaf, which sets its unit."""
    if leaf.ndim < 2 or not leaf.size:
        return jnp.full_like(size, 0.1)
    outputs = leaf.shape[-1]
    return jnp.maximum(size, 0.5 / math.sqrt(max(outputs, leaf.size // outputs)))
