"""A step size from the angle between the gradient and where the run is going. May use: `.rule`."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from ..flows import LogTime
from ..flows.clock import forgetting
from ..solvers import Step
from .rule import AbstractRule, StepInfo


class Heading(NamedTuple):
    """What the rule remembers.

    Attributes:
      log_size: logarithm of the step size.
      update: the last update of the parameters; `()` where the flow knows its heading.
    """

    log_size: Float[Array, ""]
    update: PyTree[Array]


class Angle(AbstractRule):
    """Grows the step while the descent direction agrees with the heading, else shrinks it."""

    gain: float | LogTime
    first: float
    limit: float
    remembers: bool = eqx.field(static=True)

    def init(self, params: PyTree[Array]) -> Heading:
        """The first size; one copy of the parameters unless the flow knows its heading."""
        update = optax.tree.zeros_like(params) if self.remembers else ()
        return Heading(jnp.log(jnp.asarray(self.first, float)), update)

    def propose(self, state: Heading, info: StepInfo) -> tuple[Float[Array, ""], Heading]:
        """`h exp(gain cos)`."""
        heading = state.update if self.remembers else info.flow.heading(info.z)
        descent = info.flow.descent(info.z, info.gradient.stage(0))
        steps = info.steps.astype(float)
        gain = forgetting(self.gain, steps) if isinstance(self.gain, LogTime) else self.gain
        change = -gain * _cosine(descent, heading).astype(float)
        size = jnp.minimum(state.log_size + change, jnp.log(jnp.asarray(self.limit, float)))
        return jnp.exp(size), state._replace(log_size=size)

    def judge(
        self, state: Heading, info: StepInfo, h: Float[Array, ""], step: Step
    ) -> tuple[Bool[Array, ""], Heading]:
        """Accepted if all of it is finite; else the step is taken back and the size halved."""
        finite = jnp.isfinite(h)
        for leaf in jax.tree.leaves(step.update):
            finite &= jnp.all(jnp.isfinite(leaf))
        known = jnp.isfinite(state.log_size)
        size = jnp.where(known, state.log_size, jnp.log(jnp.asarray(self.first, float)))
        size = jnp.where(finite, size, size - jnp.log(2.0))
        if not self.remembers:
            return finite, Heading(size, ())
        update = jax.tree.map(
            lambda new, old: jnp.where(finite, new.astype(old.dtype), old),
            step.update,
            state.update,
        )
        return finite, Heading(size, update)


def angle(
    gain: float | LogTime = 0.1,
    *,
    first: float = 1e-3,
    limit: float = float("inf"),
    remembers: bool = True,
) -> Angle:
    r"""The step size grows while gradients agree with where the run is going.

    $h \leftarrow h\,e^{\kappa\cos\theta}$ before each step, $\theta$ the angle between the descent
    direction $-Dg$ (in the metric $D$ of the flow: Adam's divides by the root of the second moment)
    and the update before; Euclidean inner products over all leaves, 0 where either vanishes. It is
    an average line search, at no cost: a step that was too long turns the gradient against it. The
    multiplicative form on the last direction of Adam is Martínez-Rubio's (thesis, Oxford, 2017),
    after Almeida (1998) and Baydin et al. (arXiv:1703.04782). A gain by the clock, `LogTime(r)`,
    lets the rule average over as much of the past as a momentum that does so; that is ours.

    Works with any optimizer of one or more gradients. A step that comes out non-finite is taken
    back and tried at half the size.

    Args:
      gain: $\kappa$, a number or `flows.LogTime(r)` for $\kappa = r/(n + r)$.
      first: the size of the first step, in flow time.
      limit: the largest size.
      remembers: keep the last update to measure the angle with, one copy of the parameters. False:
        ask the flow, which must know its heading as `flows.AveragedFlow` does.

    Raises:
      ValueError: a gain, `first` or `limit` that is not positive.

    Examples:
      >>> import odeopt
      >>> opt = odeopt.adam(odeopt.stepsize.angle(), b1=0.98, b2=0.98)
    """
    if isinstance(gain, int | float) and not gain > 0:
        raise ValueError(f"gain is {gain}; it must be positive.")
    for name, value in {"first": first, "limit": limit}.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be positive.")
    return Angle(gain, first, limit, remembers)


def _cosine(a: PyTree[Array], b: PyTree[Array]) -> Float[Array, ""]:
    # Each is scaled to unit length by itself: the square of a small gradient underflows.
    lengths = [optax.tree.norm(tree) for tree in (a, b)]
    safe = [jnp.where(length > 0, length, 1.0) for length in lengths]
    product = optax.tree.vdot(
        *(
            jax.tree.map(lambda leaf, s=s: leaf / s.astype(leaf.real.dtype), tree)
            for tree, s in zip((a, b), safe, strict=True)
        )
    ).real
    known = (lengths[0] > 0) & (lengths[1] > 0)
    return jnp.where(known, jnp.clip(product, -1.0, 1.0), 0.0)
