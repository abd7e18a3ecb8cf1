r"""RMSprop's and Adam's flows. May use: `odeopt.objective`, `odeopt.kernels`, `.clock`;
moments are optax's.

Moments are running averages, $\tau\dot m = g - m$ with $\tau = -h/\ln b$ (`flows.time_constant`),
so that a step of size $h$ with the gradient held fixed keeps the part $b$ of them: exactly what
optax computes.
"""

import functools
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from ..kernels import AdamNumbers, adam_step, decaying_time, exponential_adam_step, where
from ..objective import Gradient
from ..sums import scaled
from .clock import Decay, check_decay, forgetting, moment_like, real, retained, weight
from .flow import AbstractSplitFlow, State, Substeps


class Moments(NamedTuple):
    """What moves with the parameters in Adam's flow.

    Attributes:
      mu: the first moment, a tree like the parameters.
      nu: the second moment, a tree like the parameters.
      age: steps since they were zero, as a real number.
    """

    mu: PyTree[Array]
    nu: PyTree[Array]
    age: Float[Array, ""]


class Squares(NamedTuple):
    """What moves with the parameters in RMSprop's flow.

    Attributes:
      nu: the second moment, a tree like the parameters.
      age: steps since the start, as a real number.
      mu: the first moment where the second is centered, else `()`.
      trace: the momentum, in units of the parameters; `()` where there is none.
    """

    nu: PyTree[Array]
    age: Float[Array, ""]
    mu: PyTree[Array]
    trace: PyTree[Array]


