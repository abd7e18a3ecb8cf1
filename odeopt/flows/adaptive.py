r"""Adam's flow.

Moments are running averages, $\tau\dot m = g - m$ with $\tau = -h/\ln b$ (`flows.time_constant`).
With the gradient held fixed, a step of size $h$ keeps the fraction $b$ of a moment, exactly as in
optax.
"""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arguments import mask_of, over_own
from ..arrays import Scalar, real_dtype
from ..checks import check_flags, check_least
from ..kernels.adam import AdamNumbers, adam_step, decaying_time
from ..objective import Objective
from ..sums import scaled
from .clock import as_decay, by_step, check_decay, moment_like, real
from .flow import AbstractFlow, Fused, Share, State, Substeps
from .moments import (
    AlongMoment,
    abs_square,
    aged,
    averaged,
    divided,
    relaxation,
    settled,
    squares_change,
    wide,
)


class Moments(NamedTuple):
    """The auxiliary variables of Adam's flow.

    Attributes:
      mu: the first moment, a tree like the parameters.
      nu: the second moment, a tree like the parameters.
      age: number of steps since both moments were zero, as a real number.
    """

    mu: PyTree[Array]
    nu: PyTree[Array]
    age: Scalar


class AdamFlow(AlongMoment, AbstractFlow):
    r"""Adam's flow: $\dot x = -u - wx$, $u = \hat m/(\sqrt{\hat v + \epsilon_r} + \epsilon)$.

    $\tau_1\dot m = g - m$, $\tau_2\dot v = g^2 - v$ with $\tau_i = -h/\ln b_i$. Bias correction
    divides both by $1 - b_i^{t/h}$, which gives $\hat m$ and $\hat v$ (at $t = 0$, where this is
    0/0, the limits $g$ and $g^2$). `h` is the learning rate; flow time is the sum of learning
    rates. Once the moments have settled, $\dot x = -g/(|g| + \epsilon)$: a learning rate is the
    distance that every parameter moves.

    The parts, each solved exactly apart from the decay, are `moments` (both moments relax while
    the parameters are fixed) and `drift` (the parameters move while the moments are fixed).
    Composed in this order they are `optax.adam(h)`; in the symmetric order, `strang_adam`.

    The arguments are those of `odeopt.adamw` and `exact_decay`; `weight_decay` is 0 by default.
    With `nesterov` both parts use the gradient.

    Args:
      exact_decay: solve the decay exactly within a step, $e^{-wh}$, instead of optax's
        $1 - wh$.

    Raises:
      ValueError: `b1` or `b2` outside [0, 1); a negative `eps`, `eps_root` or `weight_decay`.
    """

    b1: Any = eqx.field(converter=as_decay, default=0.9)
    b2: Any = eqx.field(converter=as_decay, default=0.999)
    eps: float = eqx.field(converter=real, default=1e-8)
    eps_root: float = eqx.field(converter=real, default=0.0)
    weight_decay: Any = eqx.field(converter=by_step, default=0.0)
    mask: Any = eqx.field(static=True, default=None)
    nesterov: bool = eqx.field(static=True, default=False)
    mu_dtype: Any = eqx.field(static=True, default=None)
    exact_decay: bool = eqx.field(static=True, default=False)

    def __check_init__(self) -> None:
        check_decay(b1=self.b1, b2=self.b2)
        check_flags(nesterov=self.nesterov, exact_decay=self.exact_decay)
        check_least(0, eps=self.eps, eps_root=self.eps_root, weight_decay=self.weight_decay)

    def init(self, params: PyTree[Array]) -> Moments:
        """Zero moments. Memory: two copies of the parameters."""
        return Moments(
            moment_like(params, self.b1, self.mu_dtype),
            moment_like(params, self.b2),
            jnp.zeros([], float),
        )

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """`(-h (u + w x), -(g - m) ln b1, -(g^2 - v) ln b2)`; the age grows by 1."""
        params, aux = z
        grads = objective.here(params)
        squares = jax.tree.map(abs_square, wide(grads, self.b2))
        mean = settled(aux.mu, self.b1, aux.age, grads)
        square = settled(aux.nu, self.b2, aux.age, squares)
        direction = jax.tree.map(self._direction, mean, square)
        update = super().drift(self.decayed(direction, params, aux.age), params, aux.age, h)
        return update, Moments(
            relaxation(aux.mu, grads, self.b1.forgetting(aux.age)),
            relaxation(aux.nu, squares, self.b2.forgetting(aux.age)),
            jnp.ones_like(aux.age),
        )

    def relaxed(self, grads: PyTree[Array], aux: Moments, fraction: Share) -> Moments:
        b1, b2 = (b.retained(aux.age, fraction) for b in (self.b1, self.b2))
        return Moments(
            averaged(aux.mu, grads, b1),
            averaged(aux.nu, wide(grads, self.b2), b2, order=2),
            aux.age + fraction,
        )

    def along(self, mean: PyTree[Array], aux: Moments) -> PyTree[Array]:
        """`u`; 0 before the first gradient."""
        return jax.tree.map(self._direction, mean, divided(aux.nu, self.b2.weight(aux.age)))

    def drift(
        self, along: PyTree[Array], params: PyTree[Array], age: Array, time: Scalar
    ) -> PyTree[Array]:
        """The update in a time along a direction; `exact_decay` solves its decay exactly."""
        if not (self.exact_decay and self.needs_params):
            return super().drift(along, params, age, time)
        times = jax.tree.map(functools.partial(decaying_time, time), self._decays(params, age))
        return jax.tree.map(lambda t, u: scaled(-t, u), jax.tree.broadcast(times, along), along)

    def fused(self, substeps: Substeps, z: State, objective: Objective, h: Scalar) -> Fused:
        """Moments and drift in one pass: `kernels.adam_step`.

        Consecutive drifts are joined if there is no decay or if it is solved exactly.
        """
        (first, *others), (whole, *fractions) = zip(*substeps, strict=True)
        joined = len(others) == 1 or self.exact_decay or not self.needs_params
        if (first, whole) != ("moments", 1.0) or not joined or set(others) != {"drift"}:
            return None
        h = sum(fractions) * h
        params, aux = z
        age = aux.age + 1
        b1, b2 = self.b1, self.b2
        numbers = AdamNumbers(
            b1.retained(aux.age),
            b2.retained(aux.age),
            b1.weight(age),
            b2.weight(age),
            self.eps,
            self.eps_root,
            (b1.retained(age), b1.weight(age + 1)) if self.nesterov else None,
        )
        update, mu, nu = adam_step(
            h,
            objective.here(params),
            aux.mu,
            aux.nu,
            numbers,
            params=params if self.needs_params else None,
            decay=self._decays(params, aux.age),
            exact_decay=self.exact_decay,
        )
        return update, Moments(mu, nu, age), 0

    def rest(self, z: State, h: Scalar, fraction: float) -> "AdamRest | None":
        """Six scalars; None with `nesterov`, and with a mask for weight decay."""
        if self.nesterov or (self.needs_params and self.mask is not None):
            return None
        age = z[1].age
        weights = (jnp.where(age > 0, b.weight(age), 1.0) for b in (self.b1, self.b2))
        decay = self.decay(jnp.maximum(age - 1, 0))  # the moments have counted this step already
        time = decaying_time(fraction * h, decay) if self.exact_decay else fraction * h
        numbers = (time, 1 - time * decay, *weights, self.eps, self.eps_root)
        return AdamRest(*(jnp.array(n, float) for n in numbers))

    def aged(self, aux: Moments, grads: PyTree[Array], back: PyTree[Array]) -> PyTree[Array]:
        """Each moment changes by its mean age times the change of the quantity it averages."""
        self.check_off(nesterov=self.nesterov, exact_decay=self.exact_decay)
        squares = jax.tree.map(squares_change, grads, back)
        return Moments(
            aged(aux.mu, back, self.b1, aux.age),
            aged(aux.nu, squares, self.b2, aux.age),
            None,  # type: ignore[arg-type]
        )

    def _direction(self, mean: Array, square: Array) -> Array:
        return adam_direction(mean, square, self.eps, self.eps_root)

    def _decays(self, params: PyTree[Array], age: Array) -> PyTree[float | Array]:
        """The decay of each parameter; one number where there is no mask."""
        decay = self.decay(age)
        if self.mask is None:
            return decay
        mask = mask_of(self.mask, params)
        return jax.tree.map(lambda keep: decay if keep else 0.0, mask)


