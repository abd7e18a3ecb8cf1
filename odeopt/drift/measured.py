"""How far the next step of an optimizer leaves its flow. May use: `.corrected`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..diagnostics.drift import Drift, ratio
from ..flows import AbstractFlow
from ..objective import Gradient, Objective
from ..solvers import Solver, as_method
from ..sums import inner, norm
from .corrected import corrected


def step_drift(
    flow: AbstractFlow,
    solver: Solver,
    value_fn: Callable[..., Any],
    params: PyTree[Array],
    learning_rate: float | Float[Array, ""],
    aux: PyTree[Array] = None,
    **arguments: Any,
) -> Drift:
    r"""The drift of any optimizer whose counter-term is known, from where its training is.

    The next step with and without its leading counter-term (`drift.corrected`, to one order more
    than the solver's, no clip): what they differ by is drift, to leading order, memory and
    preconditioner included. For Euler's method on gradient flow this is `diagnostics.drift`.

    Costs, in gradients: 2 for Euler's method, momentum and Adam; of other Runge-Kutta methods two
    steps and, in every stage of one, `drift.differentials.cost` evaluations of the field, which is
    2 more for an even order of 2, some 60 for RK4.

    Args:
      flow: what the optimizer follows, e.g. `flows.AdamFlow(0.9, 0.999)`.
      solver: what steps it: a Runge-Kutta solver, or `solvers.Lie()` for momentum and Adam.
      value_fn: the loss, `value_fn(params, ...)`, a scalar or `(scalar, aux)`.
      params: where the optimizer is.
      learning_rate: h, the size of the next step.
      aux: the auxiliary variables there, `state.aux`; None before the first step.
      arguments: forwarded to `value_fn` by name, as `update` does; `full_params` too.

    Returns:
      `diagnostics.Drift`: `size` is what drift adds to the next step, in units of the parameters;
      `relative` and `cosine` compare it with that step, $hu$, in place of the gradient. It is one
      term: its share `own` is 1, or 0 where there is none.

    Raises:
      ValueError: a flow or solver without known drift; see `drift.corrected`.

    Derived here; `tests/drift/test_measured.py` compares with the distance to the flow.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 4.0]) * x**2)
      >>> flow, solver = odeopt.flows.HeavyBallFlow(0.9), odeopt.solvers.Lie()
      >>> opt = odeopt.ode_optimizer(flow, solver, 1e-3)
      >>> x = jnp.ones(2)
      >>> state = opt.init(x)
      >>> found = odeopt.drift.step_drift(flow, solver, loss, x, 1e-3, state.aux)
      >>> print(f"{found.relative:.4f}")  # of the first step: (h / 2) |Hg| / |g|
      0.0019
    """
    method = as_method(solver)
    h = jnp.asarray(learning_rate, float)
    aux = flow.init(params) if aux is None else aux
    objective = Objective({**arguments, "value_fn": value_fn})
    start = objective(params, 0)

    def update(flow: AbstractFlow) -> PyTree[Array]:
        method.check(flow)
        z = params, aux
        return method.step(flow, Gradient(start, objective), z, h, method.init(z)).update

    step = update(flow)
    corrected_step = update(corrected(flow, solver, (method.order or 1) + 1, clip=None))
    drift = jax.tree.map(jnp.subtract, step, corrected_step)
    size, length = norm(drift), norm(step)
    one = jnp.where(size > 0, 1.0, 0.0)
    none = jnp.zeros_like(one)
    return Drift(
        size, ratio(size, length), ratio(inner(drift, step), size * length), one, none, none
    )
