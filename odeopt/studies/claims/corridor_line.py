"""Where gradient flow is straight, gradient descent stays on it for any step size.

On E = ‖x‖ one step at the corridor rate E/‖g‖² reaches the minimum, and two steps of 0.1 end where
one of 0.2 does; on an ellipse, whose flow is curved, neither holds.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import diagnostics, euler, stepsize
from ..claim import Bound, Claim
from ..experiments import train


def norm(x: jax.Array, batch: Any) -> jax.Array:
    """A corridor everywhere."""
    return jnp.linalg.norm(x)


def ellipse(x: jax.Array, batch: Any) -> jax.Array:
    """The same with one axis shrunk, and so curved flow lines."""
    return jnp.linalg.norm(x * jnp.array([1.0, 0.3, 1.0]))


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """What is left after a step, and how far two steps lead from one twice as long."""
    x = jnp.asarray(np.random.default_rng(seed).normal(size=3))
    found: dict[str, Any] = {}
    for name, loss in (("norm", norm), ("ellipse", ellipse)):
        end = train(euler(stepsize.corridor()), loss, x, (), steps=1)[0]
        one = train(euler(0.2), loss, x, (), steps=1)[0]
        two = train(euler(0.1), loss, x, (), steps=2)[0]
        found |= {
            f"left after one step, {name}": float(loss(end, ()) / loss(x, ())),
            f"two steps against one, {name}": float(jnp.linalg.norm(one - two) / 0.2),
            f"corridor measure, {name}": float(diagnostics.corridor(loss, x, batch=())),
        }
    return found


CLAIM = Claim(
    __doc__,
    ("corridor",),
    experiment,
    (
        Bound("left after one step, norm", high=1e-12, every=True),
        Bound("two steps against one, norm", high=1e-12, every=True),
        Bound("corridor measure, norm", high=1e-12, every=True),
    ),
    control=(
        Bound("left after one step, ellipse", high=1e-3),
        Bound("two steps against one, ellipse", high=1e-4),
    ),
    seconds=(8, 16),
)
