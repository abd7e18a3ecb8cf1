"""Splittings: compositions of the exactly solvable parts of a flow."""

from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ..arguments import over_own
from ..arrays import Scalar
from ..flows import AbstractFlow, State, Substeps
from ..objective import Objective, count_gradients
from ..sums import add
from .method import AbstractMethod, CounterTerm, Step

_CUBE_ROOT = 2 ** (1 / 3)
SUZUKI_YOSHIDA = (1 / (2 - _CUBE_ROOT), -_CUBE_ROOT / (2 - _CUBE_ROOT), 1 / (2 - _CUBE_ROOT))
"""The lengths of three steps of a symmetric method of order 2 whose composition has order 4."""


class Lie(AbstractMethod):
    r"""Lie's splitting: every part of the flow in turn, $\Phi_h = \phi^C_h\phi^B_h\phi^A_h$.

    Order 1. One gradient a step, and one more for each part that uses the gradient after the
    parameters have moved, as in a game where players move in turn. On the heavy ball it is the
    conformal symplectic Euler method, optax's `sgd` with momentum; on Adam's flow, Adam; on a game,
    alternating gradient descent. Needs a flow with parts.
    """

    counter_term: ClassVar[CounterTerm | None] = "memory"
    order: ClassVar[int] = 1
    gradients_per_step: ClassVar[int] = 1  # if no part uses the gradient after a move

    def check(self, flow: AbstractFlow) -> None:
        _check_parts(flow, "Lie")

    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: tuple[()]
    ) -> Step:
        whole = [(part, 1.0) for part in flow.parts]
        update, aux, cost = compose(flow, objective, z, h, whole)
        return Step(update, aux, memory, gradients=cost)


class Rest(NamedTuple):
    """The displacement of the parameters beyond the end of a step. One copy of the parameters."""

    ahead: PyTree[Array]

    def readout(self, params: PyTree[Array], aux: PyTree[Array]) -> PyTree[Array]:
        """The parameters at the end of the step."""
        return over_own(lambda p, a: p - a.astype(p.dtype), params, self.ahead)


class Strang(AbstractMethod):
    r"""Strang's symmetric splitting with one gradient in its middle, and compositions of it.

    One substep of length $\tau h$ is $\phi^A_{\tau h/2}\,\phi^B_{\tau h/2}\,\phi^G_{\tau h}\,
    \phi^B_{\tau h/2}\,\phi^A_{\tau h/2}$, with $G$ the part that uses the gradient. One substep
    has order 2; Suzuki's and Yoshida's three (`SUZUKI_YOSHIDA`), the second of them backwards in
    time, have order 4. On the heavy ball this is the conformal leapfrog.

    The gradient is taken in the middle of a substep. To use the given gradient, the parameters
    *rest* there between calls: a call starts with the gradient, completes the step, and opens the
    next one with the same `h`. `step_params` gives the end of the step. To undo the opening, a few
    scalars suffice for some flows (`AbstractFlow.rest`); for others a copy of the move is kept. A
    flow that does not start at rest (Adam's) cannot open before its first gradient: the end of its
    first step makes up for this.

    Args:
      substeps: the lengths $\tau$ of the substeps, which sum to 1.

    Raises:
      ValueError: lengths that do not sum to 1.
    """

    substeps: tuple[float, ...] = eqx.field(static=True, default=(1.0,))

    def __check_init__(self) -> None:
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
        return len(self.substeps)

    def check(self, flow: AbstractFlow) -> None:
        _check_parts(flow, "Strang")
        if flow.gradient_part is None:
            raise ValueError(
                f"Strang needs a flow in which only one part uses the gradient; in "
                f"{type(flow).__name__} several do: use `odeopt.solvers.Lie()`, or a solver of the "
                "whole field."
            )

    def init(self, flow: AbstractFlow, z: State) -> PyTree[Array]:
        """No displacement yet. Memory: a copy of the parameters, or a few scalars."""
        rest = flow.rest(z, jnp.zeros([], float), self.substeps[0] / 2)
        return Rest(jax.tree.map(jnp.zeros_like, z[0])) if rest is None else rest

    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: PyTree[Array]
    ) -> Step:
        """From the middle of one step's first substep to the same place in the next step."""
        owed = flow.owed(z[1])
        late: Any = 1.0 if owed is None else 1.0 + owed.astype(float)
        substeps: list[tuple[str, float | Array]] = []
        for tau in self.substeps:
            half = opening(flow, tau)
            closing = [(part, late * fraction) for part, fraction in half[::-1]]
            substeps += [*(half if substeps else []), (str(flow.gradient_part), tau), *closing]
            late = 1.0
        ahead = opening(flow, self.substeps[0])
        if flow.rest(z, h, 0.5) is None:
            update, aux, cost = compose(flow, objective, z, h, substeps)
            after = add(z[0], update), aux
            opened, aux = _in_turn(flow, objective.elsewhere(), after, h, ahead)
            update = jax.tree.map(jnp.add, update, opened)
            return Step(update, aux, Rest(opened), gradients=cost)
        update, aux, cost = compose(flow, objective, z, h, [*substeps, *ahead])
        rest = flow.rest((z[0], aux), h, self.substeps[0] / 2)
        return Step(update, aux, rest, gradients=cost)


def opening(flow: AbstractFlow | type[AbstractFlow], tau: float) -> list[tuple[str, float]]:
    """The parts before the gradient in a substep, which come after it in reverse order."""
    return [(part, tau / 2) for part in flow.parts if part != flow.gradient_part]


def compose(
    flow: AbstractFlow, objective: Objective, z: State, h: Scalar, substeps: Substeps
) -> tuple[PyTree[Array], PyTree[Array], int]:
    """Follow parts for fractions of `h`, one after the other, or in one pass if the flow can.

    Returns the update, the new auxiliary variables, and how many further gradients it took.
    """
    at_once = flow.fused(substeps, z, objective, h)
    if at_once is not None:
        return at_once
    cost = count_gradients(lambda o, z, h: _in_turn(flow, o, z, h, substeps), z, h, given=True)
    return *_in_turn(flow, objective, z, h, substeps), cost


def _in_turn(
    flow: AbstractFlow, objective: Objective, z: State, h: Scalar, substeps: Substeps
) -> tuple[PyTree[Array], PyTree[Array]]:
    """Follow the parts in turn, with the given gradient until the parameters have moved."""
    start, aux = z
    update, stage, before = None, 0, list[str]()  # `before`: the parts that have moved
    for name, fraction in substeps:
        if flow.looks_again(name, before):
            stage += 1
            objective = objective.at(stage)
        here = start if update is None else add(start, update)
        moved, aux = flow.part(name, (here, aux), objective, h, fraction)
        if moved is not None:
            before.append(name)
            with jax.numpy_dtype_promotion("standard"):  # a part may move in a wider dtype
                update = moved if update is None else jax.tree.map(jnp.add, update, moved)
    return (jax.tree.map(jnp.zeros_like, start) if update is None else update), aux


def _check_parts(flow: AbstractFlow, solver: str) -> None:
    if not flow.parts:
        raise ValueError(
            f"{solver} composes the exactly solvable parts of a flow, and {type(flow).__name__} "
            "names none: use a solver of its whole field, such as `odeopt.solvers.RK4()` (a game "
            "must say who moves when: `odeopt.flows.GameFlow(updates=(1, 1))`)."
        )
