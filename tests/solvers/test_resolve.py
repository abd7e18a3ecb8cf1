"""What counts as a solver, and what is written instead where something does not."""

import diffrax
import jax.numpy as jnp
import optax
import optimistix as optx
import pytest

import odeopt
from odeopt import solvers
from odeopt.solvers import RK4, Euler, ExplicitRungeKutta, Tableau, as_method

from .cases import CLASSES

HEUN = Tableau(a=[[1.0]], b=[0.5, 0.5])


@pytest.mark.parametrize("name", CLASSES)
def test_every_spelling_of_a_solver_is_the_same_method(name):
    cls = CLASSES[name]
    spellings = [cls(), cls().coefficients]
    if hasattr(cls, "tableau"):
        spellings.append(cls.tableau)
    if hasattr(diffrax, cls.__name__):
        spellings.append(getattr(diffrax, cls.__name__)())
    expected = ExplicitRungeKutta(cls().coefficients)
    assert all(as_method(solver) == expected for solver in spellings)


def test_a_method_is_taken_as_it_is():
    method = ExplicitRungeKutta(HEUN, scan=True)
    assert as_method(method) is method


def test_diffrax_s_euler_has_no_tableau_but_is_known():
    assert as_method(diffrax.Euler()) == as_method(Euler())


NOT_SOLVERS = {
    "optax optimizer": (optax.adam(0.1), r"optax optimizer.*RK4\(\).*stage_transform="),
    "odeopt optimizer": (odeopt.rk4(0.1), r"optax optimizer"),
    "class": (RK4, r"is a class; pass an instance, `RK4\(\)`"),
    "diffrax class": (diffrax.Kvaerno3, r"pass an instance, `Kvaerno3\(\)`"),
    "string": ("rk4", r"str 'rk4' is no solver; pass `odeopt\.solvers\.RK4\(\)`"),
    "number": (0.1, r"is no solver"),
    "function": (odeopt.rk4, r"is no solver"),
    "none": (None, r"is no solver"),
    "array": (jnp.eye(2), r"is no solver"),
}


@pytest.mark.untyped
@pytest.mark.parametrize("entry", [odeopt.from_diffrax, odeopt.runge_kutta])
@pytest.mark.parametrize("case", NOT_SOLVERS)
def test_anything_else_is_refused_with_advice(case, entry):
    if entry is odeopt.from_diffrax:
        call = lambda solver: odeopt.from_diffrax(solver, 0.1)
    else:
        call = lambda solver: odeopt.runge_kutta(0.1, solver)
    solver, message = NOT_SOLVERS[case]
    with pytest.raises(TypeError, match=message):
        call(solver)


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (solvers.ExponentialEuler(products=3), r"solvers\.Exponential\(\.\.\.\)"),
        (solvers.ImplicitEuler(optx.Newton(1e-3, 1e-3)), r"solvers\.DiffraxMethod"),
        (solvers.ConformalEuler(0.3), r"odeopt\.heavy_ball"),
        (solvers.SuzukiYoshida(0.3), r"odeopt\.suzuki_yoshida"),
    ],
)
def test_arguments_that_a_method_does_not_take_are_not_dropped(solver, message):
    with pytest.raises(ValueError, match=message):
        as_method(solver)
    assert as_method(solvers.RKC(stages=5, order=2)) == solvers.RungeKuttaChebyshev(5, 2)
