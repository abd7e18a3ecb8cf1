"""Step sizes from the sharpness."""

import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_counts, check_positive
from ..diagnostics.sharpness import extreme
from ..flows import AbstractFlow
from ..information import Information
from ..lanczos import dimension
from ..solvers import AbstractMethod, Step, stability_limit
from .rule import AbstractRule, StepInfo, Verdict


class LastEstimate(NamedTuple):
    """What the sharpness rule remembers of the last good estimate."""

    size: Scalar  # before one, the cap
    vector: PyTree[Array]  # its Ritz vector; zero before the first


class SharpnessRule(AbstractRule):
    """A multiple of the largest stable step, by an estimate of the sharpness every few steps."""

    needs: ClassVar[Information] = Information.PRODUCT | Information.POINT

    safety: float
    every: int = eqx.field(static=True)
    products: int = eqx.field(static=True)
    first: int = eqx.field(static=True)
    cap: float

    def check(self, flow: AbstractFlow, method: AbstractMethod) -> None:
        """There must be a largest stable step."""
        if math.isinf(stability_limit(flow, method)):
            raise ValueError(
                f"{type(method).__name__} is stable at any step size: it has no stability limit of "
                "which `sharpness` could take a fraction. Use `stepsize.gain_ratio()`, or a number."
            )

    def init(self, params: PyTree[Array]) -> LastEstimate:
        """No estimate yet. One copy of the parameters."""
        return LastEstimate(jnp.asarray(self.cap, float), optax.tree.zeros_like(params))

    def propose(self, state: LastEstimate, info: StepInfo) -> tuple[Scalar, LastEstimate]:
        """`min(safety * R / sharpness, cap)`."""
        limit = stability_limit(info.flow, info.method)
        params = info.z[0]

        def estimate(products: int) -> LastEstimate:
            product = info.objective.product(params)
            found = extreme(product, params, min(products, dimension(params)), state.vector)
            size = jnp.asarray(self.safety * limit / found.value, float)
            good = (found.value > 0) & jnp.isfinite(size)
            new = LastEstimate(jnp.minimum(size, self.cap), found.vector)
            return jax.tree.map(lambda n, old: jnp.where(good, n, old), new, state)

        choices = [lambda: state, lambda: estimate(self.products), lambda: estimate(self.first)]
        state = jax.lax.switch(self._due(info), choices)
        return state.size, state

    def judge(self, state: LastEstimate, info: StepInfo, h: Scalar, step: Step) -> Verdict:
        """Accepted, once there is a size; the products of an estimate were used."""
        size = dimension(info.z[0])
        costs = jnp.array([0, *(2 * min(n, size) for n in (self.products, self.first))])
        return Verdict(True, state, costs[self._due(info)])

    def _due(self, info: StepInfo) -> Array:
        """0: no estimate in this step; 1: one; 2: the first."""
        return jnp.where(info.steps == 0, 2, (info.steps % self.every == 0).astype(int))


def sharpness(
    safety: float = 0.9,
    *,
    every: int = 20,
    products: int = 4,
    first: int = 24,
    cap: float = float("inf"),
) -> SharpnessRule:
    r"""A fraction of the largest stable step: $h = \text{safety}\cdot R/\lambda_{max}$.

    $R$ is the stability limit of the solver on its flow (`solvers.stability_limit`) and
    $\lambda_{max}$ the sharpness of the loss (of the mini-batch) that `update` sees, estimated by
    Lanczos' algorithm every so many steps, from the last Ritz vector on, so that few products do.
    Between estimates the size stays. An estimate that is not positive, or not finite, leaves the
    last good one; before a good one the size is `cap`, and steps are rejected where that is
    infinite (give one for a loss that may start out concave or linear).

    A Ritz value is never above the sharpness, and the sharpness moves between estimates: that is
    what `safety` is for.

    Costs 2 gradients a product: `2 * products / every` a step, after `2 * first` in the first.
    They are counted in the step that takes them. (Under `vmap` JAX estimates in every step, though
    it is not counted.) Memory: a copy of the parameters, and `products` more during an estimate
    (see `diagnostics.sharpness`). A `stage_transform` that is more than a scaling makes the
    curvature that is seen unsymmetric, and the estimate doubtful.

    Args:
      safety: the fraction, in (0, 1] if the step is to be stable.
      every: steps from one estimate to the next.
      products: Hessian products of an estimate.
      first: Hessian products of the first estimate, which starts from a pseudo-random vector.
      cap: the largest size, in flow time.

    Raises:
      ValueError: an argument that is not positive; when the optimizer is built, a solver or flow
        without a limit.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt
      >>> opt = odeopt.rk4(odeopt.stepsize.sharpness(0.5))
      >>> loss = lambda x: 0.5 * jnp.sum(jnp.array([1.0, 10.0]) * x**2)
      >>> x = jnp.ones(2)
      >>> _, state = opt.update(jax.grad(loss)(x), opt.init(x), x, value_fn=loss)
      >>> state.time.round(4)  # 0.5 * 2.785 / 10
      Array(0.1393, dtype=float32)
      >>> int(state.gradients)  # 4 of the step, and 2 products: there is no third direction
      8
    """
    check_positive(safety=safety, cap=cap)
    check_counts(every=every, products=products, first=first)
    return SharpnessRule(safety, every, products, first, cap)
