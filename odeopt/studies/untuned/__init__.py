"""Does a learning rate that needs no tuning keep up with tuned ones?

`run` does the whole study; `odeopt untuned` is the same from a shell.
"""

from . import figures as figures
from . import report as report
from .study import Result as Result
from .study import run as run
