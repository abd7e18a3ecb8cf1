"""Running averages of gradients and of their squares."""

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..arguments import mask_of
from ..arrays import Scalar
from ..checks import is_zero
from ..objective import Objective
from ..sums import multiple, scaled
from .clock import Decay
from .flow import Moved, Share, State


class AlongMoment(abc.ABC):
    """A mixin for flows along a first moment, with decoupled weight decay.

    The parts are `moments` (the moments relax while the parameters are fixed) and `drift` (the
    parameters move while the moments are fixed). A subclass defines how moments relax (`relaxed`)
    and the direction in which a moment leads (`along`).

    Attributes:
      b1: the clock of the first moment.
      weight_decay: a number, or a schedule of the number of steps.
      mask: the leaves that decay, as in `optax.add_decayed_weights`.
      nesterov: whether to look ahead in the first moment. Then both parts use the gradient.
    """

    b1: Any
    weight_decay: Any
    mask: Any
    nesterov: bool

    linear: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("moments", "drift")
    gradient_part: ClassVar[Any] = property(lambda self: None if self.nesterov else "moments")
    needs_params: ClassVar[Any] = property(lambda self: not is_zero(self.weight_decay))

    @abc.abstractmethod
    def relaxed(self, grads: PyTree[Array], aux: Any, fraction: Share) -> Any:
        """The auxiliary variables after `fraction` of a step with these gradients."""

    @abc.abstractmethod
    def along(self, mean: PyTree[Array], aux: Any) -> PyTree[Array]:
        """The direction of a gradient, or of a mean of gradients, in the metric of the flow."""

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        params, aux = z
        if name == "moments":
            return None, self.relaxed(objective.here(params), aux, fraction)
        age = aux.age - 1  # the moments have counted this step already
        along = self.decayed(self.direction(params, aux, objective), params, age)
        return self.drift(along, params, age, fraction * h), aux

    def direction(self, params: PyTree[Array], aux: Any, objective: Objective) -> PyTree[Array]:
        """The direction in which the first moment leads; 0 before the first gradient."""
        return self.along(self.mean(params, aux, objective), aux)

    def drift(
        self, along: PyTree[Array], params: PyTree[Array], age: Array, time: Scalar
    ) -> PyTree[Array]:
        """The update in a time along a direction."""
        return multiple(-time, along)

    def descent(self, z: State, objective: Objective, *, seen: bool = False) -> PyTree[Array]:
        """The gradient in the metric of the flow."""
        params, aux = z
        grads = objective.here(params)
        return self.along(grads, aux if seen else self.relaxed(grads, aux, 1.0))

    def check_off(self, **options: bool) -> None:
        """Refuse options for which no counter-term is known."""
        if any(options.values()):
            raise ValueError(
                f"The counter-term of {type(self).__name__} with {' or '.join(options)} is not "
                f"known: pass {', '.join(f'{name}=False' for name in options)}."
            )

    def owed(self, aux: Any) -> Array:
        """True before the first gradient, when the direction is not known."""
        return aux.age == 0

    def mean(self, params: PyTree[Array], aux: Any, objective: Objective) -> PyTree[Array]:
        """The first moment with bias correction, looking ahead with `nesterov`."""
        total = self.b1.weight(aux.age)
        if not self.nesterov:
            return divided(aux.mu, total)
        kept = self.b1.retained(aux.age)
        ahead = divided(aux.mu, self.b1.weight(aux.age + 1))
        now = divided(objective.here(params), total)
        return jax.tree.map(lambda m, g: kept * m + (1 - kept) * g, ahead, now)

    def decay(self, age: Array) -> float | Array:
        """The weight decay of the step at `age`."""
        decay = self.weight_decay
        return decay.at_age(age) if callable(decay) else decay

    def decayed(self, direction: PyTree[Array], params: PyTree[Array], age: Array) -> PyTree[Array]:
        """`direction + w params`."""
        if not self.needs_params:
            return direction
        mask = None if self.mask is None else mask_of(self.mask, params)
        adding = optax.add_decayed_weights(self.decay(age), mask)
        return adding.update(direction, adding.init(params), params)[0]


def averaged(
    moment: PyTree[Array], grads: PyTree[Array], kept: Any, order: int = 1
) -> PyTree[Array]:
    """`kept * moment + (1 - kept) * g` with `g` the gradients, or `|grads|**2` at order 2."""
    average = optax.tree.update_moment if order == 1 else optax.tree.update_moment_per_elem_norm
    with jax.numpy_dtype_promotion("standard"):  # moments may have dtypes of their own
        return average(grads, moment, kept, order)


def abs_square(g: Array) -> Array:
    r"""$|g|^2$, in the dtype of $g$."""
    return jnp.square(g) if jnp.isrealobj(g) else (g * jnp.conj(g)).real.astype(g.dtype)


def wide(grads: PyTree[Array], clock: Decay) -> PyTree[Array]:
    """Gradients in the dtype of their second moment: squares over- or underflow in float16."""
    return jax.tree.map(lambda g: g.astype(clock.dtype(g.dtype)), grads)


def divided(moment: PyTree[Array], total: Array) -> PyTree[Array]:
    """`moment / total`; 0 before the first gradient, where `total` is 0."""
    total = jnp.where(total == 0, 1.0, total)
    return jax.tree.map(lambda m: m / total.astype(m.dtype), moment)


def settled(
    moment: PyTree[Array], clock: Decay, age: Scalar, limit: PyTree[Array]
) -> PyTree[Array]:
    """A moment with bias correction; at age 0, where this is 0/0, the limit."""
    started = age > 0
    # both sides of a `where` must be finite, for the derivatives
    total = jnp.where(started, clock.weight(jnp.where(started, age, 1.0)), 1.0)
    return jax.tree.map(
        lambda m, g: jnp.where(started, m / total.astype(m.dtype), g.astype(m.dtype)),
        moment,
        limit,
    )


def relaxation(moment: PyTree[Array], target: PyTree[Array], rate: Array) -> PyTree[Array]:
    """How much a step moves a moment towards its target."""
    return jax.tree.map(lambda m, g: scaled(rate, g.astype(m.dtype) - m), moment, target)


def squares_change(g: Array, change: Array) -> Array:
    r"""How much $|g|^2$ changes with $g$, to first order."""
    return 2 * jnp.real(jnp.conj(g) * change)


def aged(moment: PyTree[Array], change: PyTree[Array], clock: Decay, age: Scalar) -> PyTree[Array]:
    r"""The change of a running average whose input changes by `change` in a step.

    It is `change` times weight times mean age, $\sum_{k<n} (1-b)b^k(k + \tfrac12)$.
    """
    decay = jnp.asarray(clock.fixed(), float)
    positive = jnp.where(decay > 0, decay, 0.5)
    # `expm1`, since 1 - b^n cancels for b near 1; `clock.weight` is the one that the moment uses
    seen = -jnp.expm1(age * jnp.log(positive))
    older = jnp.where(decay > 0, positive * seen / (1 - positive) - age * (1 - seen), 0.0)
    factor = older + 0.5 * clock.weight(age)
    return jax.tree.map(lambda m, d: scaled(factor, d).astype(m.dtype), moment, change)
