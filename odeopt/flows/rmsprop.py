r"""RMSprop's flow."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_flags, check_least
from ..objective import Objective
from ..sums import multiple, scaled
from .clock import as_decay, check_decay, moment_like, real
from .flow import AbstractFlow, Moved, Share, State
from .moments import abs_square, aged, averaged, relaxation, settled, squares_change, wide


class Squares(NamedTuple):
    """The auxiliary variables of RMSprop's flow.

    Attributes:
      nu: the second moment, a tree like the parameters.
      age: steps since the start, as a real number.
      mu: the first moment if the second is centered, else `()`.
      trace: the momentum, in units of the parameters; `()` where there is none.
    """

    nu: PyTree[Array]
    age: Scalar
    mu: PyTree[Array]
    trace: PyTree[Array]


class RMSpropFlow(AbstractFlow):
    r"""RMSprop's flow: $\dot x = -g/\sqrt{v + \epsilon}$, $\tau\dot v = g^2 - v$.

    $\tau = -h/\ln b$ for the decay $b$ per step. With `centered`, $v - |m|^2$ replaces $v$, where
    $\tau\dot m = g - m$ and a negative difference counts as 0. With momentum $\mu$ the
    update itself is accumulated: $h\dot x = p$, $h\dot p = p\ln\mu - hg/\sqrt{v + \epsilon}$. At
    $t = 0$ the field is $-g/\sqrt\epsilon$, unless there is bias correction or an `initial_scale`.

    The parts are `moments`, solved exactly, and `descent`, a step of Euler's method. Composed in
    this order they are `optax.rmsprop`. Both use the gradient: there is no symmetric splitting.

    The arguments are those of `odeopt.rmsprop`.

    Raises:
      ValueError: `decay` or `momentum` outside [0, 1), a negative `eps` or `initial_scale`.
    """

    decay: Any = eqx.field(converter=as_decay, default=0.9)
    eps: float = eqx.field(converter=real, default=1e-8)
    initial_scale: float = eqx.field(converter=real, default=0.0)
    eps_in_sqrt: bool = eqx.field(static=True, default=True)
    centered: bool = eqx.field(static=True, default=False)
    momentum: Any = eqx.field(converter=as_decay, default=None)
    nesterov: bool = eqx.field(static=True, default=False)
    bias_correction: bool = eqx.field(static=True, default=False)

    linear: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("moments", "descent")
    gradient_part: ClassVar[str | None] = None

    def __check_init__(self) -> None:
        check_decay(decay=self.decay)
        check_least(0, eps=self.eps, initial_scale=self.initial_scale)
        check_flags(eps_in_sqrt=self.eps_in_sqrt, centered=self.centered, nesterov=self.nesterov)
        check_flags(bias_correction=self.bias_correction)
        if self.momentum is not None:
            check_decay(momentum=self.momentum)

    def init(self, params: PyTree[Array]) -> Squares:
        """Memory: a copy of the parameters, one more if `centered`, and one more with momentum."""
        return Squares(
            optax.tree.full_like(moment_like(params, self.decay), self.initial_scale),
            jnp.zeros([], float),
            moment_like(params, self.decay) if self.centered else (),
            optax.tree.zeros_like(params) if self.momentum is not None else (),
        )

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """`(-h g / sqrt(v + eps), -(g - m) ln b, -(g^2 - v) ln b)`, with momentum if any."""
        params, aux = z
        grads = objective.here(params)
        rate = self.decay.forgetting(aux.age)
        mu = relaxation(aux.mu, grads, rate) if self.centered else ()
        nu = relaxation(aux.nu, self._squares(grads), rate)
        update = multiple(-h, self.direction(grads, aux))
        trace: PyTree[Array] = ()
        if self.momentum is not None:
            lost = self.momentum.forgetting(aux.age)
            trace = jax.tree.map(lambda v, p: v - scaled(lost, p), update, aux.trace)
            update = aux.trace
        return update, Squares(nu, jnp.ones_like(aux.age), mu, trace)

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        params, aux = z
        grads = objective.here(params)
        if name == "moments":
            kept = self.decay.retained(aux.age, fraction)
            return None, aux._replace(
                mu=averaged(aux.mu, grads, kept) if self.centered else (),
                nu=averaged(aux.nu, wide(grads, self.decay), kept, order=2),
                age=aux.age + fraction,
            )
        update = multiple(-fraction * h, self.direction(grads, aux))
        if self.momentum is None:
            return update, aux
        kept = self.momentum.retained(aux.age - 1, fraction)
        trace = jax.tree.map(lambda u, p: u + kept * p, update, aux.trace)
        ahead = jax.tree.map(lambda u, p: u + kept * p, update, trace) if self.nesterov else trace
        return ahead, aux._replace(trace=trace)

    def descent(self, z: State, objective: Objective, *, seen: bool = False) -> PyTree[Array]:
        """The gradient over the root of its second moment."""
        params, aux = z
        if not seen:
            _, aux = self.part("moments", z, objective, jnp.zeros([]), 1.0)
        return self.direction(objective.here(params), aux)

    def aged(self, aux: Squares, grads: PyTree[Array], back: PyTree[Array]) -> PyTree[Array]:
        """The second moment changes by its mean age times the change of the square."""
        if self.centered or self.momentum is not None:
            raise ValueError(
                "The counter-term of RMSpropFlow with centered or momentum is not known: omit both."
            )
        squares = jax.tree.map(squares_change, grads, back)
        nu = aged(aux.nu, squares, self.decay, aux.age)
        return aux._replace(nu=nu, age=None)  # type: ignore[arg-type]

    def direction(self, grads: PyTree[Array], aux: Squares) -> PyTree[Array]:
        """`g / sqrt(v + eps)` and its variants."""
        mu, nu = aux.mu, aux.nu
        if self.bias_correction or self.decay.unbiased:
            nu = settled(nu, self.decay, aux.age, self._squares(grads))
            mu = settled(mu, self.decay, aux.age, grads) if self.centered else ()
        if self.centered:
            nu = jax.tree.map(lambda v, m: v - abs_square(m), nu, mu)

        def leaf(v: Array, g: Array) -> Array:
            v = jnp.where(jnp.real(v) < 0, 0, v)  # it may be negative at a Runge-Kutta stage
            below = v + self.eps if self.eps_in_sqrt else jnp.sqrt(v) + self.eps
            below = jnp.where(below == 0, 1, below)  # float16 rounds eps to 0
            over = jax.lax.rsqrt(below) if self.eps_in_sqrt else 1 / below
            return over * g.astype(over.dtype)

        return jax.tree.map(leaf, nu, grads)

    def _squares(self, grads: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(abs_square, wide(grads, self.decay))
