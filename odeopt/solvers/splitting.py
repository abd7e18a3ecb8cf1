"""Splitting: the parts of a flow, each solved exactly, composed.

May use: `odeopt.flows`, `odeopt.kernels`.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..flows import AbstractFlow, AbstractSplitFlow, State, Substeps
from ..kernels import check_kernel
from ..objective import Gradient
from .method import AbstractMethod, Step

_CUBE_ROOT = 2 ** (1 / 3)
SUZUKI_YOSHIDA = (1 / (2 - _CUBE_ROOT), -_CUBE_ROOT / (2 - _CUBE_ROOT), 1 / (2 - _CUBE_ROOT))
"""The three steps that, one after the other, make a method of order 4 of a symmetric one."""


class Lie(AbstractMethod):
    r"""Lie's splitting: every part of the flow in turn, $\Phi_h = \phi^C_h\phi^B_h\phi^A_h$.

    Order 1, one gradient a step; one more for each part that looks at the gradient after the
    parameters have moved, as the players of a game do in turn. Of the heavy ball it is the
    conformal symplectic Euler method, optax's `sgd` with momentum; of Adam's flow, Adam; of a game,
    alternating gradient descent. Needs a flow with parts.

    Args:
      kernel: `"pallas"` runs parts in one kernel where the flow has one (`odeopt.kernels`).
    """

    kernel: str = eqx.field(static=True, default="auto")

    def __check_init__(self) -> None:
        check_kernel(self.kernel)

    @property
    def order(self) -> int:
        """1."""
        return 1

    @property
    def gradients_per_step(self) -> int:
        """1, the given one, of a flow in which nothing looks at the gradient after a move."""
        return 1

    def check(self, flow: AbstractFlow) -> None:
        """The flow must have parts."""
        _with_parts(flow, "Lie")

    def step(
        self,
        flow: AbstractFlow,
        gradient: Gradient,
        z: State,
        h: Float[Array, ""],
        memory: tuple[()],
    ) -> Step:
        """One step of size `h`."""
        split = _with_parts(flow, "Lie")
        whole = [(part, 1.0) for part in split.parts]
        update, aux = compose(split, gradient, z, h, whole, self.kernel)
        return Step(update, aux, None, memory)


class Strang(AbstractMethod):
    r"""Strang's symmetric splitting, one gradient in its middle, and what is made of it.

    One substep of length $\tau h$ is $\phi^A_{\tau h/2}\,\phi^B_{\tau h/2}\,\phi^G_{\tau h}\,
    \phi^B_{\tau h/2}\,\phi^A_{\tau h/2}$, with $G$ the part that looks at the gradient. One
    substep has order 2; Suzuki's and Yoshida's three (`SUZUKI_YOSHIDA`) have order 4, the second
    of them backwards in time. Of the heavy ball this is the conformal leapfrog.

    The gradient is taken in the middle of a substep. So that the given gradient can be used, the
    parameters *rest* there between calls: a call starts with the gradient, completes the step, and
    opens the next one with the same `h`. `step_params` gives the end of the step.

    Args:
      substeps: their lengths $\tau$, which sum to 1.
      kernel: see `Lie`.

    Raises:
      ValueError: lengths that do not sum to 1, a `kernel` that there is not.
    """

    substeps: tuple[float, ...] = eqx.field(static=True, default=(1.0,))
    kernel: str = eqx.field(static=True, default="auto")

    def __check_init__(self) -> None:
        check_kernel(self.kernel)
        if abs(sum(self.substeps) - 1) > 1e-12:
            raise ValueError(f"substeps sum to {sum(self.substeps):.6g}; a step needs 1.")

    @property
    def order(self) -> int:
        """2, or 4 with Suzuki's and Yoshida's three substeps."""
        cubes = sum(tau**3 for tau in self.substeps)
        symmetric = self.substeps == self.substeps[::-1]
        return 4 if symmetric and abs(cubes) < 1e-12 else 2

    @property
    def gradients_per_step(self) -> int:
        """One a substep."""
        return len(self.substeps)

    def check(self, flow: AbstractFlow) -> None:
        """The flow must have parts, of which one looks at the gradient."""
        _with_parts(flow, "Strang")

    def step(
        self,
        flow: AbstractFlow,
        gradient: Gradient,
        z: State,
        h: Float[Array, ""],
        memory: tuple[()],
    ) -> Step:
        """From the middle of one step's first substep to the same place in the next step."""
        split = _with_parts(flow, "Strang")
        middle = str(split.gradient_part)
        substeps: list[tuple[str, float]] = []
        for tau, following in zip(
            self.substeps, (*self.substeps[1:], self.substeps[0]), strict=True
        ):
            substeps += [(middle, tau), *closing(split, tau), *opening(split, following)]
        update, aux = compose(split, gradient, z, h, substeps, self.kernel)
        return Step(update, aux, None, memory)

    def readout(self, flow: AbstractFlow, z: State, h: Float[Array, ""]) -> PyTree[Array]:
        """The parameters at the end of the step: the opening of the next one undone."""
        split = _with_parts(flow, "Strang")
        undo = [(part, -f) for part, f in reversed(opening(split, self.substeps[0]))]
        unused: Any = None  # none of these parts looks at the gradient
        update, _ = compose(split, Gradient(unused, unused), z, h, undo)
        return jax.tree.map(jnp.add, z[0], update)


def opening(
    flow: AbstractSplitFlow | type[AbstractSplitFlow], tau: float
) -> list[tuple[str, float]]:
    """What comes before the gradient in a substep."""
    return [(part, tau / 2) for part in flow.parts if part != flow.gradient_part]


def closing(
    flow: AbstractSplitFlow | type[AbstractSplitFlow], tau: float
) -> list[tuple[str, float]]:
    """What comes after the gradient in a substep: its mirror image."""
    return opening(flow, tau)[::-1]


def compose(
    flow: AbstractSplitFlow,
    gradient: Gradient,
    z: State,
    h: Float[Array, ""],
    substeps: Substeps,
    kernel: str = "jnp",
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Follow parts for fractions of `h`, one after the other.

    The gradient at the start is the given one; once the parameters have moved it is evaluated.
    With a `kernel`, the flow may do all of it at once.

    Returns:
      The update of the parameters and the new auxiliary variables.
    """
    at_once = flow.fused(substeps, z, gradient, h, kernel)
    if at_once is not None:
        return at_once
    start, aux = z
    update, stage = None, 0
    for name, fraction in substeps:
        if update is not None and flow.looks_again(name):
            stage += 1
        here = start if update is None else jax.tree.map(jnp.add, start, update)
        moved, aux = flow.part(name, (here, aux), gradient.stage(stage), h, fraction)
        if moved is not None:
            update = moved if update is None else jax.tree.map(jnp.add, update, moved)
    return (jax.tree.map(jnp.zeros_like, start) if update is None else update), aux


def _with_parts(flow: AbstractFlow, solver: str) -> AbstractSplitFlow:
    """`flow`, if the splitting can take it apart."""
    name = type(flow).__name__
    if not isinstance(flow, AbstractSplitFlow):
        raise ValueError(
            f"{solver} composes the exactly solvable parts of a flow, and {name} names none: use "
            "a solver of its whole field, such as `odeopt.solvers.RK4()`."
        )
    if solver == "Strang" and flow.gradient_part is None:
        raise ValueError(
            f"Strang needs a flow of which one part looks at the gradient; in {name} several do: "
            "use `odeopt.solvers.Lie()`, or a solver of the whole field."
        )
    return flow
