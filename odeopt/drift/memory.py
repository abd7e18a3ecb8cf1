r"""The counter-term of order 2 for steps with memory: heavy ball, Nesterov, RMSprop, Adam."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..flows import AbstractFlow, State
from ..objective import Objective
from ..sums import add
from .clip import AbstractCorrected, clipped


class Remembering(AbstractCorrected):
    r"""A flow with memory and the counter-term of `solvers.Lie()`; built by `corrected`.

    The parts are those of the flow. Its last part, which would move the parameters by $-hU$, moves
    them by $-h(U - hc)$. Here $hc$ is the change of $U$, to first order, if parameters change by
    $\tfrac12hU$, the gradient by $\tfrac12\delta$ and a moment $\sum_k w_kg_k$ by
    $\sum_k w_k(k + \tfrac12)\delta$ (`AbstractFlow.aged`), where $\delta = hHU$ is the gradient one
    step ago minus the present one.

    The momentum $m$ of a heavy ball starts at 0, so its first steps are short: step $n$ lasts
    $hw_n$ with $w_n = (1 - \mu^{n+1})/(1 - \mu)$ the weight of the gradients in it ($w_{n+1}$ with
    Nesterov's momentum), and the age of a gradient is measured in this time. On this clock the
    corrected iterates follow $\dot x = -\nabla E(x)$ from the first step on.
    With `derivatives` a Hessian product gives $\delta$ instead of a difference of gradients.
    """

    base: AbstractFlow
    clip: float | None
    derivatives: bool = eqx.field(static=True, default=False)

    linear: ClassVar[bool] = False
    gradient_part: ClassVar[str | None] = None
    no_field: ClassVar[str] = (
        "it is corrected for `solvers.Lie()` (for another, `drift.corrected(flow, solver, order)`)"
    )

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """Refused: the counter-term belongs to a splitting."""
        return AbstractFlow.increment(self, z, objective, h)

    def part(
        self, name: str, z: State, objective: Objective, h: Scalar, fraction: float | Array
    ) -> tuple[PyTree[Array] | None, PyTree[Array]]:
        """One of the flow's parts; the last part is corrected."""
        before = self.inner(z[1])
        moved, after = self.base.part(name, (z[0], before), objective, h, fraction)
        if name != self.parts[-1]:
            return moved, self.outer(z[1], after)
        term = self._counter_term((z[0], before), moved, objective, h)
        term, short = clipped(term, term, moved, self.clip)
        return jax.tree.map(jnp.subtract, moved, term), self.outer(z[1], after, short)

    def _counter_term(
        self, z: State, moved: PyTree[Array], objective: Objective, h: Scalar
    ) -> PyTree[Array]:
        """`-h^2 c`, the error of the plain step."""
        params, aux = z
        grads = objective.here(params)
        if self.derivatives:
            back = objective.product(params)(jax.tree.map(jnp.negative, moved))
        else:
            back = jax.tree.map(jnp.subtract, grads, objective.gradient(add(params, moved)))
        half_step = jax.tree.map(lambda u: -0.5 * u, moved)
        half = jax.tree.map(lambda d: 0.5 * d, back)

        def update(params: PyTree, grads: PyTree, aux: PyTree) -> PyTree:
            return self.base.part(
                self.parts[-1], (params, aux), objective.with_given(grads), h, 1.0
            )[0]

        primals = params, grads, aux
        tangents = half_step, half, self.base.aged(aux, grads, back)
        # None where nothing changes: a tangent of zeros would be multiplied with every leaf
        tangents = jax.tree.map(
            lambda x, t: None if t is None else t.astype(x.dtype), primals, tangents
        )
        _, term = eqx.filter_jvp(update, primals, tangents)
        # 0/0 where a second moment is 0: such a parameter has not moved and has no drift. If the
        # gradient is not finite, the term stays as it is: the clip leaves it out and counts it.
        return jax.tree.map(
            lambda t, b: jnp.where(jnp.isfinite(t) | ~jnp.isfinite(b), t, 0), term, back
        )


def with_memory(flow: AbstractFlow, order: int, form: str, clip: float | None) -> Remembering:
    """The corrected flow for `solvers.Lie()`; refuses an order above 2 and flows without `aged`."""
    if order > 2:
        raise ValueError(
            f"order is {order}: counter-terms of steps with memory are known to order 2."
        )
    one = jnp.ones([1, 1], float)  # some flows move matrices only
    for single in flow.each:  # raise an error now, not in a step
        jax.eval_shape(lambda x, flow=single: flow.aged(flow.init(x), x, x), one)
    return Remembering(flow, clip, form == "derivatives")
