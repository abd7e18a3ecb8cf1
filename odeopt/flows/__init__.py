"""Flows: the continuous-time systems that optimizers follow."""

from typing import TYPE_CHECKING

from ..later import later as _later
from .adaptive import AdamFlow as AdamFlow
from .adaptive import Moments as Moments
from .averaged import Average as Average
from .averaged import AveragedFlow as AveragedFlow
from .clock import LogTime as LogTime
from .clock import decay_of as decay_of
from .clock import friction as friction
from .clock import momentum_of as momentum_of
from .clock import time_constant as time_constant
from .flow import AbstractFlow as AbstractFlow
from .flow import State as State
from .flow import Substeps as Substeps
from .gradient import GradientFlow as GradientFlow
from .momentum import HeavyBallFlow as HeavyBallFlow
from .momentum import Momentum as Momentum
from .momentum import NesterovFlow as NesterovFlow
from .momentum import RelativisticFlow as RelativisticFlow
from .rmsprop import RMSpropFlow as RMSpropFlow
from .rmsprop import Squares as Squares
from .wrapper import AbstractObjectiveWrapper as AbstractObjectiveWrapper
from .wrapper import AbstractWrapper as AbstractWrapper

if TYPE_CHECKING:
    from .game import GameFlow as GameFlow
    from .game import Players as Players
    from .game import game_gradient as game_gradient
    from .grouped import GroupedFlow as GroupedFlow
    from .grouped import Groups as Groups
    from .kronecker import Kronecker as Kronecker
    from .kronecker import KroneckerFlow as KroneckerFlow
    from .kronecker import Metric as Metric
    from .matrix import SpectralFlow as SpectralFlow
    from .unit import Unit as Unit
    from .unit import UnitFlow as UnitFlow

__getattr__, __dir__ = _later(
    __name__,
    {
        "game": ("GameFlow", "Players", "game_gradient"),
        "grouped": ("GroupedFlow", "Groups"),
        "kronecker": ("Kronecker", "KroneckerFlow", "Metric"),
        "matrix": ("SpectralFlow",),
        "unit": ("Unit", "UnitFlow"),
    },
)
