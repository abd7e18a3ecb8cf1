"""odeopt: an optimizer zoo built as ODE solvers.

Every optimizer is an `optax.GradientTransformationExtraArgs` whose update is one step of an ODE
solver; the learning rate is the step size.
"""

from . import flows as flows
from . import solvers as solvers
from . import stepsize as stepsize

# builder
from .optimizer import ode_optimizer as ode_optimizer

# state
from .state import ODEState as ODEState
from .state import step_params as step_params

# explicit optimizers of gradient flow
from .zoo import bosh3 as bosh3
from .zoo import dopri5 as dopri5
from .zoo import euler as euler
from .zoo import from_diffrax as from_diffrax
from .zoo import heun as heun
from .zoo import midpoint as midpoint
from .zoo import ralston as ralston
from .zoo import rk4 as rk4
from .zoo import runge_kutta as runge_kutta
from .zoo import ssprk3 as ssprk3
from .zoo import tsit5 as tsit5

__version__ = "0.1.0"
