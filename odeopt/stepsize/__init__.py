"""Step sizes: a learning rate is a number, a schedule, or a rule that depends on the step."""

from .angle import angle as angle
from .distance import anytime as anytime
from .distance import horizon as horizon
from .drift import corridor as corridor
from .drift import drift_adjusted as drift_adjusted
from .embedded import embedded_error as embedded_error
from .gain import gain_ratio as gain_ratio
from .rule import AbstractRule as AbstractRule
from .rule import Fixed as Fixed
from .rule import Scheduled as Scheduled
from .rule import StepInfo as StepInfo
from .rule import Verdict as Verdict
from .rule import as_rule as as_rule
from .sharpness import sharpness as sharpness
