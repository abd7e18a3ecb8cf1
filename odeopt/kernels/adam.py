r"""The step of Adam, also with its weight decay solved exactly."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..checks import is_zero
from .fused import Number, Outputs, fused, rounded


class AdamNumbers(NamedTuple):
    r"""The numbers of a step of Adam, the same for all parameters.

    The moments become $m^+ = b_1m + (1-b_1)g$ and $v^+ = b_2v + (1-b_2)|g|^2$; the direction is
    $u = \hat m / (\sqrt{v^+/w_2 + \epsilon_r} + \epsilon)$ with $\hat m = m^+/w_1$.

    Attributes:
      b1: $b_1$, the decay of the first moment in this step.
      b2: $b_2$, the decay of the second moment.
      first: $w_1$, the total weight of the gradients in the first moment.
      second: $w_2$, the total weight of the squares in the second moment.
      eps: $\epsilon$.
      eps_root: $\epsilon_r$.
      ahead: for Nesterov's look-ahead, the decay of the first moment in the *next* step, $b_1'$,
        and its weight after it, $w_1'$: $\hat m = b_1'm^+/w_1' + (1-b_1')g/w_1$. None without.
    """

    b1: Number
    b2: Number
    first: Number
    second: Number
    eps: Number
    eps_root: Number
    ahead: tuple[Number, Number] | None = None


def adam_step(
    h: Scalar,
    grads: PyTree[Array],
    mu: PyTree[Array],
    nu: PyTree[Array],
    numbers: AdamNumbers,
    *,
    params: PyTree[Array] | None = None,
    decay: PyTree[Number] = 0.0,
    exact_decay: bool = False,
) -> tuple[PyTree[Array], PyTree[Array], PyTree[Array]]:
    r"""Both moments relax to the gradient, then the parameters move by $-h(u + wx)$.

    Each leaf is computed in its own dtype, equal to optax; float16 leaves, and in the Pallas form
    all leaves below 32 bits, in float32, rounded once. The Pallas form (on GPUs from jax 0.12 on)
    writes the update in place of the gradient, and the moments in place.

    Args:
      h: the step size $h$.
      grads: $g$.
      mu: $m$, a tree like $g$; the leaves of both moments may have dtypes of their own.
      nu: $v$.
      numbers: decays, weights and $\epsilon$.
      params: $x$, needed for weight decay only.
      decay: $w$, a number or a tree of numbers like the parameters.
      exact_decay: solve the decay exactly: the update is $-(u + wx)(1 - e^{-wh})/w$. In
        `strang_adam` half of this step's drift and half of the next one's are one such drift.

    Returns:
      The update and both moments.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> g, zero = jnp.array([1.0, -2.0]), jnp.zeros(2)
      >>> numbers = odeopt.kernels.AdamNumbers(0.9, 0.999, 0.1, 0.001, 1e-8, 0.0)
      >>> odeopt.kernels.adam_step(jnp.float32(0.5), g, zero, zero, numbers)[0].round(4)
      Array([-0.5,  0.5], dtype=float32)
    """
    b1, b2, first, second, eps, eps_root, ahead = numbers
    # 1 - b in the precision of b: in float32 it would lose half of its digits
    known: tuple[Number, ...] = (b1, 1 - b1, b2, 1 - b2, first, second, eps, eps_root)
    if ahead is not None:
        known += (ahead[0], 1 - ahead[0], ahead[1])
    if params is None:
        update, mu, nu = _adam((*known, h, 0.0), grads, mu, nu)
    else:
        decays = jax.tree.broadcast(decay, grads)
        times = jax.tree.map(lambda w: decaying_time(h, w) if exact_decay else h, decays)
        update, mu, nu = _adam(known, grads, mu, nu, params, own=(times, decays))
    return update, mu, nu


def decaying_time(h: Scalar, decay: Number) -> Scalar:
    r"""$(1 - e^{-wh})/w$: the path in $h$ of a velocity $-u - wx$ with fixed $u$, over itself."""
    exponent = decay * h
    safe = jnp.where(exponent == 0, 1.0, exponent)
    return h * jnp.where(exponent == 0, 1.0, -jnp.expm1(-safe) / safe)


@fused("adam", outputs=3, roots=True, as_optax=True)
def _adam(numbers: Sequence[Number], g: Array, m: Array, v: Array, *params: Array) -> Outputs:
    b1, gain1, b2, gain2, first, second, eps, eps_root, *ahead, time, decay = numbers
    m = gain1 * g + b1 * m
    v = gain2 * _square(g) + b2 * v
    if ahead:
        kept, gain, later = ahead
        mean = kept * (m / rounded(later, m)) + gain * (g / rounded(first, g))
    else:
        mean = m / rounded(first, m)
    # at least 0, as in the flow: in a Runge-Kutta stage the second moment may be negative
    size = jnp.maximum(jnp.real(v / rounded(second, v)), 0)
    below = jnp.sqrt(size + eps_root) + eps
    direction = mean / jnp.where(below == 0, 1, below)  # in float16 eps may round to 0
    if params and not is_zero(decay):  # a masked leaf must not depend on its parameter
        direction = direction + decay * params[0]
    return -rounded(time, direction) * direction, m, v


def _square(g: Array) -> Array:
    return g * g if jnp.isrealobj(g) else (g * jnp.conj(g)).real
