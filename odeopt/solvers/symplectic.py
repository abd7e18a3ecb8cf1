"""Conformally symplectic diffrax solvers, for mechanical systems with friction.

They run the substeps of `Lie` and `Strang` on the heavy ball's flow, in the ball's own time.
"""

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..checks import check_finite
from ..flows import HeavyBallFlow
from ..sums import multiple
from .adapter import AbstractAdapter, Reached
from .splitting import SUZUKI_YOSHIDA, Lie, Strang, Substeps, opening


def _symmetric(method: Strang) -> Substeps:
    """Halves of friction and drift on either side of each kick."""
    halves = [(t, opening(HeavyBallFlow, t)) for t in method.substeps]
    return [s for t, half in halves for s in (*half, ("kick", t), *half[::-1])]


class AbstractConformal(AbstractAdapter):
    r"""A splitting of $\dot x = f(v)$, $\dot v = g(x) - \gamma v$ into friction, kick and drift.

    Takes its terms as `diffrax.SemiImplicitEuler` does: `(ODETerm(f), ODETerm(g))` with
    $y = (x, v)$; each takes the other variable. With $f(v) = v$, $g = -\nabla E$ and a time step
    $\sqrt h$ it takes the steps of the optimizer with learning rate $h$ and momentum
    `flows.momentum_of(h, friction)`.

    Args:
      friction: $\gamma$; 0 for a symplectic method of a Hamiltonian system.
    """

    friction: float

    splits: ClassVar[bool] = True
    term_structure: ClassVar[Any] = (diffrax.ODETerm, diffrax.ODETerm)
    method: eqx.AbstractClassVar[Lie | Strang]
    substeps: eqx.AbstractClassVar[Substeps]  # the parts and fractions of one step, in order

    def __check_init__(self) -> None:
        check_finite(friction=self.friction)

    def reached(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Reached:
        drift, kick = terms
        x, v = y0
        time_x = time_v = t0  # each variable has its own time, at which the other's field is taken
        for part, fraction in self.substeps:
            length = fraction * (t1 - t0)
            if part == "friction":
                # by the control, which carries the sign when diffrax integrates backwards
                v = multiple(jnp.exp(-self.friction * kick.contr(t0, t0 + length)), v)
            elif part == "kick":
                moved = kick.vf_prod(time_x, x, args, kick.contr(time_v, time_v + length))
                v, time_v = jax.tree.map(jnp.add, v, moved), time_v + length
            else:
                moved = drift.vf_prod(time_v, v, args, drift.contr(time_x, time_x + length))
                x, time_x = jax.tree.map(jnp.add, x, moved), time_x + length
        return Reached((x, v))

    def func(self, terms: Any, t0: Any, y0: PyTree[Array], args: Any) -> PyTree[Array]:
        drift, kick = terms
        x, v = y0
        forces = kick.vf(t0, x, args)
        slowed = jax.tree.map(lambda force, leaf: force - self.friction * leaf, forces, v)
        return drift.vf(t0, v, args), slowed


class ConformalEuler(AbstractConformal):
    """Friction, kick, drift: the heavy ball. Order 1, 1 gradient a step."""

    method: ClassVar[Lie] = Lie()
    substeps: ClassVar[Substeps] = [(part, 1.0) for part in HeavyBallFlow.parts]


class ConformalLeapfrog(AbstractConformal):
    """The symmetric composition. Order 2, 1 gradient a step."""

    method: ClassVar[Strang] = Strang()
    substeps: ClassVar[Substeps] = _symmetric(method)


class SuzukiYoshida(ConformalLeapfrog):
    """Three leapfrogs, the middle one backwards in time. Order 4, 3 gradients a step."""

    method: ClassVar[Strang] = Strang(SUZUKI_YOSHIDA)
    substeps: ClassVar[Substeps] = _symmetric(method)
