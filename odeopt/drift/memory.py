r"""The counter-term of order 2 for steps with memory: heavy ball, Nesterov, RMSprop, Adam.

May use: `odeopt.flows`, `odeopt.objective`, `.clip`.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..flows import (
    AbstractFlow,
    AbstractSplitFlow,
    AdamFlow,
    HeavyBallFlow,
    LogTime,
    NesterovFlow,
    RMSpropFlow,
    State,
)
from ..objective import Gradient
from .clip import Corrected, clipped


class Remembering(AbstractSplitFlow):
    r"""A flow with memory and the counter-term of `solvers.Lie()`; built by `corrected`.

    The parts are those of the flow. Its last one, which moves the parameters by $-hU$, moves them
    by $-h(U - hc)$, with $c$ the derivative of $U$ along: the parameters by $\tfrac12hU$, the
    gradient by $\tfrac12\delta$, a moment $\sum_k w_kg_k$ by $\sum_k w_k(k + \tfrac12)\delta$,
    where $\delta = hHU$ is what a gradient was more one step ago.

    The momentum $m$ of a heavy ball starts at 0, so its first steps are short: step $n$ lasts
    $hw_n$ with $w_n = (1 - \mu^{n+1})/(1 - \mu)$ the weight of the gradients in it ($w_{n+1}$ with
    Nesterov's momentum), and $k$ steps ago is that much time ago. At this clock the corrected
    iterates follow $\dot x = -\nabla E(x)$ from the first step on.

    Args:
      flow: a heavy ball, Nesterov's momentum, RMSprop or Adam, with fixed decays.
      clip: see `corrected`.
      derivatives: a Hessian product for $\delta$ instead of a difference of gradients.
    """

    flow: AbstractSplitFlow
    clip: float | None
    derivatives: bool = eqx.field(static=True, default=False)

    linear: ClassVar[bool] = False
    gradient_part: ClassVar[str | None] = None

    @property
    def parts(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the flow."""
        return self.flow.parts

    @property
    def needs_params(self) -> bool:
        """True: a gradient is taken elsewhere."""
        return True

    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        """That of the flow, and a counter of clipped steps."""
        aux = self.flow.init(params)
        return aux if self.clip is None else Corrected(aux, jnp.zeros([], float))

    def field(self, z: State, gradient: Gradient, h: Float[Array, ""]) -> State:
        """None: the counter-term is that of a splitting."""
        raise ValueError(
            f"This {type(self.flow).__name__} is corrected for `solvers.Lie()` and has no field "
            "for another solver: correct it for that one, `drift.corrected(flow, solver, order)`."
        )

    def part(
        self, name: str, z: State, gradient: Gradient, h: Float[Array, ""], fraction: float
    ) -> tuple[PyTree[Array] | None, PyTree[Array]]:
        """One of the flow's parts, the last of them corrected."""
        params, aux = z
        before = aux if self.clip is None else aux.aux
        moved, after = self.flow.part(name, (params, before), gradient, h, fraction)
        short: Any = False
        if name == self.parts[-1]:
            term = self._counter_term(params, before, moved, gradient, h)
            term, short = clipped(term, term, moved, self.clip)
            moved = jax.tree.map(jnp.subtract, moved, term)
        if self.clip is not None:
            after = Corrected(after, aux.clipped + jnp.where(short, 1.0, 0.0).astype(float))
        return moved, after

    def _counter_term(
        self,
        params: PyTree[Array],
        aux: Any,
        moved: PyTree[Array],
        gradient: Gradient,
        h: Float[Array, ""],
    ) -> PyTree[Array]:
        """`-h^2 c`, what the plain step moves too far."""
        grads = gradient.here(params)
        if self.derivatives:
            back = gradient.jvp(params, jax.tree.map(jnp.negative, moved))
        else:
            ahead = gradient(jax.tree.map(jnp.add, params, moved))
            back = jax.tree.map(jnp.subtract, grads, ahead)
        half_step = jax.tree.map(lambda u: -0.5 * u, moved)
        half = jax.tree.map(lambda d: 0.5 * d, back)
        moments, aged = _aged(self.flow, aux, grads, back)

        def update(params: PyTree, grads: PyTree, moments: dict[str, PyTree]) -> PyTree:
            seen = Gradient(grads, lambda point, stage: grads)
            return self.flow.part(self.parts[-1], (params, aux._replace(**moments)), seen, h, 1.0)[
                0
            ]

        primals = params, grads, moments
        _, term = jax.jvp(update, primals, (half_step, half, aged))
        # 0/0 where a second moment is 0: such a parameter has not moved and has no drift.
        return jax.tree.map(lambda t: jnp.where(jnp.isfinite(t), t, 0), term)

    def descent(self, z: State, gradient: Gradient, *, seen: bool = False) -> PyTree[Array]:
        """That of the flow."""
        inner_z = z if self.clip is None else (z[0], z[1].aux)
        return self.flow.descent(inner_z, gradient, seen=seen)


def with_memory(flow: AbstractFlow, order: int, form: str, clip: float | None) -> Remembering:
    """The corrected flow for `solvers.Lie()`.

    Raises:
      ValueError: an order above 2; a flow without known counter-term.
    """
    if order > 2:
        raise ValueError(
            f"order is {order}: counter-terms of steps with memory are known to order 2."
        )
    name = type(flow).__name__
    if not isinstance(flow, AbstractSplitFlow) or type(flow) not in _KNOWN:
        raise ValueError(
            f"No counter-term is known for `solvers.Lie()` on {name}. Known: "
            f"{', '.join(known.__name__ for known in _KNOWN)} with `Lie()`, and any flow with a "
            "Runge-Kutta method such as `solvers.Euler()`."
        )
    decays, options = _KNOWN[type(flow)]
    for decay in decays:
        if isinstance(getattr(flow, decay), LogTime):
            raise ValueError(
                f"{decay} is a clock; the counter-term of {name} needs a fixed number."
            )
    odd = [option for option in options if getattr(flow, option) not in (None, False)]
    if odd:
        raise ValueError(f"The counter-term of {name} with {', '.join(odd)} is not known: drop it.")
    return Remembering(flow, clip, form == "derivatives")


# decays that must be numbers, options without known counter-term
_KNOWN: dict[type[AbstractFlow], tuple[tuple[str, ...], tuple[str, ...]]] = {
    HeavyBallFlow: (("momentum",), ()),
    NesterovFlow: (("momentum",), ()),
    RMSpropFlow: (("decay",), ("centered", "momentum", "nesterov")),
    AdamFlow: (("b1", "b2"), ("nesterov", "exact_decay")),
}


def _aged(
    flow: AbstractFlow, aux: Any, grads: PyTree[Array], back: PyTree[Array]
) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    """The moments, and what each was more at the time that it stands for."""
    age = aux.age
    if isinstance(flow, HeavyBallFlow):
        return _scaled({"momentum": aux.momentum}, {"momentum": (_ball(flow, age), back)})

    def square(g: Array, d: Array) -> Array:
        return 2 * jnp.real(jnp.conj(g) * d)

    squares = jax.tree.map(square, grads, back)
    if isinstance(flow, AdamFlow):
        first, second = _average(flow.b1, age), _average(flow.b2, age)
        return _scaled({"mu": aux.mu, "nu": aux.nu}, {"mu": (first, back), "nu": (second, squares)})
    assert isinstance(flow, RMSpropFlow)
    return _scaled({"nu": aux.nu}, {"nu": (_average(flow.decay, age), squares)})


def _scaled(moments: dict, aged: dict) -> tuple[dict, dict]:
    def tangent(name: str) -> PyTree[Array]:
        factor, change = aged[name]
        return jax.tree.map(
            lambda d, m: (factor.astype(jnp.finfo(m.dtype).dtype) * d).astype(m.dtype),
            change,
            moments[name],
        )

    return moments, {name: tangent(name) for name in moments}


def _average(decay: Any, age: Float[Array, ""]) -> Array:
    r"""$\sum_{k<a} (1-b)b^k(k + \tfrac12)$: weight times mean age, of a running average."""
    kept = decay**age
    return decay * (1 - kept) / (1 - decay) - age * kept + 0.5 * (1 - kept)


def _ball(flow: HeavyBallFlow, age: Float[Array, ""]) -> Array:
    r"""$\sum_{k<a}\mu^k(t_k/w + \tfrac12)$: $t_k$ ago, at the ball's clock, was $k$ steps ago."""
    mu: Any = flow.momentum
    shift = 1 if isinstance(flow, NesterovFlow) else 0
    lost, last = 1 - mu, mu ** (age - 1)
    total = (1 - mu * last) / lost
    step = (1 - mu * last * mu**shift) / lost
    ages = mu * (1 - age * last + (age - 1) * last * mu) / lost**2
    early = mu ** (shift + 1) * last * (age - total) / lost
    return (ages - early) / (lost * step) + total / 2
