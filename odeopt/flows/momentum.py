r"""Heavy-ball, Nesterov and relativistic flows. May use: `odeopt.objective`,
`odeopt.kernels`, `.clock`.

All three keep their momentum in units of the gradient, as optax's `trace` does: with the learning
rate $h = k^2$ and $\mu = e^{-\gamma k}$, $m = -v/k$ for the velocity of
$\ddot x + \gamma\dot x + \nabla E(x) = 0$ at time step $k$.
"""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..kernels import momentum_step, where
from ..objective import Gradient
from ..sums import inner, scaled
from .clock import Decay, check_decay, forgetting, moment_like, real, retained
from .flow import AbstractSplitFlow, State, Substeps


class Momentum(NamedTuple):
    """What moves with the parameters of a heavy ball.

    Attributes:
      momentum: the momentum, in units of the gradient; a tree like the parameters.
      age: steps since it was zero, as a real number.
    """

    momentum: PyTree[Array]
    age: Float[Array, ""]


class HeavyBallFlow(AbstractSplitFlow):
    r"""The heavy ball: $\dot x = -m$, $h\dot m = \nabla E(x) + m\ln\mu$.

    In the ball's own time, which runs in units of $\sqrt h$, this is
    $\ddot x + \gamma\dot x + \nabla E(x) = 0$ with friction $\gamma = -\ln\mu/\sqrt h$
    (`flows.friction`): momentum and learning rate together say how strong the friction is, and
    $n$ steps last $n\sqrt h$. Where friction dominates the ball follows gradient flow at the
    effective rate $h/(1-\mu)$.

    Its parts, each solved exactly: `friction` ($m \to \mu m$), `kick` ($m \to m + \nabla E(x)$),
    `drift` ($x \to x - hm$). Composed in this order they are optax's `sgd(h, momentum=mu)`.

    Args:
      momentum: $\mu$ in [0, 1), or `LogTime(r)` for friction that falls as $r/t$.
      dtype: dtype of the momentum; None for that of the parameters.

    Raises:
      ValueError: a momentum outside [0, 1).
    """

    momentum: Decay = eqx.field(converter=real)
    dtype: Any = eqx.field(static=True, default=None)

    parts: ClassVar[tuple[str, ...]] = ("friction", "kick", "drift")
    gradient_part: ClassVar[str | None] = "kick"
    look_ahead: ClassVar[bool | None] = False  # of the fused step; None where there is none

    def __check_init__(self) -> None:
        check_decay(momentum=self.momentum)

    def init(self, params: PyTree[Array]) -> Momentum:
        """At rest. One copy of the parameters."""
        momentum = moment_like(params, self.momentum, self.dtype)
        return Momentum(momentum, jnp.zeros([], float))

    def field(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> State:
        """`(-m, (g + m ln mu) / h)`; the age grows by 1 in a time `h`."""
        params, (momentum, age) = z
        rate = forgetting(self.momentum, age)
        slope = jax.tree.map(
            lambda g, m: scaled(1 / h, g - scaled(rate, m)), gradient.here(params), momentum
        )
        return self.velocity(momentum, h), Momentum(slope, (1 / h).astype(age.dtype))

    def velocity(self, momentum: PyTree[Array], h: Float[Array, ""]) -> PyTree[Array]:
        """`dx/dt`, which is `-m` here."""
        return jax.tree.map(jnp.negative, momentum)

    def part(
        self, name: str, z: State, gradient: Gradient, h: Float[Array, ""], fraction: float
    ) -> tuple[PyTree[Array] | None, Momentum]:
        """One of friction, kick and drift."""
        params, aux = z
        momentum, age = aux
        if name == "friction":
            kept = retained(self.momentum, age, fraction)
            return None, Momentum(jax.tree.map(lambda m: kept * m, momentum), age + fraction)
        if name == "kick":
            grads = gradient.here(params)
            kicked = jax.tree.map(
                lambda g, m: (g if fraction == 1 else fraction * g) + m, grads, momentum
            )
            return None, aux._replace(momentum=kicked)
        velocity = self.drift_velocity(z, gradient, h)
        return jax.tree.map(lambda v: scaled(fraction * h, v), velocity), aux

    def fused(
        self, substeps: Substeps, z: State, gradient: Gradient, h: Float[Array, ""], kernel: str
    ) -> tuple[PyTree[Array], Momentum] | None:
        """The whole step: `kernels.momentum_step`."""
        whole = [(part, 1.0) for part in self.parts]
        if self.look_ahead is None or not where(kernel, "momentum") or list(substeps) != whole:
            return None
        params, (momentum, age) = z
        update, momentum = momentum_step(
            h,
            gradient.here(params),
            momentum,
            retained(self.momentum, age),
            nesterov=self.look_ahead,
            kernel=kernel,
        )
        return update, Momentum(momentum, age + 1)

    def drift_velocity(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> PyTree[Array]:
        """`dx/dt` of the part `drift`, during which it does not change."""
        return self.velocity(z[1].momentum, h)


class NesterovFlow(HeavyBallFlow):
    r"""Nesterov's momentum: the heavy ball, looked at where its momentum alone would carry it.

    The parameters are $y = x - h\mu m$, as in optax; the gradient is taken there, and `drift` is
    $y \to y - h(\nabla E(y) + \mu m)$. The flow (the limit of small steps) is the heavy ball's.
    Two parts look at the gradient, so there is no symmetric splitting; and the step is not
    conformally symplectic.

    Args:
      momentum: $\mu$ in [0, 1), or `LogTime(r)`.
      dtype: dtype of the momentum; None for that of the parameters.
    """

    gradient_part: ClassVar[str | None] = None
    look_ahead: ClassVar[bool | None] = True

    def drift_velocity(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> PyTree[Array]:
        """`-(g + mu m)`."""
        params, (momentum, age) = z
        kept = retained(self.momentum, age - 1)  # of this step, which friction has counted
        return jax.tree.map(lambda g, m: -(g + kept * m), gradient.here(params), momentum)


class RelativisticFlow(HeavyBallFlow):
    r"""A heavy ball with a speed limit: $\dot x = -m/\sqrt{1 + \delta h^2\|m\|^2}$.

    A step is never longer than $1/\sqrt\delta$, however large the gradient: the norm runs over all
    parameters, so this is gradient clipping with a Hamiltonian structure (França, Sulam, Robinson
    and Vidal, arXiv:1903.04100). `delta=0` is the heavy ball.

    Args:
      momentum: $\mu$ in [0, 1), or `LogTime(r)`.
      dtype: dtype of the momentum; None for that of the parameters.
      delta: $\delta \ge 0$, one over the square of the longest step, in units of the parameters.

    Raises:
      ValueError: a negative `delta`.
    """

    delta: float = eqx.field(converter=real, default=0.0)

    look_ahead: ClassVar[bool | None] = None

    def __check_init__(self) -> None:
        if isinstance(self.delta, int | float) and not self.delta >= 0:
            raise ValueError(f"delta is {self.delta}; it is one over a squared length, at least 0.")

    def velocity(self, momentum: PyTree[Array], h: Float[Array, ""]) -> PyTree[Array]:
        """`-m / sqrt(1 + delta h^2 |m|^2)`."""
        length = inner(momentum, momentum) * h**2
        slowdown = jax.lax.rsqrt(1 + self.delta * length)
        return jax.tree.map(lambda m: scaled(-slowdown, m), momentum)
