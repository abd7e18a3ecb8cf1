"""Flows: the continuous-time systems that optimizers follow."""

from .flow import AbstractFlow as AbstractFlow
from .flow import State as State
from .gradient import GradientFlow as GradientFlow
