"""Any other diffrax solver as a method, through diffrax's own step."""

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array

from ..arrays import Scalar
from ..checks import check_kind
from ..flows import AbstractFlow, State
from ..information import Information
from ..objective import Objective
from ..sums import add, split_over
from .method import AbstractMethod, Step

# Of the tolerances tried, 1e-3 is the tightest at which diffrax's chord iteration converges at
# ordinary step sizes of a nonlinear loss; no controller here shrinks a step that fails.
_ROOT_FINDER = {"rtol": 1e-3, "atol": 1e-3, "norm": optx.rms_norm}


class DiffraxMethod(AbstractMethod):
    """A diffrax ODE solver as a method; each step is a fresh start (a new mini-batch is a jump).

    The system is solved for the *increment*, so that nothing cancels. diffrax evaluates the first
    gradient again, and a root finder as many as it needs. That number is not visible from outside:
    `gradients_per_step` is None, the count is reported as -1.

    Args:
      solver: an instance of a diffrax solver for ODEs. An implicit one whose root finder has no
        tolerances (diffrax's default) gets 1e-3 for both. Its chord iteration, with the Jacobian
        of the start, fails where `h * sharpness` is large on a strongly nonlinear loss, and the
        step is rejected: pass your own `root_finder`.

    Raises:
      ValueError: a solver that does not step a single ODE term (split, IMEX, Langevin, SDE-only),
        or one that uses its previous steps.
      TypeError: an argument that is no diffrax solver.
    """

    solver: diffrax.AbstractSolver

    gradients_per_step: ClassVar[None] = None

    def __init__(self, solver: diffrax.AbstractSolver) -> None:
        check_kind(diffrax.AbstractSolver, "solvers.Tsit5()", solver=solver)
        structure = solver.term_structure
        single = isinstance(structure, type) and issubclass(diffrax.ODETerm, structure)
        if not single or isinstance(solver, diffrax.LeapfrogMidpoint):
            why = "uses its previous steps" if single else f"steps terms of type {structure}"
            raise ValueError(
                f"{type(solver).__name__} {why}; an optimizer step is a fresh start on one vector "
                "field. Use a one-step ODE solver, for example `diffrax.Kvaerno3()`."
            )
        self.solver = solver
        if self._implicit:
            self.solver = _with_tolerances(solver)

    @property
    def order(self) -> int | None:
        return self.solver.order(diffrax.ODETerm(lambda t, y, args: y))

    @property
    def _implicit(self) -> bool:
        return isinstance(self.solver, diffrax.AbstractImplicitSolver)

    @property
    def has(self) -> Information:  # type: ignore[override]
        """An error estimate, if the solver is adaptive."""
        adaptive = isinstance(self.solver, diffrax.AbstractAdaptiveSolver)
        return Information.ERROR if adaptive else Information.NONE

    def init(self, flow: AbstractFlow, z: State) -> tuple[()]:
        """No memory. Checks the leaves, since a failing solve would only reject the step.

        Raises:
          TypeError: an implicit solver on leaves of several dtypes, or below 32 bits.
        """
        dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(z[0])})
        if self._implicit and (len(dtypes) > 1 or any("16" in name for name in dtypes)):
            raise TypeError(
                f"The parameters have dtype {' and '.join(dtypes)}, and the equations of "
                f"{type(self.solver).__name__} are solved in one dtype of 32 bits or more: cast "
                "the parameters, or use an explicit method."
            )
        return ()

    def step(
        self, flow: AbstractFlow, objective: Objective, z: State, h: Scalar, memory: tuple[()]
    ) -> Step:
        """One step of size `h`.

        Raises:
          ValueError: an implicit solver inside `across`, whose root finder would solve for the part
            of each device separately.
        """
        if self._implicit and any(map(split_over, jax.tree.leaves(z))):
            raise ValueError(
                f"across: the root finder of {type(self.solver).__name__} sees the part of one "
                "device and would solve for that alone. Use `odeopt.implicit_euler`, "
                "`implicit_midpoint` or `trapezoidal`, which take their sums over all devices, or "
                "run it under `jit` without shard_map."
            )
        # Not the given gradient, since an implicit solver would differentiate it.
        elsewhere = objective.at(1)

        # A flat tuple: diffrax's loops cannot buffer the empty nodes of a tree.
        leaves, structure = jax.tree.flatten(z)
        if not leaves:  # an empty group of `optax.partition`: diffrax wants an array
            return Step(*z, memory)

        def field(t: Any, increment: tuple[Array, ...], args: Any) -> tuple[Array, ...]:
            point = jax.tree.unflatten(structure, map(jnp.add, leaves, increment))
            return tuple(jax.tree.leaves(flow.increment(point, elsewhere, h)))

        term = diffrax.ODETerm(field)
        # The increments are those of a whole step: time runs from 0 to 1, in the state's dtype
        # (diffrax raises on bfloat16 otherwise).
        t1 = jnp.ones([], jnp.finfo(jnp.result_type(*leaves)).dtype)
        t0, start = jnp.zeros_like(t1), tuple(map(jnp.zeros_like, leaves))
        memory_in = self.solver.init(term, t0, t1, start, None)
        try:
            increment, error, _, _, result = self.solver.step(
                term, t0, t1, start, None, memory_in, made_jump=False
            )
        except ValueError as failed:
            if not self._implicit or not jax.sharding.get_abstract_mesh().manual_axes:
                raise
            raise ValueError(
                f"The root finder of {type(self.solver).__name__} does not run inside this "
                "shard_map: run the step under `jit` without it, on arrays that are split over "
                "the devices."
            ) from failed
        if error is not None:
            error = jax.tree.unflatten(structure, error)
        update, moved = jax.tree.unflatten(structure, increment)
        aux = add(z[1], moved)
        finite = result == diffrax.RESULTS.successful
        return Step(update, aux, memory, error, finite=finite)


def _with_tolerances(solver: Any) -> Any:
    """Set the tolerances that diffrax's implicit solvers take from a step-size controller."""
    if isinstance(solver, diffrax.HalfSolver):
        return eqx.tree_at(lambda s: s.solver, solver, _with_tolerances(solver.solver))
    unset = diffrax.with_stepsize_controller_tols(optx.Chord)().rtol
    names = [name for name in _ROOT_FINDER if getattr(solver.root_finder, name) is unset]
    if not names:
        return solver
    return eqx.tree_at(
        lambda s: [getattr(s.root_finder, name) for name in names],
        solver,
        [_ROOT_FINDER[name] for name in names],
    )
