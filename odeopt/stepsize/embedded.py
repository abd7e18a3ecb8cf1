"""Step sizes from the embedded error estimate."""

from typing import Any, ClassVar, cast

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import check_ascending, check_least, check_positive
from ..flows import State
from ..information import Information
from ..solvers import Step
from ..sums import add, entries, total, widened
from .rule import AbstractRule, StepInfo, Verdict

_Memory = tuple[Scalar, PyTree[Array]]  # the size to try next, and that of diffrax's controller


class EmbeddedError(AbstractRule):
    """Accepts a step with a small enough error estimate, which also sets the next step size."""

    needs: ClassVar[Information] = Information.ERROR | Information.POINT

    controller: diffrax.PIDController
    first: float
    limit: float

    def init(self, params: PyTree[Array]) -> _Memory:
        # With a first step given, diffrax does not use the other arguments.
        unused: Any = None
        _, memory = self.controller.init(
            unused, 0.0, self.first, (), self.first, unused, unused, unused
        )
        # copies: shared buffers cannot be donated
        memory = jax.tree.map(lambda x: jnp.array(x, jnp.result_type(x)), memory)
        return jnp.asarray(self.first, float), memory

    def propose(self, state: _Memory, info: StepInfo) -> tuple[Scalar, _Memory]:
        return state[0], state

    def judge(self, state: _Memory, info: StepInfo, h: Scalar, step: Step) -> Verdict:
        """Accepted if the scaled error is at most 1; after a rejection the step is smaller."""
        # Parameters only: a moment forgets by steps, so its error does not fall with h. Widened:
        # float16 would round a small tolerance to 0, so that an entry at rest would give 0/0.
        moved = info.z[0], step.update, cast(State, step.error)[0]
        params, update, error = widened(moved)
        new, order = add(params, update), cast(Any, info.method.order)
        accept, start, end, _, memory, _ = self.controller.adapt_step_size(
            jnp.zeros_like(h), h, params, new, None, error, order, state[1]
        )
        size = jnp.clip(jnp.asarray(end - start, float), _floor(h.dtype), self.limit)
        memory = jax.tree.map(lambda m, old: jnp.asarray(m, old.dtype), memory, state[1])
        return Verdict(jnp.asarray(accept), (size, memory))

    def failed(self, state: _Memory) -> _Memory:
        """A fifth of the size: diffrax's controller shrinks a step by no more."""
        return jnp.maximum(0.2 * state[0], _floor(state[0].dtype)), state[1]


def _floor(dtype: Any) -> float:
    return 1e3 * float(jnp.finfo(dtype).tiny)  # below it the ratio of two sizes is noise


def embedded_error(
    rtol: float,
    atol: float,
    *,
    first: float = 1e-3,
    limit: float = float("inf"),
    pcoeff: float = 0.4,
    icoeff: float = 0.3,
    dcoeff: float = 0.0,
) -> EmbeddedError:
    r"""Error control with an embedded pair, as in an ODE code.

    A step is accepted if $\eta = \|e / (atol + rtol\max(|x|, |x^+|))\|_{rms} < 1$ for the estimated
    local error $e$ of the parameters $x$. The next size is the current one times
    $0.9\,\eta^{-(P+I)/p}\eta_0^{P/p}$, between 0.2 and 10 times it, with $P$ = `pcoeff`, $I$ =
    `icoeff`, $p$ the order of the solver and $\eta_0$ that of the accepted step before. This is
    `diffrax.PIDController`, with the coefficients that diffrax names for mildly stiff equations.
    Near the stability limit, where an optimizer soon is, its default ($P = 0$, $I = 1$) rejects
    every fourth to eighth step, and these a third as many (`tests/stepsize/test_embedded.py`).

    A rejected step returns zero updates, counts in `state.rejected` and is followed by a smaller
    one. A loss that is not finite at a stage counts as an infinite error, so the rule recovers from
    any first step. The error of moments does not count: they forget by steps, not by flow time.

    Works with a solver that has an error estimate (`heun`, `midpoint`, `ralston`, `bosh3`,
    `dopri5`, `tsit5`, and `from_diffrax` of such a one); `bosh3`, `dopri5` and `tsit5` evaluate one
    gradient more a step for it. Error control follows the *flow*: it keeps the step near the
    stability limit, however sharp the loss becomes, but does not seek the minimum faster.

    Args:
      rtol: error allowed in a step, relative to the size of each parameter.
      atol: error allowed in a step, in units of the parameters.
      first: the size of the first step that is tried.
      limit: the largest size.
      pcoeff: proportional coefficient of the controller.
      icoeff: integral coefficient.
      dcoeff: derivative coefficient, which also takes the error before $\eta_0$ into account.

    Raises:
      ValueError: a tolerance, `first` or `limit` that is not positive, a `first` above `limit`, or
        a negative coefficient; when the optimizer is built, a solver without an error estimate.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.bosh3(odeopt.stepsize.embedded_error(rtol=1e-2, atol=1e-3))
    """
    check_positive(rtol=rtol, atol=atol)
    check_ascending(first=first, limit=limit)
    check_least(0, pcoeff=pcoeff, icoeff=icoeff, dcoeff=dcoeff)
    controller = diffrax.PIDController(
        rtol=rtol, atol=atol, pcoeff=pcoeff, icoeff=icoeff, dcoeff=dcoeff, norm=_rms
    )
    return EmbeddedError(controller, first, limit)


def _rms(tree: PyTree[Array]) -> Scalar:
    # Leaf by leaf: the default ravels the tree, which fails under explicit sharding.
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.size]
    squares = [jnp.sum(jnp.square(jnp.abs(leaf).astype(float))) for leaf in leaves]
    return jnp.sqrt(total(squares) / max(1, sum(map(entries, leaves))))
