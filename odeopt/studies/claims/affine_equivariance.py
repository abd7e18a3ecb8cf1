"""A step made of the trees of B-series commutes with every affine change of variables.

All Runge-Kutta methods on gradient flow have this property, in the metric transformed by the change
of variables y = Ax + b: their gradients are multiplied by AAᵀ. In the metric of x they do not have
it. A step of Adam, which treats each coordinate separately, does not even have it for a rotation.

A first version took only rotations and shifts, which leave the metric as it is.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ... import adam, rk4, tsit5
from ..claim import Bound, Claim
from ..experiments import train

STEPS, SIZE = 10, 4


def field_loss(x: jax.Array, batch: Any) -> jax.Array:
    """A loss without symmetry."""
    return jnp.sum(jnp.cos(x) * jnp.arange(1.0, SIZE + 1)) + 0.1 * jnp.sum(x**4) + x[0] * x[1]


def experiment(seed: int, full: bool) -> dict[str, Any]:
    """Distance between a run mapped and the mapped problem's run."""
    random = np.random.default_rng(seed)
    rotation = jnp.asarray(np.linalg.qr(random.normal(size=(SIZE, SIZE)))[0])
    shift, begin = jnp.asarray(random.normal(size=(2, SIZE)))
    linear = rotation * jnp.linspace(0.5, 2.0, SIZE)
    metric = optax.stateless(lambda g, _: linear @ linear.T @ g)

    def gap(
        here: optax.GradientTransformation, there: optax.GradientTransformation, a: jax.Array
    ) -> float:
        def mapped(y: jax.Array, batch: Any) -> jax.Array:
            return field_loss(jnp.linalg.solve(a, y - shift), batch)

        plain = train(here, field_loss, begin, (), steps=STEPS)[0]
        end = train(there, mapped, a @ begin + shift, (), steps=STEPS)[0]
        size = jnp.linalg.norm(a @ (plain - begin))
        return float(jnp.linalg.norm(end - (a @ plain + shift)) / size)

    return {
        "rk4": gap(rk4(0.1), rk4(0.1, stage_transform=metric), linear),
        "tsit5": gap(tsit5(0.1), tsit5(0.1, stage_transform=metric), linear),
        "rk4, metric of x": gap(rk4(0.1), rk4(0.1), linear),
        "adam": gap(adam(0.1), adam(0.1), rotation),
    }


CLAIM = Claim(
    __doc__,
    ("operad", "b-series"),
    experiment,
    (Bound("rk4", high=1e-10, every=True), Bound("tsit5", high=1e-10, every=True)),
    control=(Bound("rk4, metric of x", high=1e-2), Bound("adam", high=1e-2)),
    seconds=(8, 16),
)
