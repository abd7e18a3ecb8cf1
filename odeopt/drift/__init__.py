"""The error of a discrete optimizer as a vector field: to write down, to cancel, to use.

May use: `odeopt.solvers`, `odeopt.diagnostics`, `odeopt.flows`, `odeopt.objective`.
"""

from .brackets import conflict as conflict
from .brackets import lie_bracket as lie_bracket
from .central import CentralFlow as CentralFlow
from .central import Oscillation as Oscillation
from .central import central_flow as central_flow
from .clip import Corrected as Corrected
from .corrected import Form as Form
from .corrected import corrected as corrected
from .differentials import b_series as b_series
from .differentials import elementary_differentials as elementary_differentials
from .epoch import epoch_flow as epoch_flow
from .epoch import epoch_loss as epoch_loss
from .games import CorrectedGame as CorrectedGame
from .games import GameTerms as GameTerms
from .games import corrected_game as corrected_game
from .measured import step_drift as step_drift
from .penalties import ode_gan_penalty as ode_gan_penalty
from .penalties import penalized_game as penalized_game
from .principal import Directions as Directions
from .principal import PrincipalFlow as PrincipalFlow
from .principal import principal_flow as principal_flow
from .regularized import RegularizedFlow as RegularizedFlow
from .regularized import gradient_penalty as gradient_penalty
from .regularized import regularized as regularized
from .stepmap import modified_field as modified_field
from .stepmap import step_map as step_map
from .transform import CounterTermState as CounterTermState
from .transform import counter_term as counter_term
from .trees import levels as levels
from .trees import modified_equation as modified_equation
from .trees import modifying_integrator as modifying_integrator
from .trees import tree as tree