def adam_direction(mean: Array, square: Array, eps: Any, eps_root: Any) -> Array:
    """`mean / (sqrt(square + eps_root) + eps)`; 0 where `mean` is 0.

    Only the real part of `square` counts, floored at 0: a Runge-Kutta stage may make it negative.
    """
    size = jnp.real(square)
    return _over_root(mean, jnp.where(size < 0, 0, size) + eps_root, eps)


@jax.custom_jvp  # uses the quotient itself: half as many operations as automatic differentiation
def _over_root(mean: Array, size: Array, eps: Any) -> Array:
    """`mean / (sqrt(size) + eps)`; a denominator of 0 (float16 rounds eps to 0) counts as 1."""
    below = (jnp.sqrt(size) + eps).astype(mean.dtype)
    return mean / jnp.where(below == 0, 1, below)


@_over_root.defjvp
def _over_root_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (_, size, eps), (mean_dot, size_dot, eps_dot) = primals, tangents
    quotient, root = _over_root(*primals), jnp.sqrt(size)
    below_dot = size_dot / (2 * root) + eps_dot
    below = (root + eps).astype(quotient.dtype)
    return quotient, (mean_dot - quotient * below_dot.astype(quotient.dtype)) / below


class AdamRest(NamedTuple):
    """Scalars that undo the drift beyond the end of a step (`Strang`) in Adam's flow."""

    time: Scalar  # duration of that drift
    kept: Scalar  # the fraction of the parameters that weight decay has left in this time
    first: Scalar  # total weight of the gradients in the first moment
    second: Scalar  # the same for the second
    eps: Scalar
    eps_root: Scalar

    def readout(self, params: PyTree[Array], aux: Moments) -> PyTree[Array]:
        """The parameters at the end of the step."""

        def leaf(p: Array, m: Array, v: Array) -> Array:
            numbers = (n.astype(real_dtype(m.dtype)) for n in self)
            time, kept, first, second, eps, eps_root = numbers
            moved = time * adam_direction(m / first, v / second, eps, eps_root)
            return ((p + moved.astype(p.dtype)) / kept).astype(p.dtype)

        return over_own(leaf, params, aux.mu, aux.nu)
