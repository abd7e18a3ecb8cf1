"""Gradient regularizers of a flow and of a mini-batch loss."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arguments import floating
from ..arrays import Scalar
from ..checks import check_finite, check_kind, check_positive
from ..flows import AbstractFlow
from ..flows.clock import real
from ..flows.wrapper import AbstractObjectiveWrapper
from ..losses import with_rows
from ..objective import Objective, Penalized
from ..sums import inner

Strength: TypeAlias = float | Scalar | Callable[[Scalar], Scalar]
"""A number, or a function of the step size."""


class RegularizedFlow(AbstractObjectiveWrapper):
    """The result of `regularized`: the flow `base` of a loss with a gradient penalty."""

    base: AbstractFlow
    strength: Strength

    needs_params: ClassVar[bool] = True  # for the Hessian product

    def __check_init__(self) -> None:
        if not callable(self.strength):
            check_finite(strength=self.strength)

    @property
    def linear(self) -> bool:
        """Whether `base` is linear and the strength a function of h, so that limits scale."""
        return self.base.linear and callable(self.strength)

    def seen(self, objective: Any, h: Scalar) -> Penalized:
        """The objective with the gradient `g + 2 strength Hg`."""
        strength = self.strength(h) if callable(self.strength) else self.strength
        return Penalized(objective, 2 * jnp.asarray(strength, float))


def regularized(flow: AbstractFlow, strength: Strength) -> RegularizedFlow:
    r"""The same flow of the loss $E + \mu\|\nabla E\|^2$: a gradient penalty without a third pass.

    Every gradient g of the flow becomes $g + 2\mu Hg$. With $\mu > 0$ this is explicit gradient
    regularization. Gradient descent has the implicit penalty $\mu = \tfrac h4$ (Barrett and Dherin,
    arXiv:2009.11162). So $\mu = +\tfrac h4$ doubles this penalty, and $\mu = -\tfrac h4$ cancels
    it, which gives order 2. For the heavy ball, $\mu = -\tfrac h4(1+b)/(1-b)^2$ cancels it.

    At $-\tfrac h4$ the stability polynomial is $1 - z + z^2/2$, whose limit is 2 as for Euler's
    method itself; at $+\tfrac h4$ the limit falls to $\sqrt5 - 1$.

    Each gradient of the flow costs one more Hessian product, counted as 2: Euler's step costs 3
    gradients instead of 1. `update` needs `value_fn=` and the parameters, also for one stage, so
    staged mode is not possible. Implicit and linearly implicit steps use the loss with the penalty;
    step-size rules see the loss without it, and a Gauss-Newton matrix has none of its curvature.

    Args:
      flow: any flow of a loss.
      strength: $\mu$, in units of flow time; or a function of the step size, for variable rates.

    Raises:
      TypeError: something that is not a flow.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> flow = odeopt.drift.regularized(odeopt.flows.GradientFlow(), lambda h: -h / 4)
      >>> opt = odeopt.ode_optimizer(flow, odeopt.solvers.Euler(), 0.1)
      >>> loss = lambda x: 0.5 * jnp.sum(x**2)
      >>> x = jnp.array([1.0, -2.0])
      >>> updates, state = opt.update(jax.grad(loss)(x), opt.init(x), x, value_fn=loss)
      >>> (x + updates).round(4)  # gradient flow has exp(-0.1) = 0.9048, Euler's method 0.9
      Array([ 0.905, -1.81 ], dtype=float32)
      >>> int(state.gradients)
      3
    """
    check_kind(AbstractFlow, "flows.GradientFlow()", flow=flow)
    return RegularizedFlow(flow, strength if callable(strength) else real(strength))


def gradient_penalty(
    value_fn: Callable[..., Any],
    params: PyTree[Array],
    /,
    *,
    batch_size: float | None = None,
    **batch: Any,
) -> Scalar:
    r"""The mean squared gradient of batches of any size, estimated from one batch of another size.

    Cut the batch of B samples into halves with gradients a and b. In the mean over batches drawn
    with replacement, $\langle a, b\rangle$ is $\|\nabla E\|^2$ of *all* the data, and
    $\tfrac12(\|a\|^2 + \|b\|^2)$ is the squared gradient of batches of $B/2$ samples. The variance
    of a gradient is inversely proportional to the batch size, so

    $$(1 - w)\langle a, b\rangle + \tfrac w2(\|a\|^2 + \|b\|^2),\qquad w = \frac B{2B'}$$

    is an unbiased estimate of $\mathbb E\|\nabla E_{B'}\|^2$, the penalty (times $\tfrac h4$) of
    gradient descent with batches of $B'$ samples, for any $B'$. For $B' = B$ it is the squared
    gradient of this batch. It may be negative. (The product of halves is in the authors' code for
    arXiv:2105.13922; the formula in B' is derived here.)

    Costs one gradient of the batch; its own gradient, by `jax.grad`, about 3.

    Args:
      value_fn: the loss, a mean over samples, `value_fn(params, ...)`.
      params: where the gradient is taken.
      batch_size: $B'$; None for all the data, the penalty of full-batch gradient descent.
      batch: arguments of `value_fn`, by name, with one row for each sample; `full_params` too,
        without rows.

    Raises:
      ValueError: a number of samples that is not even, or differs between arrays; a batch size
        that is not positive.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> loss = lambda x, shift: 0.5 * jnp.mean((x - shift) ** 2)
      >>> shift = jnp.array([-1.0, 1.0])
      >>> penalty = lambda **size: odeopt.drift.gradient_penalty(
      ...     loss, jnp.array(0.0), shift=shift, **size
      ... )
      >>> float(penalty(batch_size=2)), float(penalty(batch_size=1)), float(penalty())
      (0.0, 1.0, -1.0)
    """
    params = floating(params)
    parts = halved(batch, with_rows(batch) or ("batch",))
    if batch_size is not None:
        check_positive(batch_size=batch_size)
    a, b = (Objective.of(value_fn, part).gradient(params) for part in parts)
    half = len(jax.tree.leaves([parts[0][name] for name in with_rows(batch)])[0])
    weight = 0.0 if batch_size is None else half / batch_size
    return (1 - weight) * inner(a, b) + 0.5 * weight * (inner(a, a) + inner(b, b))


def halved(
    arguments: dict[str, Any], names: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two copies of the arguments, with the first and the second half of those in `names`."""
    missing = [name for name in names if name not in arguments]
    if missing:
        raise ValueError(f"{missing}, to be cut into halves, were not passed: pass them by name.")
    sizes = {jnp.shape(x)[:1] for name in names for x in jax.tree.leaves(arguments[name])}
    if names and (len(sizes) != 1 or (size := next(iter(sizes))) in {(), (0,)} or size[0] % 2):
        raise ValueError(
            f"{', '.join(names)}: leading axes {sorted(sizes)}; arguments that are cut into halves "
            "need the same even number of samples everywhere."
        )

    def half(rows: slice) -> dict[str, Any]:
        cut = {n: jax.tree.map(lambda x: x[rows], arguments[n]) for n in names}
        return {**arguments, **cut}

    middle = size[0] // 2 if names else 0
    return half(slice(middle)), half(slice(middle, None))
