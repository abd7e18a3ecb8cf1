"""Solvers: one-step methods, each a pure step function and a diffrax solver class."""

from .chained import Chained as Chained
from .classes import RK4 as RK4
from .classes import SSPRK3 as SSPRK3
from .classes import Bosh3 as Bosh3
from .classes import Dopri5 as Dopri5
from .classes import Euler as Euler
from .classes import Heun as Heun
from .classes import Midpoint as Midpoint
from .classes import Ralston as Ralston
from .classes import Tsit5 as Tsit5
from .explicit import ExplicitRungeKutta as ExplicitRungeKutta
from .foreign import DiffraxMethod as DiffraxMethod
from .limits import stability_limit as stability_limit
from .method import AbstractMethod as AbstractMethod
from .method import Step as Step
from .resolve import Solver as Solver
from .resolve import as_method as as_method
from .splitting import SUZUKI_YOSHIDA as SUZUKI_YOSHIDA
from .splitting import Lie as Lie
from .splitting import Strang as Strang
from .symplectic import ConformalEuler as ConformalEuler
from .symplectic import ConformalLeapfrog as ConformalLeapfrog
from .symplectic import SuzukiYoshida as SuzukiYoshida
from .tableau import Tableau as Tableau
