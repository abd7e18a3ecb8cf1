"""Drift: what a discrete optimizer follows instead of its flow, as vector fields and as losses."""

from .brackets import conflict as conflict
from .brackets import lie_bracket as lie_bracket
from .central import CentralFlow as CentralFlow
from .central import Oscillation as Oscillation
from .central import central_flow as central_flow
from .epoch import epoch_flow as epoch_flow
from .epoch import epoch_loss as epoch_loss
from .principal import Directions as Directions
from .principal import PrincipalFlow as PrincipalFlow
from .principal import principal_flow as principal_flow
from .regularized import RegularizedFlow as RegularizedFlow
from .regularized import RegularizedSplitFlow as RegularizedSplitFlow
from .regularized import gradient_penalty as gradient_penalty
from .regularized import regularized as regularized
