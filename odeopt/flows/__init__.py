"""Flows: the continuous-time systems that optimizers follow."""

from .adaptive import AdamFlow as AdamFlow
from .adaptive import Moments as Moments
from .adaptive import RMSpropFlow as RMSpropFlow
from .adaptive import Squares as Squares
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
from .game import GameFlow as GameFlow
from .game import Players as Players
from .game import game_gradient as game_gradient
from .gradient import GradientFlow as GradientFlow
from .momentum import HeavyBallFlow as HeavyBallFlow
from .momentum import Momentum as Momentum
from .momentum import NesterovFlow as NesterovFlow
from .momentum import RelativisticFlow as RelativisticFlow
from .wrapper import AbstractObjectiveWrapper as AbstractObjectiveWrapper
from .wrapper import AbstractWrapper as AbstractWrapper
