r"""Heavy-ball, Nesterov and relativistic flows.

All three keep their momentum in units of the gradient, as optax's `trace` does: with the learning
rate $h = k^2$ and $\mu = e^{-\gamma k}$, $m = -v/k$ for the velocity $v$ of
$\ddot x + \gamma\dot x + \nabla E(x) = 0$ with time step $k$.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arguments import over_own
from ..arrays import Scalar
from ..checks import check_least
from ..kernels import momentum_step
from ..objective import Objective
from ..sums import inner, multiple, scaled
from .clock import as_decay, check_decay, moment_like, real
from .flow import AbstractFlow, Fused, Moved, Share, State, Substeps


class Momentum(NamedTuple):
    """The auxiliary variables of a heavy ball.

    Attributes:
      momentum: the momentum, in units of the gradient; a tree like the parameters.
      age: steps since it was zero, as a real number.
    """

    momentum: PyTree[Array]
    age: Scalar


class HeavyBallFlow(AbstractFlow):
    r"""The heavy ball: $\dot x = -m$, $h\dot m = \nabla E(x) + m\ln\mu$.

    In the ball's own time, which runs in units of $\sqrt h$, this is
    $\ddot x + \gamma\dot x + \nabla E(x) = 0$ with friction $\gamma = -\ln\mu/\sqrt h$
    (`flows.friction`). Momentum and learning rate together set the friction, and $n$ steps last
    $n\sqrt h$. Where friction dominates, the ball follows gradient flow at the effective rate
    $h/(1-\mu)$.

    The parts, each solved exactly, are `friction` ($m \to \mu m$), `kick`
    ($m \to m + \nabla E(x)$) and `drift` ($x \to x - hm$). Composed in this order they are optax's
    `sgd(h, momentum=mu)`.

    Args:
      momentum: $\mu$ in [0, 1), or `LogTime(r)` for friction that falls as $r/t$.
      dtype: dtype of the momentum; None for that of the parameters.

    Raises:
      ValueError: a momentum outside [0, 1).
    """

    momentum: Any = eqx.field(converter=as_decay)
    dtype: Any = eqx.field(static=True, default=None)

    parts: ClassVar[tuple[str, ...]] = ("friction", "kick", "drift")
    gradient_part: ClassVar[str | None] = "kick"
    look_ahead: ClassVar[bool | None] = False  # of the fused step; None without one

    def __check_init__(self) -> None:
        check_decay(momentum=self.momentum)

    def init(self, params: PyTree[Array]) -> Momentum:
        """Zero momentum. Memory: one copy of the parameters."""
        return Momentum(moment_like(params, self.momentum, self.dtype), jnp.zeros([], float))

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """`(-h m, g + m ln mu)`; the age grows by 1."""
        params, (momentum, age) = z
        rate = self.momentum.forgetting(age)
        slope = jax.tree.map(
            lambda g, m: (g - scaled(rate, m)).astype(m.dtype), objective.here(params), momentum
        )
        return self.moved(momentum, h), Momentum(slope, jnp.ones_like(age))

    def moved(self, momentum: PyTree[Array], h: Scalar, fraction: Share = 1.0) -> PyTree[Array]:
        """`fraction * h dx/dt`: `-fraction h m`, times the speed."""
        return multiple(-fraction * h * self.speed(momentum, h), momentum)

    def part(self, name: str, z: State, objective: Objective, h: Scalar, fraction: Share) -> Moved:
        params, (momentum, age) = z
        if name == "friction":
            kept = self.momentum.retained(age, fraction)
            return None, Momentum(jax.tree.map(lambda m: kept * m, momentum), age + fraction)
        if name == "kick":
            grads = objective.here(params)
            if fraction != 1:
                grads = jax.tree.map(lambda g: fraction * g, grads)
            return None, Momentum(jax.tree.map(jnp.add, grads, momentum), age)
        return self.drift(z, objective, h, fraction), z[1]

    def fused(self, substeps: Substeps, z: State, objective: Objective, h: Scalar) -> Fused:
        """The whole step: `kernels.momentum_step`."""
        if self.look_ahead is None or [*substeps] != [(part, 1.0) for part in self.parts]:
            return None
        params, (momentum, age) = z
        kept = self.momentum.retained(age)
        update, momentum = momentum_step(
            h, objective.here(params), momentum, kept, nesterov=self.look_ahead
        )
        return update, Momentum(momentum, age + 1), 0

    def drift(self, z: State, objective: Objective, h: Scalar, fraction: Share) -> PyTree[Array]:
        """The update of the part `drift`, during which the velocity is constant."""
        return self.moved(z[1].momentum, h, fraction)

    def aged(self, aux: Momentum, grads: PyTree[Array], back: PyTree[Array]) -> PyTree[Array]:
        r"""The momentum changes by $\sum_{k<n}\mu^k(t_k/w + \tfrac12)\delta$.

        On the ball's own clock a step lasts as long as the total weight of the gradients in its
        momentum: $w$ for this step, and $t_k$ for the $k$ steps before it.
        """
        mu = self.momentum.fixed()
        age = aux.age
        lost, last = 1 - mu, mu ** (age - 1)
        ahead = mu if self.look_ahead else 1.0
        total = (1 - mu * last) / lost
        step = (1 - mu * last * ahead) / lost
        ages = mu * (1 - age * last + (age - 1) * last * mu) / lost**2
        early = mu * ahead * last * (age - total) / lost
        factor = (ages - early) / (lost * step) + total / 2
        changed = jax.tree.map(lambda d, m: scaled(factor, d).astype(m.dtype), back, aux.momentum)
        return Momentum(changed, None)  # type: ignore[arg-type]

    def rest(self, z: State, h: Scalar, fraction: float) -> "Resting":
        """One scalar: the drift has moved the parameters by a multiple of the momentum."""
        return Resting(fraction * h * self.speed(z[1].momentum, h))

    def speed(self, momentum: PyTree[Array], h: Scalar) -> float | Array:
        """The speed: a factor of the drift's velocity, 1 for a heavy ball."""
        return 1.0


