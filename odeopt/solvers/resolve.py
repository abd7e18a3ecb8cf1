"""Conversion of solvers to methods."""

import functools
from typing import Any

import diffrax
import equinox as eqx

from ..checks import is_transformation
from .adapter import Adapted
from .classes import Euler, Explicit
from .explicit import ExplicitRungeKutta
from .foreign import DiffraxMethod
from .method import AbstractMethod
from .tableau import Tableau

Solver = AbstractMethod | Tableau | diffrax.ButcherTableau | diffrax.AbstractSolver


def as_method(solver: Solver, *, error: bool = False) -> AbstractMethod:
    """The method that `solver` names.

    Args:
      solver: a method, a `Tableau`, a `diffrax.ButcherTableau`, or an instance of a diffrax solver
        class. Explicit Runge-Kutta solvers run odeopt's stage loop, odeopt's own classes give the
        method that they adapt, and others run diffrax's step.
      error: ask for the error estimate.

    Raises:
      TypeError: anything else; the message says what to write instead.
      ValueError: one of odeopt's own diffrax classes that splits a field in two, or has arguments
        that its method does not take.
    """
    return _method(solver, error)


@functools.singledispatch
def _method(solver: Any, error: bool) -> AbstractMethod:
    """By class, since in diffrax a wrapped solver counts as an instance of what it wraps."""
    if is_transformation(solver):
        hint = (
            "is an optax optimizer, which already is a flow with a solver and a learning rate. "
            "Pass a solver such as `odeopt.solvers.RK4()`; to transform every stage's gradient, "
            "pass the optax transformation as `stage_transform=`"
        )
    elif isinstance(solver, type):
        raise TypeError(f"{solver.__name__} is a class; pass an instance, `{solver.__name__}()`.")
    else:
        hint = "is no solver; pass `odeopt.solvers.RK4()`, `diffrax.Tsit5()` or a `Tableau`"
    raise TypeError(f"{type(solver).__name__} {solver!r:.80} {hint}.")


_method.register(AbstractMethod, lambda method, error: method)
_method.register(Tableau, lambda tableau, error: ExplicitRungeKutta(tableau, error=error))
_method.register(diffrax.ButcherTableau, lambda t, error: _method(Tableau.from_diffrax(t), error))
_method.register(diffrax.AbstractERK, lambda solver, error: _method(solver.tableau, error))
_method.register(diffrax.Euler, lambda solver, error: _method(Euler.coefficients, error))
_method.register(diffrax.AbstractSolver, lambda solver, error: DiffraxMethod(solver))
_method.register(Explicit, lambda solver, error: _method(solver.coefficients, error))


@_method.register(Adapted)
def _adapted(solver: Any, error: bool) -> AbstractMethod:
    name = type(solver).__name__
    if solver.splits:
        raise ValueError(
            f"{name} splits a field in two, and this flow has one: for the heavy ball write "
            "`odeopt.conformal_leapfrog`, `odeopt.suzuki_yoshida` or `odeopt.heavy_ball`."
        )
    if "method" not in vars(solver) and not eqx.tree_equal(solver, type(solver)()):
        raise ValueError(
            f"The arguments of {solver!r:.80} are for diffrax's own loop. Pass the method, "
            f"`odeopt.solvers.{type(solver.method).__name__}(...)`, with arguments of its own, or "
            f"`odeopt.solvers.DiffraxMethod({name}(...))` to run diffrax's step."
        )
    return solver.method
