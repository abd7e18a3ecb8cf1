"""Corrected flows: counter-terms that cancel the drift of a solver in advance."""

import functools
import math
from typing import Any, ClassVar, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp

from ..arrays import Scalar
from ..checks import check_kind
from ..flows import AbstractFlow, State
from ..kernels import combination
from ..objective import Objective
from ..solvers import AbstractMethod, Solver, Tableau, as_method
from ..sums import add
from .clip import AbstractCorrected, check_clip, clipped
from .differentials import VectorField, derivatives_along, series
from .memory import with_memory
from .regularized import regularized
from .trees import Pair, butcher, check_order, is_pair, modifying_integrator, tree

Form: TypeAlias = Literal["difference", "derivatives"]
CLIP = 0.5  # beyond half of what it corrects, a term is outside the range where its series helps

# Tableaus whose mean slope is f + (h/2) f'f + ... to that order: the field that Euler needs.
_MEAN_SLOPES = {
    2: Tableau(a=[[1 / 2]], b=[0, 1]),
    3: Tableau(a=[[1 / 3], [0, 2 / 3]], b=[1 / 4, 0, 3 / 4]),
    4: Tableau(a=[[1 / 2], [0, 1 / 2], [0, 0, 1]], b=[1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}


def corrected(
    flow: AbstractFlow,
    solver: Solver | Pair,
    order: int,
    *,
    form: Form | None = None,
    clip: float | None = CLIP,
) -> AbstractFlow:
    r"""The flow to pass to `solver` so that its steps follow `flow` with order `order`.

    A solver of order $q$ follows another field than its own, $f + h^qf_{q+1} + \dots$
    (`drift.modified_equation`). If it is given $f$ with counter-terms, it follows $f$:

    - Runge-Kutta methods, by `drift.modifying_integrator`, to any order up to 6. For Euler's method
      on gradient flow the step is along $g - \tfrac h2Hg + \tfrac{h^2}6(HHg + E'''(g, g))$.
    - `solvers.Lie()` on the heavy ball, Nesterov's momentum, RMSprop, Adam(W), Muon's flow and,
      while its bases stay, SOAP's, to order 2: a step $x^+ = x - hU$ follows $\dot x = -u - hc$.
      Here $u$ is the value of $U$ if all past gradients equalled the present one, and
      $$c = \textstyle\sum_k k\,(d_kU)u + \tfrac12(Du)u$$
      with $d_k$ the derivative in the gradient of $k$ steps ago. So every moment is advanced by its
      mean age and half a step, the gradient by half a step, from the first step on. The heavy ball
      follows $\dot x = -E'$ in a time of its own: step n, from 0, lasts
      $h(1 - \mu^{n+1})/(1 - \mu)$, with Nesterov's momentum $h(1 - \mu^{n+2})/(1 - \mu)$. Adam
      follows $\dot x = -g/(|g| + \epsilon) - wx$. Heavy balls of different momentum in a
      `GroupedFlow` have different times, so order 2 begins once their momenta have settled.
    - Implicit and (with `curvature="hessian"`) linearly implicit Euler on gradient flow, to order
      2, by the penalty $+\tfrac h4\|\nabla E\|^2$ (`regularized`), since their error is that of
      Euler's method with the opposite sign. On a quadratic the step is $1/(1 + z + z^2/2)$, still
      L-stable.

    Forms: `"difference"` takes gradients at shifted points. For Euler's method these are the stages
    of a Runge-Kutta method (the midpoint rule for order 2): 1, 2 or 3 more gradients for order 2,
    3, 4. With memory $hHU \approx g(x) - g(x - hU)$: 1 more gradient, at the end of the plain step.
    `"derivatives"` takes Hessian products and their derivatives; all other tableaus use it.
    Differences are relative to the gradient that `update` is given: a clip or a decay before it in
    a chain would count as drift. Pass it as `stage_transform=`, which changes all gradients.

    Args:
      flow: the flow to follow: any flow with a field, e.g. `flows.GradientFlow()`; with `Lie()` one
        of `HeavyBallFlow`, `NesterovFlow`, `RMSpropFlow`, `AdamFlow`, `SpectralFlow`,
        `KroneckerFlow` with fixed decays.
      solver: the solver that will step it, see `modified_equation`; also `solvers.Lie()`.
      order: order of the result. Up to the order of the solver there is nothing to cancel, and the
        flow itself is returned.
      form: None for differences where they exist.
      clip: the largest counter-term, relative to the norm of what it corrects; None for no limit.
        Beyond that the series does not converge: a longer term is shortened to this length, and a
        term that is not finite is left out. `optax.tree.get(state, "clipped")` counts such steps.
        The penalty of implicit methods has neither clip nor form.

    Returns:
      A flow for `ode_optimizer(flow, solver, h)`, which then needs `value_fn=` in `update`. With a
      clip its state holds one more number than that of `flow`.

    Raises:
      ValueError: an order outside 1 to 6, or above 2 with memory; an unknown form; `form` or `clip`
        for an implicit method; a flow or solver without known drift.
      TypeError: something that is not a flow or a solver.

    References: Chartier, Hairer and Vilmart, Math. Comp. 76 (2007), for modifying integrators;
    Barrett and Dherin, arXiv:2009.11162, for $\tfrac h4\|\nabla E\|^2$. The formula with memory is
    derived here; orders, with wrong factors as control, in `tests/drift/test_corrected.py` and
    `test_memory.py`.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> flow = odeopt.drift.corrected(odeopt.flows.GradientFlow(), odeopt.solvers.Euler(), 2)
      >>> opt = odeopt.ode_optimizer(flow, odeopt.solvers.Euler(), 0.1)
      >>> loss, x = lambda x: 0.5 * x**2, jnp.float32(1.0)
      >>> updates, state = opt.update(x, opt.init(x), x, value_fn=loss)
      >>> x + updates  # 1 - h + h^2 / 2, as exp(-h)
      Array(0.905, dtype=float32)
    """
    check_kind(AbstractFlow, "flows.GradientFlow()", flow=flow)
    check_order(order=order)
    check_clip(clip)
    if form not in (None, "difference", "derivatives"):
        raise ValueError(f'form is {form!r}; it is "difference", "derivatives" or None.')
    change = functools.partial(_counter, solver=solver, order=order, form=form, clip=clip)
    return flow.around(change)


def _counter(
    flow: AbstractFlow, solver: Solver | Pair, order: int, form: Form | None, clip: float | None
) -> AbstractFlow:
    """The flow with the counter-terms that its solver needs."""
    if not is_pair(solver):
        method = as_method(solver)  # type: ignore[arg-type]
        if method.counter_term == "memory":
            return flow if order == 1 else with_memory(flow, order, form or "difference", clip)
        if method.counter_term != "series":
            if form is not None or clip not in (CLIP, None):
                raise ValueError(
                    f"{type(method).__name__} is corrected by a penalty, which has neither form "
                    "nor clip: drop form= and clip=."
                )
            return _by_potential(flow, method, order)
    pair = butcher(solver)
    coefficients = modifying_integrator(solver, order)
    if all(value == 0 for t, value in coefficients.items() if t.nodes() > 1):
        return flow
    euler = len(pair[1]) == 1 and pair[0][0][0] == 0
    if form == "difference" and not (euler and order in _MEAN_SLOPES):
        raise ValueError(
            "Counter-terms by differences exist for Euler's method, to order "
            f'{max(_MEAN_SLOPES)}: drop form="difference", or use "derivatives".'
        )
    if euler and order in _MEAN_SLOPES and form != "derivatives":
        return Series(flow, clip, tableau=_MEAN_SLOPES[order])
    if euler:
        return Series(flow, clip, taylor=order)
    return Series(flow, clip, coefficients=tuple(coefficients.items()))


def _by_potential(flow: AbstractFlow, method: AbstractMethod, order: int) -> AbstractFlow:
    """For methods that descend a loss: the counter-term is the gradient of a penalty."""
    if order <= (method.order or 1):
        return flow
    if method.counter_term is None:
        raise ValueError(
            f"The drift of {type(method).__name__} is known with the Hessian of the whole loss "
            'only: pass curvature="hessian", fraction=1.0.'
        )
    if order > 2:
        raise ValueError(
            f"{type(method).__name__} descends a loss, and its counter-terms beyond order 2 are "
            f"not the gradient of one: order is {order}."
        )
    return regularized(flow, lambda h: h / 4)


class Series(AbstractCorrected):
    """A flow with the counter-terms of a Runge-Kutta method; built by `corrected`.

    The counter-terms are those of the field $hF$ at step size 1, so no power of h enters. They come
    from the mean slope of `tableau`, or from the total derivatives of the field up to the order
    `taylor`, or from a sum over trees, `coefficients`.
    """

    base: AbstractFlow
    clip: float | None
    tableau: Tableau | None = eqx.field(static=True, default=None)
    taylor: int = eqx.field(static=True, default=0)
    coefficients: tuple[tuple[Any, Any], ...] = eqx.field(static=True, default=())

    parts: ClassVar[tuple[str, ...]] = ()
    gradient_part: ClassVar[str | None] = None

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """The increment of `base` plus the counter-terms of a step of size `h`."""
        inside = z[0], self.inner(z[1])
        plain = self.base.increment(inside, objective, h)
        elsewhere = objective.elsewhere()

        def field(point: State) -> State:
            return self.base.increment(point, elsewhere, h)

        term = jax.tree.map(jnp.subtract, self._slope(field, inside, plain), plain)
        term, short = clipped(term, term[0], plain[0], self.clip)
        update, aux = jax.tree.map(jnp.add, plain, term)
        return update, self.moved(aux, short)

    def _slope(self, field: VectorField, z: State, plain: State) -> State:
        if self.tableau is not None:
            slopes = [plain]
            for row in self.tableau.a[1:]:
                slopes.append(field(add(z, combination(row, slopes))))
            return combination(self.tableau.b, slopes)
        if self.taylor:
            weights = [1 / math.factorial(n) for n in range(1, self.taylor + 1)]
            _, *terms = derivatives_along(field, field, z, self.taylor - 1, known=plain)
            return combination(weights, [plain, *terms])
        return series(dict(self.coefficients), field, z, 1.0, {tree("1"): plain})
