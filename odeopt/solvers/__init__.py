"""Solvers: one-step methods, each a pure step function and a diffrax solver class."""

from typing import TYPE_CHECKING

from ..later import later as _later
from .chained import Chained as Chained
from .classes import RK4 as RK4
from .classes import SSPRK3 as SSPRK3
from .classes import Bosh3 as Bosh3
from .classes import Dopri5 as Dopri5
from .classes import Euler as Euler
from .classes import Heun as Heun
from .classes import LowStorage4 as LowStorage4
from .classes import Midpoint as Midpoint
from .classes import Ralston as Ralston
from .classes import Tsit5 as Tsit5
from .explicit import ExplicitRungeKutta as ExplicitRungeKutta
from .foreign import DiffraxMethod as DiffraxMethod
from .limits import stability_limit as stability_limit
from .method import AbstractMethod as AbstractMethod
from .method import Model as Model
from .method import Step as Step
from .method import field_cost as field_cost
from .resolve import Solver as Solver
from .resolve import as_method as as_method
from .splitting import SUZUKI_YOSHIDA as SUZUKI_YOSHIDA
from .splitting import Lie as Lie
from .splitting import Strang as Strang
from .tableau import Tableau as Tableau

if TYPE_CHECKING:
    from .exponential import Exponential as Exponential
    from .exponential import ExponentialEuler as ExponentialEuler
    from .halved import ImplicitEuler as ImplicitEuler
    from .halved import ImplicitMidpoint as ImplicitMidpoint
    from .halved import Trapezoidal as Trapezoidal
    from .implicit import Implicit as Implicit
    from .implicit import Proximal as Proximal
    from .linear import LinearSolver as LinearSolver
    from .rosenbrock import LinearlyImplicitEuler as LinearlyImplicitEuler
    from .rosenbrock import Rosenbrock as Rosenbrock
    from .rosenbrock import Rosenbrock2 as Rosenbrock2
    from .stabilized import RKC as RKC
    from .stabilized import RungeKuttaChebyshev as RungeKuttaChebyshev
    from .symplectic import ConformalEuler as ConformalEuler
    from .symplectic import ConformalLeapfrog as ConformalLeapfrog
    from .symplectic import SuzukiYoshida as SuzukiYoshida
    from .systems import LinearSolve as LinearSolve

__getattr__, __dir__ = _later(
    __name__,
    {
        "exponential": ("Exponential", "ExponentialEuler"),
        "halved": ("ImplicitEuler", "ImplicitMidpoint", "Trapezoidal"),
        "implicit": ("Implicit", "Proximal"),
        "linear": ("LinearSolver",),
        "rosenbrock": ("LinearlyImplicitEuler", "Rosenbrock", "Rosenbrock2"),
        "stabilized": ("RKC", "RungeKuttaChebyshev"),
        "symplectic": ("ConformalEuler", "ConformalLeapfrog", "SuzukiYoshida"),
        "systems": ("LinearSolve",),
    },
)
