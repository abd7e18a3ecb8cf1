"""odeopt: an optimizer zoo built as ODE solvers.

Every optimizer is an `optax.GradientTransformationExtraArgs` whose update is one step of an ODE
solver; the learning rate is the step size.
"""

from typing import TYPE_CHECKING

from . import interrupt as _interrupt  # isort: skip  # noqa: F401 - the rest takes seconds
from . import diagnostics as diagnostics
from . import flows as flows
from . import kernels as kernels
from . import solvers as solvers
from . import stepsize as stepsize
from . import sums as sums
from .information import Information as Information
from .later import later as _later
from .monitoring import Monitor as Monitor
from .monitoring import monitor as monitor
from .optimizer import Optimizer as Optimizer
from .optimizer import describe as describe
from .optimizer import guard as guard
from .optimizer import ode_optimizer as ode_optimizer
from .optimizer import stability_limit as stability_limit
from .precision import CompensatedState as CompensatedState
from .precision import apply_updates as apply_updates
from .precision import compensated as compensated
from .split import composite as composite
from .state import ODEState as ODEState
from .state import step_params as step_params
from .state import summary as summary
from .suggest import suggest_learning_rate as suggest_learning_rate
from .sums import across as across
from .zoo.adaptive import adam as adam
from .zoo.adaptive import adamw as adamw
from .zoo.adaptive import rk_adam as rk_adam
from .zoo.adaptive import rmsprop as rmsprop
from .zoo.adaptive import strang_adam as strang_adam
from .zoo.explicit import bosh3 as bosh3
from .zoo.explicit import dopri5 as dopri5
from .zoo.explicit import euler as euler
from .zoo.explicit import from_diffrax as from_diffrax
from .zoo.explicit import heun as heun
from .zoo.explicit import low_storage4 as low_storage4
from .zoo.explicit import midpoint as midpoint
from .zoo.explicit import ralston as ralston
from .zoo.explicit import rk4 as rk4
from .zoo.explicit import rkc as rkc
from .zoo.explicit import runge_kutta as runge_kutta
from .zoo.explicit import ssprk3 as ssprk3
from .zoo.explicit import tsit5 as tsit5
from .zoo.momentum import chained_momentum as chained_momentum
from .zoo.momentum import conformal_leapfrog as conformal_leapfrog
from .zoo.momentum import heavy_ball as heavy_ball
from .zoo.momentum import nesterov as nesterov
from .zoo.momentum import relativistic as relativistic
from .zoo.momentum import rk_momentum as rk_momentum
from .zoo.momentum import suzuki_yoshida as suzuki_yoshida

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import drift as drift
    from . import growth as growth
    from . import ordering as ordering
    from .flows.game import game_gradient as game_gradient
    from .zoo.game import alternating as alternating
    from .zoo.game import game_implicit_midpoint as game_implicit_midpoint
    from .zoo.game import game_runge_kutta as game_runge_kutta
    from .zoo.game import simultaneous as simultaneous
    from .zoo.implicit import implicit_euler as implicit_euler
    from .zoo.implicit import implicit_midpoint as implicit_midpoint
    from .zoo.implicit import trapezoidal as trapezoidal
    from .zoo.linearized import exponential_euler as exponential_euler
    from .zoo.linearized import linearly_implicit_euler as linearly_implicit_euler
    from .zoo.linearized import rosenbrock2 as rosenbrock2
    from .zoo.matrix import muon as muon
    from .zoo.matrix import soap as soap
    from .zoo.untuned import log_time_adam as log_time_adam
    from .zoo.untuned import log_time_soap as log_time_soap
    from .zoo.untuned import untuned as untuned

__getattr__, __dir__ = _later(
    __name__,
    {
        "drift": (),
        "growth": (),
        "ordering": (),
        "flows.game": ("game_gradient",),
        "zoo.game": ("alternating", "game_implicit_midpoint", "game_runge_kutta", "simultaneous"),
        "zoo.implicit": ("implicit_euler", "implicit_midpoint", "trapezoidal"),
        "zoo.linearized": ("exponential_euler", "linearly_implicit_euler", "rosenbrock2"),
        "zoo.matrix": ("muon", "soap"),
        "zoo.untuned": ("log_time_adam", "log_time_soap", "untuned"),
    },
)
