"""odeopt: an optimizer zoo built as ODE solvers.

Every optimizer is an `optax.GradientTransformationExtraArgs` whose update is one step of an ODE
solver; the learning rate is the step size.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import interrupt as _interrupt  # isort: skip  # noqa: F401 - the rest takes seconds
from . import diagnostics as diagnostics
from . import flows as flows
from . import kernels as kernels
from . import solvers as solvers
from . import stepsize as stepsize
from . import sums as sums

# games
from .flows import game_gradient as game_gradient

# builder
from .information import Information as Information

# a training loop of your own
from .monitoring import Monitor as Monitor
from .monitoring import monitor as monitor
from .optimizer import Optimizer as Optimizer
from .optimizer import describe as describe
from .optimizer import guard as guard
from .optimizer import ode_optimizer as ode_optimizer
from .optimizer import stability_limit as stability_limit

# parameters of low precision
from .precision import CompensatedState as CompensatedState
from .precision import apply_updates as apply_updates
from .precision import compensated as compensated

# a loss in two parts
from .split import composite as composite

# state
from .state import ODEState as ODEState
from .state import step_params as step_params
from .state import summary as summary

# first learning rate
from .suggest import suggest_learning_rate as suggest_learning_rate

# inside `shard_map`
from .sums import across as across

# adaptive flows
from .zoo.adaptive import adam as adam
from .zoo.adaptive import adamw as adamw
from .zoo.adaptive import log_time_adam as log_time_adam
from .zoo.adaptive import rk_adam as rk_adam
from .zoo.adaptive import rmsprop as rmsprop
from .zoo.adaptive import strang_adam as strang_adam

# gradient flow by explicit methods
from .zoo.explicit import bosh3 as bosh3
from .zoo.explicit import dopri5 as dopri5
from .zoo.explicit import euler as euler
from .zoo.explicit import from_diffrax as from_diffrax
from .zoo.explicit import heun as heun
from .zoo.explicit import low_storage4 as low_storage4
from .zoo.explicit import midpoint as midpoint
from .zoo.explicit import ralston as ralston
from .zoo.explicit import rk4 as rk4
from .zoo.explicit import runge_kutta as runge_kutta
from .zoo.explicit import ssprk3 as ssprk3
from .zoo.explicit import tsit5 as tsit5

# games of several players
from .zoo.game import alternating as alternating
from .zoo.game import game_implicit_midpoint as game_implicit_midpoint
from .zoo.game import game_runge_kutta as game_runge_kutta
from .zoo.game import simultaneous as simultaneous

# gradient flow by implicit methods
from .zoo.implicit import implicit_euler as implicit_euler
from .zoo.implicit import implicit_midpoint as implicit_midpoint
from .zoo.implicit import trapezoidal as trapezoidal

# gradient flow by methods that linearize it
from .zoo.linearized import exponential_euler as exponential_euler
from .zoo.linearized import linearly_implicit_euler as linearly_implicit_euler
from .zoo.linearized import rosenbrock2 as rosenbrock2

# flows with momentum
from .zoo.matrix import log_time_soap as log_time_soap
from .zoo.matrix import muon as muon
from .zoo.matrix import soap as soap
from .zoo.matrix import untuned as untuned
from .zoo.momentum import chained_momentum as chained_momentum
from .zoo.momentum import conformal_leapfrog as conformal_leapfrog
from .zoo.momentum import heavy_ball as heavy_ball
from .zoo.momentum import nesterov as nesterov
from .zoo.momentum import relativistic as relativistic
from .zoo.momentum import rk_momentum as rk_momentum
from .zoo.momentum import suzuki_yoshida as suzuki_yoshida

# gradient flow by stabilized methods
from .zoo.stabilized import rkc as rkc

if TYPE_CHECKING:
    from . import drift as drift
    from . import growth as growth
    from . import ordering as ordering

__version__ = "0.1.0"


_LATER = ("drift", "growth", "ordering")


def __getattr__(name: str) -> Any:
    """Modules that are imported at their first use: many programs never come to it."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
