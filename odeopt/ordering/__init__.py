"""Which batch acts when: newest first, there and back again, or as they come."""

from .backward import BackwardState as BackwardState
from .backward import backward as backward
from .schedules import BatchOrder as BatchOrder
from .schedules import forward as forward
from .schedules import palindromic as palindromic
from .schedules import reshuffled as reshuffled
from .schedules import reversed as reversed
