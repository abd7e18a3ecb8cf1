"""Running averages of gradients and of their squares. May use: jax, `.clock`."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arrays import Scalar
from ..sums import scaled
from .clock import Decay


def abs_square(g: Array) -> Array:
    r"""$|g|^2$, in the dtype of $g$."""
    return jnp.square(g) if jnp.isrealobj(g) else (g * jnp.conj(g)).real.astype(g.dtype)


def divided(moment: PyTree[Array], total: Array) -> PyTree[Array]:
    """`moment / total`, and 0 where nothing has been seen."""
    total = jnp.where(total == 0, 1.0, total)
    return jax.tree.map(lambda m: m / total.astype(m.dtype), moment)


def relaxation(moment: PyTree[Array], target: PyTree[Array], rate: Array) -> PyTree[Array]:
    """How much a step moves a moment towards its target."""
    return jax.tree.map(lambda m, g: scaled(rate, g.astype(m.dtype) - m), moment, target)


def squares_change(g: Array, change: Array) -> Array:
    r"""Of $|g|^2$, to first order."""
    return 2 * jnp.real(jnp.conj(g) * change)


def aged(moment: PyTree[Array], change: PyTree[Array], clock: Decay, age: Scalar) -> PyTree[Array]:
    r"""The change of a running average, given that of what it averages in a step.

    That times weight times mean age, $\sum_{k<n} (1-b)b^k(k + \tfrac12)$.
    """
    decay = clock.fixed()
    kept = decay**age
    factor = decay * (1 - kept) / (1 - decay) - age * kept + 0.5 * (1 - kept)
    return jax.tree.map(lambda m, d: scaled(factor, d).astype(m.dtype), moment, change)
