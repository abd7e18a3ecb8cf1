"""The largest stable step of a method on a flow."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..checks import check_kind, is_traced
from ..flows import AbstractFlow, GradientFlow
from ..objective import Objective
from .method import AbstractMethod

_MARGIN = 1e-7  # at a double root the spectral radius has an error of about the root of rounding
_TINY = 1e-7
_PRODUCTS = np.geomspace(1e-3, 1e5, 8001)  # tried first: 0.23 % apart


def stability_limit(flow: AbstractFlow, method: AbstractMethod) -> float:
    r"""The largest stable $h\lambda$ of `method` on `flow`, $R$.

    On $E = \tfrac\lambda2x^2$ a step is a linear map of parameters and auxiliary variables, the
    matrix $M(h\lambda)$. R is where its spectral radius first exceeds 1: 2 for gradient descent,
    2.785 for RK4, $2(1+\mu)$ for the heavy ball, $2(1+\mu)/(1+2\mu)$ with Nesterov's momentum.
    For a flow of groups, R is the least limit of the groups.
    Computed in float64 from steps that start at unit vectors; a clock is taken at its start.

    Args:
      flow: a flow that is linear in the gradient.
      method: a method that the flow admits.

    Raises:
      ValueError: a flow that normalizes its gradient (RMSprop, Adam), whose limit depends on the
        size of the gradient; momentum that is known at run time only; or a step without a limit
        between 1e-3 and 1e5, unless the method states its limit (A-stable methods state infinity).
      TypeError: something that is no flow, or no method (`as_method` converts a solver).
    """
    check_kind(AbstractFlow, "flows.GradientFlow()", flow=flow)
    check_kind(AbstractMethod, "solvers.as_method(odeopt.solvers.RK4())", method=method)
    if flow == GradientFlow() and method.stability_limit is not None:
        return method.stability_limit
    name = f"{type(method).__name__} on {type(flow).__name__}"
    if not flow.linear:
        raise ValueError(
            f"{type(flow).__name__} divides by the size of the gradient, or has a scale of its own "
            "beside it (a clip, say), so its largest stable step is not a multiple of 1/sharpness. "
            "Give its learning rate as a number, or use `stepsize.angle()`."
        )
    if is_traced(flow):
        raise ValueError(f"{name}: the limit needs hyper-parameters that are known beforehand.")
    if len(flow.each) > 1:
        return min(stability_limit(single, method) for single in flow.each)
    radius = _radius(flow.each[0], method)
    points = _PRODUCTS
    for _ in range(3):  # the same number of points, so that nothing is compiled again
        unstable = np.flatnonzero(radius(points) > 1 + _MARGIN)
        if len(unstable) == 0 or unstable[0] == 0:
            raise ValueError(f"{name} has no stability limit between 1e-3 and 1e5.")
        low, high = points[unstable[0] - 1], points[unstable[0]]
        points = np.linspace(low, high, len(points))
    return float(low)


def _radius(flow: AbstractFlow, method: AbstractMethod) -> Callable[[np.ndarray], np.ndarray]:
    """`products -> spectral radius` of the step's matrix at each of them."""
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        rest = jnp.zeros(1)
        z = rest, flow.init(rest)
        one = jnp.ones([])

        def stepped(point: tuple, product: jax.Array) -> tuple:
            params, aux, memory = point
            args = {"grad_fn": lambda p, stage: product * p}
            objective = Objective(args, given=product * params)
            taken = method.step(flow, objective, (params, aux), one, memory)
            return params + taken.update, taken.aux, taken.memory

        start = *z, method.init(flow, z)
        # Two steps at rest first, since the memory of a method may say whether it has begun.
        *_, warm = stepped(stepped(start, 0 * one), 0 * one)
        leaves, structure = jax.tree.flatten((*z, warm))
        moving = [i for i, leaf in enumerate(leaves) if leaf.shape == rest.shape]  # not the clock

        def step(state: jax.Array, product: jax.Array) -> jax.Array:
            point = list(leaves)
            for value, i in zip(state, moving, strict=True):
                point[i] = value[None]
            new = jax.tree.leaves(stepped(jax.tree.unflatten(structure, point), product))
            return jnp.concatenate([new[i] for i in moving])

        # Rows are images of unit vectors: a transpose has the same eigenvalues. The vectors are
        # tiny, since a flow may be linear near 0 only.
        rows = jax.vmap(jax.vmap(step, in_axes=(0, None)), in_axes=(None, 0))
        matrices = jax.jit(lambda p: rows(_TINY * jnp.eye(len(moving)), p) / _TINY)

    def radius(products: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            stacked = np.asarray(matrices(jnp.asarray(products)))
        return np.abs(np.linalg.eigvals(stacked)).max(axis=-1)

    return radius