class AdamFlow(AbstractSplitFlow):
    r"""Adam's flow: $\dot x = -u - wx$, $u = \hat m/(\sqrt{\hat v + \epsilon_r} + \epsilon)$.

    $\tau_1\dot m = g - m$, $\tau_2\dot v = g^2 - v$ with $\tau_i = -h/\ln b_i$, and $\hat m$,
    $\hat v$ divided by the weight $1 - b_i^{t/h}$ of what they have seen (at $t = 0$, where that
    is 0/0, by the limit: $\hat m = g$). `h` is the learning rate; flow time is the sum of learning
    rates. Once the moments have settled, $\dot x = -g/(|g| + \epsilon)$: a learning rate is the
    distance that every parameter moves.

    Its parts, each solved exactly: `moments` (both relax to the gradient of a fixed point) and
    `drift` (the parameters move, the moments fixed). Composed in this order they are
    `optax.adam(h)`; in the symmetric order, `strang_adam`.

    Args:
      b1: what a step keeps of the first moment, in [0, 1); or `LogTime(r)`.
      b2: the same of the second moment.
      eps: $\epsilon$.
      eps_root: $\epsilon_r$.
      weight_decay: $w$, decoupled: a number, or a schedule of the number of steps.
      mask: a tree of booleans like the parameters, or a function of them that returns one: what
        to decay.
      nesterov: look ahead in the first moment, as `optax.nadam` does. Then both parts see the
        gradient.
      mu_dtype: dtype of the first moment; None for that of the parameters.
      exact_decay: solve the decay exactly within a step, $e^{-wh}$, instead of optax's
        $1 - wh$.

    Raises:
      ValueError: `b1` or `b2` outside [0, 1).
    """

    b1: Decay = eqx.field(converter=real, default=0.9)
    b2: Decay = eqx.field(converter=real, default=0.999)
    eps: float = eqx.field(converter=real, default=1e-8)
    eps_root: float = eqx.field(converter=real, default=0.0)
    weight_decay: Any = eqx.field(converter=real, default=0.0)
    mask: Any = eqx.field(static=True, default=None)
    nesterov: bool = eqx.field(static=True, default=False)
    mu_dtype: Any = eqx.field(static=True, default=None)
    exact_decay: bool = eqx.field(static=True, default=False)

    linear: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("moments", "drift")

    def __check_init__(self) -> None:
        check_decay(b1=self.b1, b2=self.b2)

    @property
    def gradient_part(self) -> str | None:  # type: ignore[override]
        """`moments`; with `nesterov` the drift sees the gradient as well."""
        return None if self.nesterov else "moments"

    @property
    def needs_params(self) -> bool:
        """Where there is weight decay."""
        return not (isinstance(self.weight_decay, int | float) and self.weight_decay == 0)

    def init(self, params: PyTree[Array]) -> Moments:
        """Zero moments. Two copies of the parameters."""
        return Moments(
            moment_like(params, self.b1, self.mu_dtype),
            moment_like(params, self.b2),
            jnp.zeros([], float),
        )

    def field(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> State:
        """`(-u - w x, (g - m) / tau_1, (g^2 - v) / tau_2)`; the age grows by 1 in a time `h`."""
        params, aux = z
        grads = gradient.here(params)
        squares = jax.tree.map(_square, grads)
        started = aux.age > 0
        # 0/0 at the start, with derivatives too: both sides of a `where` must be finite
        age = jnp.where(started, aux.age, 1.0)

        def settled(moment: PyTree[Array], decay: Decay, limit: PyTree[Array]) -> PyTree[Array]:
            total = jnp.where(started, weight(decay, age), 1.0)
            return jax.tree.map(
                lambda m, g: jnp.where(started, m / total.astype(m.dtype), g), moment, limit
            )

        mean, square = settled(aux.mu, self.b1, grads), settled(aux.nu, self.b2, squares)
        direction = jax.tree.map(self._direction, mean, square)
        mu = _relaxation(aux.mu, grads, forgetting(self.b1, aux.age) / h)
        nu = _relaxation(aux.nu, squares, forgetting(self.b2, aux.age) / h)
        direction = self._decayed(direction, params, self._decay(aux.age))
        velocity = jax.tree.map(jnp.negative, direction)
        return velocity, Moments(mu, nu, (1 / h).astype(aux.age.dtype))

    def part(
        self, name: str, z: State, gradient: Gradient, h: Float[Array, ""], fraction: float
    ) -> tuple[PyTree[Array] | None, Moments]:
        """One of moments and drift."""
        params, aux = z
        if name == "moments":
            grads = gradient.here(params)
            b1, b2 = (retained(b, aux.age, fraction) for b in (self.b1, self.b2))
            return None, Moments(
                optax.tree.update_moment(grads, aux.mu, b1, 1),
                optax.tree.update_moment_per_elem_norm(grads, aux.nu, b2, 2),
                aux.age + fraction,
            )
        decay = self._decay(aux.age - 1)  # of this step, which the moments have counted
        direction = self._decayed(self.direction(params, aux, gradient), params, decay)
        time = fraction * h
        if not (self.exact_decay and self.needs_params):
            return jax.tree.map(lambda u: scaled(-time, u), direction), aux
        times = jax.tree.map(
            functools.partial(decaying_time, time), self._decays(params, aux.age - 1)
        )
        times = jax.tree.broadcast(times, direction)
        return jax.tree.map(lambda t, u: scaled(-t, u), times, direction), aux

    def fused(
        self, substeps: Substeps, z: State, gradient: Gradient, h: Float[Array, ""], kernel: str
    ) -> tuple[PyTree[Array], Moments] | None:
        """A step of moments and drift: `kernels.adam_step`, or `exponential_adam_step`.

        Drifts in a row are one, where there is no decay or it is solved exactly.
        """
        name = "exponential_adam" if self.exact_decay else "adam"
        first, *drifts = substeps
        joined = len(drifts) == 1 or self.exact_decay or not self.needs_params
        whole = {part for part, _ in drifts} == {"drift"} and sum(f for _, f in drifts) == 1
        if not where(kernel, name) or first != ("moments", 1.0) or not (joined and whole):
            return None
        params, aux = z
        age = aux.age + 1
        mean, look = 1 / weight(self.b1, age), jnp.zeros([])
        if self.nesterov:
            kept = retained(self.b1, age)
            mean, look = kept / weight(self.b1, age + 1), (1 - kept) * mean
        numbers = AdamNumbers(
            retained(self.b1, aux.age),
            retained(self.b2, aux.age),
            mean,
            look,
            1 / weight(self.b2, age),
            self.eps,
            self.eps_root,
        )
        step = exponential_adam_step if self.exact_decay else adam_step
        update, mu, nu = step(
            h,
            gradient.here(params),
            aux.mu,
            aux.nu,
            numbers,
            params=params if self.needs_params else None,
            decay=self._decays(params, aux.age),
            kernel=kernel,
        )
        return update, Moments(mu, nu, age)

    def descent(self, z: State, gradient: Gradient, *, seen: bool = False) -> PyTree[Array]:
        """The gradient over the root of its second moment."""
        params, aux = z
        if not seen:
            _, aux = self.part("moments", z, gradient, jnp.zeros([]), 1.0)
        square = _divided(aux.nu, weight(self.b2, aux.age))
        return jax.tree.map(self._direction, gradient.here(params), square)

    def direction(self, params: PyTree[Array], aux: Moments, gradient: Gradient) -> PyTree[Array]:
        """`u`, from the moments; 0 while they have seen nothing."""
        total = weight(self.b1, aux.age)
        if self.nesterov:
            ahead = weight(self.b1, aux.age + 1)
            kept = retained(self.b1, aux.age)
            mean = jax.tree.map(
                lambda m, g: (
                    kept * (m / ahead.astype(m.dtype)) + (1 - kept) * (g / total.astype(g.dtype))
                ),
                aux.mu,
                gradient.here(params),
            )
        else:
            mean = _divided(aux.mu, total)
        return jax.tree.map(self._direction, mean, _divided(aux.nu, weight(self.b2, aux.age)))

    def _direction(self, mean: Array, square: Array) -> Array:
        # The real part, floored at 0: a Runge-Kutta stage may leave the cone of averages.
        size = jnp.maximum(jnp.real(square), 0.0)
        return mean / (jnp.sqrt(size + self.eps_root) + self.eps)

    def _decay(self, age: Array) -> float | Array:
        if callable(self.weight_decay):  # a schedule counts whole steps
            return self.weight_decay(jnp.floor(age).astype(jnp.int32))
        return self.weight_decay

    def _decays(self, params: PyTree[Array], age: Array) -> PyTree[float | Array]:
        """The decay of each parameter; one number where there is no mask."""
        decay = self._decay(age)
        if self.mask is None:
            return decay
        mask = self.mask(params) if callable(self.mask) else self.mask
        return jax.tree.map(lambda keep: decay if keep else 0.0, mask)

    def _decayed(
        self, direction: PyTree[Array], params: PyTree[Array], decay: float | Array
    ) -> PyTree[Array]:
        if not self.needs_params:
            return direction
        adding = optax.add_decayed_weights(decay, self.mask)
        return adding.update(direction, adding.init(params), params)[0]


class RMSpropFlow(AbstractSplitFlow):
    r"""RMSprop's flow: $\dot x = -g/\sqrt{v + \epsilon}$, $\tau\dot v = g^2 - v$.

    $\tau = -h/\ln b$ for the decay $b$ per step. Centered: $v - |m|^2$ in place of $v$, with
    $\tau\dot m = g - m$. With momentum $\mu$ the update itself is accumulated:
    $h\dot x = p$, $h\dot p = p\ln\mu - hg/\sqrt{v + \epsilon}$.

    Its parts: `moments`, solved exactly, and `descent`, a step of Euler's method; composed in this
    order they are `optax.rmsprop`. Both look at the gradient: there is no symmetric splitting.

    Args:
      decay: $b$, in [0, 1), or `LogTime(r)`.
      eps: $\epsilon$.
      initial_scale: $v$ at the start.
      eps_in_sqrt: False for $\sqrt v + \epsilon$.
      centered: divide by the standard deviation.
      momentum: $\mu$; None for none.
      nesterov: look ahead in the momentum.
      bias_correction: divide the moments by the weight of what they have seen.

    Raises:
      ValueError: `decay` or `momentum` outside [0, 1).
    """

    decay: Decay = eqx.field(converter=real, default=0.9)
    eps: float = eqx.field(converter=real, default=1e-8)
    initial_scale: float = eqx.field(converter=real, default=0.0)
    eps_in_sqrt: bool = eqx.field(static=True, default=True)
    centered: bool = eqx.field(static=True, default=False)
    momentum: Decay | None = eqx.field(converter=real, default=None)
    nesterov: bool = eqx.field(static=True, default=False)
    bias_correction: bool = eqx.field(static=True, default=False)

    linear: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("moments", "descent")
    gradient_part: ClassVar[str | None] = None

    def __check_init__(self) -> None:
        check_decay(decay=self.decay)
        if self.momentum is not None:
            check_decay(momentum=self.momentum)

    def init(self, params: PyTree[Array]) -> Squares:
        """One copy of the parameters; one more each if `centered` and with momentum."""
        return Squares(
            optax.tree.full_like(moment_like(params, self.decay), self.initial_scale),
            jnp.zeros([], float),
            moment_like(params, self.decay) if self.centered else (),
            optax.tree.zeros_like(params) if self.momentum is not None else (),
        )

    def field(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> State:
        """`(-g / sqrt(v + eps), (g - m) / tau, (g^2 - v) / tau)`, with momentum if there is."""
        params, aux = z
        grads = gradient.here(params)
        rate = forgetting(self.decay, aux.age) / h
        mu = _relaxation(aux.mu, grads, rate) if self.centered else ()
        nu = _relaxation(aux.nu, jax.tree.map(_square, grads), rate)
        velocity = jax.tree.map(jnp.negative, self.direction(grads, aux))
        trace: PyTree[Array] = ()
        if self.momentum is not None:
            lost = forgetting(self.momentum, aux.age) / h
            trace = jax.tree.map(lambda v, p: v - scaled(lost, p), velocity, aux.trace)
            velocity = jax.tree.map(lambda p: scaled(1 / h, p), aux.trace)
        return velocity, Squares(nu, (1 / h).astype(aux.age.dtype), mu, trace)

    def part(
        self, name: str, z: State, gradient: Gradient, h: Float[Array, ""], fraction: float
    ) -> tuple[PyTree[Array] | None, Squares]:
        """One of moments and descent."""
        params, aux = z
        grads = gradient.here(params)
        if name == "moments":
            kept = retained(self.decay, aux.age, fraction)
            return None, aux._replace(
                mu=optax.tree.update_moment(grads, aux.mu, kept, 1) if self.centered else (),
                nu=optax.tree.update_moment_per_elem_norm(grads, aux.nu, kept, 2),
                age=aux.age + fraction,
            )
        direction = self.direction(grads, aux)
        update = jax.tree.map(lambda u: scaled(-fraction * h, u), direction)
        if self.momentum is None:
            return update, aux
        kept = retained(self.momentum, aux.age - 1, fraction)
        trace = jax.tree.map(lambda u, p: u + kept * p, update, aux.trace)
        if self.nesterov:
            return jax.tree.map(lambda u, p: u + kept * p, update, trace), aux._replace(trace=trace)
        return trace, aux._replace(trace=trace)

    def descent(self, z: State, gradient: Gradient, *, seen: bool = False) -> PyTree[Array]:
        """The gradient over the root of its second moment."""
        params, aux = z
        if not seen:
            _, aux = self.part("moments", z, gradient, jnp.zeros([]), 1.0)
        return self.direction(gradient.here(params), aux)

    def direction(self, grads: PyTree[Array], aux: Squares) -> PyTree[Array]:
        """`g / sqrt(v + eps)` and its variants."""
        mu, nu = aux.mu, aux.nu
        if self.bias_correction:
            total = weight(self.decay, aux.age)
            mu, nu = _divided(mu, total), _divided(nu, total)
        if self.centered:
            nu = jax.tree.map(lambda v, m: v - _square(m), nu, mu)

        def leaf(v: Array, g: Array) -> Array:
            if self.eps_in_sqrt:
                return jax.lax.rsqrt(v + self.eps) * g
            return 1 / (jnp.sqrt(v) + self.eps) * g

        return jax.tree.map(leaf, nu, grads)


def _square(g: Array) -> Array:
    return jnp.square(g) if jnp.isrealobj(g) else (g * jnp.conj(g)).real.astype(g.dtype)


def _divided(moment: PyTree[Array], total: Array) -> PyTree[Array]:
    """`moment / total`, and 0 where nothing has been seen."""
    total = jnp.where(total == 0, 1.0, total)
    return jax.tree.map(lambda m: m / total.astype(m.dtype), moment)


def _relaxation(moment: PyTree[Array], target: PyTree[Array], rate: Array) -> PyTree[Array]:
    return jax.tree.map(lambda m, g: scaled(rate, g - m), moment, target)
