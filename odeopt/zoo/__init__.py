"""The named optimizers: each is a flow, a solver and a step size.

May use: `odeopt.optimizer`, `odeopt.solvers`, `odeopt.flows`, `odeopt.stepsize`.
"""

from .adaptive import adam as adam
from .adaptive import adamw as adamw
from .adaptive import log_time_adam as log_time_adam
from .adaptive import rk_adam as rk_adam
from .adaptive import rmsprop as rmsprop
from .adaptive import strang_adam as strang_adam
from .explicit import bosh3 as bosh3
from .explicit import dopri5 as dopri5
from .explicit import euler as euler
from .explicit import from_diffrax as from_diffrax
from .explicit import heun as heun
from .explicit import low_storage4 as low_storage4
from .explicit import midpoint as midpoint
from .explicit import ralston as ralston
from .explicit import rk4 as rk4
from .explicit import runge_kutta as runge_kutta
from .explicit import ssprk3 as ssprk3
from .explicit import tsit5 as tsit5
from .game import alternating as alternating
from .game import game_implicit_midpoint as game_implicit_midpoint
from .game import game_runge_kutta as game_runge_kutta
from .game import simultaneous as simultaneous
from .implicit import implicit_euler as implicit_euler
from .implicit import implicit_midpoint as implicit_midpoint
from .implicit import trapezoidal as trapezoidal
from .linearized import exponential_euler as exponential_euler
from .linearized import linearly_implicit_euler as linearly_implicit_euler
from .linearized import rosenbrock2 as rosenbrock2
from .matrix import muon as muon
from .matrix import untuned as untuned
from .momentum import chained_momentum as chained_momentum
from .momentum import conformal_leapfrog as conformal_leapfrog
from .momentum import heavy_ball as heavy_ball
from .momentum import nesterov as nesterov
from .momentum import relativistic as relativistic
from .momentum import rk_momentum as rk_momentum
from .momentum import suzuki_yoshida as suzuki_yoshida
from .registry import REGISTRY as REGISTRY
from .registry import Entry as Entry
from .stabilized import rkc as rkc
