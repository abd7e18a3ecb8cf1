"""The edge flow: an oscillating optimizer as a smooth motion of two points."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_kind
from ..sums import scaled
from .stepmap import StepMap, fitting_step


class Edge(NamedTuple):
    """A point of the edge flow.

    Attributes:
      centre: the point around which the iterates oscillate, a tree like the parameters.
      amplitude: half the difference of two successive iterates, a tree like the parameters.
    """

    centre: PyTree[Array]
    amplitude: PyTree[Array]


class EdgeFlow:
    """The result of `edge_flow`: a vector field, `field(edge, h)`, and its start."""

    def __init__(self, step: StepMap) -> None:
        self._step = fitting_step(step)

    def __call__(self, edge: Edge, h: float | Scalar) -> Edge:
        """The derivative of centre and amplitude, for steps of size h."""
        check_kind(Edge, "drift.Edge(centre, amplitude), or field.start(params, h)", edge=edge)
        h = jnp.asarray(h, float)
        one = self._step(jax.tree.map(jnp.add, *edge), h)
        other = self._step(jax.tree.map(jnp.subtract, *edge), h)

        def slope(sign: int, old: PyTree[Array]) -> PyTree[Array]:
            new = jax.tree.map(lambda x, y: 0.5 * (y + sign * x), one, other)
            return jax.tree.map(lambda x, y: scaled(1 / h, x - y), new, old)

        return Edge(slope(1, edge.centre), slope(-1, edge.amplitude))

    def start(self, params: PyTree[Array], h: float | Scalar) -> Edge:
        """The point with centre `params`, and half of the first step, reversed, as amplitude."""
        after = self._step(params, jnp.asarray(h, float))
        return Edge(params, jax.tree.map(lambda x, y: 0.5 * (x - y), params, after))


def edge_flow(step: StepMap) -> EdgeFlow:
    r"""The edge flow: the flow of an optimizer at the edge of stability, oscillation included.

    Oscillating iterates alternate between $x_n \approx c \pm a$. For any step map $\Phi_h$, these
    two points satisfy $c_{n+1} = \tfrac12(\Phi_h(c + a) + \Phi_h(c - a))$ and
    $a_{n+1} = \tfrac12(\Phi_h(c - a) - \Phi_h(c + a))$ exactly. The edge flow is the smooth flow of
    these increments:

    $$\dot c = \frac{\tfrac12(\Phi_h(c + a) + \Phi_h(c - a)) - c}h,\qquad
    \dot a = \frac{\tfrac12(\Phi_h(c - a) - \Phi_h(c + a)) - a}h.$$

    For gradient descent $\dot c$ is minus the mean gradient of both points, which moves the centre
    away from sharp places by $\tfrac12\nabla\langle H, aa^T\rangle$, and $a$ grows in directions
    with $h\lambda > 2$ and shrinks in others: this keeps the curvature at $2/h$. In general, with
    the stability polynomial $P$, $a$ grows where $P(h\lambda) < -1$: at the limit $R/h$ of every
    method with $P(R) = -1$ (Euler, SSPRK3, the heavy ball with its momentum in the parameters'
    tree). For methods with $P(R) = +1$ (Heun, RK4) the iterates do not oscillate: $a$ decays to 0
    and $c$ follows $(\Phi_h(c) - c)/h$, the mean gradient of a step, which turns away from the edge
    by itself.

    Euler's method with step size h on this flow is the optimizer itself, started at c + a. An
    evaluation costs two steps: 2 gradients for gradient descent. A point takes 2 copies of the
    parameters.

    Args:
      step: the step map `(y, h) -> y`, such as `drift.step_map(solver, field)`; any memory of the
        optimizer must be part of y.

    Returns:
      `field(edge, h)` on `Edge(centre, amplitude)`; for diffrax
      `ODETerm(lambda t, y, h: field(y, h))`, with `args=h`. And `field.start(params, h)`.

    Raises:
      TypeError: something that is not a step map; from the field, a point that is not an `Edge`.
      ValueError: from the field: a step map whose values are not trees like y.

    References: an ODE with the size of the oscillation is the idea of Edge flow (arXiv:2606.18080);
    this form, for any step map, is derived here.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> loss = lambda y: 0.5 * y[1] * y[0] ** 2 - 3.0 * y[1]  # y[1] is the curvature along y[0]
      >>> step = odeopt.drift.step_map(odeopt.solvers.Euler(), lambda y: -jax.grad(loss)(y))
      >>> field = odeopt.drift.edge_flow(step)
      >>> rest = odeopt.drift.Edge(jnp.array([0.0, 20.0]), jnp.array([6.0**0.5, 0.0]))
      >>> bool(jnp.all(jnp.abs(field(rest, 0.1).centre) < 1e-5))  # the two-cycle at 2 / h
      True
    """
    if not callable(step):
        raise TypeError(
            f"step is {step!r:.80}; pass a step map `(y, h) -> y`, such as "
            "`drift.step_map(solver, field)`."
        )
    return EdgeFlow(step)
