"""The error of a discrete optimizer as a vector field: to write down, to cancel, to use.

May use: `odeopt.solvers`, `odeopt.flows`, `odeopt.objective`.
"""

from .clip import Corrected as Corrected
from .corrected import Form as Form
from .corrected import corrected as corrected
from .differentials import b_series as b_series
from .differentials import elementary_differentials as elementary_differentials
from .stepmap import modified_field as modified_field
from .stepmap import step_map as step_map
from .transform import CounterTermState as CounterTermState
from .transform import counter_term as counter_term
from .trees import levels as levels
from .trees import modified_equation as modified_equation
from .trees import modifying_integrator as modifying_integrator
from .trees import tree as tree
