"""Step sizes from the sharpness."""

import math
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int, PyTree

from ..arrays import Scalar
from ..checks import check_cap, check_counts, check_positive
from ..diagnostics.sharpness import extreme
from ..flows import AbstractFlow
from ..information import Information
from ..lanczos import dimension
from ..loops import switch
from ..solvers import AbstractMethod, Step, stability_limit
from ..sums import norm
from .rule import AbstractRule, StepInfo, Verdict

_LONGER = 2.0  # the gradient over that of the last estimate, above which the rule looks again


class LastEstimate(NamedTuple):
    """The state of the sharpness rule: the last good estimate."""

    size: Scalar  # the step size; the cap before the first estimate
    vector: PyTree[Array]  # the Ritz vector; zero before the first estimate
    known: Bool[Array, ""]  # whether there was a good estimate
    wait: Int[Array, ""]  # steps before the next estimate
    taken: Int[Array, ""]  # products in this step
    length: Scalar  # of the gradient at this estimate


class SharpnessRule(AbstractRule):
    """A multiple of the largest stable step, from an estimate of the sharpness every few steps."""

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
                f"{type(method).__name__} is stable at any step size: it has no stability limit "
                "for `sharpness` to scale. Use `stepsize.gain_ratio()`, or a number."
            )

    def init(self, params: PyTree[Array]) -> LastEstimate:
        """No estimate yet. One copy of the parameters."""
        size, none = jnp.asarray(self.cap, float), jnp.zeros([], jnp.int32)
        zeros = optax.tree.zeros_like(params)
        known, length = jnp.zeros([], bool), jnp.zeros([], float)
        return LastEstimate(size, zeros, known, none, jnp.zeros([], jnp.int32), length)

    def propose(self, state: LastEstimate, info: StepInfo) -> tuple[Scalar, LastEstimate]:
        """`min(safety * R / sharpness, cap)`."""
        limit = stability_limit(info.flow, info.method)
        params = info.z[0]
        length = norm(info.objective.here(params))

        def estimate(products: int) -> LastEstimate:
            products = max(1, min(products, dimension(params)))  # `extreme` refuses 0 entries
            found = extreme(info.objective.product(params), params, products, state.vector)
            size = jnp.asarray(self.safety * limit / found.value, float)
            good = (found.value > 0) & jnp.isfinite(size)
            new = jnp.minimum(size, self.cap), found.vector, jnp.array(True)
            size, vector, known = optax.tree.where(good, new, tuple(state[:3]))
            # a non-finite batch gives no estimate: try again with the next one
            wait = jnp.where(jnp.isfinite(found.value), self.every - 1, 0).astype(jnp.int32)
            return LastEstimate(size, vector, known, wait, jnp.int32(products), length)

        def later() -> LastEstimate:
            return state._replace(wait=state.wait - 1, taken=jnp.zeros([], jnp.int32))

        choices = [later, lambda: estimate(self.products), lambda: estimate(self.first)]
        waits = (state.wait > 0) & ~(length > _LONGER * state.length)
        state = switch(jnp.where(waits, 0, jnp.where(state.known, 1, 2)), choices)
        return state.size, state

    def judge(self, state: LastEstimate, info: StepInfo, h: Scalar, step: Step) -> Verdict:
        """Accepted; each product of an estimate counts as 2 gradients."""
        return Verdict(True, state, 2 * state.taken)


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
    $\lambda_{max}$ the sharpness of the loss (of the mini-batch) that `update` sees. Lanczos'
    algorithm estimates it every few steps, starting from the last Ritz vector, so that few products
    suffice, and as soon as the gradient is twice as long as at the last estimate. Between estimates
    the size stays, also after one that is not positive. Before the first good one the size is
    `cap`, and steps are rejected if that is infinite (set `cap` for a loss that may start out
    concave or linear). An estimate that is not finite is repeated in the next step.

    `safety` is needed because a Ritz value is only a lower bound of the sharpness, and because the
    sharpness moves between estimates. Where it changes much within a step, as in a logistic
    regression far from its minimum, a step may be too long, and none is rejected for that: set a
    `cap`, or use `gain_ratio`. With momentum, whose steps are longer, this happens more often.

    Costs 2 gradients a product: `2 * products / every` a step, after `2 * first` in each estimate
    up to the first good one. They are counted in the step that takes them. (Under `vmap` JAX
    estimates in every step, though it is not counted.) Memory: a copy of the parameters, and
    `products` more during an estimate (see `diagnostics.sharpness`). A `stage_transform` that is
    more than a scaling makes the transformed Hessian unsymmetric, and the estimate doubtful.

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
    check_positive(safety=safety)
    check_cap(cap=cap)
    check_counts(every=every, products=products, first=first)
    return SharpnessRule(safety, every, products, first, cap)
