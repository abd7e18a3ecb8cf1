r"""Primal averaging: gradients are taken between a path and its running average."""

import dataclasses
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..arguments import over_own
from ..arrays import Scalar
from ..checks import check, check_kind, check_least, is_zero
from ..information import Information
from ..objective import Objective
from ..sums import entries, inner, is_split, multiple, scaled
from .clock import LogTime, moment_like, real
from .flow import AbstractFlow, Moved, Share, State

# A cosine of two gradients needs no more than every 16th coordinate of large leaves.
_EVERY, _LARGE = 16, 4096


class Average(NamedTuple):
    r"""The auxiliary variables of an averaged flow.

    Attributes:
      lag: $a - z$, how far the average is behind; a tree like the parameters.
      base: auxiliary variables of the base flow.
      age: steps since the start, as a real number.
      previous: the last gradient, every 16th entry along the last axis of large leaves; `()`
        unless $\beta$ or $q$ adapts.
      predictability: $s$, how well one gradient predicts the next; `()` likewise.
      away: $1 - \beta$ of the last step; the average is $a = y + (1 - \beta)(a - z)$.
      pace: size of the last step.
    """

    lag: PyTree[Array]
    base: PyTree[Array]
    age: Scalar
    previous: PyTree[Array]
    predictability: PyTree[Array]
    away: Scalar
    pace: Scalar

    def readout(self, params: PyTree[Array]) -> PyTree[Array]:
        """The average `a`, given the parameters `y`."""
        return over_own(lambda y, d: y + scaled(self.away, d).astype(y.dtype), params, self.lag)