class Resting(NamedTuple):
    """The scalar that undoes the drift beyond the end of a step (`Strang`) of a heavy ball."""

    time: Scalar  # a factor of the momentum

    def readout(self, params: PyTree[Array], aux: Momentum) -> PyTree[Array]:
        """The parameters at the end of the step."""
        return over_own(lambda p, m: p + scaled(self.time, m).astype(p.dtype), params, aux.momentum)


class NesterovFlow(HeavyBallFlow):
    r"""Nesterov's momentum: a heavy ball with the gradient at the point to which momentum leads.

    The parameters are that point, $y = x - h\mu m$, as in optax; `drift` is
    $y \to y - h(\nabla E(y) + \mu m)$. The flow (the limit of small steps) is the heavy ball's.
    Two parts use the gradient, so there is no symmetric splitting; and the step is not
    conformally symplectic. The arguments are those of `HeavyBallFlow`.
    """

    gradient_part: ClassVar[str | None] = None
    look_ahead: ClassVar[bool | None] = True

    def drift(self, z: State, objective: Objective, h: Scalar, fraction: Share) -> PyTree[Array]:
        """`-fraction h (g + mu m)`."""
        params, (momentum, age) = z
        kept = self.momentum.retained(age - 1)  # friction has counted this step already
        ahead = jax.tree.map(lambda g, m: g + kept * m, objective.here(params), momentum)
        return multiple(-fraction * h, ahead)


class RelativisticFlow(HeavyBallFlow):
    r"""A heavy ball with a speed limit: $\dot x = -m/\sqrt{1 + \delta h^2\|m\|^2}$.

    A step is never longer than $1/\sqrt\delta$, however large the gradient: the norm runs over all
    parameters, so this is gradient clipping with a Hamiltonian structure (França, Sulam, Robinson
    and Vidal, arXiv:1903.04100). `delta=0` is the heavy ball. The other arguments are
    those of `HeavyBallFlow`.

    Args:
      delta: $\delta \ge 0$, one over the square of the longest step, in units of the parameters.

    Raises:
      ValueError: a negative `delta`.
    """

    delta: float = eqx.field(converter=real, default=0.0)

    look_ahead: ClassVar[bool | None] = None

    def __check_init__(self) -> None:
        check_least(0, delta=self.delta)

    def aged(self, aux: Momentum, grads: PyTree[Array], back: PyTree[Array]) -> PyTree[Array]:
        """Refused: the length of a step on the ball's clock depends on all of its momentum."""
        return AbstractFlow.aged(self, aux, grads, back)

    def speed(self, momentum: PyTree[Array], h: Scalar) -> Scalar:
        """`1 / sqrt(1 + delta h^2 |m|^2)`."""
        return jax.lax.rsqrt(1 + self.delta * inner(momentum, momentum) * h**2)
