r"""The step of Adam, and of its flow by exponential splitting. May use: `.fused`, `.choice`."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .choice import where
from .fused import Fused, apply, real_scalars, unzip

Number = float | Float[Array, ""]


class AdamNumbers(NamedTuple):
    r"""The numbers of a step of Adam, the same for all parameters.

    The moments become $m^+ = b_1m + (1-b_1)g$ and $v^+ = b_2v + (1-b_2)|g|^2$; the direction is
    $u = (a\,m^+ + c\,g) / (\sqrt{d\,v^+ + \epsilon_r} + \epsilon)$.

    Attributes:
      b1: what the step keeps of the first moment.
      b2: what it keeps of the second one.
      mean: $a$, one over the weight of what the first moment has seen.
      look: $c$, not 0 where the step looks ahead (`nesterov`).
      square: $d$, one over the weight of what the second moment has seen.
      eps: $\epsilon$.
      eps_root: $\epsilon_r$.
    """

    b1: Number
    b2: Number
    mean: Number
    look: Number
    square: Number
    eps: Number
    eps_root: Number


def adam_step(
    h: Float[Array, ""],
    grads: PyTree[Array],
    mu: PyTree[Array],
    nu: PyTree[Array],
    numbers: AdamNumbers,
    *,
    params: PyTree[Array] | None = None,
    decay: PyTree[Number] = 0.0,
    kernel: str = "auto",
) -> tuple[PyTree[Array], PyTree[Array], PyTree[Array]]:
    r"""Both moments relax to the gradient, then the parameters move by $-h(u + wx)$.

    In at least float32, rounded once; every leaf in its own dtype.

    Args:
      h: the step size $h$.
      grads: $g$.
      mu: $m$, a tree like $g$; the leaves of both moments may have dtypes of their own.
      nu: $v$.
      numbers: decays, weights and $\epsilon$.
      params: $x$; only read, and only needed, where there is weight decay.
      decay: $w$, a number or a tree of numbers like the parameters.
      kernel: `"auto"`, `"jnp"` or `"pallas"`, see `kernels.Kernel`. The Pallas form writes the
        update where the gradient was, and the moments in their own place.

    Returns:
      The update and both moments.

    Examples:
      >>> import jax.numpy as jnp, odeopt
      >>> g, zero = jnp.array([1.0, -2.0]), jnp.zeros(2)
      >>> numbers = odeopt.kernels.AdamNumbers(0.9, 0.999, 1 / 0.1, 0.0, 1 / 0.001, 1e-8, 0.0)
      >>> odeopt.kernels.adam_step(jnp.float32(0.5), g, zero, zero, numbers)[0].round(4)
      Array([-0.5,  0.5], dtype=float32)
    """
    return _mapped("adam", h, grads, (mu, nu), numbers, params, decay, kernel)


def exponential_adam_step(
    h: Float[Array, ""],
    grads: PyTree[Array],
    mu: PyTree[Array],
    nu: PyTree[Array],
    numbers: AdamNumbers,
    *,
    params: PyTree[Array] | None = None,
    decay: PyTree[Number] = 0.0,
    kernel: str = "auto",
) -> tuple[PyTree[Array], PyTree[Array], PyTree[Array]]:
    r"""As `adam_step`, the decay solved exactly: the update is $-(u + wx)(1 - e^{-wh})/w$.

    The parts of Adam's flow, each solved exactly, in the order in which `strang_adam` composes
    them from one gradient to the next: the moments, half of this step's drift and half of the next
    one's, which are one drift.

    Args:
      h: see `adam_step`, also for what is returned.
      grads: see `adam_step`.
      mu: see `adam_step`.
      nu: see `adam_step`.
      numbers: see `adam_step`.
      params: see `adam_step`.
      decay: see `adam_step`.
      kernel: see `adam_step`.
    """
    return _mapped("exponential_adam", h, grads, (mu, nu), numbers, params, decay, kernel)


def decaying_time(h: Float[Array, ""], decay: Number) -> Float[Array, ""]:
    r"""$(1 - e^{-wh})/w$: what a velocity $-u - wx$ with $u$ fixed moves in the time $h$, over it.

    Args:
      h: the time $h$.
      decay: $w$.
    """
    exponent = decay * h
    safe = jnp.where(exponent == 0, 1.0, exponent)
    return h * jnp.where(exponent == 0, 1.0, -jnp.expm1(-safe) / safe)


def _mapped(
    name: str,
    h: Array,
    grads: PyTree[Array],
    moments: tuple[PyTree[Array], PyTree[Array]],
    numbers: AdamNumbers,
    params: PyTree[Array] | None,
    decay: PyTree[Number],
    kernel: str,
) -> tuple[PyTree[Array], PyTree[Array], PyTree[Array]]:
    platforms = where(kernel, name)
    b1, b2, *others = numbers
    # 1 - b with all the digits that b has: in float32 it has lost half of them
    known = (b1, 1 - b1, b2, 1 - b2, *others)

    def leaf(g: Array, m: Array, v: Array, w: Number, *x: Array) -> tuple[Array, ...]:
        time = h
        if name == "exponential_adam":
            time = decaying_time(h, w)
        dtypes, aliases = (g.dtype, m.dtype, v.dtype), ((0, 0), (1, 1), (2, 2))
        fused = Fused(name, _adam, (), dtypes, aliases)
        arrays = (g, m, v, *x)
        return apply(fused, platforms, real_scalars((time, w, *known), arrays), *arrays)

    x = () if params is None else (params,)
    decays = jax.tree.broadcast(decay if x else 0.0, grads)
    return unzip(jax.tree.map(leaf, grads, *moments, decays, *x), grads, 3)


def _adam(
    static: tuple[()], scalars: Sequence[Array], arrays: Sequence[Array], _: None
) -> tuple[list[Array], list[Array]]:
    h, w, b1, gain1, b2, gain2, mean, look, square, eps, eps_root = scalars
    g, m, v, *params = arrays
    m = gain1 * g + b1 * m
    v = gain2 * _square(g) + b2 * v
    # floored at 0, as the flow's: a Runge-Kutta stage may have left the cone of averages
    size = jnp.maximum(square * jnp.real(v), 0)
    direction = (mean * m + look * g) / (jnp.sqrt(size + eps_root) + eps)
    for x in params:
        direction = direction + w * x
    return [-h * direction, m, v], []


def _square(g: Array) -> Array:
    return g * g if jnp.isrealobj(g) else (g * jnp.conj(g)).real