class AveragedFlow(AbstractFlow):
    r"""A flow of $z$ whose gradients are taken between $z$ and an average $a$ of its path.

    $z$ follows `base` with the gradient at $y = (1-\beta)z + \beta a$, and
    $t\,\dot a = (q+1)(z - a)$, so that $a$ averages the path with weights $t^q$. The parameters are
    $y$; `step_params` gives $a$. $\beta = 1$ is momentum, with friction that falls as $1/t$;
    $\beta = 0.9$, $q = 0$ is the schedule-free form (arXiv:2405.15682). Step $n$ averages with
    weight $c_n = \min(1, (q+1)/(n+1+q))$ (polynomial-decay averaging; Shamir and Zhang, 2013).

    By default $\beta$ and $q$ adapt to how predictable the gradient is:
    $\beta = 1 - 0.1(1-\sqrt s)^2$, $q = 8s$, where $s$ is the running average, on `clock`, of the
    squared cosine of consecutive gradients in the metric of `base`. Full batches have $s$ near 1
    and get momentum; noisy ones have $s$ near 0 and get the schedule-free form. (The two formulas
    are ours.)

    The state stores the lag $d = a - z$: updates are small multiples of it, so nothing cancels. If
    a step is less than half as long as the last one, $d$ is multiplied by twice their ratio ($z$
    moves, $y$ stays). Otherwise short steps alone would not stop a path that follows its lag.

    Args:
      base: a flow with parts, such as `GradientFlow()` or `RMSpropFlow()`.
      beta: $\beta$ in [0, 1]; None to adapt.
      power: $q \ge 0$; None to adapt.
      weight_decay: $w$, decoupled: $\dot z$ gains $-wy$.
      clock: the clock of the running average $s$.

    Raises:
      ValueError: `beta` outside [0, 1], a negative `power` or `weight_decay`, a `base` that is or
        contains an average.
      TypeError: a `base` that is no flow, or a `clock` that is no `LogTime`.
    """

    base: AbstractFlow
    beta: float | None = eqx.field(converter=real, default=None)
    power: float | None = eqx.field(converter=real, default=None)
    weight_decay: float = eqx.field(converter=real, default=0.0)
    clock: LogTime = LogTime()

    has: ClassVar[Information] = Information.HEADING  # a small step need not lower the loss
    no_field: ClassVar[Any] = property(attrgetter("base.no_field"))

    def __check_init__(self) -> None:
        check_kind(AbstractFlow, "flows.AdamFlow()", base=self.base)
        if "average" in self.base.parts:
            raise ValueError("base of AveragedFlow is an average itself: average one flow once.")
        check_kind(LogTime, "flows.LogTime(10.0)", clock=self.clock)
        if self.beta is not None:
            check(lambda b: 0 <= b <= 1, "beta", self.beta, "between 0 (z) and 1 (the average)")
        if self.power is not None:
            check_least(0, power=self.power)
        check_least(0, weight_decay=self.weight_decay)

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """`decay` (with weight decay only), those of `base`, `average`; no parts if it has none."""
        if not self.base.parts:
            return ()
        return (*(("decay",) if self._decays else ()), *self.base.parts, "average")

    def looks_again(self, name: str, moved: Sequence[str]) -> bool:
        """Whether `base` needs a new gradient for this part, after its own parts in `moved`."""
        parts = self.base.parts
        return name in parts and self.base.looks_again(name, [m for m in moved if m in parts])

    @property
    def each(self) -> Sequence[AbstractFlow]:
        """The averaged form of each flow of `base`."""
        return [dataclasses.replace(self, base=base) for base in self.base.each]

    @property
    def linear(self) -> bool:
        """Whether `base` is linear, without adaptation and weight decay."""
        return self.base.linear and not self._adapts and not self._decays

    @property
    def needs_params(self) -> bool:  # type: ignore[override]
        """True with weight decay."""
        return self._decays or self.base.needs_params

    @property
    def _decays(self) -> bool:
        return not is_zero(self.weight_decay)

    @property
    def _adapts(self) -> bool:
        return self.beta is None or self.power is None

    def around(self, change: Callable[[AbstractFlow], AbstractFlow]) -> NoReturn:
        """Refused: its parameters are an average."""
        raise ValueError(
            "AveragedFlow cannot be corrected: its parameters are an average. Correct its `base` "
            "instead."
        )

    def init(self, params: PyTree[Array]) -> Average:
        """Zero lag. Memory: a copy of the parameters, 1/16 more to adapt, and that of `base`."""
        adapts = self._adapts
        zeros = optax.tree.zeros_like(params)
        beta = self._beta(jnp.zeros([], float))
        return Average(
            moment_like(params, self.clock),  # wide, since the updates of the lag shrink as 1/n
            self.base.init(params),
            jnp.zeros([], float),
            jax.tree.map(jnp.copy, _sparse(zeros)) if adapts else (),  # a buffer of its own
            jnp.zeros([], float) if adapts else (),
            1 - beta,
            jnp.zeros([], float),
        )

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """The system above in `y` and the lag, with the predictability held fixed."""
        params, aux = z
        moved, base = self.base.increment((params, aux.base), objective, h)
        if self._decays:
            moved = jax.tree.map(lambda v, y: v - scaled(h * self.weight_decay, y), moved, params)
        rate = jnp.where(h == 0, 0.0, self._weight(aux))
        beta = self._beta(aux.predictability)
        lag = jax.tree.map(lambda v, d: -v.astype(d.dtype) - scaled(rate, d), moved, aux.lag)
        update = jax.tree.map(
            lambda v, d: scaled(1 - beta, v) - scaled(beta * rate, d).astype(v.dtype),
            moved,
            aux.lag,
        )
        still = jax.tree.map(jnp.zeros_like, aux)
        return update, still._replace(lag=lag, base=base, age=jnp.ones_like(aux.age))

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        """Decay and the parts of `base` move z; `average` moves a towards it."""
        params, aux = z
        beta = self._beta(aux.predictability)
        if name != "average":
            if name == "decay":
                moved = multiple(-fraction * h * self.weight_decay, params)
            else:
                moved, base = self.base.part(name, (params, aux.base), objective, h, fraction)
                aux = aux._replace(base=base)
            if moved is None:
                return None, aux
            lag = jax.tree.map(lambda d, u: d - u.astype(d.dtype), aux.lag, moved)
            return multiple(1 - beta, moved), aux._replace(lag=lag)
        previous, predictability = aux.previous, aux.predictability
        moves = h != 0  # while the path stands still, so does its average
        slowed = moves & (2 * h < aux.pace)
        kept = jnp.where(slowed, 2 * h / jnp.where(slowed, aux.pace, 1.0), 1.0)
        lag = multiple(kept, aux.lag)
        weight = jnp.where(moves, fraction * self._weight(aux), 0.0)
        if self._adapts:
            previous = _sparse(objective.here(params))
            seen = self._predictability(params, aux, objective, previous)
            predictability = jnp.where(moves, seen, predictability)
        ahead = self._beta(predictability)
        # a moves by -weight * lag; then the new beta places y relative to a
        factor = (1 - beta) - weight - (1 - ahead) * (1 - weight)
        return multiple(factor, lag), Average(
            lag=multiple(1 - weight, lag),
            base=aux.base,
            age=aux.age + fraction,
            previous=previous,
            predictability=predictability,
            away=1 - ahead,
            pace=jnp.where(moves, h, aux.pace),
        )

    def descent(self, z: State, objective: Objective, *, seen: bool = False) -> PyTree[Array]:
        return self.base.descent((z[0], z[1].base), objective, seen=seen)

    def heading(self, z: State) -> PyTree[Array]:
        """From the average to `z`: the direction in which the path has moved."""
        return jax.tree.map(jnp.negative, z[1].lag)

    def _beta(self, predictability: PyTree[Array]) -> Array:
        if self.beta is not None:
            return jnp.asarray(self.beta, float)
        known = predictability > 0  # the root has no finite slope at 0
        root = jnp.where(known, jnp.sqrt(jnp.where(known, predictability, 1.0)), 0.0)
        return 1 - 0.1 * (1 - root) ** 2

    def _weight(self, aux: Average) -> Array:
        power = 8 * aux.predictability if self.power is None else self.power
        return jnp.minimum(1.0, (power + 1) / (aux.age + 1 + power))

    def _predictability(
        self, params: PyTree[Array], aux: Average, objective: Objective, now: PyTree[Array]
    ) -> Array:
        descent = self.descent((params, aux), objective, seen=True)
        metric, before = jax.tree.map(_ratio, _sparse(descent), now), aux.previous
        product, length, length_before = (
            inner(a, jax.tree.map(lambda d, x: d * x.astype(d.dtype), metric, b))
            for a, b in ((now, before), (now, now), (before, before))
        )
        squares = length * length_before
        cosine = product / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
        rate = self.clock.forgetting(aux.age)
        known = jnp.where(squares > 0, cosine**2, 0.0).astype(aux.predictability.dtype)
        moved = aux.predictability + rate * (known - aux.predictability)
        return jnp.where(aux.age > 0, jnp.clip(moved, 0.0, 1.0), aux.predictability)


def _sparse(tree: PyTree[Array]) -> PyTree[Array]:
    def leaf(x: Array) -> Array:
        if entries(x) < _LARGE:
            return x
        # Along the last axis: flattening would lose the sharding of the others.
        if is_split(x, axis=-1):  # JAX slices no axis that is split explicitly
            return jnp.where(jnp.arange(x.shape[-1]) % _EVERY == 0, x, 0)
        return x[..., ::_EVERY]

    return jax.tree.map(leaf, tree)


def _ratio(above: Array, below: Array) -> Array:
    below = below.astype(above.dtype)
    return jnp.where(below == 0, 0.0, above / jnp.where(below == 0, 1.0, below))
