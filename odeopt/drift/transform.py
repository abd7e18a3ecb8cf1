"""The counter-terms of gradient descent as an optax transformation of the gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from ..arguments import as_arrays, check_gradient
from ..arrays import Scalar
from ..checks import check_positive, is_known
from ..flows import AbstractFlow, State
from ..objective import Objective
from ..solvers import Euler
from ..sums import multiple
from .corrected import CLIP, Form, corrected


class CounterTermState(NamedTuple):
    """State of `counter_term`.

    Attributes:
      steps: steps taken; a schedule is a function of it.
      aux: the counter of clipped steps, `()` without a clip.
    """

    steps: Int[Array, ""]
    aux: PyTree[Array]


class _Recorded(AbstractFlow):
    """Gradient flow whose `aux` moves by the gradient itself, not multiplied by h.

    Corrected, `aux` moves by the gradient with its counter-terms.
    """

    def init(self, params: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(jnp.zeros_like, params)

    def increment(self, z: State, objective: Objective, h: Scalar) -> State:
        """`(-h g, g)`."""
        grads = objective.here(z[0])
        return multiple(-h, grads), grads


def counter_term(
    learning_rate: optax.ScalarOrSchedule,
    order: int,
    *,
    form: Form = "derivatives",
    clip: float | None = CLIP,
) -> optax.GradientTransformationExtraArgs:
    r"""The counter-terms of gradient descent, for an optimizer from another library.

    Replaces the gradient by $g - \tfrac h2Hg + \tfrac{h^2}6(HHg + E'''(g,g)) - \dots$, so that the
    step $x^+ = x - hg$ after it follows gradient flow with order `order`:

        opt = optax.chain(odeopt.drift.counter_term(0.1, 2), optax.sgd(0.1))
        updates, state = opt.update(grads, state, params, value_fn=loss, batch=batch)

    This is correct only for the step $-hg$, without memory. Momentum and Adam have other
    counter-terms: `odeopt.heavy_ball(h, correction=2)`, `adam`, `drift.corrected`.

    Args:
      learning_rate: $h$ of the step after it: a number, or a schedule of the number of steps.
      order: 1 to 6. 1 does nothing.
      form: `"derivatives"` takes derivatives along the given gradient, so a clip or a weight decay
        may come before. `"difference"` costs 1, 2 or 3 gradients for order 2, 3, 4, but must be
        given the gradient of the loss itself: any earlier change of it would count as drift and be
        undone.
      clip: see `corrected`.

    Returns:
      An optax transformation, called with `value_fn=` or `grad_fn=` like every odeopt optimizer.
      It stores two numbers, one without a clip. Costs, beyond the given gradient, a Hessian product
      (2 gradients) for order 2, and more for each further order.

    Raises:
      ValueError: see `corrected`; or a learning rate that is not positive.
      TypeError: a learning rate that is not a number or a schedule.

    Examples:
      >>> import jax, jax.numpy as jnp, odeopt, optax
      >>> loss, x = lambda x: 0.5 * x**2, jnp.float32(1.0)
      >>> opt = optax.chain(odeopt.drift.counter_term(0.1, 2), optax.sgd(0.1))
      >>> updates, state = opt.update(x, opt.init(x), x, value_fn=loss)
      >>> x + updates  # 1 - h + h^2 / 2, as exp(-h)
      Array(0.905, dtype=float32)
    """
    known = is_known(learning_rate) or hasattr(learning_rate, "dtype")
    if not known and not callable(learning_rate):
        raise TypeError(
            f"learning_rate is a {type(learning_rate).__name__}; pass the number or the schedule "
            "of the optimizer that follows. A step-size rule works in odeopt's own optimizers: "
            "`odeopt.euler(rule, correction=2)`."
        )
    if known:
        check_positive(learning_rate=learning_rate)
    flow = corrected(_Recorded(), Euler(), order, form=form, clip=clip)
    counts = flow.init(()) != ()

    def init(params: PyTree[Array | float]) -> CounterTermState:
        return CounterTermState(jnp.zeros([], jnp.int32), flow.init(()))

    def update(
        grads: PyTree[Array],
        state: CounterTermState,
        params: PyTree[Array | float] | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree[Array], CounterTermState]:
        if params is None:
            raise ValueError(
                "A counter-term needs the parameters: `opt.update(grads, state, params, ...)`."
            )
        params = as_arrays(params)
        rate = learning_rate(state.steps) if callable(learning_rate) else learning_rate
        objective = Objective(extra_args, check_gradient(grads, params))
        start = params, flow.init(params)
        _, moved = flow.increment(start, objective, jnp.asarray(rate, float))
        steps, aux = optax.safe_increment(state.steps), state.aux
        if not counts:
            return moved, CounterTermState(steps, aux)
        aux = aux._replace(clipped=aux.clipped + moved.clipped)
        return moved.aux, CounterTermState(steps, aux)

    return optax.GradientTransformationExtraArgs(init, update)
