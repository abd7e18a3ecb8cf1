"""What do solvers for stiff losses gain on the way to a fixed target, in gradients and in seconds?

`run` does the whole study; `odeopt stiff` is the same from a shell.
"""

from . import figures as figures
from . import report as report
from .study import Result as Result
from .study import run as run
