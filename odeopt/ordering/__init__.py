"""Batch orders: forward, backward, palindromic or random."""

from .backward import BackwardState as BackwardState
from .backward import backward as backward
from .schedules import BatchOrder as BatchOrder
from .schedules import forward as forward
from .schedules import palindromic as palindromic
from .schedules import reshuffled as reshuffled
from .schedules import reversed as reversed
